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

/* The functions of struct kr__door_socket that deal with paths. kr__path_id and kr__path_dir answer
 * -ENOENT for an address without a path. kr__path_dir's descriptor stands for the same directory
 * wherever the process goes (chdir, chroot). kr__path_remove with `id` NULL removes whichever file
 * is there. */
int kr__path_id(const struct kr__kernel *k, const struct kr_addr *addr, struct kr__path_id *ret);
int kr__path_dir(const struct kr__kernel *k, const struct kr_addr *addr);
void kr__path_remove(const struct kr__kernel *k, const struct kr_addr *addr,
                     const struct kr__path_id *id, int dir);

#endif
