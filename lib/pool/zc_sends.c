/* Zero-copy sends under way. Happy path: start pins the first records of a queue, consuming them
 * (pool/sends.c) moves those that are sent to the pinned, the end unpins. Ends come in the order of
 * the starts, as a rule: then the search ends at the first record. Failure: a reset frees what was
 * not transmitted first, so ends may come in any order. */
#include "pool/zc_sends.h"

#include "base/mark.h"

static void record_pin(struct kr__send *send, struct kr__zc_sends *zc_sends) {
    struct kr__send_ref *ref = kr__send_as_ref(send);
    if (!ref->pins)
        ref->first = zc_sends->last;
    kr__assert(ref->pins < UINT16_MAX);
    ref->pins++;
    ref->final = zc_sends->last;
    ref->pinned = &zc_sends->pinned;
}

static bool is_pinned(struct kr__send *send) {
    return send && send->kind == KR__SEND_REF && kr__send_as_ref(send)->pins;
}

static uint16_t oldest_first(const struct kr__zc_sends *zc_sends, const struct kr__sendq *q) {
    struct kr__send *oldest = zc_sends->pinned.head ? zc_sends->pinned.head : q->head;
    return is_pinned(oldest) ? kr__send_as_ref(oldest)->first : zc_sends->last;
}

bool kr__zc_sends_room(const struct kr__zc_sends *zc_sends, const struct kr__sendq *q) {
    uint16_t first = oldest_first(zc_sends, q);
    return zc_sends->count < KR__FLIGHTS_MAX &&
           (uint16_t)(zc_sends->last - first) < KR__FLIGHTS_SPAN;
}

/* Records behind the first `count` that an earlier flight carried, in vain, are taken for carried,
 * too: or the zero-copy sends of a record would not be all those between its first and its last. */
uint16_t kr__zc_send_start(struct kr__zc_sends *zc_sends, const struct kr__sendq *q,
                           unsigned count) {
    zc_sends->last++;
    zc_sends->count++;
    struct kr__send *send = q->head;
    for (unsigned i = 0; i < count || is_pinned(send); i++, send = send->next) {
        kr__mark_if(carried_in_vain, i >= count);
        record_pin(send, zc_sends);
    }
    return zc_sends->last;
}

/* Modulo 2^16, of numbers that are less than half of it apart. */
static bool is_before(uint16_t a, uint16_t b) {
    return (int16_t)(uint16_t)(a - b) < 0;
}

static bool carries(const struct kr__send_ref *ref, uint16_t number) {
    return ref->pins && !is_before(number, ref->first) && !is_before(ref->final, number);
}

/* Those in the queue that fly are its first: what comes after the last send has not been sent at
 * all. */
static void unpin_queued(const struct kr__sendq *q, uint16_t number) {
    for (struct kr__send *send = q->head; send && send->kind == KR__SEND_REF; send = send->next) {
        struct kr__send_ref *ref = kr__send_as_ref(send);
        if (!carries(ref, number))
            return;
        ref->pins--;
    }
}

static void record_land(struct kr__zc_sends *zc_sends, struct kr__sends *sends,
                        struct kr__send *before, struct kr__send *send) {
    kr__sendq_unlink(&zc_sends->pinned, before, send);
    kr__send_release(sends, send);
}

void kr__zc_send_end(struct kr__zc_sends *zc_sends, struct kr__sends *sends,
                     const struct kr__sendq *q, uint16_t number) {
    kr__assert(zc_sends->count > 0);
    zc_sends->count--;
    unpin_queued(q, number);
    struct kr__send *before = NULL, *send = zc_sends->pinned.head;
    while (send && !is_before(number, kr__send_as_ref(send)->first)) {
        struct kr__send_ref *ref = kr__send_as_ref(send);
        struct kr__send *next = send->next;
        if (carries(ref, number))
            ref->pins--;
        kr__mark_if(landed_out_of_order, !ref->pins && before);
        if (ref->pins)
            before = send;
        else
            record_land(zc_sends, sends, before, send);
        send = next;
    }
}
