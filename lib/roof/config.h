/* What a reactor was asked for, with nothing left to default. */
#ifndef KR_ROOF_CONFIG_H
#define KR_ROOF_CONFIG_H

#include "kernel/kernel.h"

#include <kreactor/reactor.h>

/* ret: given, or the defaults if it is NULL, with each 0 replaced. Returns NULL, or what is wrong
 * with given. */
const char *kr__config_settle(struct kr_config *ret, const struct kr_config *given,
                              const struct kr__kernel *k);

#endif
