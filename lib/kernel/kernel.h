/* The door: the only way out of the library. Every system call that the library makes stands behind
 * one of these functions, in four groups: the ring, sockets, files, and the process. No code above
 * this floor knows which kernel answers. `kr__linux` is the real one (linux.c).
 *
 * In each kernel the ring's memory is a liburing `struct io_uring`, so that the inline helpers of
 * liburing.h and all code above run unchanged. A function is given the table it was called by: a
 * kernel may have its state beside its table. A function that returns an int returns 0 or a count,
 * or -errno, unless its comment says otherwise. */
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

/* ---- the ring ---- */

struct kr__door_ring {
    /* Fills `ring` and `params`. */
    int (*open)(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                struct io_uring_params *params);
    /* Makes the calling thread the ring's one submitter, and registers the ring's descriptor with
     * that thread; *registered says whether that was possible. */
    int (*bind)(const struct kr__kernel *k, struct io_uring *ring, bool *registered);
    /* Ends the ring. In a forked child (`child`) it only gives the child's copies back, and may be
     * called more than once. */
    void (*close)(const struct kr__kernel *k, struct io_uring *ring, bool registered, bool child);
    /* Submits what the SQ holds. */
    int (*enter)(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                 unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg);
    int (*reg)(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode, const void *arg,
               unsigned count);
};

/* ---- sockets ---- */

/* A listening socket that is to be made. */
struct kr__listen_plan {
    const struct kr_addr *addr;
    unsigned backlog;
    bool reuse_addr, reuse_port, v6_only;
    const struct kr_conn_opts *conn; /* what its connections inherit; NULL: nothing */
    bool refuse_fds;                 /* connections of a Unix socket refuse descriptors */
    unsigned mode;                   /* of the file at a path; 0: as the umask has it */
    bool replace;                    /* a socket file at which no process listens any more */
    /* For how long to wait, asleep, for an address that is in use and may become free. */
    int64_t patience_ns;
};

/* Identifies the file that a Unix socket is bound to. */
struct kr__path_id {
    uint64_t device, inode;
};

/* A stream socket that is to be made, and will connect. */
struct kr__socket_plan {
    int family;
    const struct kr_addr *source; /* the address to bind to; NULL: none */
    bool refuse_fds;
    const struct kr_conn_opts *conn;
};

/* One socket option whose value is a number. */
struct kr__sock_step {
    int level, name, value;
};

struct kr__door_socket {
    /* A new listening socket. */
    int (*listen)(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                  struct kr_addr *bound);
    /* Applies the plan to a socket that listens already. The plan's address, and what concerns the
     * name, is not used. Returns 0. */
    int (*listen_fd)(const struct kr__kernel *k, int fd, const struct kr__listen_plan *plan,
                     struct kr_addr *bound);
    int (*path_id)(const struct kr__kernel *k, const struct kr_addr *addr, struct kr__path_id *ret);
    /* A descriptor of the directory that the path is in. */
    int (*path_dir)(const struct kr__kernel *k, const struct kr_addr *addr);
    /* Removes the file if it is still the one that `id` identifies. `dir` is a descriptor of
     * path_dir; -1: the file is where the path leads now. */
    void (*path_remove)(const struct kr__kernel *k, const struct kr_addr *addr,
                        const struct kr__path_id *id, int dir);

    /* A new stream socket. */
    int (*open)(const struct kr__kernel *k, const struct kr__socket_plan *plan);
    /* Connects a Unix socket without waiting. -EAGAIN: the listener's backlog is full. */
    int (*connect)(const struct kr__kernel *k, int fd, const struct kr_addr *addr);
    /* 0: it is a stream socket. */
    int (*is_stream)(const struct kr__kernel *k, int fd);
    /* *peer has size 0 when the peer is gone and has left bytes that can still be read. */
    int (*addrs)(const struct kr__kernel *k, int fd, struct kr_addr *peer, struct kr_addr *local);
    /* Ends the writing side. Does not wait. */
    int (*shutdown)(const struct kr__kernel *k, int fd);
    /* Whether the writing side of a connected stream has been ended; false where that is not
     * known. */
    bool (*was_shut_down)(const struct kr__kernel *k, int fd);

    int (*set_option)(const struct kr__kernel *k, int fd, const struct kr__sock_step *step);
    /* Sets the options of an accepted Unix socket, which inherits none from its listener. */
    int (*set_accepted)(const struct kr__kernel *k, int fd, const struct kr_conn_opts *opts);
    /* Prepares a socket that other code has made: resets the options that do not suit a reactor,
     * and makes a Unix socket refuse or take descriptors. `listen_fd` includes this. */
    void (*set_adopted)(const struct kr__kernel *k, int fd, int family, bool refuse_fds);
    /* Switches SO_LINGER off: closing the socket will neither wait nor reset. */
    int (*unlinger)(const struct kr__kernel *k, int fd);

    /* Whether Unix sockets can refuse descriptors that are sent to them. */
    bool (*refuses_fds)(const struct kr__kernel *k);
    /* Whether a multishot receive reports a reset that arrives together with bytes; false where
     * that cannot be tried. */
    bool (*tells_reset)(const struct kr__kernel *k);
};

/* ---- files: all other descriptors, and what all descriptors share ---- */

struct kr__door_file {
    /* Another descriptor of the same open file, close-on-exec. */
    int (*dup)(const struct kr__kernel *k, int fd);
    int (*close)(const struct kr__kernel *k, int fd);
    /* Closes a descriptor that a peer has sent. Does not wait for SO_LINGER. */
    int (*close_received)(const struct kr__kernel *k, int fd);

    /* The size of a file that can be read at offsets; UINT64_MAX: not known. -EBADF, -EISDIR,
     * -ESPIPE, -EINVAL. */
    int (*size)(const struct kr__kernel *k, int fd, uint64_t *ret);
    /* Reads from an offset on, and waits for the disk. Returns how many bytes it has read. */
    int (*read)(const struct kr__kernel *k, int fd, void *to, size_t size, uint64_t offset);
    /* Returns how many bytes it has written. */
    int (*write)(const struct kr__kernel *k, int fd, const void *data, size_t size);

    /* Which end of a pipe it is: 0 the reading end, 1 the writing end; -ENOTSUP: not a pipe. */
    int (*pipe_end)(const struct kr__kernel *k, int fd);
    /* The flags (rw_flags) with which a write to a pipe without a reader raises no SIGPIPE;
     * -ENOSYS: there are none. `newest`: the kernel may know RWF_NOSIGNAL. */
    int (*pipe_flags)(const struct kr__kernel *k, bool newest);
    /* Opens the same end anew, for an open file that nobody else shares and that does not block.
     * -EALREADY: the pipe has no name, and `nameless_too` is false; another error: it cannot be
     * opened. */
    int (*pipe_reopen)(const struct kr__kernel *k, int fd, bool nameless_too);

    /* A descriptor that becomes readable when `wake_send` is called for it. */
    int (*wake_open)(const struct kr__kernel *k);
    /* Any thread, and any signal handler. */
    int (*wake_send)(const struct kr__kernel *k, int fd);
};

/* ---- the process ---- */

/* What a forked child finds in place of a block of pages. */
enum kr__map {
    KR__MAP_PLAIN = 0, /* a copy */
    KR__MAP_WIPE = 1,  /* zeros: MADV_WIPEONFORK, man madvise */
    KR__MAP_KEEP = 2,  /* nothing: MADV_DONTFORK; for pages that the kernel has pinned */
};

struct kr__door_process {
    /* Monotonic nanoseconds. */
    int64_t (*clock)(const struct kr__kernel *k);
    /* Lets another thread run. */
    void (*yield)(const struct kr__kernel *k);

    /* Zeroed pages; NULL: there are none, and errno says why. */
    void *(*map)(const struct kr__kernel *k, size_t size, enum kr__map how);
    void (*unmap)(const struct kr__kernel *k, void *pages, size_t size);

    /* The soft limits RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_AS and RLIMIT_DATA. */
    uint64_t (*limit_nofile)(const struct kr__kernel *k);
    uint64_t (*limit_memlock)(const struct kr__kernel *k);
    uint64_t (*limit_as)(const struct kr__kernel *k);
    uint64_t (*limit_data)(const struct kr__kernel *k);
    /* The sysctl kernel.io_uring_disabled; -1: this kernel has none. */
    int (*sysctl_disabled)(const struct kr__kernel *k);
};

struct kr__kernel {
    struct kr__door_ring ring;
    struct kr__door_socket socket;
    struct kr__door_file file;
    struct kr__door_process process;
};

extern const struct kr__kernel kr__linux;

#endif
