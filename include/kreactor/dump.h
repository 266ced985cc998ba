/* What a reactor is doing just now, in text: for when something hangs in the field. */
#ifndef KREACTOR_DUMP_H
#define KREACTOR_DUMP_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes to descriptor `fd` (borrowed for the call): the ring's heads and tails, buffers and slots
 * in use, each listener and each connection with its state, what it wants, what is armed, requests
 * in flight, bytes queued and kept, whether it is paused, blocked on its peer or parked for a
 * buffer, and for how long no byte has moved. A line each; the words may change between versions.
 * Changes nothing and allocates nothing; safe in every callback and between turns. The time it
 * takes grows with the table.
 *
 * The reactor's thread. Errors: -EPERM, -ECHILD; those of write(2), after a part was written. */
KR_API int kr_dump(const struct kr_reactor *r, int fd);

#ifdef __cplusplus
}
#endif

#endif
