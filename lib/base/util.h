/* The small words of every file: assertions, container_of, sizes, saturating time. */
#ifndef KR_BASE_UTIL_H
#define KR_BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* 1 in test and sanitizer builds (meson option `checked`): assertions and the audit of each
 * wait. */
#ifndef KR_CHECKED
#define KR_CHECKED 0
#endif

__attribute__((noreturn, cold)) static inline void kr__assert_failed(const char *what,
                                                                      const char *file, int line) {
    fprintf(stderr, "kreactor: %s:%d: not true: %s\n", file, line, what);
    abort();
}

/* What the reader must believe. It costs nothing, and checks nothing, in a release build. */
#define kr__assert(cond)                                                                           \
    do {                                                                                           \
        if (KR_CHECKED && !(cond))                                                                 \
            kr__assert_failed(#cond, __FILE__, __LINE__);                                          \
    } while (0)

#define kr__likely(x) __builtin_expect(!!(x), 1)
#define kr__unlikely(x) __builtin_expect(!!(x), 0)

#define kr__container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#define KR__NEVER INT64_MAX

static inline size_t kr__min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

static inline size_t kr__max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

/* The least power of two that is >= n; n is 1 to 2^31. */
static inline unsigned kr__power_of_two(unsigned n) {
    return n <= 1 ? 1 : 1u << (32 - __builtin_clz(n - 1));
}

/* The lives of a slot are numbered from 1 to KR__GENERATION_MAX, for which a handle has bits, and
 * then from 1 again. 0 numbers none. */
#define KR__GENERATION_MAX 0xfffffffu

static inline uint32_t kr__generation_next(uint32_t generation) {
    return generation < KR__GENERATION_MAX ? generation + 1 : 1;
}

/* a + b for times; one past the end of time stays at its end. */
static inline int64_t kr__time_add(int64_t a, int64_t b) {
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? KR__NEVER : sum;
}

/* Moves a time forward to `now`, never back. */
static inline void kr__time_reach(int64_t *at, int64_t now) {
    if (*at < now)
        *at = now;
}

/* A counter has one writer, the reactor's thread, and readers elsewhere (kr_stats_read): relaxed
 * atomics make it whole for them and stay plain loads and stores. */
static inline void kr__count(uint64_t *counter, uint64_t n) {
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline void kr__uncount(uint64_t *counter, uint64_t n) {
    kr__assert(*counter >= n);
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) - n, __ATOMIC_RELAXED);
}

#endif
