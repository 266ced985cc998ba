/* Files in a connection's send queue: the memory that they are read into, and which is read next.
 *
 * A connection that has files in its queue has two chunks of memory, whatever their number and
 * size: while one is being sent the next is read into the other. They are read in the queue's
 * order, each from its front to its end, also while what stands before it in the queue is still
 * being sent. */
#ifndef KR_POOL_FILES_H
#define KR_POOL_FILES_H

#include "pool/sends.h"

#define KR__CHUNK_SIZE 65536u
#define KR__CHUNK_LEAST 4096u
#define KR__CHUNKS 2u

/* However much is left of it, a file counts as no more among the queued bytes: what it may have in
 * memory. */
#define KR__FILE_COUNTS (KR__CHUNKS * KR__CHUNK_SIZE)

struct kr__files {
    struct kr__chunk chunks[KR__CHUNKS];
    struct kr__chunk *reading;           /* the kernel may be writing to it; NULL: to none */
    struct kr__send_file *first, *last;  /* those of which something is left to be read */
    unsigned count;                      /* in the queue */
    bool waits;                          /* the next read is one that waits, by a worker */
    bool here;                           /* reads are made by this thread: there is no worker */
};

/* What is to be sent. */
struct kr__file_plan {
    int fd;
    uint64_t offset, size; /* KR_FILE_END: to the end of the file */
    uint64_t expected;     /* bytes of that which are there now, as far as is known */
    kr_file_fn *done;
    void *arg;
};

/* What it will count among the queued bytes. */
uint32_t kr__file_counts(uint64_t size);

/* NULL when memory is refused. */
struct kr__files *kr__files_new(struct kr__blocks *blocks);
void kr__files_free(struct kr__blocks *blocks, struct kr__files *files);

/* Adds a file; of size 0 it is due at once. -ENOMEM. Once it has been added no memory is needed for
 * it that may be refused. */
int kr__files_add(struct kr__files *files, struct kr__sends *sends, struct kr__sendq *q,
                  const struct kr__file_plan *plan);

/* Whether there is something to read and room for it, or a read is under way. */
bool kr__files_want(const struct kr__files *files);

/* A read of the first file begins: where to. */
struct iovec kr__files_begin(struct kr__files *files, struct kr__blocks *blocks);

/* Where the read that has begun reads to. */
struct iovec kr__files_target(const struct kr__files *files);

/* It has ended, with so many bytes (> 0) for the queue. */
void kr__files_came(struct kr__files *files, struct kr__sends *sends, struct kr__sendq *q,
                    size_t size);

/* It has met the end of a file that was to be sent up to there. Returns by how many bytes less are
 * queued. */
uint32_t kr__files_met_end(struct kr__files *files, struct kr__sends *sends, struct kr__sendq *q);

#endif
