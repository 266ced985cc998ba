/* Listeners: how much may be accepted, so that nobody is dropped.
 *
 * The kernel drops a client that it accepts for a full table (-ENFILE; observed on 6.18), and a
 * multishot accept takes the whole backlog at once. So slots are set aside before an accept is
 * armed. As long as two backlogs of every listener fit into what is free, one multishot accept a
 * listener is armed. When it gets tighter the listener polls instead, which takes no slot, and
 * makes one-shot accepts when a client waits: as many as found one the last time, doubled while all
 * do, never more than are free. With turn_accepts it always does that, because a batch is what a
 * turn accepts. Those that find none are cancelled in the next turn, so that no idle listener keeps
 * slots from another.
 *
 * Failure modes: -EMFILE, -ENFILE, -ENOMEM, -ENOBUFS and unknown errors are waited out by a timer
 * of 10, 20, then 40 ms; -ECONNABORTED, -EINTR and a client's own network errors (man
 * accept) are not: the next client may be well. What will not get better ends the listener
 * (listener_end.c). */
#include "listen/listener.h"

#include "conn/reactor.h"

#define BACKOFF_FIRST_MS 10u
#define BACKOFF_LAST_MS 40u
#define MULTISHOT_SPARE 64u
#define ONES (KR__SET(accept_one) | KR__SET(accept_fd))

/* Slots that this listener may still fill, beyond those set aside for others. */
static unsigned listener_room(const struct kr_reactor *r, const struct kr__listener *l) {
    unsigned others = r->conns.promised - l->promised;
    unsigned used = r->conns.accepted + others;
    unsigned room = r->conns.accept_max > used ? r->conns.accept_max - used : 0;
    if (!l->opts.conn_max)
        return room;
    unsigned own = l->opts.conn_max > l->conns ? l->opts.conn_max - l->conns : 0;
    return own < room ? own : room;
}

/* Slots have become free: those who wait for some may look again. */
static void listeners_room_came(struct kr_reactor *r) {
    struct kr__link *head = &r->listeners->want_room.head;
    for (struct kr__link *link = head->next; link != head; link = link->next)
        kr__owner_dirty(r, &kr__container_of(link, struct kr__listener, room_link)->owner);
}

static unsigned multishot_room(const struct kr__listener *l) {
    return 2 * l->opts.backlog + MULTISHOT_SPARE;
}

static void listener_promise(struct kr_reactor *r, struct kr__listener *l, unsigned count) {
    bool less = count < l->promised;
    r->conns.promised += count - l->promised;
    l->promised = count;
    if (less)
        listeners_room_came(r);
}

/* Whether the listener would do more with more room, and whether it can do nothing without. */
static void listener_note_room(struct kr_reactor *r, struct kr__listener *l, bool wants_more,
                               bool has_none) {
    if (has_none && !l->short_of_room)
        kr__count(&r->stats.accept_pauses, 1);
    kr__mark_if(room_short, has_none && !l->short_of_room);
    l->short_of_room = has_none;
    if (!wants_more)
        kr__link_off(&l->room_link);
    else if (!kr__link_on(&l->room_link))
        kr__list_push(&r->listeners->want_room, &l->room_link);
}

/* Multishot while two backlogs of every listener fit, and back to it only with half as much again,
 * so that a table on the edge does not change its mind at each client. */
static bool multishot_fits(const struct kr_reactor *r, const struct kr__listener *l) {
    uint64_t need = r->listeners->multishot_room, own = multishot_room(l);
    if (!(l->owner.armed & KR__SET(accept)) && l->conns) {
        need += need / 2;
        own += own / 2;
    }
    bool own_fits = !l->opts.conn_max || l->opts.conn_max >= l->conns + own;
    bool fits_now = listener_room(r, l) >= multishot_room(l); /* accepts under cancel still count */
    return !l->arrivals && own_fits && fits_now && r->conns.accept_max - r->conns.accepted >= need;
}

static void begin_batch(struct kr_reactor *r, struct kr__listener *l, unsigned room) {
    l->batch = l->batch ? l->batch : 1;
    l->to_start = l->batch_size = room < l->batch ? room : l->batch;
    l->taken = 0;
    l->batch_turn = r->stats.turns;
    l->ready = false;
    kr__link_off(&l->room_link); /* to the end: the next free slot is another listener's first */
    kr__list_push(&r->listeners->want_room, &l->room_link);
}

void kr__listener_tried(struct kr__listener *l, bool took) {
    l->taken += took;
    if (l->accepting || l->to_start)
        return;
    unsigned most = l->opts.turn_accepts ? l->opts.turn_accepts : KR__ACCEPT_ONES;
    unsigned doubled = 2 * l->batch_size < most ? 2 * l->batch_size : most;
    kr__mark_if(batch_fell, l->taken < l->batch_size);
    kr__mark_if(batch_full, l->taken == KR__ACCEPT_ONES);
    l->batch = l->taken == l->batch_size ? doubled : l->taken;
}

/* The poll comes after the accepts of a batch in the same submission, so it tells of clients
 * beyond. */
static uint32_t want_ones(struct kr_reactor *r, struct kr__listener *l, unsigned room) {
    unsigned free_arrivals = KR__ACCEPT_ONES - l->ones;
    room = l->arrivals && free_arrivals < room ? free_arrivals : room;
    if (l->ready && !l->accepting && !l->to_start && room)
        begin_batch(r, l, room);
    listener_promise(r, l, l->ones + l->to_start);
    bool looked = l->draining && (l->owner.armed & KR__SET(accept_poll)); /* that will do */
    uint32_t desired = l->ready || looked ? 0 : KR__SET(accept_poll);
    if (l->to_start || l->batch_turn == r->stats.turns)
        desired |= l->arrivals ? KR__SET(accept_fd) : KR__SET(accept_one);
    return desired;
}

static uint32_t want_accepts(struct kr_reactor *r, struct kr__listener *l) {
    if (l->drained) {
        l->to_start = 0;
        listener_note_room(r, l, false, false);
        return 0;
    }
    unsigned room = listener_room(r, l);
    bool multishot = !l->draining && !l->opts.turn_accepts && multishot_fits(r, l);
    listener_note_room(r, l, !multishot, l->ready && room <= l->ones);
    kr__mark_if(ones_yield, multishot && l->accepting);
    if (multishot && l->accepting) /* these are cancelled first */
        return 0;
    if (multishot) {
        l->ready = false;
        listener_promise(r, l, multishot_room(l));
        return KR__SET(accept);
    }
    kr__mark_if(multishot_yields, l->owner.armed & KR__SET(accept));
    /* its cancel must have joined before slots are reckoned */
    if (l->owner.armed & KR__SET(accept))
        return 0;
    return want_ones(r, l, room > l->ones ? room - l->ones : 0);
}

/* One-shot accepts and installs are of those verbs of which many may be in flight. */
static uint32_t want_many(const struct kr__listener *l, uint32_t desired) {
    uint32_t start = l->to_start ? desired & ONES : 0;
    for (unsigned i = 0; l->arrivals && i < KR__ACCEPT_ONES; i++) {
        if (l->arrivals[i].fd >= 0 && !l->arrivals[i].installing)
            start |= KR__SET(install);
    }
    return start;
}

struct kr__wants kr__listener_wants(struct kr_reactor *r, struct kr__listener *l) {
    if (l->state == KR__LISTENER_OPEN && kr__listener_is_drained(l))
        kr__listener_ends(r, l, 0);
    uint32_t desired = l->owner.armed & KR__SET(install);
    if (l->state == KR__LISTENER_CLOSING) {
        if (l->owner.inflight == 0 || l->owner.armed == KR__SET(close))
            desired |= KR__SET(close);
    } else if (l->state == KR__LISTENER_OPEN && !l->paused && !l->backing_off) {
        desired |= want_accepts(r, l);
    } else {
        l->to_start = 0;
        listener_note_room(r, l, false, false);
    }
    if (!((desired | l->owner.armed) & KR__SET(accept)) && !(desired & ONES))
        listener_promise(r, l, l->ones); /* who accepts no more keeps no slot from others */
    struct kr__wants wants = kr__owner_lacks(&l->owner, desired);
    wants.start &= ~ONES;
    wants.start |= want_many(l, desired);
    wants.start &= ~l->owner.cancelled; /* those under cancel join before others begin */
    wants.again = (l->owner.armed & desired & ONES) != 0;
    if (!l->owner.armed && !wants.start)
        listener_promise(r, l, 0);
    return wants;
}

static bool is_of_the_client(int error) {
    switch (-error) {
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENONET:
    case ENOPROTOOPT:
        return true;
    default:
        return false;
    }
}

void kr__listener_failed(struct kr_reactor *r, struct kr__listener *l, int error) {
    kr__owner_dirty(r, &l->owner);
    if (error == -ECANCELED || error == -EAGAIN) /* there is no client, or no longer */
        return;
    kr__count(&r->stats.accept_errors, 1);
    kr__mark_if(accept_of_a_lost_client, is_of_the_client(error));
    if (is_of_the_client(error) || l->state != KR__LISTENER_OPEN)
        return;
    kr__mark(accept_backoff);
    kr__mark_if(accept_backoff_again, l->backoff_ms == BACKOFF_LAST_MS);
    l->backoff_ms = l->backoff_ms ? l->backoff_ms * 2 : BACKOFF_FIRST_MS;
    if (l->backoff_ms > BACKOFF_LAST_MS)
        l->backoff_ms = BACKOFF_LAST_MS;
    kr__listener_back_off(r, l, l->backoff_ms * INT64_C(1000000));
}

/* What a socket answers that was shut down, or is none: as one that was killed (man accept, ss
 * -K). */
static bool is_for_good(int error) {
    return error == -EINVAL || error == -EBADF || error == -ENOTSOCK;
}

void kr__listener_accept_failed(struct kr_reactor *r, struct kr__listener *l, int error) {
    if (!is_for_good(error) || l->state != KR__LISTENER_OPEN) {
        kr__listener_failed(r, l, error);
        return;
    }
    kr__mark(accept_failed_for_good);
    kr__count(&r->stats.accept_errors, 1);
    kr__listener_ends(r, l, error);
}

void kr__listener_opened(struct kr__listener *l) {
    l->conns++;
    kr__listener_drain_one(l);
    l->backoff_ms = 0;
}

void kr__listener_took_slot(struct kr_reactor *r, struct kr__listener *l) {
    if (l->promised) {
        l->promised--;
        r->conns.promised--;
    }
    kr__owner_dirty(r, &l->owner);
}

void kr__listener_left(struct kr_reactor *r, uint64_t bits) {
    struct kr__listener *l = kr__listener_find(r, bits);
    if (l)
        l->conns--;
    listeners_room_came(r);
}

static void listeners_dirty(struct kr_reactor *r) {
    for (unsigned i = 0; i < r->listeners->max; i++) {
        if (r->listeners->table[i].state == KR__LISTENER_OPEN)
            kr__owner_dirty(r, &r->listeners->table[i].owner);
    }
}

void kr__listener_claim_room(struct kr_reactor *r, struct kr__listener *l) {
    r->listeners->multishot_room += multishot_room(l);
    listeners_dirty(r);
}

void kr__listener_yield_room(struct kr_reactor *r, struct kr__listener *l) {
    r->listeners->multishot_room -= multishot_room(l);
}

void kr__listener_leave_room(struct kr_reactor *r, struct kr__listener *l) {
    listener_note_room(r, l, false, false);
    listener_promise(r, l, 0);
}
