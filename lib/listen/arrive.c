/* The arrival of an accepted connection in a slot that the kernel has chosen.
 *
 * Happy path: its slot is free; it has its listener's limits and callbacks, and on_open runs.
 * Failure modes: memory is refused (closed unannounced, counted as an accept error); its listener is
 * being closed (closed unannounced); the slot's last connection is not known to be closed yet: the
 * kernel ran its CLOSE, gave the slot away, and told of that first. Then the new one succeeds it
 * when its completion has come. */
#include "conn/hooks.h"
#include "conn/tell.h"
#include "listen/listener.h"

/* One that came by a descriptor has lost it already (listen/accept.c). What became of its listener is
 * not known without one. */
static bool may_linger(const struct kr_reactor *r, const struct kr__listener *l) {
    bool rid = l && (!l->foreign || l->arrivals || l->bound.u.sa.sa_family == AF_UNIX);
    return !rid && (r->ring.caps & KR__CAP_FD_INSTALL);
}

static void conn_inherit(struct kr_reactor *r, struct kr__conn *c, const struct kr__listener *l) {
    c->ops = l->ops;
    c->user = l->user;
    kr__conn_limits(r, c, kr__profile_ref(l->profile));
    c->one_shot = c->local = l->bound.u.sa.sa_family == AF_UNIX;
    c->listener = kr__owner_handle(&l->owner);
}

/* The descriptor is its own from here on. */
static int conn_fd_keep(struct kr_reactor *r, struct kr__conn *c, int fd) {
    if (fd < 0)
        return 0;
    struct kr__conn_more *more = kr__conn_more(r, c);
    if (more)
        more->fd = fd;
    else
        r->kernel->file.close(r->kernel, fd);
    return more ? 0 : -ENOMEM;
}

static void conn_open(struct kr_reactor *r, struct kr__conn *c, uint32_t slot,
                      struct kr__listener *l, const struct kr_addr *addrs, int fd) {
    kr__conn_begin(r, c, slot, KR__ACCEPTED);
    c->lingers = may_linger(r, l);
    if (!l || l->state != KR__LISTENER_OPEN) { /* nobody is there to serve it */
        kr__mark(arrived_at_nobody);
        if (fd >= 0)
            r->kernel->file.close(r->kernel, fd);
        kr__conn_end(r, c, KR_CLOSE_NOW, 0, KR_WHY_LOCAL);
        return;
    }
    conn_inherit(r, c, l);
    kr__listener_opened(l);
    int rc = conn_fd_keep(r, c, fd);
    if (rc == 0)
        rc = kr__conn_equip(r, c, addrs, l->foreign);
    if (rc < 0) {
        kr__count(&r->stats.accept_errors, 1);
        kr__mark(arrival_refused);
        kr__conn_end(r, c, KR_CLOSE_NOW, rc, KR_WHY_LIMIT);
        return;
    }
    kr__count(&r->stats.accepts, 1);
    c->announced = true;
    kr__conn_stands(r, c);
    kr__tell_open(r, c);
}

void kr__conn_arrive(struct kr_reactor *r, uint32_t slot, struct kr__listener *l,
                     const struct kr_addr *addrs, int fd) {
    struct kr__conn *c = &r->conns.table[slot];
    kr__listener_took_slot(r, l);
    if (kr__likely(kr__conn_is_free(c))) {
        conn_open(r, c, slot, l, addrs, fd);
        return;
    }
    /* The kernel ran our CLOSE, gave the slot away, and told of that first: completions of a
     * multishot accept overtake those of the batch (io_uring/io_uring.c). Nothing else does, so
     * there are no addresses and no descriptor: a multishot accept asks for none. (Or the
     * completion of CLOSE is lost, and nobody will succeed.) */
    if (fd >= 0)
        r->kernel->file.close(r->kernel, fd);
    kr__assert(kr__conn_is_closing(c) && !c->successor);
    kr__mark(successor);
    c->successor = kr__owner_handle(&l->owner);
}

/* The slot's next connection, whose accept was told early. */
static void conn_succeed(struct kr_reactor *r, struct kr__conn *c) {
    conn_open(r, c, c->owner.slot, kr__listener_find(r, c->successor), NULL, -1);
}

/* What is free again may be accepted into, or has its next connection already. */
static void accept_freed(struct kr_reactor *r, struct kr__conn *c) {
    if (c->owner.slot < r->conns.accept_max)
        kr__listener_left(r, c->listener);
    if (c->successor)
        conn_succeed(r, c);
}

const struct kr__hooks kr__hooks_accept = {.freed = accept_freed};
