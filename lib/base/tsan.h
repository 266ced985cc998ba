/* What ThreadSanitizer of a program is told by a library that was built without it: it does not see
 * the library's atomics, and would take what they order for a race.
 *
 * The two functions are its runtime's (sanitizer/tsan_interface.h); in a program without it they
 * are not there. */
#ifndef KR_BASE_TSAN_H
#define KR_BASE_TSAN_H

extern void __tsan_release(void *at) __attribute__((weak));
extern void __tsan_acquire(void *at) __attribute__((weak));

/* What this thread did until now comes before what another does after kr__tsan_acquire(at). */
static inline void kr__tsan_release(void *at) {
    if (__tsan_release)
        __tsan_release(at);
}

static inline void kr__tsan_acquire(void *at) {
    if (__tsan_acquire)
        __tsan_acquire(at);
}

/* Around what liburing maps and unmaps, by system calls that the runtime does not see: it would take
 * what another thread did with its ring, once at the same addresses, for a race with this one's. */
extern char kr__maps;

static inline void kr__maps_release(void) {
    kr__tsan_release(&kr__maps);
}

static inline void kr__maps_acquire(void) {
    kr__tsan_acquire(&kr__maps);
}

#endif
