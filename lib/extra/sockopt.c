/* Socket options of living connections.
 *
 * Happy path: a call is a record behind those of earlier calls; its one or two options are set by
 * requests, one in flight a connection (extra/sockopt_op.c), and its user is told. With a descriptor, that
 * was kept or is in the slot, they are set in the call, and only the telling is left for a request,
 * which does nothing.
 * Failure modes: the kernel refuses a step (the rest of the call is not tried, and its user is
 * told); the connection ends first (told so before on_close). */
#include "extra/sockopt.h"

#include "conn/hooks.h"

#define WAITING_MAX 64u

static struct kr__sockopt *pop(struct kr__conn *c) {
    struct kr__sockopts *all = &c->more->options;
    struct kr__sockopt *o = all->head;
    all->head = o->next;
    all->count--;
    if (!all->head)
        all->tail = NULL;
    if (!all->head)
        c->features &= (uint8_t)~KR__SETS_OPTIONS;
    return o;
}

static void push(struct kr__conn *c, struct kr__sockopt *o) {
    struct kr__sockopts *all = &c->more->options;
    if (all->tail)
        all->tail->next = o;
    else
        all->head = o;
    all->tail = o;
    all->count++;
    c->features |= KR__SETS_OPTIONS;
}

static struct kr__sockopt pop_and_free(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__sockopt *o = pop(c), copy = *o;
    kr__block_put(&r->blocks, o, kr__block_room(sizeof *o));
    return copy;
}

static void tell(struct kr_reactor *r, struct kr__conn *c, int error) {
    struct kr__sockopt o = pop_and_free(r, c);
    if (o.done)
        o.done(r, kr__conn_handle(c), o.user, error);
}

void kr__sockopt_answered(struct kr_reactor *r, struct kr__conn *c, int error) {
    struct kr__sockopt *o = kr__sockopt_first(c);
    kr__mark_if(sockopt_refused, error);
    o->at += o->at < o->steps.count;
    if (error || o->at >= o->steps.count)
        tell(r, c, error);
}

/* They are set before anything is sent: bytes may have been queued behind them. What is in flight
 * goes on meanwhile. */
static uint32_t sockopt_sends(const struct kr__conn *c, uint32_t desired) {
    if (!c->queued && !kr__conn_is_open(c))
        return desired;
    return KR__SET(sockopt) | (c->owner.armed & ~(uint32_t)KR__VERBS_THAT_RECEIVE);
}

/* Those that wait will never be set, and their users are told. */
static void sockopt_ends(struct kr_reactor *r, struct kr__conn *c, int error) {
    (void)error;
    kr__mark(sockopt_cancelled);
    while (c->features & KR__SETS_OPTIONS)
        tell(r, c, -ECANCELED);
}

static void sockopt_drop(struct kr_reactor *r, struct kr__conn *c) {
    while (c->features & KR__SETS_OPTIONS)
        pop_and_free(r, c);
}

const struct kr__hooks kr__hooks_sockopt = {
    .sends = sockopt_sends,
    .ends = sockopt_ends,
    .drop = sockopt_drop,
};

/* Borrowed; -1: there is none, and a request has to do it. */
static int descriptor_of(const struct kr_reactor *r, const struct kr__conn *c) {
    return kr__conn_opts(c)->keep_fd ? c->more->fd : kr__slots_fd(&r->slots, c->owner.slot);
}

static int set_now(struct kr_reactor *r, int fd, const struct kr__sock_steps *steps) {
    int rc = 0;
    for (unsigned i = 0; i < steps->count && rc == 0; i++)
        rc = r->kernel->socket.set_option(r->kernel, fd, &steps->step[i]);
    return rc;
}

static int admit(struct kr_reactor *r, struct kr__conn *c, const struct kr__sock_steps *steps) {
    if (!kr__conn_is_usable(c))
        return -EPIPE;
    bool pipe = c->write_only || c->read_only;
    if (pipe || (c->local && steps->tcp))
        return -EOPNOTSUPP;
    if (descriptor_of(r, c) < 0 && !(r->ring.caps & KR__CAP_FD_INSTALL))
        return -EOPNOTSUPP;
    if (!kr__conn_more(r, c))
        return -ENOMEM;
    return c->more->options.count < WAITING_MAX ? 0 : -EAGAIN;
}

int kr_conn_sockopt(struct kr_reactor *r, kr_conn conn, enum kr_sockopt which, unsigned value,
                    kr_sockopt_fn *done, void *user) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    struct kr__sock_steps steps;
    rc = kr__sock_steps(&steps, which, value);
    if (rc == 0)
        rc = admit(r, c, &steps);
    if (rc < 0)
        return rc;
    int fd = descriptor_of(r, c);
    bool now = fd >= 0;
    size_t room;
    struct kr__sockopt *o = now && !done ? NULL : kr__block_get(&r->blocks, sizeof *o, &room);
    if (!o && !(now && !done))
        return -ENOMEM;
    rc = now ? set_now(r, fd, &steps) : 0;
    if (rc < 0 && o)
        kr__block_put(&r->blocks, o, room);
    if (rc < 0 || !o)
        return rc;
    *o = (struct kr__sockopt){
        .steps = steps, .at = now ? steps.count : 0, .done = done, .user = user};
    push(c, o);
    kr__conn_dirty(r, c);
    return 0;
}
