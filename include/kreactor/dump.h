/* A dump: the state of a reactor as text, for when a daemon hangs in the field. */
#ifndef KREACTOR_DUMP_H
#define KREACTOR_DUMP_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes the state of the reactor to descriptor `fd`, which is borrowed for the call: the ring's
 * heads and tails, buffers and slots in use, and a line for each listener and each connection. The
 * line has its state, the requests that it wants and those that are armed, requests in flight,
 * bytes queued and kept, whether it is paused, blocked on its peer or waiting for a buffer, and for
 * how long no byte has moved. The format may change between versions.
 *
 * kr_dump changes nothing and allocates nothing. It is safe in every callback and between turns.
 * The time it takes grows with the table; a write to a blocking `fd` may wait.
 *
 * Thread: the reactor's, or before its first kr_run any one thread at a time. Runs no callback.
 * Errors: -EPERM, -ECHILD, with nothing written; those of write(2), after a part was written. */
KR_API int kr_dump(const struct kr_reactor *r, int fd);

#ifdef __cplusplus
}
#endif

#endif
