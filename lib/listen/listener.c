/* Listeners: how they come to be, and their end. How much each may accept is listen/quota.c.
 *
 * Happy path: a socket listens, is put into a slot of the table, and the listener in its place
 * accepts until it is closed; then what it has in flight is cancelled and joined, and the slot's
 * CLOSE frees the port.
 * Failure modes: memory, descriptors or slots are refused (nothing was begun); clients whose
 * descriptor is on its way into the table when the listener ends (they are let go, and see
 * that). */
#include "listen/listener.h"

#include "base/addr.h"
#include "base/sized.h"
#include "conn/reactor.h"
#include "kernel/probe.h"

#define BACKLOG 1024u
#define IN_USE_NS INT64_C(1000000000)

static size_t table_bytes(unsigned max) {
    return ((size_t)max * sizeof(struct kr__listener) + 4095) / 4096 * 4096;
}

int kr__listeners_init(struct kr__listeners *ls, struct kr_reactor *r, unsigned max,
                       unsigned first_slot) {
    *ls = (struct kr__listeners){.max = max, .first_slot = first_slot};
    kr__list_init(&ls->want_room);
    ls->table = r->kernel->process.map(r->kernel, table_bytes(max), KR__MAP_PLAIN);
    return ls->table ? 0 : -ENOMEM;
}

void kr__arrivals_close(struct kr_reactor *r, struct kr__listener *l) {
    for (unsigned i = 0; l->arrivals && i < KR__ACCEPT_ONES; i++) {
        if (l->arrivals[i].fd < 0)
            continue;
        kr__mark(arrival_left);
        r->kernel->file.close(r->kernel, l->arrivals[i].fd);
        l->arrivals[i].fd = -1;
    }
}

static void arrivals_free(struct kr_reactor *r, struct kr__listener *l) {
    kr__arrivals_close(r, l);
    kr__mem_put(&r->mem, l->arrivals, KR__ACCEPT_ONES * sizeof *l->arrivals);
    l->arrivals = NULL;
}

static void dir_drop(struct kr_reactor *r, struct kr__listener *l) {
    if (l->removes)
        r->kernel->file.close(r->kernel, l->dir);
    l->removes = false;
}

/* All that a listener holds beside its file. */
static void listener_strip(struct kr_reactor *r, struct kr__listener *l) {
    arrivals_free(r, l);
    dir_drop(r, l);
    kr__profile_unref(&r->profiles, l->profile);
    l->profile = NULL;
}

void kr__listeners_free(struct kr__listeners *ls, struct kr_reactor *r) {
    if (!ls->table)
        return;
    for (unsigned i = 0; i < ls->max; i++)
        listener_strip(r, &ls->table[i]);
    r->kernel->process.unmap(r->kernel, ls->table, table_bytes(ls->max));
    ls->table = NULL;
}

struct kr__listener *kr__listener_find(const struct kr_reactor *r, uint64_t bits) {
    uint32_t index = kr__handle_slot(bits) - r->listeners->first_slot;
    if (!kr__handle_is(bits, KR__KIND_LISTENER, r->number) || index >= r->listeners->max)
        return NULL;
    struct kr__listener *l = &r->listeners->table[index];
    bool good = l->state == KR__LISTENER_OPEN && l->owner.generation == kr__handle_generation(bits);
    return good ? l : NULL;
}

void kr__arrival_drop(struct kr_reactor *r, struct kr__listener *l, unsigned index) {
    if (l->arrivals[index].fd >= 0) /* else a connection has taken it */
        r->kernel->file.close(r->kernel, l->arrivals[index].fd);
    l->arrivals[index].fd = -1;
    l->arrivals[index].installing = false;
    l->ones--;
}

void kr__listener_unname(struct kr_reactor *r, struct kr__listener *l) {
    if (l->removes)
        r->kernel->socket.path_remove(r->kernel, &l->bound, &l->path, l->dir);
    dir_drop(r, l);
}

void kr__listener_end(struct kr_reactor *r, struct kr__listener *l) {
    l->state = KR__LISTENER_CLOSING;
    r->listeners->draining -= l->draining;
    kr__listener_unname(r, l);
    l->to_start = 0;
    kr__listener_yield_room(r, l);
    for (unsigned i = 0; l->arrivals && i < KR__ACCEPT_ONES; i++) {
        if (l->arrivals[i].fd >= 0 && !l->arrivals[i].installing)
            kr__arrival_drop(r, l, i);
    }
    kr__deadline_end(&r->timers, &l->deadline);
    kr__owner_dirty(r, &l->owner);
}

static kr_listener listener_handle(const struct kr__listener *l) {
    return (kr_listener){kr__owner_handle(&l->owner)};
}

/* Its port is free, and its place may be taken while it is told. */
void kr__listener_gone(struct kr_reactor *r, struct kr__listener *l) {
    kr__assert(l->state == KR__LISTENER_CLOSING && l->owner.inflight == 0 && l->ones == 0);
    const struct kr__listener was = *l;
    kr__link_off(&l->owner.dirty);
    kr__listener_leave_room(r, l);
    listener_strip(r, l);
    l->state = KR__LISTENER_FREE;
    kr__owner_age(&l->owner);
    kr__slots_recycle(&r->slots, l->owner.slot);
    kr__uncount(&r->stats.listeners, 1);
    if (was.ends_itself && was.opts.on_end && !r->freeing)
        was.opts.on_end(r, listener_handle(&was), was.user, was.end_error);
}

_Static_assert(offsetof(struct kr_listen_opts, conn) + sizeof(struct kr_conn_opts) ==
                   sizeof(struct kr_listen_opts),
               "the last field");

void kr_listen_opts_init_sized(struct kr_listen_opts *opts, size_t size, size_t conn_size) {
    const struct kr_listen_opts defaults = {.backlog = BACKLOG, .reuse_addr = true};
    size_t head = offsetof(struct kr_listen_opts, conn);
    void *conn = kr__sized_give_head(opts, size, conn_size, &defaults, head);
    if (conn)
        kr_conn_opts_init_sized(conn, conn_size);
}

/* As kr__conn_opts_settle. */
static const char *opts_settle(struct kr_listen_opts *o, const struct kr_listen_opts *given) {
    kr_listen_opts_init(o);
    const void *conn = NULL;
    if (given && !(conn = kr__sized_take_head(o, offsetof(struct kr_listen_opts, conn), given)))
        return KR__SIZED_FAULT("kr_listen_opts");
    o->backlog = o->backlog ? o->backlog : BACKLOG;
    if (o->backlog > 65535)
        return "backlog is above 65535";
    if (o->unix_mode > 0777)
        return "unix_mode is above 0777";
    if (o->turn_accepts > KR__ACCEPT_ONES)
        return "turn_accepts is above 16";
    return kr__conn_opts_settle(&o->conn, conn);
}

int kr_listen_opts_check(const struct kr_listen_opts *opts, struct kr_failure *why) {
    struct kr_listen_opts settled;
    return kr__probe_options(why, "struct kr_listen_opts", opts_settle(&settled, opts));
}

static int listener_slot(struct kr_reactor *r, int fd) {
    int slot = kr__slots_take(&r->slots.files);
    int rc = slot < 0 ? slot : kr__slots_put(&r->slots, (uint32_t)slot, fd);
    if (slot >= 0 && rc < 0)
        kr__slots_recycle(&r->slots, (uint32_t)slot);
    return rc < 0 ? rc : slot;
}

/* Where a listener's socket comes from. */
struct origin {
    const struct kr_addr *addr; /* it is made, bound to this; NULL: it is there */
    int fd;
};

/* A daemon starts before its reactor runs; later this thread has others to serve. */
static int64_t patience(const struct kr_reactor *r, const struct kr__listener *l) {
    int64_t in_use_ns = l->opts.in_use_ns;
    if (r->ring.bound || in_use_ns < 0)
        return 0;
    return in_use_ns ? in_use_ns : IN_USE_NS;
}

static struct kr__listen_plan listener_plan(const struct kr_reactor *r,
                                            const struct kr__listener *l,
                                            const struct kr_addr *addr) {
    return (struct kr__listen_plan){
        .addr = addr,
        .backlog = l->opts.backlog,
        .reuse_addr = l->opts.reuse_addr,
        .reuse_port = l->opts.reuse_port,
        .v6_only = l->opts.v6_only,
        .conn = &l->opts.conn,
        .refuse_fds = kr__refuses_fds(r, &l->opts.conn),
        .mode = l->opts.unix_mode,
        .replace = l->opts.unix_replace,
        .patience_ns = patience(r, l),
    };
}

/* Whether its user wants of its connections what only a descriptor gives. */
static bool asks_for_fds(const struct kr__listener *l) {
    return l->opts.addresses || l->opts.conn.keep_fd;
}

/* Unix sockets do not linger, so that nothing need be taken from those that are accepted. */
static int slot_of_given(struct kr_reactor *r, int fd, struct kr__listener *l) {
    const struct kr__listen_plan plan = listener_plan(r, l, NULL);
    int rc = r->kernel->socket.listen_fd(r->kernel, fd, &plan, &l->bound);
    if (rc == 0 && l->bound.u.sa.sa_family == AF_UNIX && !asks_for_fds(l) && !l->equips)
        arrivals_free(r, l);
    return rc < 0 ? rc : listener_slot(r, fd);
}

/* It removes its file by the directory that it is in now, wherever the process is then. */
static int will_remove(struct kr_reactor *r, struct kr__listener *l) {
    int rc = r->kernel->socket.path_dir(r->kernel, &l->bound);
    l->removes = rc >= 0;
    l->dir = rc;
    return rc < 0 ? rc : 0;
}

static int slot_of_new(struct kr_reactor *r, const struct kr_addr *addr, struct kr__listener *l) {
    const struct kr__listen_plan plan = listener_plan(r, l, addr);
    int fd = r->kernel->socket.listen(r->kernel, &plan, &l->bound);
    if (fd < 0)
        return fd;
    bool named = r->kernel->socket.path_id(r->kernel, &l->bound, &l->path) == 0;
    int slot = named && l->opts.unix_remove ? will_remove(r, l) : 0;
    if (slot == 0)
        slot = listener_slot(r, fd);
    if (slot < 0 && named)
        r->kernel->socket.path_remove(r->kernel, &l->bound, &l->path, -1);
    r->kernel->file.close(r->kernel, fd); /* the table has its own reference */
    return slot;
}

/* The socket in its slot. */
static int listener_socket(struct kr_reactor *r, const struct origin *from,
                           struct kr__listener *l) {
    if (!r->slots.files.free_count)
        return -ENOSPC;
    return from->addr ? slot_of_new(r, from->addr, l) : slot_of_given(r, from->fd, l);
}

/* What each client's socket must be given by itself: those of Unix listeners inherit nothing
 * (unix_stream_connect, net/unix/af_unix.c). */
static bool gives_each(const struct kr_conn_opts *o, const struct origin *from) {
    bool may_be_local = !from->addr || from->addr->u.sa.sa_family == AF_UNIX;
    return may_be_local && (o->send_buf || o->recv_buf || o->mark);
}

/* What may fail for want of memory comes before the socket. */
static int listener_equip(struct kr_reactor *r, const struct origin *from, struct kr__listener *l) {
    l->profile = kr__profile_new(&r->profiles, &l->opts.conn);
    if (!l->profile)
        return -ENOMEM;
    l->equips = gives_each(&l->opts.conn, from);
    bool by_fd =
        asks_for_fds(l) || l->equips || (l->foreign && !(r->ring.caps & KR__CAP_FD_INSTALL));
    if (by_fd)
        l->arrivals = kr__mem_get_zeroed(&r->mem, KR__ACCEPT_ONES * sizeof *l->arrivals);
    for (unsigned i = 0; l->arrivals && i < KR__ACCEPT_ONES; i++)
        l->arrivals[i].fd = -1;
    int rc = by_fd && !l->arrivals ? -ENOMEM : 0;
    if (rc == 0)
        rc = kr__deadline_promise(&r->timers, &l->deadline, KR__KIND_LISTENER);
    if (rc < 0)
        listener_strip(r, l);
    return rc;
}

/* The listener comes to be, in the table, as `fresh` describes it. */
static kr_listener listener_begin(struct kr_reactor *r, uint32_t slot,
                                  const struct kr__listener *fresh) {
    struct kr__listener *l = &r->listeners->table[slot - r->listeners->first_slot];
    struct kr__owner owner = l->owner;
    if (owner.generation == 0)
        kr__owner_init(&owner, KR__KIND_LISTENER, r->number, slot);
    *l = *fresh;
    l->owner = owner;
    l->state = KR__LISTENER_OPEN;
    l->drain_at = KR__NEVER;
    kr__count(&r->stats.listeners, 1);
    kr__listener_claim_room(r, l);
    return listener_handle(l);
}

static int listen_from(struct kr_reactor *r, kr_listener *ret, const struct origin *from,
                       const struct kr_listen_opts *opts, const struct kr_conn_ops *ops,
                       void *user) {
    struct kr__listener fresh = {.ops = ops, .user = user, .foreign = !from->addr};
    if (opts_settle(&fresh.opts, opts) || !kr__ops_good(ops))
        return -EINVAL;
    if (kr__shutting_down(r))
        return -ESHUTDOWN;

    int rc = listener_equip(r, from, &fresh);
    if (rc < 0)
        return rc;
    int slot = listener_socket(r, from, &fresh);
    if (slot < 0) {
        kr__deadline_end(&r->timers, &fresh.deadline);
        listener_strip(r, &fresh);
        return slot;
    }
    kr_listener listener = listener_begin(r, (uint32_t)slot, &fresh);
    if (ret)
        *ret = listener;
    return 0;
}

int kr_listen(struct kr_reactor *r, kr_listener *ret, const struct kr_addr *addr,
              const struct kr_listen_opts *opts, const struct kr_conn_ops *ops, void *user) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    if (!kr__addr_good(addr))
        return -EINVAL;
    return listen_from(r, ret, &(struct origin){.addr = addr}, opts, ops, user);
}

int kr_listen_fd(struct kr_reactor *r, kr_listener *ret, int fd, const struct kr_listen_opts *opts,
                 const struct kr_conn_ops *ops, void *user) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    if (fd < 0)
        return -EBADF;
    return listen_from(r, ret, &(struct origin){.fd = fd}, opts, ops, user);
}

int kr__listener_door(const struct kr_reactor *r, kr_listener listener, struct kr__listener **ret) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    *ret = kr__listener_find(r, listener.bits);
    return *ret ? 0 : -ESTALE;
}

int kr_listener_addr(const struct kr_reactor *r, kr_listener listener, struct kr_addr *ret) {
    struct kr__listener *l;
    int rc = kr__listener_door(r, listener, &l);
    if (rc < 0)
        return rc;
    if (!ret)
        return -EINVAL;
    *ret = l->bound;
    return 0;
}

static int listener_set_paused(struct kr_reactor *r, kr_listener listener, bool paused) {
    struct kr__listener *l;
    int rc = kr__listener_door(r, listener, &l);
    if (rc < 0)
        return rc;
    l->paused = paused;
    kr__owner_dirty(r, &l->owner);
    return 0;
}

int kr_listener_pause(struct kr_reactor *r, kr_listener listener) {
    return listener_set_paused(r, listener, true);
}

int kr_listener_resume(struct kr_reactor *r, kr_listener listener) {
    return listener_set_paused(r, listener, false);
}

int kr_listener_close(struct kr_reactor *r, kr_listener listener) {
    struct kr__listener *l;
    int rc = kr__listener_door(r, listener, &l);
    if (rc < 0)
        return rc;
    kr__listener_end(r, l);
    return 0;
}

void kr__listeners_audit(const struct kr_reactor *r) {
    for (unsigned i = 0; i < r->listeners->max; i++) {
        const struct kr__listener *l = &r->listeners->table[i];
        kr__assert(l->state != KR__LISTENER_CLOSING || l->owner.inflight);
        kr__assert(l->state != KR__LISTENER_OPEN || l->paused || l->backing_off ||
                   l->short_of_room || l->owner.inflight);
    }
}
