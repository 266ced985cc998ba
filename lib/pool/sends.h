/* Send queues: what a connection has yet to send, in records, and their one release.
 *
 * A record is a block. A COPY record holds its bytes behind itself, and later bytes of the same
 * connection are added while there is room, also while its front is being sent: nothing in it ever
 * moves. A LENT record holds a reference to a receive buffer, in which its bytes are. A REF record
 * borrows its user's bytes; released, it waits among those that are due, until a phase of the turn
 * tells its user. An FDS record has descriptors of its own, which go with its first byte and are
 * closed then; after that it is a COPY record. A FILE record has no bytes of its own: what is read
 * of the file comes as CHUNK records in front of it, and until all has been read nothing behind it
 * is sent (files.h). Released, it is due as well. */
#ifndef KR_POOL_SENDS_H
#define KR_POOL_SENDS_H

#include "pool/blocks.h"
#include "pool/bufs.h"

#include <kreactor/sendfile.h>
#include <kreactor/detach.h>

#include <sys/socket.h>
#include <sys/uio.h>

enum kr__send_kind {
    KR__SEND_COPY,
    KR__SEND_LENT,
    KR__SEND_REF,
    KR__SEND_FDS,
    KR__SEND_CHUNK,
    KR__SEND_FILE,
};

struct kr__send {
    struct kr__send *next;
    const char *data; /* the first byte not yet sent */
    uint32_t size;    /* bytes not yet sent */
    uint32_t spare;   /* COPY, FDS: room behind them */
    uint32_t room;    /* the block's size */
    uint16_t buf;     /* LENT: the receive buffer */
    uint8_t kind;     /* enum kr__send_kind */
};

struct kr__sendq {
    struct kr__send *head, *tail;
};

struct kr__send_ref {
    struct kr__send send;
    kr_release_fn *release; /* NULL: nobody need be told */
    void *arg;
    struct kr__sendq *pinned; /* where it waits, when it is sent, while there are pins */
    uint16_t pins;            /* zero-copy sends that carry it (pool/zc_sends.h) */
    uint16_t first, final;    /* of these, the numbers */
};

/* What is behind it: the descriptors, as control data; then the bytes. */
struct kr__send_fds {
    struct kr__send send;
    struct iovec piece;
    struct msghdr msg; /* of the request that sends them, complete while that is in flight */
};

struct kr__send_file {
    struct kr__send send; /* of size 0 */
    kr_file_fn *done;     /* NULL: nobody need be told */
    void *arg;
    struct kr__files *files;    /* of its connection, while it is in the queue */
    struct kr__send_file *next; /* the next one to be read */
    uint64_t offset;            /* of the next byte to read */
    uint64_t left;              /* to be read; KR_FILE_END: to the end of the file */
    uint64_t expected;          /* of that, by the size that the file had when it was queued */
    uint64_t sent;              /* taken by the kernel */
    uint32_t ahead;             /* read, and not yet sent: the sizes of its chunks */
    uint32_t counted;           /* what it counts among the queued bytes */
    int fd, error;
};

struct kr__chunk {
    struct kr__send send; /* of size 0 while it is free; its `room` is that of the block */
    char *block;          /* NULL: there is none */
    struct kr__send_file *file;
};

/* What has been sent of a queue's front: by how many bytes less are queued, and how many receive
 * buffers were let go. */
struct kr__sent {
    uint32_t uncounted;
    uint32_t lent;
};

struct kr__sends {
    struct kr__blocks *blocks;
    struct kr__bufs *bufs;
    struct kr__sendq due; /* REF records whose users are to be told */
    uint64_t out;         /* records in all queues */
};

/* Room for `size` more contiguous bytes: behind the tail's, or in a fresh record (*fresh, else
 * NULL) that is not in the queue yet. NULL when memory is refused. */
char *kr__sendq_room(struct kr__sends *sends, const struct kr__sendq *q, size_t size,
                     struct kr__send **fresh);

/* Makes the first `size` bytes of that room part of the queue. */
void kr__sendq_commit(struct kr__sends *sends, struct kr__sendq *q, struct kr__send *fresh,
                      size_t size);

/* The room behind the tail is nobody's again: what was lent of it is neither committed nor will
 * be. */
void kr__sendq_seal(const struct kr__sendq *q);

/* Gives a fresh record back that was not committed; NULL is allowed. */
void kr__send_discard(struct kr__sends *sends, struct kr__send *fresh);

/* Copies bytes to the tail, filling the tail's room first. All or nothing: -ENOMEM. */
int kr__sendq_copy(struct kr__sends *sends, struct kr__sendq *q, const struct iovec *iov, int count,
                   size_t total);

/* Few bytes are copied: that costs less than holding a whole buffer. */
static inline bool kr__worth_holding(size_t size) {
    return size >= 1024;
}

/* Adds bytes that lie in receive buffer `buf`, and a reference to it. -ENOMEM. */
int kr__sendq_lend(struct kr__sends *sends, struct kr__sendq *q, const char *data, size_t size,
                   uint16_t buf);

/* Adds bytes that stay their user's; of size 0 they are due at once. -ENOMEM. */
int kr__sendq_ref(struct kr__sends *sends, struct kr__sendq *q, const void *data, size_t size,
                  kr_release_fn *release, void *arg);

/* Adds a copy of the bytes (1 or more), with whose first duplicates of `count` descriptors go. All
 * or nothing: -ENOMEM, or what kept a descriptor from being duplicated. */
int kr__sendq_fds(struct kr__sends *sends, struct kr__sendq *q, const void *data, size_t size,
                  const int *fds, unsigned count);

/* Whether descriptors go with the first byte; then all that one request can send is this message.
 * It stays as it is until bytes of it are sent. */
static inline bool kr__sendq_gives(const struct kr__sendq *q) {
    return q->head->kind == KR__SEND_FDS;
}
struct msghdr *kr__sendq_message(const struct kr__sendq *q);

/* Its descriptors have gone, or never will. */
void kr__send_disarm(struct kr__sends *sends, struct kr__send *send);

/* Those of a record that begins at byte `at` of what is unsent. */
struct kr_detached_fds kr__send_gift(struct kr__send *send, size_t at);

/* Puts a record at the end, and counts it. */
void kr__sendq_append(struct kr__sends *sends, struct kr__sendq *q, struct kr__send *send);

/* What it bars must wait: not all of the file has been read. */
static inline bool kr__send_bars(const struct kr__send *send) {
    return send->kind == KR__SEND_FILE &&
           kr__container_of(send, const struct kr__send_file, send)->left;
}

/* Adds a record without bytes of its own, which kr__block_put is to get back. */
void kr__sendq_add_file(struct kr__sends *sends, struct kr__sendq *q, struct kr__send_file *file);

/* Puts a chunk that has been filled in front of its file. */
void kr__sendq_add_chunk(struct kr__sends *sends, struct kr__sendq *q, struct kr__chunk *chunk);

/* As many bytes less of the file wait to be sent, or to be read: what it counts now, and by how
 * much that is less. */
uint32_t kr__file_recount(struct kr__send_file *file);

/* Whether there are pieces. */
static inline bool kr__sendq_some(const struct kr__sendq *q) {
    return q->head && !kr__send_bars(q->head);
}

static inline struct kr__send_ref *kr__send_as_ref(struct kr__send *send) {
    kr__assert(send->kind == KR__SEND_REF);
    return kr__container_of(send, struct kr__send_ref, send);
}

/* True of a REF record with `min` bytes or more. */
static inline bool kr__send_is_large(const struct kr__send *send, size_t min) {
    return send->kind == KR__SEND_REF && send->size >= min;
}

/* How many pieces one request can send, of those whose first byte no descriptors go with, and up to
 * a file that is yet to be read: the first ones if they are large, or else those up to a large one;
 * counted up to `max`. With `min` SIZE_MAX there are no large ones. */
unsigned kr__sendq_run(const struct kr__sendq *q, size_t min, unsigned max);

/* The first of those pieces, at most `max`; returns how many. */
int kr__sendq_pieces(const struct kr__sendq *q, struct iovec *iov, int max);

/* How many pieces, and how many of them descriptors go with, there are in all; and all of them. */
void kr__sendq_measure(const struct kr__sendq *q, unsigned *pieces, unsigned *fd_batches);
void kr__sendq_list(const struct kr__sendq *q, struct iovec *pieces,
                    struct kr_detached_fds *fd_batches);

/* `size` bytes of the front are sent, 0 or more; what is empty is released. */
struct kr__sent kr__sendq_consume(struct kr__sends *sends, struct kr__sendq *q, size_t size);

/* One record that is in no queue; lent buffers go back, borrowed bytes are due. */
void kr__send_release(struct kr__sends *sends, struct kr__send *send);

/* Takes a record out that stands behind `before` (NULL: it is the first). */
void kr__sendq_unlink(struct kr__sendq *q, struct kr__send *before, struct kr__send *send);

/* Releases all. */
void kr__sendq_drop(struct kr__sends *sends, struct kr__sendq *q);

/* Releases all but what zero-copy sends still carry, which wait for them; returns how many receive buffers
 * were let go. */
uint32_t kr__sendq_give_up(struct kr__sends *sends, struct kr__sendq *q);

/* Releases what is not only the queue's own: REF, FDS and FILE records. The others stay. */
void kr__sendq_unborrow(struct kr__sends *sends, struct kr__sendq *q);

/* Tells the users of all that were due when it began; returns how many. Runs callbacks. */
unsigned kr__sends_tell(struct kr__sends *sends, struct kr_reactor *r);

/* In a forked child: what is due is dropped, and nobody is told. */
void kr__sends_forget(struct kr__sends *sends);

#endif
