/* What goes beside the bytes of a message: descriptors (SCM_RIGHTS). */
#ifndef KR_KERNEL_SIM_CONTROL_H
#define KR_KERNEL_SIM_CONTROL_H

#include "kernel/sim/file.h"

/* The files that a message's control data names: *ret is the caller's, NULL if there are none.
 * -EINVAL: it is ill-formed; -EBADF: no such descriptor. */
int kr__sim_control_read(const struct kr_sim *sim, const void *control, size_t size,
                         struct kr__sim_gift **ret);

/* Puts descriptors of the gift's files into `control`, as many as there is room for; the rest is
 * closed. Consumes `gift` (NULL ok). Returns how many bytes of it were used; *truncated: not all
 * found room. */
size_t kr__sim_control_write(struct kr_sim *sim, struct kr__sim_gift *gift, void *control,
                             size_t room, bool *truncated);

#endif
