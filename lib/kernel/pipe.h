/* Ends of pipes that others have made. */
#ifndef KR_KERNEL_PIPE_H
#define KR_KERNEL_PIPE_H

#include "kernel/kernel.h"

int kr__pipe_end(const struct kr__kernel *k, int fd);
int kr__pipe_flags(const struct kr__kernel *k, bool newest);
int kr__pipe_reopen(const struct kr__kernel *k, int fd, bool nameless_too);

#endif
