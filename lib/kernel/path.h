/* Unix sockets that have a path. All functions take addresses without one, too, and do nothing
 * then. */
#ifndef KR_KERNEL_PATH_H
#define KR_KERNEL_PATH_H

#include "kernel/kernel.h"

/* bind(2), with `mode` and `replace` of the plan. 0 or -errno, with no file left behind. */
int kr__path_bind(int fd, const struct kr__listen_plan *plan);

/* Gives the socket at the path that mode. -EPERM when something else is there. */
int kr__path_mode(const struct kr_addr *addr, unsigned mode);

/* An address that is in use may be free soon: it has no path, or one that is to be replaced, and
 * the process that listened there has ended. */
bool kr__path_may_fall_free(const struct kr__listen_plan *plan);

/* -ENOENT for an address without a path. */
int kr__path_id(const struct kr_addr *addr, struct kr__path_id *ret);

/* A descriptor of the directory that the path is in, which is the same wherever the process goes
 * (chdir, chroot); -ENOENT for an address without a path. */
int kr__path_dir(const struct kr_addr *addr);

/* Removes the file, if it is still the one of that `id` (NULL: whichever), from that directory; -1:
 * from where the path leads now. */
void kr__path_remove(const struct kr_addr *addr, const struct kr__path_id *id, int dir);

#endif
