/* Numbers that tell the reactors of a process apart; handles carry them.
 *
 * Happy path: numbers are taken in turn, so that a number which was given back is the
 * last to be taken again, and the handles of a freed reactor stay refused for long.
 * Failure: as many reactors live as there are numbers. */
#include "base/handle.h"

#include <errno.h>

#define WORD_BITS 64u

/* A bit for each number that a living reactor has; bit 0 is never set. */
static uint64_t taken[(KR__REACTOR_MAX + 1) / WORD_BITS];
static unsigned turn;

static uint64_t bit_of(unsigned number) {
    return UINT64_C(1) << number % WORD_BITS;
}

static bool take(unsigned number) {
    uint64_t *word = &taken[number / WORD_BITS];
    return !(__atomic_fetch_or(word, bit_of(number), __ATOMIC_RELAXED) & bit_of(number));
}

int kr__reactor_number_take(void) {
    for (unsigned tries = 0; tries <= KR__REACTOR_MAX; tries++) {
        unsigned number = __atomic_add_fetch(&turn, 1, __ATOMIC_RELAXED) & KR__REACTOR_MAX;
        if (number && take(number))
            return (int)number;
    }
    return -EUSERS;
}

void kr__reactor_number_put(unsigned number) {
    __atomic_fetch_and(&taken[number / WORD_BITS], ~bit_of(number), __ATOMIC_RELAXED);
}
