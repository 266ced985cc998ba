/* The door: the only way out of the library. Every system call that it makes stands behind one of
 * these functions, and nothing above this floor knows which kernel answers. `linux.c` is the real
 * one.
 *
 * The ring's memory is a liburing `struct io_uring` in either case, so that the inline helpers of
 * liburing.h and all code above run unchanged. All functions return 0 or a count, or -errno. */
#ifndef KR_KERNEL_KERNEL_H
#define KR_KERNEL_KERNEL_H

#include "kernel/uapi.h"

#include <kreactor/addr.h>

#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kr__kernel;
struct kr_conn_opts;

/* How a block of pages behaves when the process forks. */
enum kr__map {
    KR__MAP_PLAIN = 0, /* the child gets a copy */
    KR__MAP_WIPE = 1,  /* the child finds zeros: MADV_WIPEONFORK, man madvise */
    /* the child has no such pages: MADV_DONTFORK; for what the kernel has pinned */
    KR__MAP_KEEP = 2,
};

/* A listening socket to be. */
struct kr__listen_plan {
    const struct kr_addr *addr;
    unsigned backlog;
    bool reuse_addr, reuse_port, v6_only;
    const struct kr_conn_opts *conn; /* what its connections inherit; NULL: nothing */
    bool refuse_fds; /* a Unix socket's connections take none */
    unsigned mode; /* of a path; 0: as the umask has it */
    bool replace;  /* a path at which nobody listens any more */
    int64_t patience_ns; /* how long an address that may become free is waited for, asleep */
};

/* The file that a Unix socket is bound to, to know it again. */
struct kr__path_id {
    uint64_t device, inode;
};

/* A stream socket to be, which will connect. */
struct kr__socket_plan {
    int family;
    const struct kr_addr *source; /* bound to this; NULL: to nothing */
    bool refuse_fds;
    const struct kr_conn_opts *conn;
};

/* One option of a socket, a number. */
struct kr__sock_step {
    int level, name, value;
};

struct kr__kernel {
    /* The ring. `open` fills `ring` and `params`; `bind` makes the calling thread its one submitter
     * and registers the ring's descriptor with it; `close` ends it, or in a forked child just gives
     * the copies back, and may be called again then. `enter` submits what the SQ holds. */
    int (*ring_open)(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                     struct io_uring_params *params);
    int (*ring_bind)(const struct kr__kernel *k, struct io_uring *ring, bool *registered);
    void (*ring_close)(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                       bool child);
    int (*enter)(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                 unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg);
    int (*reg)(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode, const void *arg,
               unsigned count);

    int64_t (*clock)(const struct kr__kernel *k); /* monotonic nanoseconds */

    /* zeroed; NULL: none, and errno says why */
    void *(*map)(const struct kr__kernel *k, size_t size, enum kr__map how);
    void (*unmap)(const struct kr__kernel *k, void *pages, size_t size);

    int (*listen)(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                  struct kr_addr *bound);
    /* The same of a socket that listens already; `addr` and what belongs to a name are not looked
     * at. 0. */
    int (*listen_fd)(const struct kr__kernel *k, int fd, const struct kr__listen_plan *plan,
                     struct kr_addr *bound);
    int (*path_id)(const struct kr__kernel *k, const struct kr_addr *addr, struct kr__path_id *ret);
    /* a descriptor of the directory it is in */
    int (*path_dir)(const struct kr__kernel *k, const struct kr_addr *addr);
    /* If it is still that one. `dir`: of path_dir; -1: where the path leads now. */
    void (*path_remove)(const struct kr__kernel *k, const struct kr_addr *addr,
                        const struct kr__path_id *id, int dir);
    int (*socket)(const struct kr__kernel *k, const struct kr__socket_plan *plan);
    /* Of a Unix socket, and without waiting: -EAGAIN when too many wait to be accepted there. */
    int (*connect)(const struct kr__kernel *k, int fd, const struct kr_addr *addr);
    /* Whether Unix sockets can refuse descriptors that are sent to them. */
    bool (*refuses_fds)(const struct kr__kernel *k);
    /* 0 if it is a stream socket. */
    int (*sock_stream)(const struct kr__kernel *k, int fd);
    /* Which end of a pipe it is: 0 the reading one, 1 the writing one; -ENOTSUP: none. */
    int (*pipe_end)(const struct kr__kernel *k, int fd);
    /* The flags of a write (rw_flags) to a pipe whose reader may be gone, which ends no process;
     * -ENOSYS: there are none. `newest`: the kernel may know some. */
    int (*pipe_quiet)(const struct kr__kernel *k, bool newest);
    /* A descriptor of the same end whose open file is the caller's alone, and does not wait.
     * -EALREADY: a pipe without a name, and `nameless_too` is false; another error: it cannot be
     * had. */
    int (*pipe_own)(const struct kr__kernel *k, int fd, bool nameless_too);
    /* The peer's is of size 0 when that is gone and has left bytes to be read. */
    int (*sock_addrs)(const struct kr__kernel *k, int fd, struct kr_addr *peer,
                      struct kr_addr *local);
    int (*sock_set)(const struct kr__kernel *k, int fd, const struct kr__sock_step *step);
    /* It was made by others: what they may have set that does not suit a reactor is taken back, and
     * a Unix socket refuses descriptors or takes them. `listen_fd` does so itself. */
    void (*sock_own)(const struct kr__kernel *k, int fd, int family, bool refuse_fds);
    /* Whether this side of a connected stream has been ended; false where that is not known. */
    bool (*sock_ended)(const struct kr__kernel *k, int fd);
    /* SO_LINGER off: closing it will neither wait nor reset. */
    int (*sock_unlinger)(const struct kr__kernel *k, int fd);
    /* Sets what the options say of an accepted Unix socket, which inherits nothing. */
    int (*sock_equip)(const struct kr__kernel *k, int fd, const struct kr_conn_opts *opts);
    /* Ends the writing side of a socket. Does not wait. */
    int (*sock_end)(const struct kr__kernel *k, int fd);
    /* another descriptor of the same, close-on-exec */
    int (*dup)(const struct kr__kernel *k, int fd);
    /* Of a file that can be read at offsets; UINT64_MAX: not known. -EBADF, -EISDIR, -ESPIPE,
     * -EINVAL. */
    int (*file_size)(const struct kr__kernel *k, int fd, uint64_t *ret);
    /* Bytes read of a file from that offset on; waits for the disk. */
    int (*file_read)(const struct kr__kernel *k, int fd, void *to, size_t size, uint64_t offset);
    int (*close)(const struct kr__kernel *k, int fd);
    /* One that others have sent, and that nobody wants: does not wait for SO_LINGER. */
    int (*close_taken)(const struct kr__kernel *k, int fd);
    /* bytes written */
    int (*write)(const struct kr__kernel *k, int fd, const void *data, size_t size);

    /* a descriptor that poll and wake know */
    int (*wake_open)(const struct kr__kernel *k);
    int (*wake_send)(const struct kr__kernel *k, int fd);   /* any thread, any signal handler */

    /* Whether a multishot receive tells of a reset that comes with bytes; false where that cannot
     * be tried. */
    bool (*reset_told)(const struct kr__kernel *k);

    void (*yield)(const struct kr__kernel *k); /* lets another thread run */

    uint64_t (*limit_nofile)(const struct kr__kernel *k);   /* soft RLIMIT_NOFILE */
    uint64_t (*limit_memlock)(const struct kr__kernel *k);  /* soft RLIMIT_MEMLOCK */
    uint64_t (*limit_as)(const struct kr__kernel *k);       /* soft RLIMIT_AS */
    uint64_t (*limit_data)(const struct kr__kernel *k);     /* soft RLIMIT_DATA */
    /* kernel.io_uring_disabled; -1: not there */
    int (*sysctl_disabled)(const struct kr__kernel *k);
};

extern const struct kr__kernel kr__linux;

#endif
