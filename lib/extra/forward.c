/* Forwarding between two connections.
 *
 * Happy path: received bytes of one end are queued to the other, in their buffer if they are not
 * few. While a queue is above its high mark its source is not read, until it is down to the low mark. The end
 * of a source's stream shuts the other's down behind the queue. With all ways ended and all queues
 * empty the pair is over: told of, and closed, in a phase of its own, because what ends it may be
 * an API call.
 * Failure modes: an end is closed or fails (the pair is over, the other end follows); memory for
 * the queue is refused (bytes would be missing, so both ends are reset); the destination was shut
 * down by its user.
 *
 * A full queue stops only what feeds it. Were the end itself read no more, as it is without
 * forwarding, two peers that write before they read would wait for each other through the proxy,
 * though not without it. */
#include "extra/forward.h"

#include "base/sized.h"
#include "conn/hooks.h"
#include "conn/queue.h"

static struct kr__forward *forward_of(const struct kr__conn *c) {
    return c->more->forward;
}

static unsigned side_of(const struct kr__conn *c) {
    return forward_of(c)->ends[1] == c;
}

/* The way that ends at `c`, and what feeds it. */
static struct kr__way *way_to(const struct kr__conn *c) {
    return &forward_of(c)->ways[!side_of(c)];
}

static struct kr__conn *other_of(const struct kr__conn *c) {
    return forward_of(c)->ends[!side_of(c)];
}

/* Nothing more is read for this pair; what comes meanwhile is kept. With an error of -ECANCELED it
 * still matters whose: the kernel may give that for a shutdown. */
static void forward_over(struct kr_reactor *r, struct kr__forward *f, int error, bool broken) {
    if (kr__link_on(&f->over))
        return;
    f->error = error;
    f->broken = broken;
    kr__list_push(&r->forwards_over, &f->over);
    for (unsigned i = 0; i < 2; i++) {
        struct kr__conn *c = f->ends[i];
        c->forwarding = false;
        c->peer_full = true;
        kr__conn_hold(r, c);
        kr__conn_dirty(r, c);
    }
}

static bool way_settled(const struct kr__forward *f, unsigned i) {
    const struct kr__conn *to = f->ends[!i];
    return !f->ways[i].used || (f->ways[i].ended && !to->queued && (!to->half || to->fin));
}

static void forward_check(struct kr_reactor *r, struct kr__forward *f) {
    if (way_settled(f, 0) && way_settled(f, 1))
        forward_over(r, f, f->error, false);
}

/* What its source has still to say, be it bytes or an end of stream, waits for the pair to be
 * over. */
static void way_end(struct kr_reactor *r, struct kr__forward *f, unsigned i) {
    struct kr__conn *source = f->ends[i];
    f->ways[i].ended = true;
    source->forwarding = false;
    source->peer_full = true;
    kr__conn_hold(r, source);
    kr__conn_dirty(r, source);
}

/* The close that follows tells the peer as well as a shutdown would, and at less cost. Nothing else
 * would tell the reader of a pipe. */
static bool close_follows(const struct kr__forward *f, unsigned i) {
    return f->ends[!i]->write_only || !f->ways[!i].used || f->ways[!i].ended;
}

/* Where no close follows a pair, the end is not the other's: its own user is told of it, when the
 * pair is over. */
static void forward_eof(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__forward *f = forward_of(c);
    unsigned i = side_of(c);
    way_end(r, f, i);
    if (!f->keep_open && !close_follows(f, i)) {
        kr__mark(forward_shuts_down);
        f->ends[!i]->half = true;
        kr__conn_dirty(r, f->ends[!i]);
    }
    forward_check(r, f);
}

/* What comes after the limit is kept, for when the pair is over. */
static void way_filled(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(forward_limit);
    struct kr__forward *f = forward_of(c);
    way_end(r, f, side_of(c));
    forward_check(r, f);
}

/* What one end has received, for the other's queue. */
struct passed {
    const struct kr__conn *from;
    const char *data;
    size_t size;
};

static int put_passed(struct kr_reactor *r, struct kr__conn *to, const void *what) {
    const struct passed *p = what;
    struct iovec piece = {(void *)(uintptr_t)p->data, p->size};
    return kr__queue_hold_or_copy(r, to, p->from, &piece, 1, p->size);
}

static size_t forward_data(struct kr_reactor *r, struct kr__conn *c, const char *data,
                           size_t size) {
    struct kr__forward *f = forward_of(c);
    struct kr__way *way = &f->ways[side_of(c)];
    size_t part = size < way->left ? size : (size_t)way->left;
    int rc = kr__queue_put(r, other_of(c), part, KR__ADMIT_FORWARDED, put_passed,
                           &(struct passed){c, data, part});
    if (rc < 0) {
        kr__mark(forward_refused);
        forward_over(r, f, rc, true);
        return rc == -EPIPE ? 0 : size; /* they are kept for those who keep the end open */
    }
    way->moved += part;
    way->left -= way->left == UINT64_MAX ? 0 : part;
    kr__count(&r->stats.bytes_forwarded, part);
    if (way->left == 0)
        way_filled(r, c);
    return part;
}

static void forward_full(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__conn *from = other_of(c);
    if (!from->forwarding)
        return;
    kr__mark(forward_peer_full);
    from->peer_full = true;
    kr__conn_hold(r, from);
    kr__conn_dirty(r, from);
}

static bool forward_drained(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__conn *from = other_of(c);
    if (!from->forwarding)
        return true;
    from->peer_full = false;
    kr__conn_show_later(r, from);
    kr__conn_dirty(r, from);
    return true;
}

static void forward_sent(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->queued && way_to(c)->ended)
        forward_check(r, forward_of(c));
}

/* An end takes nothing more: what comes from it is forwarded to its end. The error is the first. */
static void forward_breaks(struct kr_reactor *r, struct kr__conn *c, int error) {
    struct kr__forward *f = forward_of(c);
    (void)error;
    if (kr__link_on(&f->over))
        return;
    kr__mark(forward_one_sided);
    unsigned to = !side_of(c);
    if (f->ways[to].used && !f->ways[!to].used) {
        forward_over(r, f, c->error, true);
        return;
    }
    f->one_sided = true;
    f->error = c->error;
    if (f->ways[to].used && !f->ways[to].ended)
        way_end(r, f, to);
    forward_check(r, f);
}

static void forward_closes(struct kr_reactor *r, struct kr__conn *c, int error) {
    kr__mark(forward_cut);
    if (c->broken) /* of two errors the first is told */
        error = c->error;
    forward_over(r, forward_of(c), error ? error : -ECANCELED, error != 0);
}

static void forward_free(struct kr_reactor *r, struct kr__forward *f) {
    kr__link_off(&f->over);
    for (unsigned i = 0; i < 2; i++) {
        f->ends[i]->features &= (uint8_t)~KR__PAIRED;
        f->ends[i]->forwarding = f->ends[i]->peer_full = false;
        f->ends[i]->more->forward = NULL;
    }
    kr__block_put(&r->blocks, f, kr__block_room(sizeof *f));
}

/* Of an end that is left to release with the table (kr__conns_free): nobody is told. */
static void forward_drop(struct kr_reactor *r, struct kr__conn *c) {
    forward_free(r, forward_of(c));
}

/* How an end is closed when its pair is over. A reset must not overtake what the other end has said
 * before; one whose own end is no more, or not yet, has nothing to lose. Where the other end was heard
 * to its end though it took nothing more, the peer of this one may still be sending, and what it has
 * yet to read must not be lost by that (RFC 2525, 2.17). */
static enum kr_close manner_of(const struct kr__forward *f, struct kr__conn *c) {
    if (!f->broken)
        return f->one_sided ? KR_CLOSE_LINGER : KR_CLOSE_FLUSH;
    if (c->features & KR__CONNECTING || kr__conn_is_ending(c))
        return KR_CLOSE_RESET;
    c->resets_after = true;
    return KR_CLOSE_FLUSH;
}

/* One that the pair has ended for, since it takes nothing more, and that is heard by its own user ends
 * by itself. */
static bool reads_on(const struct kr__forward *f, unsigned i) {
    return f->broken && f->ends[i]->broken && !f->ways[i].used;
}

/* An end may be under way to its close already; a harder manner is heard all the same. */
static void follow(struct kr_reactor *r, const struct kr__forward *f, unsigned i, kr_conn conn) {
    struct kr__conn *c = kr__conn_find(r, conn);
    if (c && !reads_on(f, i))
        kr__conn_end(r, c, manner_of(f, c), 0, KR_WHY_LOCAL);
}

/* What waited for the pair. */
static void go_on(struct kr_reactor *r, struct kr__conn *c) {
    kr__conn_show_later(r, c);
    kr__conn_dirty(r, c);
    kr__conn_broken_step(r, c);
    KR__EACH_ROW (r, rejoins)
        row->rejoins(r, c);
}

static void settle_one(struct kr_reactor *r, struct kr__forward *f) {
    kr_conn ends[2];
    for (unsigned i = 0; i < 2; i++)
        ends[i] = kr__conn_handle(f->ends[i]);
    struct kr_forwarded what = {f->ways[0].moved, f->ways[1].moved, f->error};
    struct kr__conn *a = f->ends[0], *b = f->ends[1];
    kr_forward_fn *done = f->done;
    void *user = f->user;
    const struct kr__forward was = *f;
    bool keep_open = f->keep_open && f->error != -ENOMEM;
    forward_free(r, f);
    if (done)
        done(r, ends[0], ends[1], user, &what);
    for (unsigned i = 0; i < 2 && !keep_open; i++)
        follow(r, &was, i, ends[i]);
    go_on(r, a);
    go_on(r, b);
}

void kr__forwards_settle(struct kr_reactor *r) {
    struct kr__list over;
    kr__list_init(&over);
    kr__list_splice(&over, &r->forwards_over);
    struct kr__link *link;
    while ((link = kr__list_pop(&over))) {
        if (!kr__in_child(r))
            settle_one(r, kr__container_of(link, struct kr__forward, over));
    }
}

/* When the queue that it feeds last got rid of bytes. */
static int64_t forward_idle_from(const struct kr__conn *c) {
    return other_of(c)->write_from;
}

/* At a limit it waits for the pair, whose other parts are looked at by themselves. */
static bool forward_moves(const struct kr_reactor *r, const struct kr__conn *c) {
    const struct kr__conn *to = other_of(c);
    bool sends = to->features & KR__CONNECTING || kr__conn_queue_moves(r, to);
    return forward_of(c)->ways[side_of(c)].ended || (to->blocked && sends);
}

/* An end that is forwarded has come when the pair is over. */
static bool forward_holds(const struct kr__conn *c) {
    return !c->no_eof && forward_of(c)->ways[side_of(c)].used;
}

/* The pair is over, and is told of before the end is closed. */
static uint32_t forward_wants(const struct kr__conn *c, uint32_t desired) {
    return kr__conn_is_closing(c) ? 0 : desired;
}

const struct kr__hooks kr__hooks_forward = {
    .wants = forward_wants,
    .moves = forward_moves,
    .holds = forward_holds,
    .idle_from = forward_idle_from,
    .data = forward_data,
    .eof = forward_eof,
    .full = forward_full,
    .drained = forward_drained,
    .sent = forward_sent,
    .breaks = forward_breaks,
    .closes = forward_closes,
    .drop = forward_drop,
};

void kr_forward_opts_init_sized(struct kr_forward_opts *opts, size_t size) {
    const struct kr_forward_opts defaults = {.size = sizeof defaults};
    kr__sized_give(opts, size, &defaults, sizeof defaults);
}

static int may_forward(const struct kr__conn *from, const struct kr__conn *to) {
    if (!kr__conn_is_usable(from) || !kr__conn_may_queue(to))
        return -EPIPE;
    return (from->features | to->features) & KR__PAIRED ? -EBUSY : 0;
}

static struct kr__forward *forward_new(struct kr_reactor *r, struct kr__conn *a,
                                       struct kr__conn *b) {
    size_t room;
    if (!kr__conn_more(r, a) || !kr__conn_more(r, b))
        return NULL;
    struct kr__forward *f = kr__block_get(&r->blocks, sizeof *f, &room);
    if (f)
        *f = (struct kr__forward){.ends = {a, b}};
    return f;
}

/* What was received and not consumed goes first, then an end of stream, if it was told or not. */
static void way_begin(struct kr_reactor *r, struct kr__forward *f, unsigned i, uint64_t most) {
    struct kr__conn *from = f->ends[i];
    f->ways[i] = (struct kr__way){.used = true, .left = most ? most : UINT64_MAX};
    from->forwarding = true;
    kr__conn_dirty(r, from);
    kr__mark_if(forward_after_the_end, from->eof_told);
    if (f->ends[!i]->blocked)
        forward_full(r, f->ends[!i]);
    else
        kr__conn_show_later(r, from);
}

int kr_conn_forward(struct kr_reactor *r, kr_conn a, kr_conn b, const struct kr_forward_opts *opts,
                    kr_forward_fn *done, void *user) {
    struct kr_forward_opts taken;
    kr_forward_opts_init(&taken);
    struct kr__conn *from, *to;
    int rc = kr__conn_door(r, a, &from);
    if (rc == 0)
        rc = kr__conn_door(r, b, &to);
    if (rc < 0)
        return rc;
    if ((opts && !kr__sized_take(&taken, sizeof taken, opts)) || from == to)
        return -EINVAL;
    opts = &taken;
    rc = may_forward(from, to);
    if (rc == 0 && !opts->one_way)
        rc = may_forward(to, from);
    if (rc < 0)
        return rc;
    struct kr__forward *f = forward_new(r, from, to);
    if (!f)
        return -ENOMEM;
    f->keep_open = opts->keep_open;
    f->done = done;
    f->user = user;
    from->more->forward = to->more->forward = f;
    from->features |= KR__PAIRED;
    to->features |= KR__PAIRED;
    f->ways[1].used = !opts->one_way;
    way_begin(r, f, 0, opts->max_ab);
    if (!opts->one_way)
        way_begin(r, f, 1, opts->max_ba);
    return 0;
}

int kr_conn_forward_stop(struct kr_reactor *r, kr_conn conn) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!(c->features & KR__PAIRED))
        return -EINVAL;
    forward_over(r, forward_of(c), -ECANCELED, false);
    return 0;
}
