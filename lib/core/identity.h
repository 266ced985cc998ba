/* Numbers that tell the reactors of a process apart. */
#ifndef KR_CORE_IDENTITY_H
#define KR_CORE_IDENTITY_H

#include "core/handle.h"

/* A number that no living reactor has, 1 to KR__REACTOR_MAX, until it is given back. -EUSERS: all
 * are taken. Any thread. */
int kr__reactor_number_take(void);
void kr__reactor_number_put(unsigned number);

#endif
