/* What this library uses of io_uring that is newer than liburing 2.3's header: value, first kernel,
 * and where it stands. Names are private, so that a newer liburing's own never clash; the only
 * `#if` about the kernel belongs here. Opcodes and register codes are enumerators, for which #ifdef
 * does not work. */
#ifndef KR_KERNEL_UAPI_H
#define KR_KERNEL_UAPI_H

#include <stdint.h>

/* Set-up: the SQ has no index array (kernel >= 6.6, man io_uring_setup). */
#define KR__SETUP_NO_SQARRAY (1u << 16)

/* Features of the ring (params.features). */
#define KR__FEAT_REG_REG_RING (1u << 13) /* kernel >= 6.3, man io_uring_register */
#define KR__FEAT_MIN_TIMEOUT (1u << 15) /* kernel >= 6.12, man io_uring_enter */
#define KR__FEAT_RW_ATTR (1u << 16)     /* kernel >= 6.14, man io_uring_setup */
#define KR__FEAT_NO_IOWAIT (1u << 17)   /* kernel >= 6.15, man io_uring_enter */

/* Registers memory for arguments of waits (kernel >= 6.13, man io_uring_register). */
#define KR__REGISTER_MEM_REGION 34u

/* Enter: the wait is not accounted as I/O wait (kernel >= 6.15). */
#define KR__ENTER_NO_IOWAIT (1u << 7)

/* A zero-copy send says in its notification whether it copied after all (kernel >= 6.2, man
 * io_uring_enter, IORING_OP_SEND_ZC). */
#define KR__SEND_ZC_REPORT_USAGE (1u << 3) /* sqe->ioprio */
#define KR__NOTIF_ZC_COPIED (1u << 31)     /* cqe->res: a negative number */

/* A write to a pipe without readers is -EPIPE, and raises no SIGPIPE (kernel >= 6.18,
 * linux/fs.h). */
#define KR__RWF_NOSIGNAL 0x100

/* 6.6: fchmodat2(2), on all architectures that number their calls alike since 5.0 */
#define KR__SYS_FCHMODAT2 452

/* A control message with the descriptor of the sender's process (kernel >= 6.5, linux/socket.h). */
#define KR__SCM_PIDFD 4

/* Socket options that are newer than glibc's headers may be (asm-generic/socket.h; two architectures
 * number them otherwise): the sender's process as a descriptor (kernel >= 6.5), and how many bytes
 * are there (6.18), come with the bytes of a Unix socket; whether descriptors may (6.16; else who
 * sends one is told EPERM). */
#if defined __hppa__
#define KR__SO_PASSPIDFD 0x404A
#define KR__SO_PASSRIGHTS 0x4051
#define KR__SO_INQ 0x4052
#elif defined __sparc__
#define KR__SO_PASSPIDFD 0x0055
#define KR__SO_PASSRIGHTS 0x005c
#define KR__SO_INQ 0x005d
#else
#define KR__SO_PASSPIDFD 76
#define KR__SO_PASSRIGHTS 83
#define KR__SO_INQ 84
#endif

/* An accept that finds no client is -EAGAIN, and does not wait (kernel >= 6.10, man
 * io_uring_prep_accept); in sqe->ioprio. Nothing tells of it before IORING_OP_BIND, kernel >=
 * 6.11. */
#define KR__ACCEPT_DONTWAIT (1u << 1)
#define KR__OP_BIND 56u

/* IORING_OP_URING_CMD at a socket, in sqe->off (kernel >= 6.7, man io_uring_prep_cmd_sock). */
#define KR__SOCKET_GETSOCKOPT 2u
#define KR__SOCKET_SETSOCKOPT 3u

/* A descriptor for what is in a slot (kernel >= 6.8, man io_uring_prep_fixed_fd_install). */
#define KR__OP_FIXED_FD_INSTALL 54u
#define KR__FIXED_FD_NO_CLOEXEC (1u << 0) /* sqe->rw_flags */

/* NOP completes with the result given in sqe->len (kernel >= 6.10, liburing test/nop.c). */
#define KR__NOP_INJECT_RESULT (1u << 0)

/* The argument of IORING_ENTER_EXT_ARG; `min_wait_us` was padding before kernel 6.12. */
struct kr__getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_size;
    uint32_t min_wait_us;
    uint64_t timespec;
};
_Static_assert(sizeof(struct kr__getevents_arg) == 24, "the kernel checks the size");

/* The argument of KR__REGISTER_MEM_REGION. */
struct kr__mem_region_reg {
    uint64_t region;
    uint64_t flags;
    uint64_t reserved[2];
};
_Static_assert(sizeof(struct kr__mem_region_reg) == 32, "the kernel reads that much");

/* The argument of IORING_REGISTER_PBUF_RING; `flags` was padding before kernel 6.4. */
struct kr__buf_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
};
_Static_assert(sizeof(struct kr__buf_reg) == 40, "the kernel checks the size");

#endif
