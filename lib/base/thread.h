/* The number of a thread. */
#ifndef KR_BASE_THREAD_H
#define KR_BASE_THREAD_H

#include <stdint.h>

/* The calling thread's number; 0 until it has taken one. No two threads ever have the same, unlike
 * addresses of thread-locals, which glibc gives to the next thread when one has ended. initial-exec
 * makes reading it one instruction, not a call. */
extern _Thread_local uint64_t kr__thread __attribute__((tls_model("initial-exec")));

/* The calling thread's number, taken now if it has none. */
uint64_t kr__thread_number(void);

#endif
