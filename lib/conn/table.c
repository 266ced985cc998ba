/* The connection table: a life in a slot, and the one release of all that a connection held.
 *
 * Happy path: begin (listen/arrive.c), or make -> (conn/life.c, to the end) -> gone.
 * Failure modes: memory refused when one is made (the slot is as before); completions lost
 * (abandoned: told of the end all the same, released with the table). */
#include "base/poison.h"
#include "conn/hooks.h"
#include "conn/tell.h"
#include "pool/files.h"

#include <string.h>

static size_t table_bytes(unsigned max) {
    return ((size_t)max * sizeof(struct kr__conn) + 4095) / 4096 * 4096;
}

int kr__conns_init(struct kr__conns *conns, struct kr_reactor *r, unsigned accept_max,
                   unsigned made_max) {
    *conns = (struct kr__conns){
        .accept_max = accept_max,
        .max = accept_max + made_max,
        .made_used = accept_max,
    };
    conns->table = r->kernel->process.map(r->kernel, table_bytes(conns->max), KR__MAP_PLAIN);
    return conns->table ? 0 : -ENOMEM;
}

/* Peer and local address, a block. */
#define ADDRS_SIZE (2 * sizeof(struct kr_addr))

static void addrs_put(struct kr_reactor *r, struct kr_addr *addrs) {
    if (addrs)
        kr__block_put(&r->blocks, addrs, kr__block_room(ADDRS_SIZE));
}

struct kr__conn_more *kr__conn_more(struct kr_reactor *r, struct kr__conn *c) {
    size_t room;
    if (!c->more && (c->more = kr__block_get(&r->blocks, sizeof *c->more, &room)))
        *c->more = (struct kr__conn_more){.fd = -1};
    return c->more;
}

void kr__conn_fd_drop(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->more || c->more->fd < 0)
        return;
    r->kernel->file.close(r->kernel, c->more->fd);
    c->more->fd = -1;
}

static void more_put(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->more)
        return;
    kr__conn_fd_drop(r, c);
    addrs_put(r, c->more->addrs);
    if (c->more->files)
        kr__files_free(&r->blocks, c->more->files);
    kr__block_put(&r->blocks, c->more, kr__block_room(sizeof *c->more));
    c->more = NULL;
}

static struct kr_addr *addrs_copy(struct kr_reactor *r, const struct kr_addr *addrs) {
    size_t room;
    struct kr_addr *copy = kr__block_get(&r->blocks, ADDRS_SIZE, &room);
    return copy ? memcpy(copy, addrs, ADDRS_SIZE) : NULL;
}

static int addrs_keep(struct kr_reactor *r, struct kr__conn *c, const struct kr_addr *addrs) {
    struct kr__conn_more *more = kr__conn_more(r, c);
    if (more)
        more->addrs = addrs_copy(r, addrs);
    return more && more->addrs ? 0 : -ENOMEM;
}

/* The one release of all that a connection held. */
static void conn_release(struct kr_reactor *r, struct kr__conn *c) {
    if (r->reservation.conn == c)
        kr__reservation_drop(r);
    KR__EACH_HOOK (r, c, drop)
        row->drop(r, c);
    kr__sendq_drop(&r->sends, &c->queue);
    if (c->zerocopy)
        kr__sendq_drop(&r->sends, &c->more->zerocopy.zc_sends.pinned);
    c->zerocopy = false;
    c->queued = c->held = 0;
    if (c->kept)
        kr__block_put(&r->blocks, c->kept, c->kept_room);
    c->kept = NULL;
    more_put(r, c);
    r->conns.background -= c->profile && c->profile->opts.background;
    kr__profile_unref(&r->profiles, c->profile);
    c->profile = NULL;
    if (c->promised)
        kr__deadline_end(&r->timers, &c->deadline);
    c->promised = false;
    kr__conn_vector_put(r, c);
    if (c->inline_memory)
        kr__poison(c->inline_memory, c->inline_room);
}

/* The end of a life. Whose slot it was gets it back, unless the next life has begun. */
static void conn_free(struct kr_reactor *r, struct kr__conn *c) {
    conn_release(r, c);
    kr__link_off(&c->owner.dirty);
    kr__owner_age(&c->owner);
    kr__conn_goes(c, KR__GONE);
    c->announced = false;
    r->conns.open--;
    r->conns.accepted -= c->owner.slot < r->conns.accept_max;
    kr__uncount(&r->stats.conns, 1);
    kr__slots_recycle(&r->slots, c->owner.slot);
    KR__EACH_ROW (r, freed)
        row->freed(r, c);
}

/* In a forked child, and when the kernel failed us, connections may be left to release. */
void kr__conns_free(struct kr__conns *conns, struct kr_reactor *r) {
    if (!conns->table)
        return;
    for (struct kr__conn *c = NULL; (c = kr__conns_next(conns, c));) {
        if (!kr__conn_is_free(c))
            conn_release(r, c);
        if (c->inline_memory)
            kr__block_put(&r->blocks, c->inline_memory, c->inline_room);
    }
    r->kernel->process.unmap(r->kernel, conns->table, table_bytes(conns->max));
    conns->table = NULL;
}

struct kr__conn *kr__conn_find(const struct kr_reactor *r, kr_conn conn) {
    uint32_t slot = kr__handle_slot(conn.bits);
    if (!kr__handle_is(conn.bits, KR__KIND_CONN, r->number) || slot >= r->conns.max)
        return NULL;
    struct kr__conn *c = &r->conns.table[slot];
    bool good = !kr__conn_is_free(c) && c->owner.generation == kr__handle_generation(conn.bits);
    return good && c->announced ? c : NULL;
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
    if (size) {
        kr__poison(c->inline_memory, c->inline_room);
        kr__unpoison(c->inline_memory, size);
        memset(c->inline_memory, 0, size);
    }
    return 0;
}

void kr__conn_begin(struct kr_reactor *r, struct kr__conn *c, uint32_t slot,
                    enum kr__conn_event event) {
    if (c->owner.generation == 0)
        kr__owner_init(&c->owner, KR__KIND_CONN, r->number, slot);
    unsigned *used = slot < r->conns.accept_max ? &r->conns.used : &r->conns.made_used;
    *used = slot < *used ? *used : slot + 1;
    *c = (struct kr__conn){
        .owner = c->owner,
        .inline_memory = c->inline_memory,
        .inline_room = c->inline_room,
    };
    kr__conn_goes(c, event);
    r->conns.open++;
    r->conns.accepted += slot < r->conns.accept_max;
    kr__count(&r->stats.conns, 1);
    kr__conn_dirty(r, c);
}

void kr__conn_limits(struct kr_reactor *r, struct kr__conn *c, struct kr__profile *profile) {
    c->profile = profile;
    r->conns.background += profile && profile->opts.background;
}

int kr__conn_equip(struct kr_reactor *r, struct kr__conn *c, const struct kr_addr *addrs,
                   bool foreign) {
    int rc = kr__deadline_promise(&r->timers, &c->deadline, KR__KIND_CONN);
    if (rc < 0)
        return rc;
    c->promised = true;
    rc = conn_inline_ready(r, c, kr__conn_opts(c)->inline_size);
    KR__EACH_ROW (r, begins)
        rc = rc == 0 ? row->begins(r, c, foreign) : rc;
    return rc < 0 || !addrs ? rc : addrs_keep(r, c, addrs);
}

/* A pipe has one direction: in the other one it is as at its end. */
static int conn_pipe(struct kr_reactor *r, struct kr__conn *c, const struct kr__conn_plan *plan) {
    if (!kr__conn_more(r, c))
        return -ENOMEM;
    c->one_shot = true;
    c->write_only = c->eof = c->eof_told = plan->pipe == KR__PIPE_WRITES;
    c->read_only = c->half = c->fin = plan->pipe == KR__PIPE_READS;
    c->more->pipe_flags = plan->pipe_flags;
    return 0;
}

static int conn_furnish(struct kr_reactor *r, struct kr__conn *c, const struct kr__conn_plan *plan,
                        int fd) {
    c->ops = plan->ops;
    c->user = plan->user;
    c->one_shot = c->local = plan->addrs && plan->addrs->u.sa.sa_family == AF_UNIX;
    kr__conn_limits(r, c, kr__profile_share(&r->profiles, plan->opts));
    int rc = c->profile ? kr__conn_equip(r, c, plan->addrs, plan->foreign) : -ENOMEM;
    if (rc == 0 && plan->pipe)
        rc = conn_pipe(r, c, plan);
    return rc < 0 ? rc : kr__slots_put(&r->slots, c->owner.slot, fd);
}

int kr__conn_make(struct kr_reactor *r, const struct kr__conn_plan *plan, int fd,
                  struct kr__conn **ret) {
    int slot = kr__slots_take(&r->slots.made);
    if (slot < 0)
        return slot;
    struct kr__conn *c = &r->conns.table[slot];
    kr__conn_begin(r, c, (uint32_t)slot, KR__MADE);
    int rc = conn_furnish(r, c, plan, fd);
    if (rc < 0) {
        conn_free(r, c);
        return rc;
    }
    c->announced = true;
    c->drain_told = r->draining; /* made for what the drain lets finish */
    *ret = c;
    return 0;
}

static void conn_tell_close(struct kr_reactor *r, struct kr__conn *c, int error, enum kr_why why) {
    KR__EACH_HOOK (r, c, ends)
        row->ends(r, c, error);
    kr__count(&r->stats.closes, 1);
    kr__tell_close(r, c, error, why);
}

/* What its queue borrows is its users' again, and they are told. */
static void conn_unborrow(struct kr_reactor *r, struct kr__conn *c) {
    kr__sendq_unborrow(&r->sends, &c->queue);
    if (c->zerocopy)
        kr__sendq_unborrow(&r->sends, &c->more->zerocopy.zc_sends.pinned);
    kr__sends_tell(&r->sends, r);
}

void kr__conn_gone(struct kr_reactor *r, struct kr__conn *c) {
    kr__assert(kr__conn_is_closing(c) && c->owner.inflight == 0 && !c->vector);
    kr__assert(!(c->features & KR__PAIRED));
    conn_unborrow(r, c);
    if (c->announced)
        conn_tell_close(r, c, c->error, (enum kr_why)c->why);
    conn_free(r, c);
}

void kr__conn_abandon(struct kr_reactor *r, struct kr__conn *c) {
    if (kr__conn_is_free(c) || !c->announced)
        return;
    kr__mark(abandoned);
    kr__conn_goes(c, KR__LOST);
    conn_unborrow(r, c);
    conn_tell_close(r, c, c->error, (enum kr_why)c->why);
    c->announced = false;
}

void kr__conns_audit(const struct kr_reactor *r) {
    unsigned open = 0, starved = 0, may_try = 0;
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        kr__assert(kr__conn_moves(r, c));
        open += !kr__conn_is_free(c);
        starved += c->starved;
        may_try += c->may_try;
    }
    kr__assert(open == r->conns.open);
    kr__assert(starved == r->starve.starved && may_try == r->starve.may_try);
    kr__assert(r->conns.accepted + r->conns.promised <= r->conns.accept_max);
}
