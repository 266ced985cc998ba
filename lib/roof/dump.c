/* A reactor in text. Happy path: lines gather in a small buffer, which is written when it is full.
 * Failure: the first error of write ends it. Nothing is changed, so it may be called at any moment
 * that the reactor's thread has. */
#include "roof/dump.h"

#include "conn/op.h"
#include "extra/forward.h"
#include "listen/listener.h"
#include "pool/files.h"

#include <kreactor/dump.h>
#include <kreactor/version.h>

#include <stdarg.h>

struct kr__dump {
    const struct kr__kernel *kernel;
    int fd, error;
    size_t size;
    char text[2048];
};

static void flush(struct kr__dump *d) {
    size_t done = 0;
    while (!d->error && done < d->size) {
        int n = d->kernel->file.write(d->kernel, d->fd, d->text + done, d->size - done);
        if (n < 0)
            d->error = n;
        else
            done += (size_t)n;
    }
    d->size = 0;
}

#define LINE_MAX_SIZE 512

__attribute__((format(printf, 2, 3))) static void put(struct kr__dump *d, const char *format, ...) {
    if (sizeof d->text - d->size < LINE_MAX_SIZE)
        flush(d);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(d->text + d->size, LINE_MAX_SIZE, format, args);
    va_end(args);
    d->size += n < LINE_MAX_SIZE ? (size_t)n : LINE_MAX_SIZE - 1;
}

static void put_set(struct kr__dump *d, const char *word, uint32_t set) {
    if (!set)
        return;
    put(d, " %s", word);
    for (unsigned verb = 0; verb < KR__VERB_COUNT; verb++) {
        if (set & (1u << verb))
            put(d, ":%s", kr__ops[verb].name);
    }
}

static void put_flag(struct kr__dump *d, bool on, const char *name) {
    if (on)
        put(d, " %s", name);
}

static void put_owner(struct kr__dump *d, const struct kr__owner *o) {
    put(d, " life %u inflight %u", o->generation, o->inflight);
    put_set(d, "armed", o->armed);
    put_set(d, "cancelled", o->cancelled);
    if (kr__link_on(&o->dirty))
        put(d, " dirty");
}

/* Why it does not receive. */
static void put_reasons(struct kr__dump *d, unsigned reasons) {
#define X(name, text) text,
    static const char *const texts[] = {KR__REASONS(X)};
#undef X
    for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++)
        put_flag(d, reasons & 1u << i && 1u << i != KR__CLOSED, texts[i]);
}

static const char *conn_state_name(unsigned state) {
    static const char *const names[] = {
        [KR__CONN_FREE] = "free",         [KR__CONN_OPENING] = "opening",
        [KR__CONN_OPEN] = "open",         [KR__CONN_LINGERING] = "lingering",
        [KR__CONN_FLUSHING] = "flushing", [KR__CONN_JOINING] = "joining",
        [KR__CONN_CLOSING] = "closing",   [KR__CONN_DETACHING] = "detaching",
    };
    return names[state];
}

static void put_conn(struct kr__dump *d, const struct kr_reactor *r, const struct kr__conn *c) {
    put(d, "conn %u %s", c->owner.slot, conn_state_name(c->state));
    put_owner(d, &c->owner);
    struct kr__wants wants = kr__conn_wants(r, c);
    put_set(d, "wants", wants.start);
    put_set(d, "unwants", wants.cancel);
    bool listed = kr__link_on(&c->owner.dirty) || kr__link_on(&c->wait) || kr__forward_is_over(c);
    bool stuck = !listed && !r->in_turn && !kr__conn_moves(r, c);
    put(d, " queued %u held %u kept %u quiet_ms %lld", c->queued, c->held, c->kept_size,
        (long long)((r->now - c->idle_from) / 1000000));
    if (c->zerocopy)
        put(d, " zc_sends %u", c->more->zerocopy.zc_sends.count);
    if (kr__heap_filed(&c->deadline.node) && c->promised)
        put(d, " due_ms %lld",
            (long long)((kr__deadline_at(&r->timers, &c->deadline) - r->now) / 1000000));
    put_flag(d, c->write_only, "pipe-out");
    put_flag(d, c->read_only, "pipe-in");
    put_flag(d, c->features & KR__TAKES_FDS, "takes-fds");
    if (c->files)
        put(d, " files %u", c->more->files->count);
    put_flag(d, c->features & KR__CONNECTING, "connecting");
    put_flag(d, c->polls_connect, "polls_connect");
    put_reasons(d, kr__conn_reasons(c));
    put_flag(d, c->blocked && c->forwarding, "blocked");
    put_flag(d, c->may_try, "may_try");
    put_flag(d, c->over_share, "over_share");
    put_flag(d, c->forwarding, "forwarding");
    put_flag(d, c->features & KR__PAIRED, "paired");
    put_flag(d, c->half, "half");
    put_flag(d, c->fin, "fin");
    put_flag(d, c->reset, "reset");
    put_flag(d, c->successor, "successor");
    put_flag(d, c->features & KR__DETACHING, "detaching");
    put_flag(d, c->features & KR__SETS_OPTIONS, "sets-options");
    put_flag(d, c->more && c->more->fd >= 0, "fd");
    put_flag(d, stuck, "STUCK");
    put(d, "\n");
}

static void put_listener(struct kr__dump *d, const struct kr__listener *l) {
    char addr[KR_ADDR_TEXT_SIZE] = "?";
    kr_addr_text(&l->bound, addr, sizeof addr);
    put(d, "listener %u %s %s", l->owner.slot, l->state == KR__LISTENER_OPEN ? "open" : "closing",
        addr);
    put_owner(d, &l->owner);
    put(d, " conns %u promised %u ones %u batch %u%s%s%s%s%s\n", l->conns, l->promised, l->ones,
        l->batch, l->ready ? " ready" : "", l->draining ? " draining" : "",
        l->paused ? " paused" : "", l->backing_off ? " backing-off" : "",
        l->short_of_room ? " short-of-room" : "");
}

static unsigned list_count(const struct kr__list *list) {
    unsigned count = 0;
    for (const struct kr__link *link = list->head.next; link != &list->head; link = link->next)
        count++;
    return count;
}

static void put_ring(struct kr__dump *d, const struct kr_reactor *r) {
    const struct io_uring *u = &r->ring.uring;
    put(d,
        "ring sq head %u tail %u made %u of %u; cq head %u tail %u of %u; flags %#x overflow %u\n",
        *u->sq.khead, *u->sq.ktail, r->ring.sq_tail, r->ring.sq_entries, *u->cq.khead, *u->cq.ktail,
        r->ring.cq_entries, *u->sq.kflags, *u->cq.koverflow);
}

static void put_rooms(struct kr__dump *d, const struct kr_reactor *r) {
    put(d, "slots %s conns %u of %u promised %u; made %u of %u; files free %u of %u\n",
        r->ring.plain.cells ? "plain" : "registered", r->conns.accepted, r->conns.accept_max,
        r->conns.promised, r->slots.made.count - r->slots.made.free_count, r->slots.made.count,
        r->slots.files.free_count, r->slots.files.count);
    put(d, "bufs published %u target %u free %u of %u size %zu held %llu usual %zu\n",
        r->bufs.published, r->bufs.target, r->bufs.free_count, r->bufs.count, r->bufs.size,
        (unsigned long long)r->bufs.held, r->bufs.usual);
    unsigned filed = r->timers.heap.count + r->timers.deadlines.count;
    put(d,
        "lists dirty %u again %u starved %u may_try %u showing %u; timers filed %u, next in_ns %lld\n",
        list_count(&r->dirty), list_count(&r->again), r->starve.starved, r->starve.may_try,
        list_count(&r->showing), filed,
        filed ? (long long)(kr__timers_next(&r->timers) - r->now) : -1);
}

void kr__dump_self(struct kr__dump *d, const struct kr_reactor *r) {
    put(d, "self");
    put_owner(d, &r->self);
    put(d, "\n");
}

void kr__dump_listeners(struct kr__dump *d, const struct kr_reactor *r) {
    for (unsigned i = 0; i < r->listeners->max; i++) {
        if (r->listeners->table[i].state != KR__LISTENER_FREE)
            put_listener(d, &r->listeners->table[i]);
    }
}

void kr__dump_conns(struct kr__dump *d, const struct kr_reactor *r) {
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        if (!kr__conn_is_free(c))
            put_conn(d, r, c);
    }
}

int kr_dump(const struct kr_reactor *r, int fd) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    struct kr__dump d = {.kernel = r->kernel, .fd = fd};
    put(&d, "kreactor %d.%d.%d turns %llu%s%s%s\n", KR_VERSION_MAJOR, KR_VERSION_MINOR,
        KR_VERSION_PATCH, (unsigned long long)r->stats.turns, r->in_turn ? " in-turn" : "",
        r->freeing ? " freeing" : "", r->draining ? " draining" : "");
    put_ring(&d, r);
    put_rooms(&d, r);
    for (unsigned kind = KR__KIND_COUNT;
         kind-- > 0;) { /* connections, of which there are many, last */
        if (r->kinds[kind].dump)
            r->kinds[kind].dump(&d, r);
    }
    flush(&d);
    return d.error;
}
