/* Whether multishot receives of this kernel tell of a reset that comes together with bytes. */
#ifndef KR_KERNEL_RESET_H
#define KR_KERNEL_RESET_H

/* 1: they do; 0: they do not; -errno: it cannot be tried here. */
int kr__reset_try(void);

#endif
