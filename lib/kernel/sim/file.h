/* What a descriptor or a slot of the file table leads to: a waker, a listener, an end of a stream.
 * Lives as long as a descriptor, a slot, or a request in flight refers to it. */
#ifndef KR_KERNEL_SIM_FILE_H
#define KR_KERNEL_SIM_FILE_H

#include "kernel/sim/world.h"

enum kr__sim_kind {
    KR__SIM_WAKER,
    KR__SIM_LISTENER,
    KR__SIM_STREAM,
    KR__SIM_REGULAR,
};

/* Files that come with bytes of a Unix stream. */
struct kr__sim_gift {
    struct kr__link link; /* on the stream's list */
    uint64_t at, end;     /* with which bytes, counted from the stream's start */
    unsigned count;
    struct kr__sim_file *files[]; /* one reference each */
};

/* How far a stream is. TCP goes on by itself, while the program learns of it by its own calls. */
enum kr__sim_phase {
    KR__SIM_FRESH,   /* not connected, or no more */
    KR__SIM_CALLING, /* its SYN is under way */
    KR__SIM_JOINED,
};

/* stream.h, remote.h */
struct kr__sim_stream {
    bool local; /* a Unix socket: local.c */
    enum kr__sim_phase phase, told;
    struct kr__sim_event *call; /* while the SYN is under way: what comes of it */
    int64_t called;             /* when it was first sent */
    int fate;                   /* a fault decides what comes of it: enum kr_sim_answer; else -1 */
    struct kr__sim_file *other; /* the far end; NULL: nobody is there any more */
    char *bytes;                /* what has come and was not read: bytes[at .. at + size) */
    size_t at, size, room;
    uint64_t taken; /* bytes read, ever */
    size_t window;  /* `size` may grow to this */
    bool fin_in;    /* the far end has ended its sending */
    bool fin_out;   /* this end has */
    bool shut_in;   /* this end reads no more; what comes all the same is there */
    bool full;      /* somebody has met a full window (SOCK_NOSPACE), and hears of room */
    bool urgent;    /* one of the bytes, the one at this place of the stream, is urgent */
    uint64_t urgent_at;
    bool skipped;   /* urgent bytes were, which a Unix socket goes on counting as there */
    bool noted;     /* its error queue has something, which nobody reads */
    bool dead;      /* reset, refused or given up: nothing moves, but what had come can be read */
    int error;      /* told once, to whoever asks first */
    /* notifications of zero-copy sends, by `waiting`, until this end has read them */
    struct kr__list held;
    struct kr__list gifts; /* that have come and were not taken */
    struct kr_addr here, there;
};

struct kr__sim_listener {
    struct kr__link on_port; /* on the world's list */
    struct kr_addr bound;
    unsigned backlog, queued;
    bool reuse_port;
    uint64_t inode; /* of its path; 0: it has none */
    struct kr__list queue; /* streams by `in_backlog`, one reference each */
};

struct kr__sim_regular {
    char *bytes;
    size_t size;
};

#define KR__SIM_OPTIONS 24

struct kr__sim_file {
    enum kr__sim_kind kind;
    unsigned refs;
    struct kr_sim *sim;
    struct kr__list waiters; /* requests that wait until it is ready, oldest first */
    struct kr__link in_backlog;
    uint64_t counter; /* of a waker */
    bool resets;      /* its close is a reset: SO_LINGER */
    bool refuses;     /* descriptors, at their sender: SO_PASSRIGHTS */
    bool inlines;     /* an urgent byte is a byte of the stream: SO_OOBINLINE */
    bool nonblock;    /* O_NONBLOCK */
    int options[KR__SIM_OPTIONS]; /* option.c */
    struct kr__sim_listener listener;
    struct kr__sim_stream stream;
    struct kr__sim_regular regular;
};

/* With one reference, the caller's. */
struct kr__sim_file *kr__sim_file_new(struct kr_sim *sim, enum kr__sim_kind kind);
struct kr__sim_file *kr__sim_file_ref(struct kr__sim_file *file);

/* The last one ends it, as the last close does: a listener resets its backlog, a stream sends FIN
 * or RST. */
void kr__sim_file_unref(struct kr__sim_file *file);

/* `count` files, which are yet to be filled in. */
struct kr__sim_gift *kr__sim_gift_new(unsigned count);

/* Lets go of its files (NULL ok). */
void kr__sim_gift_free(struct kr__sim_gift *gift);

/* As pread: a count, or -errno; faults of the disk apply. */
int64_t kr__sim_file_read(const struct kr__sim_file *file, void *to, size_t size, uint64_t offset);

/* The lowest free descriptor is given the caller's reference, as open does (POSIX). */
int kr__sim_fd_new(struct kr_sim *sim, struct kr__sim_file *file);

/* Borrowed; NULL: no such descriptor. */
struct kr__sim_file *kr__sim_fd_file(const struct kr_sim *sim, int fd);
int kr__sim_fd_close(struct kr_sim *sim, int fd);

#endif
