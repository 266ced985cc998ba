/* What this kernel can do beyond 6.1, and why it refuses. */
#ifndef KR_KERNEL_PROBE_H
#define KR_KERNEL_PROBE_H

#include "kernel/kernel.h"

#include <kreactor/reactor.h>

/* Read once when a ring is made. Tests mask bits away to make a new kernel look old. */
#define KR__CAP_NO_SQARRAY (1u << 0) /* kernel >= 6.6 */
#define KR__CAP_MIN_WAIT (1u << 1)   /* kernel >= 6.12 */
#define KR__CAP_NO_IOWAIT (1u << 2)  /* kernel >= 6.15 */
/* kernel >= 6.8; sockets in slots then take options too, since 6.7 */
#define KR__CAP_FD_INSTALL (1u << 3)
#define KR__CAP_ZC_REPORT (1u << 4)  /* kernel >= 6.2; nothing tells of it before 6.3 */
#define KR__CAP_QUIET_PIPES (1u << 5) /* kernel >= 6.18; asked for when a pipe is adopted */
/* kernel >= 6.13: what is taken out of the registered file table is let go at once */
#define KR__CAP_FILE_TABLE (1u << 9)
/* a multishot receive tells of a reset that comes with bytes: tried (kernel/reset.h) */
#define KR__CAP_RESET_TOLD (1u << 7)
/* kernel >= 6.16: Unix sockets can refuse descriptors; tried on one of them */
#define KR__CAP_REFUSES_FDS (1u << 6)
#define KR__CAP_ACCEPT_DONTWAIT (1u << 8) /* kernel >= 6.10; nothing tells of it before 6.11 */
#define KR__CAP_COUNT 10u                 /* of these */
#define KR__CAPS_ALL (~0u)
#define KR__CAPS_6_1 0u

/* The capabilities that a ring's parameters tell of. */
unsigned kr__probe_caps(const struct io_uring_params *params);

/* Those that its operations tell of; none if they cannot be asked for. */
unsigned kr__probe_ops(const struct kr__kernel *k, struct io_uring *ring);

/* Whether the registered file table lets go of files, where the parameters do not tell. */
unsigned kr__probe_table(const struct kr__kernel *k, struct io_uring *ring);

/* What was being done, and what it needs of limited things. */
struct kr__attempt {
    const char *tried;
    size_t mapped;  /* bytes of address space; 0: none of it is ours */
    size_t locked;  /* bytes that the ring would lock; 0: not that memory was refused */
    unsigned files; /* how long the file table would be */
};

/* Fills `why` (NULL is allowed) for `error`, met by that attempt, and returns `error`. */
int kr__probe_explain(const struct kr__kernel *k, struct kr_failure *why,
                      const struct kr__attempt *attempt, int error);

/* Fills `why` (NULL is allowed) for a field of those options, or clears it if there is no fault;
 * returns -EINVAL or 0. */
int kr__probe_options(struct kr_failure *why, const char *of, const char *fault);

/* Fills `why` for a field of the config that is out of range; returns -EINVAL. */
int kr__probe_refuse_config(struct kr_failure *why, const char *cause);

#endif
