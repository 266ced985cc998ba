/* Requests that are tried again and again for reasons that are not theirs, and the workers that get
 * them in the end, on both kernels. Whether a worker has begun is a race, so most of this is loose. */
#include "harness/tap.h"
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"
#include "sim/raw.h"

#include <errno.h>
#include <poll.h>

#define COUNT(table_) (sizeof(table_) / sizeof *(table_))
#define MUCH (1 << 20) /* more than the far end lets come */
#define TIRING 140     /* urgent bytes that wear out a receive */

static char much[MUCH];

static struct io_uring_sqe *ask_send(struct raw *x, const char *name, int slot, size_t size) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_SEND, slot);
    sqe->addr = (uint64_t)(uintptr_t)much;
    sqe->len = (unsigned)size;
    sqe->msg_flags = MSG_NOSIGNAL;
    return sqe;
}

static void ask_sendmsg(struct raw *x, const char *name, int slot, size_t size) {
    static struct iovec piece;
    static struct msghdr msg;
    piece = (struct iovec){much, size};
    msg = (struct msghdr){.msg_iov = &piece, .msg_iovlen = 1};
    struct io_uring_sqe *sqe = ask_send(x, name, slot, 1);
    sqe->opcode = IORING_OP_SENDMSG;
    sqe->addr = (uint64_t)(uintptr_t)&msg;
}

static struct io_uring_sqe *ask_recv(struct raw *x, const char *name, int slot) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_RECV, slot);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = RAW_GROUP;
    return sqe;
}

/* The socket is full, and the far end's sending has ended, which stands for ever. */
static void half_closed(struct raw *x, bool local) {
    if (local)
        raw_pair(x, 1, &x->fars[0]);
    else
        raw_join(x, 1, &x->fars[0]);
    raw_fill(x, 1);
    far_shutdown(&x->fars[0]);
    raw_quiet(x);
}

/* Until it is done. */
static void read_until(struct raw *x, const char *name) {
    while (!raw_count(x, name)) {
        (void)far_read(&x->fars[0]);
        raw_quiet(x);
    }
}

/* On a busy machine the worker may not have begun: then it is cancelled as if it waited. A cancel after
 * that would be a race: the worker has its request for a moment longer than the completion takes. */
static void cancelled_in_worker(struct raw *x, bool local) {
    half_closed(x, local);
    if (x->sim && !x->calm)
        CHECK_OK(kr_sim_fault_set(x->sim, KR_SIM_LATE_WORKER, 512));
    raw_any(x, "send");
    ask_send(x, "send", 1, MUCH);
    raw_quiet(x);
    raw_cancel(x, "cancel", "send");
    raw_await(x, "cancel", 1);
    read_until(x, "send");
}

/* The last of it leaves room, as on the real kernel. */
static void done_in_worker(struct raw *x, bool local) {
    half_closed(x, local);
    ask_send(x, "all", 1, MUCH - 1000);
    raw_quiet(x);
    read_until(x, "all");
    ask_send(x, "none", 1, 100)->msg_flags |= MSG_DONTWAIT;
    raw_await(x, "none", 1);
}

static void tcp_cancelled(struct raw *x) {
    cancelled_in_worker(x, false);
}

static void unix_cancelled(struct raw *x) {
    cancelled_in_worker(x, true);
}

static void tcp_done(struct raw *x) {
    done_in_worker(x, false);
}

static void unix_done(struct raw *x) {
    done_in_worker(x, true);
}

static void reset_in_worker(struct raw *x) {
    half_closed(x, false);
    ask_send(x, "send", 1, 100);
    raw_quiet(x);
    far_end(&x->fars[0], true);
    raw_await(x, "send", 1);
}

/* Between its tries a request is in no table. */
static void cancelled_between(struct raw *x) {
    half_closed(x, true);
    ask_send(x, "send", 1, 100);
    raw_submit(x);
    raw_cancel(x, "cancel", "send");
    raw_await(x, "cancel", 1);
    raw_quiet(x);
    raw_cancel(x, "again", "send");
    raw_await(x, "again", 1);
    read_until(x, "send");
}

/* A message looks at O_NONBLOCK, as sendmsg(2) does, when a worker has it; a plain send does not. */
static void nonblock(struct raw *x) {
    x->nonblock = true;
    half_closed(x, true);
    ask_sendmsg(x, "message", 1, 100);
    ask_send(x, "send", 1, 100);
    raw_quiet(x);
    read_until(x, "send");
    read_until(x, "message");
}

static void nonblock_waits(struct raw *x) {
    x->nonblock = true;
    raw_bufs(x, 2);
    raw_pair(x, 1, &x->fars[0]);
    ask_recv(x, "recv", 1);
    raw_quiet(x);
    CHECK_EQ(raw_count(x, "recv"), 0);
    far_send(&x->fars[0], 20);
    raw_await(x, "recv", 1);
}

static const struct raw_script halves[] = {
    {.name = "cancelled in a worker", .run = tcp_cancelled, .loose = true},
    {.name = "cancelled in a worker, Unix", .run = unix_cancelled, .loose = true},
    {.name = "done in a worker", .run = tcp_done, .loose = true},
    {.name = "done in a worker, Unix", .run = unix_done, .loose = true},
    {.name = "reset in a worker", .run = reset_in_worker, .loose = true},
    {.name = "cancelled between tries", .run = cancelled_between, .loose = true},
    {.name = "not blocking", .run = nonblock, .loose = true},
    {.name = "not blocking, but waiting", .run = nonblock_waits},
};

/* The kernel's: a send that meets a full socket whose far end has ended its sending goes to a
 * worker, where nothing is seen of it. */
TEST_EACH(half_closed_send_is_answered_alike, .deadline_s = 90) {
    raw_compare(halves, COUNT(halves));
}

/* ---- urgent bytes ---- */

static void urgent(struct raw *x, bool local) {
    raw_bufs(x, 8);
    if (local)
        raw_pair(x, 1, &x->fars[0]);
    else
        raw_join(x, 1, &x->fars[0]);
    far_send(&x->fars[0], 3);
    CHECK_EQ(far_urge(&x->fars[0]), 1);
    far_send(&x->fars[0], 5);
    raw_quiet(x);
    raw_ask(x, "poll", IORING_OP_POLL_ADD, 1)->poll32_events = POLLIN | POLLPRI;
    raw_await(x, "poll", 1);
    ask_recv(x, "before", 1);
    raw_await(x, "before", 1);
    ask_recv(x, "behind", 1);
    raw_await(x, "behind", 1);
    raw_ask(x, "poll again", IORING_OP_POLL_ADD, 1)->poll32_events = POLLPRI;
    CHECK_EQ(far_urge(&x->fars[0]), 1);
    raw_quiet(x);
    ask_recv(x, "alone", 1)->msg_flags = MSG_DONTWAIT;
    raw_await(x, "alone", 1);
    far_send(&x->fars[0], 7);
    ask_recv(x, "after", 1);
    raw_await(x, "after", 1);
    far_shutdown(&x->fars[0]);
    raw_await(x, "poll again", 1);
}

static void tcp_urgent(struct raw *x) {
    urgent(x, false);
}

static void unix_urgent(struct raw *x) {
    urgent(x, true);
}

/* One at a time: of several at once only the last one is urgent. */
static void tire(struct raw *x) {
    for (unsigned i = 0; i < TIRING; i++) {
        CHECK_EQ(far_urge(&x->fars[0]), 1);
        do
            raw_submit(x);
        while (!far_is_read(&x->fars[0]));
    }
}

static void multishot_urgent(struct raw *x) {
    raw_bufs(x, 8);
    raw_pair(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    tire(x);
    far_send(&x->fars[0], 20);
    raw_await(x, "recv", 1);
}

/* Its worker has the one buffer. */
static void tired(struct raw *x) {
    raw_bufs(x, 1);
    raw_pair(x, 1, &x->fars[0]);
    ask_recv(x, "recv", 1);
    tire(x);
    raw_quiet(x);
    ask_recv(x, "other", 1)->msg_flags = MSG_DONTWAIT;
    raw_await(x, "other", 1);
}

static void tired_cancelled(struct raw *x) {
    tired(x);
    raw_cancel(x, "cancel", "recv");
    raw_await(x, "cancel", 1);
    raw_await(x, "recv", 1);
}

static void tired_served(struct raw *x) {
    tired(x);
    far_send(&x->fars[0], 20);
    raw_await(x, "recv", 1);
}

static void tired_ended(struct raw *x) {
    tired(x);
    far_shutdown(&x->fars[0]);
    raw_await(x, "recv", 1);
}

static const struct raw_script urgents[] = {
    {.name = "urgent", .run = tcp_urgent, .loose = true},
    {.name = "urgent, Unix", .run = unix_urgent, .loose = true},
    {.name = "urgent, multishot", .run = multishot_urgent},
    {.name = "tired, cancelled", .run = tired_cancelled, .loose = true},
    {.name = "tired, served", .run = tired_served, .loose = true},
    {.name = "tired, ended", .run = tired_ended, .loose = true},
};

/* The kernel's: a receive ends before an urgent byte and skips it; one that is woken in vain too
 * often goes to a worker with a buffer, unless it is a multishot one. */
TEST_EACH(urgent_bytes_are_answered_alike, .deadline_s = 90) {
    raw_compare(urgents, COUNT(urgents));
}

/* ---- what only the simulated world can be asked ---- */

static void bounded(struct raw *x) {
    unsigned most[2] = {1, 1};
    CHECK_OK(kr__ring_register(&x->ring, IORING_REGISTER_IOWQ_MAX_WORKERS, most, 2));
    half_closed(x, true);
    ask_send(x, "first", 1, 100);
    raw_quiet(x);
    CHECK_EQ(x->sim->working, 1);
    ask_send(x, "second", 1, 100);
    raw_quiet(x);
    CHECK_EQ(x->sim->working, 1);
    CHECK_EQ(x->sim->punts, 2);
    raw_cancel(x, "cancel", "second");
    raw_await(x, "second", 1);
    CHECK_EQ(raw_res(x, "second"), -ECANCELED);
    ask_send(x, "third", 1, 100);
    raw_quiet(x);
    read_until(x, "first");
    read_until(x, "third");
    CHECK_EQ(raw_res(x, "third"), 100);
    CHECK_EQ(x->sim->working, 0);
}

/* Ours: there are no more workers than were asked for, and who waits for one can be cancelled. */
TEST(workers_are_bounded) {
    raw_simulate(6, 18, bounded);
}

static void noted(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_fill(x, 1);
    ask_send(x, "send", 1, 100);
    raw_quiet(x);
    CHECK_EQ(x->sim->punts, 0);
    kr__sim_stream_note(kr__sim_slots_file(&kr__sim_ring_of(&x->ring.uring)->slots, 1));
    raw_quiet(x);
    CHECK_EQ(x->sim->punts, 1);
    read_until(x, "send");
}

/* Ours: an error queue that nobody reads tires a send, too. */
TEST(error_queue_tires_a_send) {
    raw_simulate(6, 18, noted);
}

static void once_is_enough(struct raw *x) {
    half_closed(x, true);
    ask_send(x, "send", 1, 100);
    for (unsigned i = 0; i < 3; i++)
        raw_submit(x);
    CHECK_EQ(x->sim->punts, 1);
    read_until(x, "send");
}

/* The kernel's: before 6.3 a request that was woken once in vain goes to a worker. */
TEST(linux_6_1_tires_at_once) {
    raw_simulate(6, 1, once_is_enough);
}
