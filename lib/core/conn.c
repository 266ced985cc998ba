/* The connection table: arrival, the one decision of what is wanted, the end, the one release.
 *
 * Happy path: arrive -> OPEN -> end -> (DRAINING) -> JOINING -> CLOSING -> gone.
 * Failure modes: memory refused at arrival (closed unannounced, counted as an accept error); a peer that
 * reads nothing while DRAINING (the flush deadline makes it NOW); a slot given to the next connection
 * before this one's CLOSE completion was seen (`successor`). */
#include "core/conn.h"

#include "base/poison.h"

#include "core/reactor.h"

#include <string.h>

static size_t table_bytes(unsigned max) {
    return ((size_t)max * sizeof(struct kr__conn) + 4095) / 4096 * 4096;
}

int kr__conns_init(struct kr__conns *conns, struct kr_reactor *r, unsigned max) {
    *conns = (struct kr__conns){.max = max};
    conns->table = r->kernel->map(r->kernel, table_bytes(max), KR__MAP_PLAIN);
    return conns->table ? 0 : -ENOMEM;
}

/* Peer and local address, a block. */
#define ADDRS_SIZE (2 * sizeof(struct kr_addr))

static void addrs_put(struct kr_reactor *r, struct kr_addr *addrs) {
    if (addrs)
        kr__block_put(&r->blocks, addrs, kr__block_room(ADDRS_SIZE));
}

static int addrs_copy(struct kr_reactor *r, struct kr_addr **ret, const struct kr_addr *addrs) {
    *ret = NULL;
    if (!addrs)
        return 0;
    size_t room;
    *ret = kr__block_get(&r->blocks, ADDRS_SIZE, &room);
    if (!*ret)
        return -ENOMEM;
    memcpy(*ret, addrs, ADDRS_SIZE);
    return 0;
}

void kr__conn_vector_put(struct kr_reactor *r, struct kr__conn *c) {
    if (c->vector)
        kr__block_put(&r->blocks, c->vector, kr__block_room(sizeof(struct kr__vector)));
    c->vector = NULL;
}

/* The one release of all that a connection held. */
static void conn_release(struct kr_reactor *r, struct kr__conn *c) {
    if (r->reservation.conn == c)
        kr__reservation_drop(r);
    kr__sendq_drop(&r->sends, &c->queue);
    c->queued = c->held = 0;
    if (c->kept)
        kr__block_put(&r->blocks, c->kept, c->kept_room);
    addrs_put(r, c->addrs);
    c->kept = NULL;
    c->addrs = NULL;
    if (c->promised)
        kr__deadline_end(&r->timers, &c->deadline);
    c->promised = false;
    kr__conn_vector_put(r, c);
    if (c->inline_memory)
        kr__poison(c->inline_memory, c->inline_room);
}

/* In a forked child, and when the kernel failed us, connections may be left to release. */
void kr__conns_free(struct kr__conns *conns, struct kr_reactor *r) {
    if (!conns->table)
        return;
    for (unsigned slot = 0; slot < conns->used; slot++) {
        struct kr__conn *c = &conns->table[slot];
        if (c->state != KR__CONN_FREE) {
            conn_release(r, c);
            addrs_put(r, c->successor_addrs);
        }
        if (c->inline_memory)
            kr__block_put(&r->blocks, c->inline_memory, c->inline_room);
    }
    r->kernel->unmap(r->kernel, conns->table, table_bytes(conns->max));
    conns->table = NULL;
}

struct kr__conn *kr__conn_find(const struct kr_reactor *r, kr_conn conn) {
    uint32_t slot = kr__handle_slot(conn.bits);
    if (kr__handle_kind(conn.bits) != KR__KIND_CONN || slot >= r->conns.max)
        return NULL;
    struct kr__conn *c = &r->conns.table[slot];
    bool good = c->state != KR__CONN_FREE && c->owner.generation == kr__handle_generation(conn.bits);
    return good && c->announced ? c : NULL;
}

void kr__conn_dirty(struct kr_reactor *r, struct kr__conn *c) {
    kr__owner_dirty(r, &c->owner);
}

struct kr__wants kr__conn_wants(const struct kr__conn *c) {
    uint16_t desired = 0;
    switch ((enum kr__conn_state)c->state) {
    case KR__CONN_OPEN:
        if (!kr__conn_stopped(c) && !c->eof && !c->parked)
            desired |= KR__SET(recv);
        if (c->queued)
            desired |= KR__SET(send);
        break;
    case KR__CONN_DRAINING:
        desired |= KR__SET(send);
        break;
    case KR__CONN_JOINING:
        break;
    case KR__CONN_CLOSING:
        desired |= c->reset ? KR__SET(reset) : KR__SET(close);
        break;
    case KR__CONN_FREE:
        break;
    }
    return kr__owner_lacks(&c->owner, desired);
}

/* Memory that lives as long as the slot: a slot's next connection finds it there. */
static int conn_inline_ready(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    if (size > c->inline_room) {
        size_t room;
        void *memory = kr__block_get(&r->blocks, size, &room);
        if (!memory)
            return -ENOMEM;
        if (c->inline_memory)
            kr__block_put(&r->blocks, c->inline_memory, c->inline_room);
        c->inline_memory = memory;
        c->inline_room = (uint32_t)room;
    }
    c->inline_size = (uint32_t)size;
    if (size) {
        kr__poison(c->inline_memory, c->inline_room);
        kr__unpoison(c->inline_memory, size);
        memset(c->inline_memory, 0, size);
    }
    return 0;
}

/* A fresh life: all but the owner and the slot's own memory starts from zero. */
static void conn_begin(struct kr_reactor *r, struct kr__conn *c, uint32_t slot) {
    if (c->owner.generation == 0)
        kr__owner_init(&c->owner, KR__KIND_CONN, slot);
    if (slot >= r->conns.used)
        r->conns.used = slot + 1;
    *c = (struct kr__conn){
        .owner = c->owner,
        .state = KR__CONN_OPEN,
        .touched = r->now,
        .inline_memory = c->inline_memory,
        .inline_room = c->inline_room,
    };
    r->conns.open++;
    kr__count(&r->stats.conns, 1);
    kr__conn_dirty(r, c);
}

static void conn_inherit(struct kr__conn *c, const struct kr__listener *l) {
    c->ops = l->ops;
    c->user = l->user;
    c->send_low = (uint32_t)l->opts.send_low;
    c->send_high = (uint32_t)l->opts.send_high;
    c->send_cap = (uint32_t)l->opts.send_cap;
    c->recv_cap = (uint32_t)l->opts.recv_cap;
    c->idle_ns = l->opts.idle_ns;
    c->flush_ns = l->opts.flush_ns;
    c->listener = kr__handle_pack(KR__KIND_LISTENER, l->owner.slot, l->owner.generation);
}

static int conn_equip(struct kr_reactor *r, struct kr__conn *c, size_t inline_size,
                      const struct kr_addr *addrs) {
    int rc = kr__deadline_promise(&r->timers, &c->deadline, KR__KIND_CONN);
    if (rc < 0)
        return rc;
    c->promised = true;
    rc = conn_inline_ready(r, c, inline_size);
    return rc < 0 ? rc : addrs_copy(r, &c->addrs, addrs);
}

/* From the real now: a turn may have been under way for long, or none is. */
static void conn_deadline_file(struct kr_reactor *r, struct kr__conn *c, int64_t in_ns) {
    c->touched = r->kernel->clock(r->kernel);
    kr__deadline_file(&r->timers, &c->deadline, kr__time_add(c->touched, in_ns));
}

static void conn_open(struct kr_reactor *r, struct kr__conn *c, uint32_t slot, struct kr__listener *l,
                      const struct kr_addr *addrs) {
    conn_begin(r, c, slot);
    if (!l || l->state != KR__LISTENER_OPEN) { /* nobody is there to serve it */
        kr__conn_end(r, c, KR_CLOSE_NOW, 0, KR_WHY_LOCAL);
        return;
    }
    conn_inherit(c, l);
    kr__listener_opened(l);
    int rc = conn_equip(r, c, l->opts.inline_size, addrs);
    if (rc < 0) {
        kr__count(&r->stats.accept_errors, 1);
        kr__conn_end(r, c, KR_CLOSE_NOW, rc, KR_WHY_LIMIT);
        return;
    }
    kr__count(&r->stats.accepts, 1);
    c->announced = true;
    if (c->idle_ns)
        conn_deadline_file(r, c, c->idle_ns);
    if (c->ops->on_open)
        c->ops->on_open(r, kr__conn_handle(c), c->user);
}

void kr__conn_arrive(struct kr_reactor *r, uint32_t slot, struct kr__listener *l,
                     const struct kr_addr *addrs) {
    struct kr__conn *c = &r->conns.table[slot];
    kr__listener_took_slot(r, l);
    if (kr__likely(c->state == KR__CONN_FREE)) {
        conn_open(r, c, slot, l, addrs);
        return;
    }
    /* The kernel ran our CLOSE, gave the slot away, and told of that first: completions of a multishot
     * accept overtake those of the batch (io_uring/io_uring.c). */
    kr__assert(c->state == KR__CONN_CLOSING && !c->successor);
    c->successor = kr__handle_pack(KR__KIND_LISTENER, l->owner.slot, l->owner.generation);
    addrs_copy(r, &c->successor_addrs, addrs); /* refused memory: the addresses stay unknown */
}

/* One that was woken for a buffer and found it taken waits before all whose last byte is younger than its
 * own; those are few, and in front. */
static struct kr__link *park_before(struct kr_reactor *r, const struct kr__conn *c) {
    struct kr__link *at = r->parked.head.next;
    while (at != &r->parked.head &&
           kr__container_of(at, struct kr__conn, wait)->touched <= c->touched)
        at = at->next;
    return at;
}

void kr__conn_park(struct kr_reactor *r, struct kr__conn *c) {
    kr__assert(!kr__link_on(&c->wait));
    c->parked = true;
    kr__link_insert(c->hungry ? park_before(r, c) : &r->parked.head, &c->wait);
    kr__count(&r->stats.starved_parks, 1);
}

void kr__conn_unpark(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->parked)
        return;
    c->parked = false;
    kr__link_off(&c->wait);
    kr__conn_dirty(r, c);
}

void kr__conn_show_later(struct kr_reactor *r, struct kr__conn *c) {
    bool something = c->kept_size || (c->eof && !c->eof_told);
    if (c->state == KR__CONN_OPEN && something && !kr__conn_stopped(c) && !kr__link_on(&c->wait))
        kr__list_push(&r->showing, &c->wait);
}

void kr__conn_hold(struct kr_reactor *r, struct kr__conn *c) {
    kr__conn_unpark(r, c);
    kr__link_off(&c->wait);
}

/* No more than what is in flight keeps it now. */
static void conn_join(struct kr_reactor *r, struct kr__conn *c) {
    kr__conn_hold(r, c);
    if (c->promised)
        kr__deadline_unfile(&r->timers, &c->deadline);
    c->state = c->owner.inflight ? KR__CONN_JOINING : KR__CONN_CLOSING;
    kr__conn_dirty(r, c);
}

static void conn_drain(struct kr_reactor *r, struct kr__conn *c) {
    kr__conn_hold(r, c);
    c->state = KR__CONN_DRAINING;
    conn_deadline_file(r, c, c->flush_ns);
    kr__conn_dirty(r, c);
}

void kr__conn_end(struct kr_reactor *r, struct kr__conn *c, enum kr_close how, int error,
                  enum kr_why why) {
    bool lost = c->state == KR__CONN_DRAINING && error;
    if (c->state == KR__CONN_OPEN || lost) {
        c->error = (int16_t)error;
        c->why = (uint8_t)why;
    }
    bool ending = c->state == KR__CONN_JOINING || c->state == KR__CONN_CLOSING;
    if (how == KR_CLOSE_RESET && !(c->owner.armed & KR__SET(close)))
        c->reset = true;
    if (ending)
        return;
    if (how == KR_CLOSE_FLUSH && c->queued) {
        if (c->state == KR__CONN_OPEN)
            conn_drain(r, c);
        return;
    }
    conn_join(r, c);
}

void kr__conn_settle(struct kr_reactor *r, struct kr__conn *c) {
    if (c->state == KR__CONN_DRAINING && !c->queued && !(c->owner.armed & KR__SET(send)))
        conn_join(r, c);
    else if (c->state == KR__CONN_JOINING && c->owner.inflight == 0)
        c->state = KR__CONN_CLOSING;
    struct kr__wants wants = kr__conn_wants(c);
    if (wants.start | wants.cancel)
        kr__conn_dirty(r, c);
}

/* The slot's next connection, whose accept was told early. */
static void conn_succeed(struct kr_reactor *r, struct kr__conn *c) {
    struct kr_addr *addrs = c->successor_addrs;
    conn_open(r, c, c->owner.slot, kr__listener_find(r, c->successor), addrs);
    addrs_put(r, addrs);
}

static void conn_tell_close(struct kr_reactor *r, struct kr__conn *c, int error, enum kr_why why) {
    kr__count(&r->stats.closes, 1);
    if (c->ops->on_close)
        c->ops->on_close(r, kr__conn_handle(c), c->user, error, why);
}

void kr__conn_gone(struct kr_reactor *r, struct kr__conn *c) {
    kr__assert(c->state == KR__CONN_CLOSING && c->owner.inflight == 0 && !c->vector);
    if (c->announced)
        conn_tell_close(r, c, c->error, (enum kr_why)c->why);
    conn_release(r, c);
    kr__link_off(&c->owner.dirty);
    kr__owner_age(&c->owner);
    c->state = KR__CONN_FREE;
    c->announced = false;
    r->conns.open--;
    kr__uncount(&r->stats.conns, 1);
    kr__listener_left(r, c->listener);
    if (c->successor)
        conn_succeed(r, c);
}

void kr__conn_abandon(struct kr_reactor *r, struct kr__conn *c) {
    if (c->state == KR__CONN_FREE || !c->announced)
        return;
    bool failed = c->why == KR_WHY_ERROR;
    c->state = KR__CONN_CLOSING;
    conn_tell_close(r, c, failed ? c->error : -EBADR, KR_WHY_ERROR);
    c->announced = false;
}

static void conn_idled(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->ops->on_timeout) {
        kr__conn_end(r, c, KR_CLOSE_NOW, -ETIMEDOUT, KR_WHY_TIMEOUT);
        return;
    }
    conn_deadline_file(r, c, c->idle_ns);
    c->ops->on_timeout(r, kr__conn_handle(c), c->user, KR_DEADLINE_IDLE);
}

/* Traffic only stores a time; the deadline is filed anew when it comes up. */
void kr__conn_due(struct kr_reactor *r, struct kr__deadline *d) {
    struct kr__conn *c = kr__container_of(d, struct kr__conn, deadline);
    kr__assert(c->state == KR__CONN_OPEN || c->state == KR__CONN_DRAINING);
    bool open = c->state == KR__CONN_OPEN;
    int64_t due = kr__time_add(c->touched, open ? c->idle_ns : c->flush_ns);
    if (due > r->now)
        kr__deadline_file(&r->timers, &c->deadline, due);
    else if (open)
        conn_idled(r, c);
    else
        kr__conn_end(r, c, KR_CLOSE_NOW, -ETIMEDOUT, KR_WHY_TIMEOUT);
}

bool kr__conn_moves(const struct kr_reactor *r, const struct kr__conn *c) {
    uint16_t armed = c->owner.armed;
    switch ((enum kr__conn_state)c->state) {
    case KR__CONN_FREE:
        return c->owner.inflight == 0;
    case KR__CONN_OPEN:
        if (c->blocked)
            return armed & KR__SET(send);
        if (c->queued && !(armed & KR__SET(send)))
            return false;
        if (c->parked)
            return !kr__bufs_some(&r->bufs);
        return c->paused || c->eof || (armed & KR__SET(recv));
    case KR__CONN_DRAINING:
        return (armed & KR__SET(send)) && kr__heap_filed(&c->deadline.node);
    case KR__CONN_JOINING:
    case KR__CONN_CLOSING:
        return c->owner.inflight > 0;
    }
    return false;
}

/* What the public functions below open with. */
static int conn_door(const struct kr_reactor *r, kr_conn conn, struct kr__conn **ret) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    *ret = kr__conn_find(r, conn);
    return *ret ? 0 : -ESTALE;
}

static int conn_addr(const struct kr_reactor *r, kr_conn conn, int which, struct kr_addr *ret) {
    struct kr__conn *c;
    int rc = conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!ret)
        return -EINVAL;
    if (!c->addrs)
        return -ENODATA;
    *ret = c->addrs[which];
    return 0;
}

int kr_conn_peer(const struct kr_reactor *r, kr_conn conn, struct kr_addr *ret) {
    return conn_addr(r, conn, 0, ret);
}

int kr_conn_local(const struct kr_reactor *r, kr_conn conn, struct kr_addr *ret) {
    return conn_addr(r, conn, 1, ret);
}

void *kr_conn_user(const struct kr_reactor *r, kr_conn conn) {
    struct kr__conn *c;
    return conn_door(r, conn, &c) < 0 ? NULL : c->user;
}

int kr_conn_set_user(struct kr_reactor *r, kr_conn conn, void *user) {
    struct kr__conn *c;
    int rc = conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    c->user = user;
    return 0;
}

void *kr_conn_inline(const struct kr_reactor *r, kr_conn conn) {
    struct kr__conn *c;
    if (conn_door(r, conn, &c) < 0 || !c->inline_size)
        return NULL;
    return c->inline_memory;
}

int kr_conn_idle(struct kr_reactor *r, kr_conn conn, int64_t idle_ns) {
    struct kr__conn *c;
    int rc = conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (idle_ns < 0)
        return -EINVAL;
    if (c->state != KR__CONN_OPEN)
        return -EPIPE;
    c->idle_ns = idle_ns;
    if (idle_ns)
        conn_deadline_file(r, c, idle_ns);
    else
        kr__deadline_unfile(&r->timers, &c->deadline);
    return 0;
}
