/* Flights: sends by zero-copy, and the records whose bytes the kernel refers to because of them.
 *
 * Such a send has two ends: its result, which says how many bytes were taken, and its notification,
 * which says that the kernel refers to none of them any more. Between the two a record that is sent
 * waits here. A record may take part in several such sends (a short one), and one send may carry several
 * records. Flights are numbered as they start; those of one record have numbers in a row, as a
 * record is sent without a break. */
#ifndef KR_POOL_ZC_SENDS_H
#define KR_POOL_ZC_SENDS_H

#include "pool/sends.h"

struct kr__zc_sends {
    struct kr__sendq pinned; /* records that are sent, oldest first */
    uint16_t last;           /* the number of the last flight; all arithmetic is modulo 2^16 */
    uint16_t count;          /* under way; far fewer than 2^15 */
};

/* More notifications of one connection than these are not awaited at a time: the next send is a
 * copy. */
#define KR__FLIGHTS_MAX 256u

/* Nor does a record take part in more sends than these without a break: numbers stay
 * comparable. */
#define KR__FLIGHTS_SPAN 16384u

/* True while another flight of this queue may start. */
bool kr__zc_sends_room(const struct kr__zc_sends *zc_sends, const struct kr__sendq *q);

/* The first records of the queue, `count` of them, all REF, are to be sent. Returns the flight's
 * number. */
uint16_t kr__zc_send_start(struct kr__zc_sends *zc_sends, const struct kr__sendq *q,
                           unsigned count);

/* The kernel refers to nothing of that flight any more. Records that were only waiting for that are
 * due. */
void kr__zc_send_end(struct kr__zc_sends *zc_sends, struct kr__sends *sends,
                     const struct kr__sendq *q, uint16_t number);

#endif
