/* The turn.
 *
 *     arm      requests of what dirty owners want
 *     enter    submit, and wait if there is nothing to do, until the next deadline at most
 *     reap     completions: tag -> owner -> count -> done -> settle; buffers go back with one store
 *     release  what was lent to sends and is its owners' again
 *     expire   timers that were due when the phase began; deadlines, once all is read that had come
 *              by then (roof/catchup.c)
 *     inbox    posted calls
 *     settle   forwarding pairs that are over, connections that leave
 *     show     kept bytes of connections that read on again
 *     drain    connections that are told of it, and its end, while one is under way
 *
 * Every callback runs behind `enter`: it sees the turn's own time, and what it closes is closed in
 * a later turn, since requests are made in front. Each of the lists that `settle` and `show` work
 * off is taken as it is when its phase begins. What is listed later waits for the next turn, which
 * therefore comes without a wait. An owner that has something to be told of through a list does not
 * end before that (the CLOSE of a pair's end waits for the pair, kr__conn_wants; a connection that
 * leaves is told at its end, conn/table.c).
 *
 * Only this file touches an owner's counter: it rises where an SQE is tagged and falls at a
 * completion without F_MORE. One rule for one-shot, multishot and zero-copy alike.
 * Failure modes: the SQ is full (the owner stays dirty, the turn does not wait); the CQ overflows
 * (the kernel keeps the rest, and says so in the SQ's flags); completions lost for want of memory
 * (-EBADR); a callback forks, and the child returns from it: it has no ring, so that after each
 * call that may run callbacks the turn looks whose it is, and ends in a child (-ECHILD). */
#include "roof/turn.h"

#include "conn/op.h"
#include "conn/show.h"
#include "extra/detach.h"
#include "extra/forward.h"
#include "ring/tag.h"
#include "roof/drain.h"
#include "roof/post.h"

#define REAP_CHUNK 64u /* COOP posts while we handle: give CQEs back at least this often */
#define PREFETCH_AHEAD 2u
#define REST_NS 1000000
#define VAIN_TURNS 20000u
#define SLEEP_TURNS 16u
#define SLEEP_NS 1000000

static uint64_t owner_tag(const struct kr__owner *o, enum kr__verb verb, uint16_t operand) {
    return kr__tag_pack((struct kr__tag){
        .op = (uint8_t)verb,
        .slot = o->slot,
        .generation = (uint16_t)o->generation,
        .operand = operand,
    });
}

static void aim(struct io_uring_sqe *sqe, enum kr__target target, uint32_t slot) {
    if (target == KR__TARGET_SLOT) {
        sqe->fd = (int32_t)slot;
        sqe->flags |= IOSQE_FIXED_FILE;
    } else if (target == KR__TARGET_INDEX) {
        sqe->file_index = slot + 1;
    }
}

static void start(struct kr_reactor *r, struct kr__owner *o, enum kr__verb verb,
                  struct io_uring_sqe *sqe) {
    const struct kr__op *op = &kr__ops[verb];
    uint16_t operand = op->prep(r, o, sqe);
    aim(sqe, op->target, o->slot);
    sqe->user_data = owner_tag(o, verb, operand);
    o->armed |= 1u << verb;
    o->inflight++;
    kr__count(&r->stats.inflight, 1);
}

/* One cancel ends all requests of the verb, where several may be in flight. Such a one is never
 * -ENOENT, so its success is told, too (conn/cancel.c). */
static void cancel(struct kr_reactor *r, struct kr__owner *o, enum kr__verb verb,
                   struct io_uring_sqe *sqe) {
    kr__ops[KR__VERB_cancel].prep(r, o, sqe);
    sqe->addr = owner_tag(o, verb, 0);
    kr__assert(!(kr__ops[verb].traits & KR__AWAITED));
    if (kr__ops[verb].traits & KR__MANY)
        sqe->cancel_flags = IORING_ASYNC_CANCEL_ALL;
    else
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = owner_tag(o, KR__VERB_cancel, (uint16_t)verb);
    o->cancelled |= 1u << verb;
}

/* It has had the last of the SQ, and what it made may want to be made anew before the rest is. */
static void let_others(struct kr_reactor *r, struct kr__owner *o) {
    kr__mark(sq_shared);
    kr__link_off(&o->dirty);
    kr__list_push(&r->dirty, &o->dirty);
}

static void armed_all(struct kr_reactor *r, struct kr__owner *o, bool again) {
    kr__link_off(&o->dirty);
    if (kr__unlikely(again))
        kr__list_push(&r->again, &o->dirty);
    kr__mark_if(asked_again, again);
}

/* Most want one request, by which they send or receive. To make it brings no other wish, unless several
 * of its verb may be in flight; so its owner need not be asked again. */
static bool is_all(const struct kr__wants *wants) {
    const uint32_t moving = (KR__VERBS_THAT_SEND | KR__VERBS_THAT_RECEIVE) & ~KR__VERBS_OF_MANY;
    bool one = !(wants->start & (wants->start - 1)) && !wants->cancel;
    return one && wants->start & moving;
}

/* False when the SQ was full before all was armed; otherwise the owner is off the dirty list. */
static bool arm_owner(struct kr_reactor *r, struct kr__owner *o) {
    const struct kr__kind_row *kind = &r->kinds[o->kind];
    if (kr__unlikely(!kr__starve_empty(&r->starve)) && kind->waits)
        kind->waits(r, o);
    for (bool some = false;; some = true) {
        struct kr__wants wants = kind->wants(r, o);
        if (!(wants.start | wants.cancel)) {
            armed_all(r, o, wants.again);
            return true;
        }
        struct io_uring_sqe *sqe = kr__ring_sqe(&r->ring);
        if (!sqe) {
            if (some)
                let_others(r, o);
            return false;
        }
        kr__count(&r->stats.sqes, 1);
        if (wants.cancel)
            cancel(r, o, (enum kr__verb)__builtin_ctz(wants.cancel), sqe);
        else
            start(r, o, (enum kr__verb)__builtin_ctz(wants.start), sqe);
        if (kr__likely(is_all(&wants))) {
            if (KR_CHECKED) {
                struct kr__wants rest = kind->wants(r, o);
                kr__assert(!(rest.start | rest.cancel) && rest.again == wants.again);
            }
            armed_all(r, o, wants.again);
            return true;
        }
    }
}

static void arm(struct kr_reactor *r) {
    while (!kr__list_empty(&r->dirty)) {
        struct kr__owner *o = kr__container_of(r->dirty.head.next, struct kr__owner, dirty);
        if (!arm_owner(r, o)) {
            kr__mark(sq_full);
            kr__count(&r->stats.sq_full_turns, 1);
            return;
        }
    }
}

static void show(struct kr_reactor *r) {
    struct kr__list showing;
    kr__list_init(&showing);
    kr__list_splice(&showing, &r->showing);
    struct kr__link *link;
    while (!kr__in_child(r) && (link = kr__list_pop(&showing)))
        kr__show_kept(r, kr__container_of(link, struct kr__conn, wait));
}

/* The wedge detector: at a blocking wait, everything alive has something that will move it on. */
static void audit(const struct kr_reactor *r) {
    kr__assert(kr__list_empty(&r->dirty) && kr__list_empty(&r->showing) && !r->sends.due.head);
    for (unsigned kind = 0; kind < KR__KIND_COUNT; kind++) {
        if (r->kinds[kind].audit)
            r->kinds[kind].audit(r);
    }
}

static int64_t wait_time(struct kr_reactor *r, int64_t max_wait_ns) {
    int64_t due = r->freeing ? KR__NEVER : kr__timers_next(&r->timers);
    if (kr__unlikely(r->rest_until < due))
        due = r->rest_until;
    if (kr__unlikely(r->starve.retry_at < due))
        due = r->starve.retry_at;
    if (due == KR__NEVER)
        return max_wait_ns;
    r->waits_from = r->kernel->process.clock(r->kernel);
    int64_t left = due - r->waits_from;
    left = left > 0 ? left : 0;
    return max_wait_ns >= 0 && max_wait_ns < left ? max_wait_ns : left;
}

/* Whether, and how long, this turn may wait: not with work at hand. */
static int64_t may_wait(struct kr_reactor *r, int64_t max_wait_ns) {
    if (!kr__list_empty(&r->dirty) || !kr__list_empty(&r->again) || !kr__list_empty(&r->showing) ||
        !kr__list_empty(&r->forwards_over) || !kr__list_empty(&r->detaching))
        return 0;
    if (r->sends.due.head)
        return 0;
    if (kr__ring_ready(&r->ring))
        return 0;
    if (r->starve.starved && kr__bufs_some(&r->bufs))
        return 0; /* the next of the line have their turn */
    if (kr__unlikely(r->draining) && kr__drain_has_work(r->drain) && !r->freeing)
        return 0;
    if (max_wait_ns == 0)
        return 0;
    int64_t wait_ns = wait_time(r, max_wait_ns);
    return wait_ns && kr__inbox_may_sleep(r->inbox) ? wait_ns : 0;
}

static bool is_passing(int rc) {
    return rc == -EINTR || rc == -EAGAIN || rc == -EBUSY;
}

/* The kernel could not take requests for now: wait for completions to make room, but not for ever.
 * Its other errors are told once only, by whichever call meets them. */
static int refused(struct kr_reactor *r, int rc) {
    kr__mark_if(wait_interrupted, rc == -EINTR);
    kr__mark_if(submit_refused, rc == -EAGAIN || rc == -EBUSY);
    kr__mark_if(enter_failed, !is_passing(rc) && rc != -EBADR);
    if (rc != -EINTR && is_passing(rc) && !kr__ring_ready(&r->ring))
        rc = kr__ring_rest(&r->ring, REST_NS);
    return is_passing(rc) ? 0 : rc;
}

static int enter(struct kr_reactor *r, int64_t max_wait_ns) {
    int64_t wait_ns = may_wait(r, max_wait_ns);
    bool pending = kr__ring_pending(&r->ring);
    if (!wait_ns && !pending && !kr__ring_unsubmitted(&r->ring) && kr__ring_ready(&r->ring))
        return 0;
    if (pending && kr__ring_overflown(&r->ring))
        kr__count(&r->stats.cq_overflows, 1);
    kr__mark_if(cq_overflow, pending && kr__ring_overflown(&r->ring));
    if (wait_ns) {
        kr__count(&r->stats.waits, 1);
        if (KR_CHECKED)
            audit(r);
    }
    kr__count(&r->stats.enters, 1);
    int rc = kr__ring_enter(&r->ring, wait_ns ? 1 : 0, wait_ns);
    kr__inbox_awake(r->inbox);
    return kr__unlikely(rc < 0) ? refused(r, rc) : 0;
}

static struct kr__owner *owner_of(const struct kr_reactor *r, uint32_t slot) {
    for (unsigned kind = 1; kind < KR__KIND_COUNT; kind++) {
        const struct kr__owners *all = &r->owners[kind];
        uint32_t index = slot - all->first;
        if (kr__likely(index < all->count))
            return (struct kr__owner *)(void *)(all->base + (size_t)index * all->stride);
    }
    return NULL;
}

/* A completion of an earlier life: nobody is told, but the buffer it carries goes back. */
static void stale(struct kr_reactor *r, uint32_t flags) {
    kr__count(&r->stats.stale_cqes, 1);
    kr__mark(stale_cqe);
    uint16_t buf = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
    if (!(flags & IORING_CQE_F_BUFFER) || buf >= r->bufs.count)
        return;
    kr__mark(stale_with_buffer);
    kr__buf_take(&r->bufs, buf, 0);
    kr__buf_unref(&r->bufs, buf);
}

static void count_down(struct kr_reactor *r, struct kr__owner *o, const struct kr__op *op,
                       enum kr__verb verb) {
    kr__assert(o->inflight > 0);
    o->inflight--;
    kr__uncount(&r->stats.inflight, 1);
    if (op->traits & KR__MANY)
        return;
    o->armed &= ~(1u << verb);
    o->cancelled &= ~(1u << verb);
}

void kr__loop_complete(struct kr_reactor *r, uint64_t user_data, int32_t res, uint32_t flags) {
    struct kr__tag tag = kr__tag_unpack(user_data);
    struct kr__owner *o = owner_of(r, tag.slot);
    if (kr__unlikely(!o || (uint16_t)o->generation != tag.generation || tag.op >= KR__VERB_COUNT)) {
        stale(r, flags);
        return;
    }
    const struct kr__op *op = &kr__ops[tag.op];
    bool last = !(op->traits & KR__UNCOUNTED) && !(flags & IORING_CQE_F_MORE);
    if (last)
        count_down(r, o, op, (enum kr__verb)tag.op);
    struct kr__completion how = {.res = res, .flags = flags, .operand = tag.operand};
    op->done(r, o, &how);
    if (!last)
        return;
    r->kinds[o->kind].settle(r, o);
}

static void prefetch(struct kr_reactor *r, unsigned i) {
    uint32_t slot = kr__tag_unpack(kr__ring_cqe(&r->ring, i)->user_data).slot;
    if (slot < r->conns.max)
        __builtin_prefetch(&r->conns.table[slot]);
}

static unsigned reap_chunk(struct kr_reactor *r, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        if (i + PREFETCH_AHEAD < count)
            prefetch(r, i + PREFETCH_AHEAD);
        const struct io_uring_cqe *cqe = kr__ring_cqe(&r->ring, i);
        kr__loop_complete(r, cqe->user_data, cqe->res, cqe->flags);
        if (kr__unlikely(kr__in_child(r)))
            return 0;
    }
    kr__ring_advance(&r->ring, count);
    return count;
}

static unsigned reap(struct kr_reactor *r) {
    unsigned done = 0, budget = r->config.turn_cqes, ready;
    while (done < budget && (ready = kr__ring_ready(&r->ring))) {
        unsigned count = ready < REAP_CHUNK ? ready : REAP_CHUNK;
        done += reap_chunk(r, count < budget - done ? count : budget - done);
        if (kr__unlikely(kr__in_child(r)))
            return done;
    }
    kr__count(&r->stats.cqes, done);
    kr__mark_if(turn_cqes_spent, done >= budget && kr__ring_ready(&r->ring));
    kr__bufs_reckon(&r->bufs, kr__ring_ready(&r->ring) || kr__ring_overflown(&r->ring));
    kr__bufs_publish(&r->bufs);
    if (kr__unlikely(!kr__starve_empty(&r->starve)))
        kr__starve_move(r);
    kr__list_splice(&r->dirty, &r->again);
    return done;
}

/* Ends, whatever callbacks file: what they file is due after r->now. */
static unsigned expire_until(struct kr_reactor *r, struct kr__heap *heap, int64_t until) {
    unsigned done = 0;
    struct kr__heap_node *node;
    while (!kr__in_child(r) && (node = kr__heap_pop_due(heap, until))) {
        struct kr__deadline *d = kr__container_of(node, struct kr__deadline, node);
        r->kinds[d->node.kind].due(r, d);
        done++;
    }
    return done;
}

static unsigned expire(struct kr_reactor *r) {
    unsigned done = expire_until(r, &r->timers.heap, r->now);
    if (kr__likely(kr__heap_next(&r->timers.deadlines) > r->now) || kr__in_child(r))
        return done;
    kr__catchup_due(r);
    return done + expire_until(r, &r->timers.deadlines, r->catchup.until);
}

/* What turns are for. A request made, refused and made again is none of it. */
static uint64_t progress_of(const struct kr_reactor *r) {
    const struct kr_stats *s = &r->stats;
    return s->accepts + s->accept_errors + s->closes + s->timer_fires + s->posts + s->bytes_in +
           s->bytes_out + s->connects + s->connect_errors + s->timeouts + s->bytes_read +
           s->detaches + s->cq_overflows;
}

/* The other wedge: turns without end that bring nothing on. One that took long has slept, or only
 * lost its core for a while, so it makes up for some, not for all. */
static void watch_progress(struct kr_reactor *r, int64_t began_at) {
    uint64_t progress = progress_of(r);
    bool slept = r->kernel->process.clock(r->kernel) - began_at >= SLEEP_NS;
    if (progress != r->progress)
        r->vain_turns = 0;
    else if (slept)
        r->vain_turns -= r->vain_turns < SLEEP_TURNS ? r->vain_turns : SLEEP_TURNS;
    r->progress = progress;
    kr__assert(r->vain_turns < VAIN_TURNS);
    r->vain_turns++;
}

/* The time of this turn, and whether the last one has taken long. To wait takes nobody's time. */
static void new_time(struct kr_reactor *r) {
    int64_t before = r->now;
    r->now = r->kernel->process.clock(r->kernel);
    int64_t ended_at = r->waits_from ? r->waits_from : r->now;
    if (kr__unlikely(ended_at - before >= KR__HELD_UP_NS))
        kr__catchup_held_up(r, before, ended_at);
}

static int turn(struct kr_reactor *r, int64_t max_wait_ns) {
    kr__count(&r->stats.turns, 1);
    r->waits_from = 0;
    arm(r);
    int rc = enter(r, max_wait_ns);
    if (rc < 0)
        return rc;
    if (kr__unlikely(r->starve.may_try))
        kr__starve_mark(r);
    if (kr__unlikely(kr__catchup_passes(&r->catchup)))
        kr__catchup_pass(r);
    new_time(r);
    if (kr__unlikely(r->rest_until <= r->now))
        kr__conns_wake(r);
    unsigned done = reap(r);
    if (kr__unlikely(r->sends.due.head) && !kr__in_child(r))
        done += kr__sends_tell(&r->sends, r);
    if (!r->freeing)
        done += expire(r);
    done += kr__inbox_run(r, r->config.turn_posts);
    if (kr__unlikely(!kr__list_empty(&r->forwards_over)))
        kr__forwards_settle(r);
    if (kr__unlikely(!kr__list_empty(&r->detaching)))
        kr__detach_settle(r);
    show(r);
    if (kr__unlikely(r->draining) && !r->freeing && !kr__in_child(r))
        done += kr__drain_step(r);
    return kr__unlikely(kr__in_child(r)) ? -ECHILD : (int)done;
}

int kr__loop_turn(struct kr_reactor *r, int64_t max_wait_ns) {
    r->in_turn = true;
    kr__reservation_drop(r); /* made between turns */
    int64_t began_at = KR_CHECKED ? r->kernel->process.clock(r->kernel) : 0;
    int rc = turn(r, max_wait_ns);
    if (KR_CHECKED && max_wait_ns && rc >= 0)
        watch_progress(r, began_at);
    kr__reservation_drop(r);
    r->in_turn = false;
    if (kr__unlikely(rc == -EBADR))
        r->lost = true;
    kr__mark_if(lost, rc == -EBADR);
    kr__mark_if(forked_inside, rc == -ECHILD);
    return rc;
}
