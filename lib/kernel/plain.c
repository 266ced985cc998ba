/* Requests by slot become requests by descriptor.
 *
 * Happy path: a fixed file becomes the slot's descriptor. An accept into a slot of the kernel's
 * choice becomes one to a descriptor, close-on-exec; whoever takes its completion finds a slot for
 * it (pool/slots.c). CLOSE of a slot closes its descriptor, and leaves the slot empty. FILES_UPDATE
 * and FIXED_FD_INSTALL, which only this table could answer, become NOPs: they are done when the NOP
 * has completed.
 * Failure modes: there is nothing in the slot: the descriptor is -1, and the kernel answers -EBADF
 * as it does for an empty slot; a request is translated and not taken by the kernel (it stands in
 * the SQ, translated once, and is submitted by a later enter, or the end closes what it would have
 * closed).
 *
 * Relies on: a request finds its file when it is submitted (io_assign_file, io_uring/io_uring.c),
 * so that a descriptor's number may be used again as soon as its CLOSE has been. close(2) of a
 * descriptor does not end requests that are in flight on its file: they are joined first, as with
 * slots. */
#include "kernel/plain.h"

#include "base/mark.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static size_t cells_size(const struct kr__plain *p) {
    return (p->count * sizeof *p->cells + 4095) / 4096 * 4096;
}

int kr__plain_init(struct kr__plain *p, const struct kr__kernel *k, unsigned count) {
    *p = (struct kr__plain){.kernel = k, .count = count};
    if (count > k->process.limit_nofile(k))
        return -EMFILE;
    p->cells = k->process.map(k, cells_size(p), KR__MAP_PLAIN);
    return p->cells ? 0 : -ENOMEM;
}

/* What would have been closed had the kernel taken the request. */
static void close_unsubmitted(struct kr__plain *p, const struct io_uring *uring) {
    unsigned head = __atomic_load_n(uring->sq.khead, __ATOMIC_ACQUIRE);
    for (; head != p->translated; head++) {
        const struct io_uring_sqe *sqe = &uring->sq.sqes[head & *uring->sq.kring_mask];
        if (sqe->opcode != IORING_OP_CLOSE || sqe->fd < 0)
            continue;
        kr__mark(close_unsubmitted);
        p->kernel->file.close(p->kernel, sqe->fd);
    }
}

void kr__plain_end(struct kr__plain *p, const struct io_uring *uring) {
    if (!p->cells)
        return;
    if (uring)
        close_unsubmitted(p, uring);
    for (uint32_t slot = 0; slot < p->count; slot++)
        kr__plain_clear(p, slot);
    p->kernel->process.unmap(p->kernel, p->cells, cells_size(p));
    p->cells = NULL;
}

void kr__plain_give(struct kr__plain *p, uint32_t slot, int fd) {
    kr__assert(slot < p->count && fd >= 0);
    kr__assert(p->cells[slot] == 0);
    p->cells[slot] = fd + 1;
}

int kr__plain_put(struct kr__plain *p, uint32_t slot, int fd) {
    int copy = p->kernel->file.dup(p->kernel, fd);
    if (copy < 0)
        return copy;
    kr__plain_give(p, slot, copy);
    return 0;
}

/* The slot is empty from here on. */
static int take_out(struct kr__plain *p, uint32_t slot) {
    int fd = kr__plain_fd(p, slot);
    if (fd >= 0)
        p->cells[slot] = 0;
    return fd;
}

void kr__plain_clear(struct kr__plain *p, uint32_t slot) {
    int fd = take_out(p, slot);
    if (fd >= 0)
        p->kernel->file.close(p->kernel, fd);
}

static void to_nop(struct io_uring_sqe *sqe) {
    uint64_t user_data = sqe->user_data;
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_NOP;
    sqe->user_data = user_data;
}

static void translate_fixed(const struct kr__plain *p, struct io_uring_sqe *sqe) {
    sqe->fd = kr__plain_fd(p, (uint32_t)sqe->fd);
    sqe->flags &= (uint8_t)~IOSQE_FIXED_FILE;
    if (sqe->opcode == KR__OP_FIXED_FD_INSTALL) {
        to_nop(sqe);
    } else if (sqe->opcode == IORING_OP_ACCEPT && sqe->file_index) {
        sqe->file_index = 0;
        sqe->accept_flags |= SOCK_CLOEXEC;
    }
}

static void translate_one(struct kr__plain *p, struct io_uring_sqe *sqe) {
    if (kr__likely(sqe->flags & IOSQE_FIXED_FILE)) {
        translate_fixed(p, sqe);
    } else if (sqe->opcode == IORING_OP_CLOSE && sqe->file_index) {
        sqe->fd = take_out(p, sqe->file_index - 1);
        sqe->file_index = 0;
    } else if (sqe->opcode == IORING_OP_FILES_UPDATE) {
        to_nop(sqe);
    }
}

void kr__plain_translate(struct kr__plain *p, struct io_uring *uring, unsigned tail) {
    for (; p->translated != tail; p->translated++)
        translate_one(p, &uring->sq.sqes[p->translated & *uring->sq.kring_mask]);
}
