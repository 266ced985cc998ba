/* Addresses that come from a caller. */
#ifndef KR_BASE_ADDR_H
#define KR_BASE_ADDR_H

#include <kreactor/addr.h>

/* Whether it is of a family that can be listened on and connected to, and of a size that the kernel
 * may be shown. The rest is for the kernel to judge. NULL is not. */
bool kr__addr_good(const struct kr_addr *addr);

#endif
