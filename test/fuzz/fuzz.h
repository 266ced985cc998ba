/* What the targets share: the input as a tape of choices, and promises that end the process when
 * broken.
 *
 * A tape that has run out gives 0 for ever, so a target ends its work when `left` is 0. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* libFuzzer's entry (llvm.org/docs/LibFuzzer.html). The replay gives each target another name for
 * it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct tape {
    const uint8_t *next;
    size_t left;
};

static inline uint8_t tape_byte(struct tape *t) {
    if (!t->left)
        return 0;
    t->left--;
    return *t->next++;
}

/* The next `size` bytes as a number, the lowest first. */
static inline uint64_t tape_number(struct tape *t, unsigned size) {
    uint64_t number = 0;
    for (unsigned i = 0; i < size; i++)
        number |= (uint64_t)tape_byte(t) << 8 * i;
    return number;
}

/* A number below `bound`, which is 1 to 65536. */
static inline unsigned tape_below(struct tape *t, unsigned bound) {
    return (unsigned)(tape_number(t, bound > 256 ? 2 : 1) % bound);
}

#define MUST(cond_)                                                                                \
    do {                                                                                           \
        if (!(cond_)) {                                                                            \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #cond_);                  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
