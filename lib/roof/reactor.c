/* A reactor's life: built, bound to its thread, run, taken down.
 *
 * Happy path: settle the config, map and register the rooms on a disabled ring; the first run
 * enables the ring, which makes its thread the one submitter; free ends every owner, runs turns
 * until the kernel owes nothing, and unmaps.
 * Failure modes: any step of building is refused (each is explained, all before it are undone);
 * free while peers do not acknowledge what was sent by zero-copy (after a second they are reset);
 * free in a forked child (copies are given back, the parent's ring is not touched); free of a
 * reactor that never ran (there is nothing in flight); free after the kernel has lost completions
 * (what does not come within 100 ms is given up); free when the thread that ran it has ended (the
 * ring is dead: everybody is told, and it is closed). */
#include "roof/reactor.h"

#include "conn/fair.h"
#include "conn/zerocopy.h"
#include "extra/forward.h"
#include "extra/lease.h"
#include "kernel/probe.h"
#include "listen/listener.h"
#include "ring/tag.h"
#include "roof/config.h"
#include "roof/drain.h"
#include "roof/features.h"
#include "roof/kinds.h"
#include "roof/post.h"
#include "roof/turn.h"

#define PAGE 4096u
#define LOST_WAIT_NS 100000000
#define FLIGHT_WAIT_NS 1000000000

static int build_ring(struct kr_reactor *r, unsigned caps_mask) {
    struct kr__ring_plan plan = {
        .sq_entries = r->config.sq_entries,
        .cq_entries = r->config.cq_entries,
        .defer = r->config.taskrun == KR_TASKRUN_DEFER,
        .caps_mask = caps_mask,
    };
    return kr__ring_open(&r->ring, r->kernel, &plan);
}

/* One system call may be filtered though others are not. A disabled ring answers -EBADFD to a
 * submit. */
static int try_enter(struct kr_reactor *r) {
    int rc = r->kernel->ring.enter(r->kernel, &r->ring.uring, 0, 0, 0, NULL);
    return rc == -EBADFD ? 0 : rc;
}

/* What each step maps, for the explanation of its failure. */
static size_t bytes_of_bufs(const struct kr_config *c) {
    return (c->buf_size + PAGE + sizeof(struct io_uring_buf)) * c->buf_count;
}

static size_t bytes_of_tables(const struct kr_config *c) {
    size_t conns = (size_t)c->conn_max + c->connect_max;
    return conns * sizeof(struct kr__conn) + c->listener_max * sizeof(struct kr__listener);
}

static size_t bytes_of_plain(const struct kr_config *c) {
    return ((size_t)c->conn_max + c->connect_max + c->listener_max) * sizeof(int);
}

static bool wants_plain_table(const struct kr_reactor *r) {
    bool lets_go = r->ring.caps & KR__CAP_FILE_TABLE;
    return r->config.table == KR_TABLE_PLAIN || (r->config.table == KR_TABLE_AUTO && !lets_go);
}

/* The rooms on an open ring. *at says which step failed. */
static int build_rooms(struct kr_reactor *r, struct kr__attempt *at) {
    const struct kr_config *c = &r->config;
    kr__blocks_init(&r->blocks, &r->mem);
    r->sends = (struct kr__sends){.blocks = &r->blocks, .bufs = &r->bufs};
    kr__timers_init(&r->timers, &r->mem);
    kr__profiles_init(&r->profiles, &r->mem);
    kr__leases_init(r->leases, &r->mem);
    *at = (struct kr__attempt){.tried = "io_uring_enter"};
    int rc = try_enter(r);
    if (rc == 0) {
        const struct kr__slots_plan plan = {
            .accepted = c->conn_max,
            .made = c->connect_max,
            .files = c->listener_max,
            .plain = wants_plain_table(r),
        };
        at->tried = plan.plain ? "the table of descriptors" : "io_uring_register of the file table";
        at->mapped = plan.plain ? bytes_of_plain(c) : 0;
        rc = kr__slots_init(&r->slots, &r->ring, &r->mem, &plan);
    }
    if (rc == 0) {
        at->tried = "io_uring_register of the buffers";
        at->mapped = bytes_of_bufs(c);
        rc = kr__bufs_init(&r->bufs, &r->ring, &r->mem, c->buf_count, c->buf_size);
    }
    if (rc == 0) {
        *at = (struct kr__attempt){.tried = "eventfd"};
        rc = kr__inbox_init(r->inbox, r->kernel, &r->mem, kr__power_of_two(c->post_max));
    }
    if (rc == 0) {
        *at = (struct kr__attempt){.tried = "mmap of the tables", .mapped = bytes_of_tables(c)};
        rc = kr__conns_init(&r->conns, r, c->conn_max, c->connect_max);
    }
    if (rc == 0)
        rc = kr__listeners_init(r->listeners, r, c->listener_max, r->slots.files.first);
    if (rc == 0)
        kr__kinds_init(r);
    return rc;
}

/* A reactor and its rooms: one piece of memory. */
struct whole {
    struct kr_reactor reactor;
    struct kr__leases leases;
    struct kr__listeners listeners;
    struct kr__drain drain;
    struct kr__inbox inbox;
};

/* Each part may be missing, if building failed there. */
static void raze_rooms(struct kr_reactor *r, bool child) {
    kr__leases_free(r->leases, r);
    kr__listeners_free(r->listeners, r);
    kr__conns_free(&r->conns, r);
    if (r->inbox->mem)
        kr__inbox_free(r->inbox);
    if (r->bufs.mem)
        kr__bufs_free(&r->bufs, child);
    if (r->slots.mem)
        kr__slots_free(&r->slots);
    kr__sends_forget(&r->sends);
    kr__timers_free(&r->timers);
    kr__profiles_free(&r->profiles);
    kr__blocks_free(&r->blocks);
}

static void raze_self(struct kr_reactor *r) {
    struct kr__mem mem = r->mem;
    r->kernel->process.unmap(r->kernel, (void *)(uintptr_t)r->alive, PAGE);
    kr__reactor_number_put(r->number);
    kr__mem_put(&mem, r, sizeof(struct whole));
}

/* NULL: memory is refused, *at says by whom. */
static struct kr_reactor *build_self(const struct kr_config *config, const struct kr__kernel *k,
                                     unsigned number, struct kr__attempt *at) {
    struct kr__mem mem = {.alloc = *config->alloc};
    *at = (struct kr__attempt){.tried = "the allocator"};
    struct whole *whole = kr__mem_get_zeroed(&mem, sizeof *whole);
    struct kr_reactor *r = whole ? &whole->reactor : NULL;
    if (!r)
        return NULL;
    *at = (struct kr__attempt){.tried = "mmap of a page", .mapped = PAGE};
    uint32_t *alive = k->process.map(k, PAGE, KR__MAP_WIPE);
    if (!alive) {
        kr__mem_put(&mem, r, sizeof(struct whole));
        return NULL;
    }
    *alive = 1;
    r->alive = alive;
    r->leases = &whole->leases;
    r->listeners = &whole->listeners;
    r->drain = &whole->drain;
    r->inbox = &whole->inbox;
    r->number = (uint16_t)number;
    r->kernel = k;
    r->mem = mem;
    r->config = *config;
    kr__list_init(&r->dirty);
    kr__list_init(&r->again);
    r->kinds = kr__kind_rows;
    r->hooks = kr__hook_rows;
    r->rest_until = KR__NEVER;
    kr__catchup_init(&r->catchup);
    kr__list_init(&r->showing);
    kr__list_init(&r->forwards_over);
    kr__list_init(&r->detaching);
    kr__starve_init(&r->starve);
    kr__fair_init(r);
    kr__owner_init(&r->self, KR__KIND_SELF, r->number, KR__SLOT_SELF);
    return r;
}

/* 0 when it was not the kernel that had no memory, or not memory that is locked: only the ring's
 * own is. */
static size_t locked_bytes(const struct kr_reactor *r, const char *tried) {
    if (r->mem.refused || strncmp(tried, "io_uring", strlen("io_uring")) != 0)
        return 0;
    return r->ring.locked + r->config.buf_count * sizeof(struct io_uring_buf);
}

static void explain(const struct kr_reactor *r, struct kr_failure *why, struct kr__attempt *at,
                    int error) {
    at->locked = locked_bytes(r, at->tried);
    at->files = r->config.conn_max + r->config.connect_max + r->config.listener_max;
    kr__probe_explain(r->kernel, why, at, error);
}

static int build(struct kr_reactor *r, struct kr_failure *why, unsigned caps_mask) {
    struct kr__attempt at = {.tried = "io_uring_setup"};
    int rc = build_ring(r, caps_mask);
    if (rc < 0) {
        at.mapped = r->ring.locked;
        explain(r, why, &at, rc);
        return rc;
    }
    rc = build_rooms(r, &at);
    if (rc < 0) {
        explain(r, why, &at, rc);
        kr__ring_close(&r->ring, false);
        raze_rooms(r, false);
        return rc;
    }
    kr__owner_dirty(r, &r->self);
    return 0;
}

int kr__reactor_new(struct kr_reactor **ret, const struct kr_config *config, struct kr_failure *why,
                    const struct kr__kernel *kernel, unsigned caps_mask) {
    struct kr_config resolved;
    const char *fault = kr__config_settle(&resolved, config, kernel);
    if (fault)
        return kr__probe_refuse_config(why, fault);

    struct kr__attempt at = {.tried = "a number for the reactor"};
    int rc = kr__reactor_number_take();
    if (rc < 0)
        return kr__probe_explain(kernel, why, &at, rc);
    struct kr_reactor *r = build_self(&resolved, kernel, (unsigned)rc, &at);
    if (!r) {
        kr__reactor_number_put((unsigned)rc);
        return kr__probe_explain(kernel, why, &at, -ENOMEM);
    }
    rc = build(r, why, caps_mask);
    if (rc < 0) {
        raze_self(r);
        return rc;
    }
    if (why)
        *why = (struct kr_failure){0};
    *ret = r;
    return 0;
}

int kr_reactor_new(struct kr_reactor **ret, const struct kr_config *config,
                   struct kr_failure *why) {
    if (!ret)
        return kr__probe_refuse_config(why, "ret is NULL");
    return kr__reactor_new(ret, config, why, &kr__linux, KR__CAPS_ALL);
}

enum kr_table kr_reactor_table(const struct kr_reactor *r) {
    if (!r)
        return KR_TABLE_AUTO;
    return r->ring.plain.cells ? KR_TABLE_PLAIN : KR_TABLE_REGISTERED;
}

/* The door of kr_run and kr_step; the first one binds. */
static int begin(struct kr_reactor *r) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    if (r->in_turn || r->freeing)
        return -EBUSY;
    kr__inbox_rests(r->inbox, false);
    if (r->ring.bound)
        return 0;
    rc = kr__ring_bind(&r->ring);
    if (rc < 0)
        return rc;
    kr__life_watch(&r->life);
    __atomic_store_n(&r->thread, kr__thread_number(), __ATOMIC_RELAXED);
    return 0;
}

static void raze(struct kr_reactor *r, bool child);

/* One turn. A child of a callback's fork comes out of it too, and may have freed its copy in
 * there. */
static int turn(struct kr_reactor *r, int64_t max_wait_ns) {
    int rc = kr__loop_turn(r, max_wait_ns);
    if (kr__unlikely(rc == -ECHILD) && r->freed_inside)
        raze(r, true);
    return rc;
}

int kr_run(struct kr_reactor *r) {
    int rc = begin(r);
    if (rc < 0)
        return rc;
    while (rc >= 0 && !kr__inbox_take_stop(r->inbox))
        rc = turn(r, -1);
    if (rc == -ECHILD)
        return rc;
    kr__inbox_rests(r->inbox, true);
    return rc < 0 ? rc : 0;
}

int kr_step(struct kr_reactor *r, int64_t max_wait_ns) {
    int rc = begin(r);
    if (rc < 0)
        return rc;
    if (kr__inbox_take_stop(r->inbox))
        return 0;
    return turn(r, max_wait_ns);
}

int64_t kr_now(const struct kr_reactor *r) {
    if (kr__guard(r) < 0)
        return 0;
    return r->in_turn ? r->now : r->kernel->process.clock(r->kernel);
}

int kr_stats_read(const struct kr_reactor *r, struct kr_stats *ret, size_t size) {
    if (!r || !ret)
        return -EINVAL;
    if (__atomic_load_n(r->alive, __ATOMIC_RELAXED) == 0)
        return -ECHILD;
    struct kr_stats stats;
    const uint64_t *from = (const uint64_t *)&r->stats;
    uint64_t *to = (uint64_t *)&stats;
    for (size_t i = 0; i < sizeof stats / sizeof *to; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    stats.bufs_out = __atomic_load_n(&r->bufs.held, __ATOMIC_RELAXED);
    stats.sends_out = __atomic_load_n(&r->sends.out, __ATOMIC_RELAXED);
    stats.blocks_out = __atomic_load_n(&r->blocks.out, __ATOMIC_RELAXED);
    stats.allocs = __atomic_load_n(&r->mem.calls, __ATOMIC_RELAXED);
    stats.alloc_bytes = __atomic_load_n(&r->mem.bytes, __ATOMIC_RELAXED);
    memset(ret, 0, size);
    memcpy(ret, &stats, kr__min_size(size, sizeof stats));
    return 0;
}

static void end_conns(struct kr_reactor *r) {
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        if (kr__conn_is_served(c))
            kr__conn_end(r, c, KR_CLOSE_NOW, 0, KR_WHY_REACTOR);
    }
}

static void end_listeners(struct kr_reactor *r) {
    for (unsigned i = 0; i < r->listeners->max; i++) {
        struct kr__listener *l = &r->listeners->table[i];
        if (l->state == KR__LISTENER_OPEN)
            kr__listener_end(r, l);
    }
}

/* Or a callback has forked, and this is the child, which has nothing to wait for. */
static bool is_settled(struct kr_reactor *r) {
    if (kr__in_child(r))
        return true;
    return !r->stats.inflight && !r->conns.open && !r->stats.listeners &&
           !kr__inbox_ready(r->inbox) && !r->sends.due.head;
}

/* Callbacks are about to run that no turn of the loop runs; kr_now is the time of now. */
static void begin_callbacks(struct kr_reactor *r) {
    r->in_turn = true;
    r->now = r->kernel->process.clock(r->kernel);
}

static void run_posts(struct kr_reactor *r) {
    begin_callbacks(r);
    while (kr__inbox_run(r, r->config.turn_posts) + kr__sends_tell(&r->sends, r)) {
    }
    r->in_turn = false;
}

/* The last completions of some owners may never come. Their users are told of the end all the
 * same. */
static void abandon(struct kr_reactor *r) {
    begin_callbacks(r);
    kr__forwards_settle(r);
    for (struct kr__conn *c = NULL; !kr__in_child(r) && (c = kr__conns_next(&r->conns, c));)
        kr__conn_abandon(r, c);
    r->in_turn = false;
    run_posts(r);
}

/* The kernel has lost completions: that is why connections end, unless they had failed before. */
static void blame_the_kernel(struct kr_reactor *r) {
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        if (c->why != KR_WHY_ERROR)
            c->error = -EBADR;
        c->why = KR_WHY_ERROR;
    }
}

/* What was sent by zero-copy comes back when peers acknowledge it, for which they have a while:
 * until
 * `patience`, NEVER when that is over. */
static int64_t flight_wait(const struct kr_reactor *r, int64_t patience) {
    if (!r->zc_sends || patience == KR__NEVER)
        return -1;
    int64_t left = patience - r->kernel->process.clock(r->kernel);
    return left > 0 ? left : 0;
}

static void give_up_flights(struct kr_reactor *r) {
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        if (kr__conn_zc_pending(c))
            kr__conn_give_up(r, c);
    }
}

/* Ends every owner and turns until the kernel owes nothing more. */
static void wind_down(struct kr_reactor *r) {
    end_listeners(r);
    end_conns(r);
    kr__owner_dirty(r, &r->self);
    int64_t patience = kr__time_add(r->kernel->process.clock(r->kernel), FLIGHT_WAIT_NS);
    bool failed = false;
    while (!is_settled(r)) {
        bool lost = r->lost || failed;
        int rc = kr__loop_turn(r, lost ? LOST_WAIT_NS : flight_wait(r, patience));
        if (rc == -ECHILD)
            return;
        if (flight_wait(r, patience) == 0) {
            kr__mark(flights_given_up);
            give_up_flights(r);
            patience = KR__NEVER;
        }
        if (lost && rc <= 0) {
            kr__mark(given_up);
            blame_the_kernel(r);
            abandon(r);
            return;
        }
        failed = rc < 0;
        end_conns(r); /* an accept that was under way */
    }
}

/* A ring that nobody ran has nothing in flight. Its connections have made no request yet; its
 * listeners' ports are to be free at once. */
static void clear_files(struct kr_reactor *r) {
    kr__mark(freed_unrun);
    run_posts(r);
    end_conns(r);
    begin_callbacks(r);
    kr__forwards_settle(r);
    for (struct kr__conn *c = NULL; !kr__in_child(r) && (c = kr__conns_next(&r->conns, c));) {
        if (kr__conn_is_free(c))
            continue;
        kr__slots_clear(&r->slots, c->owner.slot);
        kr__conn_gone(r, c);
    }
    r->in_turn = false;
    for (unsigned i = 0; i < r->listeners->max && !kr__in_child(r); i++) {
        if (r->listeners->table[i].state == KR__LISTENER_FREE)
            continue;
        kr__listener_unname(r, &r->listeners->table[i]);
        kr__slots_clear(&r->slots, r->listeners->first_slot + i);
    }
}

/* The thread that ran it has ended, and the kernel has cancelled its requests then. The ring takes
 * none any more, nor a registration (-EEXIST), nor brings completions, and can only be closed. */
static void inherit(struct kr_reactor *r) {
    kr__mark(inherited);
    __atomic_store_n(&r->thread, kr__thread_number(), __ATOMIC_RELAXED);
}

static void end_inherited(struct kr_reactor *r) {
    end_listeners(r);
    end_conns(r);
    abandon(r);
}

static void raze(struct kr_reactor *r, bool child) {
    if (!child)
        kr__life_forget(&r->life);
    kr__ring_close(&r->ring, child);
    raze_rooms(r, child);
    raze_self(r);
}

/* The copies of a forked child. Where the thread that forked is the reactor's own the descriptors
 * beside the ring's are as they should be; where it is another, that one may have been about to
 * change them. */
static void close_copies(struct kr_reactor *r) {
    kr__ring_close(&r->ring, true);
    kr__inbox_close_wake(r->inbox);
    if (r->thread && r->thread != kr__thread)
        return;
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        if (!kr__conn_is_free(c))
            kr__conn_fd_drop(r, c);
    }
    for (unsigned i = 0; i < r->listeners->max; i++)
        kr__arrivals_close(r, &r->listeners->table[i]);
}

int kr_reactor_after_fork(struct kr_reactor *r) {
    if (!r)
        return -EINVAL;
    if (!kr__in_child(r))
        return -EPERM;
    close_copies(r);
    return 0;
}

/* From within a callback the turn comes back to it, and razes it then. */
static int free_copy(struct kr_reactor *r) {
    kr__mark(freed_in_a_child);
    close_copies(r);
    r->freed_inside = r->in_turn;
    if (!r->in_turn)
        raze(r, true);
    return 0;
}

int kr_reactor_free(struct kr_reactor *r) {
    if (!r)
        return 0;
    int rc = kr__guard(r);
    if (rc == -ECHILD)
        return free_copy(r);
    bool orphan = rc == -EPERM && kr__life_is_over(&r->life);
    if (rc < 0 && !orphan)
        return rc;
    if (r->in_turn)
        return -EBUSY;
    r->freeing = true;
    kr__inbox_close(r->inbox);
    if (orphan)
        inherit(r);
    if (orphan)
        end_inherited(r);
    else if (r->ring.bound)
        wind_down(r);
    else
        clear_files(r);
    raze(r, kr__in_child(r));
    return 0;
}
