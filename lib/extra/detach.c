/* Detaching: a connection leaves as a plain descriptor.
 *
 * Happy path: DETACHING wants nothing, so what is armed is cancelled and joined; then, unless the
 * connection has kept its descriptor, one is made (extra/export.c); a phase of the turn shows its user
 * what is unread and unsent. What remains is CLOSE, which drops the table's reference only.
 * Failure modes: bytes come, or are taken, before a cancel finds its request (they are kept, and
 * count); the connection fails or is closed meanwhile (its user is told before on_close; a
 * descriptor that is made too late is closed); no descriptor, or no memory for the list of pieces,
 * or the peer does not acknowledge in time what was sent by zero-copy, whose pages the kernel still
 * sends from (it goes on as it was).
 *
 * Why an error does not go with the descriptor: it has been taken off the socket by the request that
 * met it, and who reads the descriptor would find a clean end of the stream instead. There is no
 * descriptor then; the connection goes on, shows what has come, and ends (conn/error.c). */
#include "extra/detach.h"

#include "conn/hooks.h"
#include "conn/queue.h"
#include "conn/zerocopy.h"
#include "extra/descriptors.h"

static int list_unsent(struct kr_reactor *r, const struct kr__conn *c, struct kr_detached *what,
                       size_t *room) {
    kr__sendq_measure(&c->queue, &what->unsent_count, &what->unsent_fds_count);
    if (!what->unsent_count)
        return 0;
    struct iovec *pieces = kr__block_get(&r->blocks,
                                         what->unsent_count * sizeof *pieces +
                                             what->unsent_fds_count * sizeof *what->unsent_fds,
                                         room);
    if (!pieces)
        return -ENOMEM;
    struct kr_detached_fds *fd_batches = (struct kr_detached_fds *)(pieces + what->unsent_count);
    kr__sendq_list(&c->queue, pieces, fd_batches);
    what->unsent_size = c->queued;
    what->unsent = pieces;
    what->unsent_fds = what->unsent_fds_count ? fd_batches : NULL;
    return 0;
}

/* What is empty is no NULL, which memcpy and the like may not be given, not even for 0 bytes (C11
 * 7.24.1). */
static void point_at_nothing(struct kr_detached *what) {
    static const struct iovec no_piece;
    static const struct kr_detached_fds no_gift;
    static const int no_fd = -1;
    what->unread = what->unread ? what->unread : "";
    what->unsent = what->unsent ? what->unsent : &no_piece;
    what->fds = what->fds ? what->fds : &no_fd;
    what->unsent_fds = what->unsent_fds ? what->unsent_fds : &no_gift;
}

/* Its fields are in order before its user hears of it: closed as far as calls can tell. */
static void hand_over(struct kr_reactor *r, struct kr__conn *c, struct kr_detached *what) {
    struct kr__conn_more *more = c->more;
    what->fd = more->fd;
    what->unread = c->kept_size ? c->kept + c->kept_at : NULL;
    what->unread_size = c->kept_size;
    what->eof = c->eof;
    what->shut = c->fin;
    what->shutting = c->half && !c->fin;
    if (c->features & KR__TAKES_FDS)
        kr__fds_hand_over(c, what);
    kr__fds_leave(r, c, what->fd);
    point_at_nothing(what);
    more->fd = -1;
    c->features &= (uint8_t)~KR__DETACHING;
    c->lingers = c->purges = false;
    kr__conn_end(r, c, KR_CLOSE_NOW, 0, KR_WHY_DETACHED);
    kr__count(&r->stats.detaches, 1);
    more->detached(r, kr__conn_handle(c), more->detached_user, what);
}

static void fails(struct kr_reactor *r, struct kr__conn *c, int error) {
    c->features &= (uint8_t)~KR__DETACHING;
    c->more->refusal = 0;
    struct kr_detached what = {.error = error, .fd = -1, .open = kr__conn_is_open(c)};
    point_at_nothing(&what);
    c->more->detached(r, kr__conn_handle(c), c->more->detached_user, &what);
}

/* As if nothing had been: what came meanwhile is shown, and who was passed over is told. */
static void goes_on(struct kr_reactor *r, struct kr__conn *c, int error) {
    kr__mark(detach_refused);
    if (!kr__conn_opts(c)->keep_fd)
        kr__conn_fd_drop(r, c);
    kr__conn_goes(c, KR__KEPT);
    kr__conn_watch(r, c);
    kr__conn_dirty(r, c);
    fails(r, c, error);
    KR__EACH_ROW (r, rejoins)
        row->rejoins(r, c);
    kr__queue_shrank(r, c, 0);
    kr__conn_show_later(r, c);
    kr__conn_broken_step(r, c);
}

static void settle_one(struct kr_reactor *r, struct kr__conn *c) {
    struct kr_detached what = {.fd = -1};
    size_t room = 0;
    int rc = c->more->refusal;
    if (rc == 0)
        rc = list_unsent(r, c, &what, &room);
    const struct iovec *list = what.unsent;
    if (rc < 0)
        goes_on(r, c, rc);
    else
        hand_over(r, c, &what);
    if (list)
        kr__block_put(&r->blocks, (void *)(uintptr_t)list, room);
}

void kr__detach_settle(struct kr_reactor *r) {
    struct kr__list ready;
    kr__list_init(&ready);
    kr__list_splice(&ready, &r->detaching);
    struct kr__link *link;
    while (!kr__in_child(r) && (link = kr__list_pop(&ready)))
        settle_one(r, kr__container_of(link, struct kr__conn, wait));
}

/* True while it has no descriptor to leave by, and has not been refused one. */
static bool lacks_fd(const struct kr__conn *c) {
    return c->more->fd < 0 && !c->more->refusal;
}

/* Something of it has come back. It is to be told of when nothing is in flight and it has its
 * descriptor; or when it has been refused one, and only zero-copy sends are in flight, at most. */
static void detach_settles(struct kr_reactor *r, struct kr__conn *c) {
    if (!kr__conn_is_detaching(c))
        return;
    unsigned zc_sends = kr__conn_zc_pending(c) ? c->more->zerocopy.zc_sends.count : 0;
    bool ready = c->owner.inflight == zc_sends && !lacks_fd(c);
    if (ready && (c->more->refusal || !zc_sends) && !kr__link_on(&c->wait))
        kr__list_push(&r->detaching, &c->wait);
}

void kr__detach_answered(struct kr_reactor *r, struct kr__conn *c, int res) {
    kr__mark_if(exported_too_late, res >= 0 && !kr__conn_is_detaching(c));
    if (res < 0)
        c->more->refusal = res;
    else if (kr__conn_is_detaching(c))
        c->more->fd = res;
    else
        r->kernel->file.close(r->kernel, res);
}

/* What was sent by zero-copy has not been acknowledged in time. */
static bool detach_overdue(struct kr_reactor *r, struct kr__conn *c) {
    if (!kr__conn_is_detaching(c))
        return false;
    kr__mark(detach_overdue);
    kr__count(&r->stats.timeouts, 1);
    c->more->refusal = -ETIMEDOUT;
    detach_settles(r, c);
    return true;
}

/* It is not detached: its error has been taken off the socket. */
static void detach_breaks(struct kr_reactor *r, struct kr__conn *c, int error) {
    kr__mark_if(broken_while_detached, kr__conn_is_detaching(c));
    if (kr__conn_is_detaching(c)) {
        c->more->refusal = error;
        detach_settles(r, c);
    }
}

/* It ends before it could be detached. */
static void detach_ends(struct kr_reactor *r, struct kr__conn *c, int error) {
    fails(r, c, error ? error : -ECANCELED);
}

static uint32_t detach_wants(const struct kr__conn *c, uint32_t desired) {
    bool alone = !(c->owner.armed & ~KR__SET(export)) && !kr__conn_zc_pending(c);
    return kr__conn_is_detaching(c) && lacks_fd(c) && alone ? KR__SET(export) : desired;
}

/* One that has waited long enough for its zero-copy sends waits on only for what is being cancelled. */
static bool detach_moves(const struct kr_reactor *r, const struct kr__conn *c) {
    (void)r;
    if (!kr__conn_zc_pending(c))
        return c->owner.inflight > 0;
    bool joins = c->owner.inflight > c->more->zerocopy.zc_sends.count;
    return kr__heap_filed(&c->deadline.node) || (c->more->refusal && joins);
}

const struct kr__hooks kr__hooks_detach = {
    .wants = detach_wants,
    .moves = detach_moves,
    .breaks = detach_breaks,
    .overdue = detach_overdue,
    .settles = detach_settles,
    .ends = detach_ends,
};

static int may_detach(const struct kr_reactor *r, const struct kr__conn *c) {
    if (kr__conn_is_detaching(c))
        return -EALREADY;
    if (!kr__conn_is_open(c))
        return kr__conn_is_usable(c) ? -ENOTCONN : -EPIPE;
    if (c->broken) /* its error has been taken off the socket */
        return -EPIPE;
    if (c->features & KR__PAIRED || c->files)
        return -EBUSY;
    bool has_fd = kr__conn_opts(c)->keep_fd || kr__slots_fd(&r->slots, c->owner.slot) >= 0;
    return has_fd || r->ring.caps & KR__CAP_FD_INSTALL ? 0 : -EOPNOTSUPP;
}

int kr_conn_detach(struct kr_reactor *r, kr_conn conn, kr_detached_fn *done, void *user) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!done)
        return -EINVAL;
    rc = may_detach(r, c);
    if (rc < 0)
        return rc;
    struct kr__conn_more *more = kr__conn_more(r, c);
    if (!more)
        return -ENOMEM;
    more->detached = done;
    more->detached_user = user;
    if (r->reservation.conn == c)
        kr__reservation_drop(r);
    kr__conn_hold(r, c);
    kr__deadline_unfile(&r->timers, &c->deadline);
    kr__conn_goes(c, KR__DETACHES);
    c->features |= KR__DETACHING;
    if (kr__conn_zc_pending(c))
        kr__conn_count(r, c, KR_DEADLINE_FLUSH);
    kr__conn_dirty(r, c);
    detach_settles(r, c);
    return 0;
}
