/* Numbers that tell the reactors, and the threads, of a process apart. */
#ifndef KR_CORE_IDENTITY_H
#define KR_CORE_IDENTITY_H

#include "core/handle.h"

/* A number that no living reactor has, 1 to KR__REACTOR_MAX, until it is given back. -EUSERS: all
 * are taken. Any thread. */
int kr__reactor_number_take(void);
void kr__reactor_number_put(unsigned number);

/* The calling thread's number; 0 until it has taken one. No two threads ever have the same, unlike
 * addresses of thread-locals, which glibc gives to the next thread when one has ended. initial-exec
 * makes reading it one instruction, not a call. */
extern _Thread_local uint64_t kr__thread __attribute__((tls_model("initial-exec")));

/* The calling thread's number, taken now if it has none. */
uint64_t kr__thread_number(void);

#endif
