/* Read: a file in a send queue is read, one read at a time a connection, into memory that is then
 * sent.
 *
 * Happy path: READ at an offset fills a free chunk, which joins the queue in front of its file;
 * while that is sent the other chunk is filled. All bytes read, and those sent, the file is due,
 * and its user is told in a phase of the turn.
 * Failure modes: fewer bytes than asked for (the next read goes on from there); the end of a file
 * that was to be sent up to its end (it has been read), or of one that promised more (-ENODATA: the
 * connection is reset, for its peer must not take a part for the whole); an error, the same;
 * -EAGAIN, as file systems that cannot read without waiting give for files opened with O_NONBLOCK
 * (once more by a worker, who waits); -ECANCELED, there is no room for a worker (RLIMIT_NPROC, a
 * pids cgroup), without which files of tmpfs and overlayfs cannot be read in the ring at all: this
 * connection's files are then read by the reactor's own thread, a chunk a turn. It waits for the
 * disk, as a server that calls read(2) or sendfile(2) does; the other choices are to answer nobody,
 * or to try for a worker as long as there is none.
 *
 * Relies on: a read of what is in memory completes as it is submitted; others complete when the
 * pages are there, or are done by a worker (io_read, io_uring/rw.c), always where the file system
 * has no FMODE_NOWAIT, as tmpfs and overlayfs (observed on 6.18). A read under way is not
 * cancelled: only one that no worker has begun is. A request that no worker could be made for ends
 * with -ECANCELED (io_wq_worker_cancel, io_uring/io-wq.c). The kernel writes to the chunk until the
 * completion, so it is kept till then.
 *
 * SPLICE by way of a pipe costs a third less CPU (doc/figures.md), but always has a worker, which
 * sleeps while the peer takes nothing: a thread and a pipe for each slow peer, and no byte is seen
 * to move. Registered memory (READ_FIXED) makes no difference that could be measured. */
#include "conn/hooks.h"
#include "conn/op.h"
#include "conn/queue.h"
#include "conn/send.h"
#include "pool/files.h"

/* The tag's operand: who reads. */
enum { BY_KERNEL, BY_US };

static struct kr__files *files_of(const struct kr__conn *c) {
    return c->more->files;
}

uint16_t kr__prep_read(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    struct kr__files *files = files_of(kr__owner_conn(o));
    const struct kr__send_file *file = files->first;
    struct iovec to = kr__files_begin(files, &r->blocks);
    if (files->here) { /* in a turn, and the loop goes on in between */
        io_uring_prep_nop(sqe);
        return BY_US;
    }
    io_uring_prep_read(sqe, file->fd, to.iov_base, (unsigned)to.iov_len, file->offset);
    if (files->waits)
        sqe->flags |= IOSQE_ASYNC;
    return BY_KERNEL;
}

static int read_here(struct kr_reactor *r, const struct kr__files *files) {
    struct iovec to = kr__files_target(files);
    const struct kr__send_file *file = files->first;
    return r->kernel->file.read(r->kernel, file->fd, to.iov_base, to.iov_len, file->offset);
}

static void came(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    kr__mark_if(read_short,
                size < files_of(c)->first->left && size < files_of(c)->reading->send.room);
    kr__time_reach(&c->write_from, r->now);
    kr__count(&r->stats.bytes_read, size);
    kr__files_came(files_of(c), &r->sends, &c->queue, size);
}

/* The stream would lie. */
static void broken(struct kr_reactor *r, struct kr__conn *c, int error) {
    files_of(c)->first->error = error;
    kr__conn_end(r, c, KR_CLOSE_RESET, error, KR_WHY_FILE);
}

static void met_end(struct kr_reactor *r, struct kr__conn *c) {
    if (files_of(c)->first->left != KR_FILE_END) {
        kr__mark(file_too_short);
        broken(r, c, -ENODATA);
        return;
    }
    kr__mark(file_end_met);
    uint32_t fewer = kr__files_met_end(files_of(c), &r->sends, &c->queue);
    kr__conn_files_check(r, c);
    kr__queue_shrank(r, c, fewer);
    if (kr__unlikely(c->features))
        kr__hooks_sent(r, c);
}

static void failed(struct kr_reactor *r, struct kr__conn *c, int error) {
    struct kr__files *files = files_of(c);
    if (error == -EINTR)
        return;                                /* read again */
    if (error == -ECANCELED && !files->here) { /* which is not asked for while it sends */
        kr__mark(read_here);
        files->here = true;
        return;
    }
    if (error == -EAGAIN && !files->waits) {
        kr__mark(read_by_a_worker);
        files->waits = true;
        return;
    }
    kr__mark(read_failed);
    broken(r, c, error);
}

void kr__done_read(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    struct kr__conn *c = kr__owner_conn(o);
    bool sends = !c->broken && (kr__conn_is_open(c) || kr__conn_is_flushing(c));
    kr__mark_if(read_in_vain, !sends);
    int res = how->res;
    if (sends && res == 0 && how->operand == BY_US)
        res = read_here(r, files_of(c));
    if (sends && res > 0) {
        came(r, c, (size_t)res);
        return;
    }
    if (sends && res == 0) {
        met_end(r, c);
        return;
    }
    files_of(c)->reading = NULL;
    if (sends)
        failed(r, c, res);
    else if (c->broken)
        kr__queue_drop(r, c);
}

static int check_file(const struct kr_reactor *r, struct kr__file_plan *plan) {
    bool to_end = plan->size == KR_FILE_END;
    uint64_t asked = to_end ? KR__CHUNK_SIZE : plan->size; /* no read may go beyond 2^63 - 1 */
    if (plan->offset > INT64_MAX || asked > INT64_MAX - plan->offset)
        return -EINVAL;
    uint64_t has;
    int rc = r->kernel->file.size(r->kernel, plan->fd, &has);
    if (rc < 0)
        return rc;
    uint64_t rest = has > plan->offset ? has - plan->offset : 0;
    if (!to_end && plan->size > rest)
        return -ENODATA;
    plan->expected = to_end ? rest : plan->size;
    return 0;
}

/* They are made with the first file, and last until the last has gone. */
static struct kr__files *files_ready(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__conn_more *more = kr__conn_more(r, c);
    if (more && !more->files)
        more->files = kr__files_new(&r->blocks);
    c->files = more && more->files;
    return c->files ? more->files : NULL;
}

static int put_file(struct kr_reactor *r, struct kr__conn *c, const void *what) {
    const struct kr__file_plan *plan = what;
    struct kr__files *files = files_ready(r, c);
    int rc = files ? kr__files_add(files, &r->sends, &c->queue, plan) : -ENOMEM;
    if (files)
        kr__conn_files_check(r, c);
    return rc;
}

int kr_conn_send_file(struct kr_reactor *r, kr_conn conn, int fd, uint64_t offset, uint64_t size,
                      kr_file_fn *done, void *arg) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    struct kr__file_plan plan = {
        .fd = fd, .offset = offset, .size = size, .done = done, .arg = arg};
    rc = check_file(r, &plan);
    if (rc < 0)
        return rc;
    return kr__queue_put(r, c, kr__file_counts(size), KR__ADMIT_PARTS, put_file, &plan);
}
