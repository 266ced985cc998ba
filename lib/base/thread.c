/* Numbers that tell the threads of a process apart. */
#include "base/thread.h"

_Thread_local uint64_t kr__thread __attribute__((tls_model("initial-exec")));

static uint64_t last_thread;

uint64_t kr__thread_number(void) {
    if (!kr__thread)
        kr__thread = __atomic_add_fetch(&last_thread, 1, __ATOMIC_RELAXED);
    return kr__thread;
}
