/* One request: from its SQE to its last completion, and what all verbs have in common. Each verb
 * stands in a file of its own or in that of its family: poll.c, accept.c, read.c, recv.c, send.c,
 * connect.c, table.c, cancel.c; request.c has their list, wait.c how they wait. */
#ifndef KR_KERNEL_SIM_REQUEST_H
#define KR_KERNEL_SIM_REQUEST_H

#include "kernel/sim/file.h"

#include <poll.h>

struct kr__sim_ring;

/* The keys that wake-ups carry: who waits for none of them is left alone. */
#define KR__SIM_READABLE (POLLIN | POLLPRI | POLLRDNORM | POLLRDBAND) /* sock_def_readable */
#define KR__SIM_WRITABLE (POLLOUT | POLLWRNORM | POLLWRBAND)          /* sk_stream_write_space */
#define KR__SIM_CHANGED 0 /* sock_def_wakeup: all look for themselves */

struct kr__sim_request {
    struct kr__link alive;   /* on its ring's list */
    struct kr__link waiting; /* on its file's list */
    struct kr__link queued;  /* on its ring's list of work, then of ended requests */
    struct kr__sim_ring *ring;
    const struct kr__sim_verb *verb;
    struct kr__sim_file *file; /* a reference, held until its end: an armed request pins the file */
    struct io_uring_sqe sqe;
    unsigned events; /* POLLIN and so on, which it waits for */
    unsigned told;   /* of these, what the wake-up that queued it said; 0: it has to look */
    bool cancelled, ended;
    struct kr__sim_event *work; /* what a worker is about to do */
    uint64_t by_slot; /* it has found its file in the table: the how manyeth has; 0: it has not */
    unsigned tries;             /* how often it was armed */
    bool working;               /* a worker sleeps in it */
    bool worked;                /* a worker has done it, and its task is to tell */
    bool holds;                 /* the worker has taken a buffer for it, */
    struct io_uring_buf buffer; /* this one */
    bool woken; /* it runs as its file has woken it, not as it is submitted */
    bool missed; /* its file was ready when it came to wait, and it does not know */
    bool passing; /* its file was ready when it came to wait: no cancel finds it */
    int32_t res;
    uint32_t flags;

    struct iovec *pieces; /* of a send; copied at submit, as IORING_FEAT_SUBMIT_STABLE promises */
    int piece_count;
    char *payload;        /* what it was at submit; the program's memory must still be so */
    size_t size, done;
    /* of SENDMSG and RECVMSG, likewise; what its control points to is the program's */
    struct msghdr msg;
    char *control;        /* and what was there at submit */

    /* of a zero-copy send: tells when the bytes are free, when it has ended */
    struct kr__sim_request *notif;
    /* of that: it tells also whether they were copied, and whether that is so */
    bool report, copied;
    uint64_t until;                /* and, while the far end keeps it: what that must have read */

    struct sockaddr_storage address; /* of a connect; likewise */
    bool aborted;                    /* it was told -ECONNABORTED once */
};

/* What a verb does. `prep` (NULL: nothing) looks at the SQE, then its file is found, then `check`
 * (NULL: nothing) looks at that; either returns 0, or what the request completes with. `start`
 * (NULL: as `run`) is its first turn, `run` each later one; `fail` (NULL: completes with that) is
 * for what is refused by those, or cancelled. A verb that has `work` has no turns: a worker does
 * all but `prep`, later, and `work` returns the result (worker.c). */
struct kr__sim_verb {
    bool needs_file;
    unsigned since; /* KR__SIM_LINUX; 0: what this library needs at least has it */
    int64_t (*work)(struct kr__sim_request *req);
    int (*prep)(struct kr__sim_request *req);
    int (*check)(struct kr__sim_request *req);
    void (*start)(struct kr__sim_request *req);
    void (*run)(struct kr__sim_request *req);
    void (*fail)(struct kr__sim_request *req, int res);
};

extern const struct kr__sim_verb kr__sim_nop, kr__sim_poll, kr__sim_poll_remove, kr__sim_accept, kr__sim_read,
    kr__sim_recv, kr__sim_recvmsg, kr__sim_send, kr__sim_send_zc, kr__sim_notif, kr__sim_connect,
    kr__sim_shutdown, kr__sim_close, kr__sim_update, kr__sim_export, kr__sim_cmd, kr__sim_cancel;

/* Finds its file, and checks that. */
int kr__sim_request_file(struct kr__sim_request *req);

/* Hands it to a worker, and takes it back. */
void kr__sim_worker_start(struct kr__sim_request *req);
void kr__sim_worker_drop(struct kr__sim_request *req);

/* Hands over one that was tried in vain too often: a worker sleeps in it until it is done. Its file
 * wakes it; a signal interrupts it; kr__sim_worker_end is its end. */
void kr__sim_worker_hold(struct kr__sim_request *req);
void kr__sim_worker_wake(struct kr__sim_request *req);
void kr__sim_worker_interrupt(struct kr__sim_request *req);
void kr__sim_worker_end(struct kr__sim_request *req, int64_t res, uint32_t flags);

/* A request that is not issued. */
struct kr__sim_request *kr__sim_request_new(struct kr__sim_ring *ring,
                                            const struct io_uring_sqe *sqe,
                                            const struct kr__sim_verb *verb);

/* Whether the world's kernel has the opcode: NULL, or what it does. */
const struct kr__sim_verb *kr__sim_verb_find(const struct kr_sim *sim, unsigned opcode);

/* Makes and issues a request. */
void kr__sim_request_start(struct kr__sim_ring *ring, const struct io_uring_sqe *sqe);

/* The request's turn, after it was woken, cancelled, or put off. */
void kr__sim_request_run(struct kr__sim_request *req);

/* It completes with that: refused, cancelled, interrupted. */
void kr__sim_request_fail(struct kr__sim_request *req, int res);

/* Its completion has been posted, or its ring is no more. */
void kr__sim_request_free(struct kr__sim_request *req);

/* The bytes of a send, as they are now, from its SQE. -EMSGSIZE. The program may not touch them
 * until it is told, which the other one checks. */
int kr__sim_payload_take(struct kr__sim_request *req);
void kr__sim_payload_check(const struct kr__sim_request *req);

/* Whether more is to be received, as a flag (recv.c). */
uint32_t kr__sim_nonempty(const struct kr__sim_request *req);

/* One try to send the rest: a count, or as the system call. */
int64_t kr__sim_payload_send(struct kr__sim_request *req);

/* The far end has read what a zero-copy send gave it, or never will. */
void kr__sim_notif_release(struct kr__sim_request *notif);

/* It waits no more, and completes with `res`. */
void kr__sim_end(struct kr__sim_request *req, int64_t res, uint32_t flags);

/* ---- waiting (wait.c) ---- */

/* What the file reports, as poll(2) does: POLLIN and so on. */
unsigned kr__sim_file_poll(struct kr__sim_file *file);

/* Of that, what the request waits for. */
unsigned kr__sim_ready(const struct kr__sim_request *req);

/* It waits until its file can be read from (POLLIN) or written to (POLLOUT). If that is so already,
 * its next turn is queued; once is enough for a one-shot request, which no cancel finds then. */
void kr__sim_wait(struct kr__sim_request *req, unsigned what);

/* The same, for what comes from now on: what the file is ready for already wakes nobody. */
void kr__sim_wait_for_news(struct kr__sim_request *req, unsigned what);

/* Goes to where wake-ups of its file find it. */
void kr__sim_arm(struct kr__sim_request *req);

/* Something has happened at `file`: those who wait for any of `key` have their turn later, as work
 * of their task. */
void kr__sim_wake(struct kr__sim_file *file, unsigned key);

#endif
