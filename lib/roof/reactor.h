/* Building a reactor on a kernel of choice: the public kr_reactor_new takes the real one, whole. */
#ifndef KR_ROOF_REACTOR_H
#define KR_ROOF_REACTOR_H

#include "conn/reactor.h"

/* kr_reactor_new on `kernel`, seeing only the capabilities in `caps_mask` (kernel/probe.h). */
int kr__reactor_new(struct kr_reactor **ret, const struct kr_config *config, struct kr_failure *why,
                    const struct kr__kernel *kernel, unsigned caps_mask);

#endif
