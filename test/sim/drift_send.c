/* SEND, SENDMSG and their zero-copy kin on both kernels. */
#include "harness/tap.h"
#include "sim/raw.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
#define COUNT(table_) (sizeof(table_) / sizeof *(table_))
#define MUCH (2 << 20) /* more than the far end lets come */

static char much[MUCH];

static struct io_uring_sqe *ask(struct raw *x, const char *name, unsigned opcode, int slot,
                                size_t size) {
    struct io_uring_sqe *sqe = raw_ask(x, name, opcode, slot);
    sqe->addr = (uint64_t)(uintptr_t)much;
    sqe->len = (unsigned)size;
    sqe->msg_flags = MSG_NOSIGNAL;
    return sqe;
}

static struct io_uring_sqe *ask_msg(struct raw *x, const char *name, unsigned opcode, int slot,
                                    size_t count) {
    static struct iovec pieces[1025];
    static struct msghdr msg;
    for (size_t i = 0; i < count; i++)
        pieces[i] = (struct iovec){much + 10 * i, 10};
    msg = (struct msghdr){.msg_iov = pieces, .msg_iovlen = count};
    struct io_uring_sqe *sqe = raw_ask(x, name, opcode, slot);
    sqe->addr = (uint64_t)(uintptr_t)&msg;
    sqe->len = 1;
    sqe->msg_flags = MSG_NOSIGNAL;
    return sqe;
}

/* ---- sends ---- */

static void short_send(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_any(x, "send");
    ask(x, "send", IORING_OP_SEND, 1, MUCH);
    raw_await(x, "send", 1);
    CHECK_LT(raw_res(x, "send"), MUCH);
}

/* Whoever waits for all goes on by itself; what was taken is told when it is cancelled. */
static void send_all(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_any(x, "send");
    ask(x, "send", IORING_OP_SEND, 1, MUCH)->msg_flags |= MSG_WAITALL;
    raw_quiet(x);
    CHECK_GT(far_read_once(&x->fars[0]), 0);
    raw_quiet(x);
    CHECK_EQ(raw_count(x, "send"), 0);
    raw_cancel(x, "cancel", "send");
    raw_await(x, "send", 1);
    raw_await(x, "cancel", 1);
    CHECK_LT(raw_res(x, "send"), MUCH);
}

static void send_all_at_last(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    ask(x, "send", IORING_OP_SEND, 1, MUCH)->msg_flags |= MSG_WAITALL;
    raw_quiet(x);
    for (int64_t got = 0; got < MUCH;) {
        int64_t n = far_read(&x->fars[0]);
        got += n > 0 ? n : 0;
        raw_quiet(x);
    }
    raw_await(x, "send", 1);
    CHECK_EQ(raw_res(x, "send"), MUCH);
}

/* A real socket may have room again for a little: the far end's kernel probes. */
static void send_waiting(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_fill(x, 1);
    ask(x, "waits", IORING_OP_SEND, 1, 100);
    raw_quiet(x);
    raw_cancel(x, "cancel", "waits");
    raw_await(x, "waits", 1);
    raw_await(x, "cancel", 1);
    ask(x, "is reset", IORING_OP_SEND, 1, 100);
    raw_quiet(x);
    far_end(&x->fars[0], true);
    raw_await(x, "is reset", 1);
    ask(x, "after", IORING_OP_SEND, 1, 100);
    raw_await(x, "after", 1);
}

static void send_forms(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    ask(x, "at once", IORING_OP_SEND, 1, 100)->msg_flags |= MSG_DONTWAIT;
    ask(x, "nothing", IORING_OP_SEND, 1, 0);
    ask(x, "poll first", IORING_OP_SEND, 1, 100)->ioprio = IORING_RECVSEND_POLL_FIRST;
    raw_await(x, "poll first", 1);
    ask(x, "flags", IORING_OP_SEND, 1, 100)->ioprio = 1u << 14;
    ask_msg(x, "pieces", IORING_OP_SENDMSG, 1, 3);
    raw_submit(x);
    ask_msg(x, "many pieces", IORING_OP_SENDMSG, 1, 1024);
    raw_submit(x);
    ask_msg(x, "too many pieces", IORING_OP_SENDMSG, 1, 1025);
    raw_submit(x);
    ask_msg(x, "addr2", IORING_OP_SENDMSG, 1, 1)->addr2 = 8;
    raw_wake(x, 2);
    ask(x, "no socket", IORING_OP_SEND, 2, 100);
    ask(x, "no file", IORING_OP_SEND, 3, 100);
    raw_quiet(x);
    raw_note(x, "far reads", far_read(&x->fars[0]));
}

static const struct raw_script sends[] = {
    {.name = "short send", .run = short_send},
    {.name = "send all", .run = send_all},
    {.name = "send all at last", .run = send_all_at_last},
    {.name = "send waiting", .run = send_waiting, .loose = true},
    {.name = "send forms", .run = send_forms},
};

/* The kernel's: what a send takes, when, and what it tells. */
TEST_EACH(send_is_answered_alike, .deadline_s = 60) {
    raw_compare(sends, COUNT(sends));
}

/* ---- zero copy ---- */

static void zc(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    ask(x, "send", IORING_OP_SEND_ZC, 1, 20000);
    raw_await(x, "send", 2);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    ask(x, "report", IORING_OP_SEND_ZC, 1, 20000)->ioprio = KR__SEND_ZC_REPORT_USAGE;
    raw_await(x, "report", 2);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    ask(x, "nothing", IORING_OP_SEND_ZC, 1, 0);
    ask_msg(x, "pieces", IORING_OP_SENDMSG_ZC, 1, 300);
    raw_await(x, "pieces", 2);
    raw_await(x, "nothing", 2);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    ask(x, "poll first", IORING_OP_SEND_ZC, 1, 100)->ioprio = IORING_RECVSEND_POLL_FIRST;
    raw_await(x, "poll first", 2);
}

static void zc_short(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_any(x, "send");
    ask(x, "send", IORING_OP_SEND_ZC, 1, MUCH);
    raw_await(x, "send", 1);
    CHECK_LT(raw_res(x, "send"), MUCH);
    while (raw_count(x, "send") < 2) {
        far_read(&x->fars[0]);
        raw_quiet(x);
    }
}

static void zc_waiting(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_fill(x, 1);
    ask(x, "waits", IORING_OP_SEND_ZC, 1, 100);
    raw_quiet(x);
    raw_cancel(x, "cancel", "waits");
    raw_await(x, "cancel", 1);
    far_read(&x->fars[0]); /* or the notification of what had gone would not come */
    raw_await(x, "waits", 2);
    raw_cancel(x, "too late", "waits");
    raw_await(x, "too late", 1);
    raw_fill(x, 1);
    ask(x, "is reset", IORING_OP_SEND_ZC, 1, 100);
    raw_quiet(x);
    far_end(&x->fars[0], true);
    raw_await(x, "is reset", 2);
    ask(x, "after", IORING_OP_SEND_ZC, 1, 100)->ioprio = KR__SEND_ZC_REPORT_USAGE;
    raw_await(x, "after", 2);
}

/* The notification of what the far end has not read; then the slot is closed, or the far end
 * resets. */
static void zc_outlives(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_any(x, "all");
    ask(x, "all", IORING_OP_SEND_ZC, 1, MUCH)->msg_flags |= MSG_WAITALL;
    raw_quiet(x);
    far_end(&x->fars[0], true);
    raw_await(x, "all", 2);
    raw_join(x, 2, &x->fars[0]);
    ask(x, "send", IORING_OP_SEND_ZC, 2, 3000);
    raw_close(x, "close", 2);
    raw_await(x, "send", 2);
    raw_await(x, "close", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
}

static void zc_forms(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    ask(x, "flags", IORING_OP_SEND_ZC, 1, 100)->ioprio = 1u << 14;
    ask(x, "no completion", IORING_OP_SEND_ZC, 1, 100)->flags |= IOSQE_CQE_SKIP_SUCCESS;
    ask(x, "addr3", IORING_OP_SEND_ZC, 1, 100)->addr3 = 8;
    ask_msg(x, "addr2", IORING_OP_SENDMSG_ZC, 1, 1)->addr2 = 8;
    raw_submit(x);
    ask_msg(x, "too many pieces", IORING_OP_SENDMSG_ZC, 1, 1025);
    raw_submit(x);
    raw_wake(x, 2);
    ask(x, "no socket", IORING_OP_SEND_ZC, 2, 100);
    ask(x, "no file", IORING_OP_SEND_ZC, 3, 100);
    raw_socket(x, 4, AF_INET);
    ask(x, "not joined", IORING_OP_SEND_ZC, 4, 100);
    raw_quiet(x);
}

static const struct raw_script zcs[] = {
    {.name = "zero copy", .run = zc},
    {.name = "zero copy, short", .run = zc_short},
    {.name = "zero copy, waiting", .run = zc_waiting, .loose = true},
    {.name = "zero copy, outlives", .run = zc_outlives},
    {.name = "zero copy, forms", .run = zc_forms},
};

/* The kernel's: a zero-copy send completes twice, but for a few. */
TEST_EACH(zero_copy_send_is_answered_alike, .deadline_s = 60) {
    raw_compare(zcs, COUNT(zcs));
}

/* ---- what only the simulated world can be asked ---- */

static void held(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    CHECK_OK(kr_sim_fault_set(x->sim, KR_SIM_ZC_HELD, 1024));
    ask(x, "read", IORING_OP_SEND_ZC, 1, 100)->ioprio = KR__SEND_ZC_REPORT_USAGE;
    ask(x, "closed", IORING_OP_SEND_ZC, 1, 100);
    raw_close(x, "close", 1);
    raw_await(x, "close", 1);
    CHECK_OK(kr_sim_advance(x->sim, 100 * SECOND));
    raw_submit(x);
    CHECK_EQ(raw_count(x, "read"), 1);
    char bytes[100];
    CHECK_EQ(kr_sim_recv(x->sim, x->fars[0].peer, bytes, 100), 100);
    raw_await(x, "read", 2);
    CHECK_EQ(raw_res(x, "read"), 0); /* not copied */
    CHECK_OK(kr_sim_advance(x->sim, 100 * SECOND));
    raw_submit(x);
    CHECK_EQ(raw_count(x, "closed"), 1);
    far_end(&x->fars[0], true);
    raw_await(x, "closed", 2);
}

/* The kernel's: the bytes are kept until they were read or cannot be any more, whatever became of
 * the slot. */
TEST(zero_copy_keeps_bytes_until_read_or_reset) {
    raw_simulate(6, 18, held);
}

static void late(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    CHECK_OK(kr_sim_fault_set(x->sim, KR_SIM_ZC_LATE, 1024));
    ask(x, "send", IORING_OP_SEND_ZC, 1, 100);
    raw_await(x, "send", 1);
    far_read(&x->fars[0]);
    far_end(&x->fars[0], false);
    raw_close(x, "close", 1);
    raw_await(x, "send", 2);
    CHECK_EQ(kr_sim_fault_hits(x->sim, KR_SIM_ZC_LATE), 1);
}

static void refusals(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    CHECK_OK(kr_sim_fault_set(x->sim, KR_SIM_ZC_NO_NOTIF, 1024));
    ask(x, "no notif", IORING_OP_SEND_ZC, 1, 100);
    raw_quiet(x);
    CHECK_EQ(raw_count(x, "no notif"), 1);
    CHECK_EQ(raw_res(x, "no notif"), -ENOMEM);
    CHECK_OK(kr_sim_fault_set(x->sim, KR_SIM_ZC_NO_NOTIF, 0));
    CHECK_OK(kr_sim_fault_set(x->sim, KR_SIM_ZC_NO_MEMORY, 1024));
    ask(x, "no memory", IORING_OP_SEND_ZC, 1, 100);
    raw_await(x, "no memory", 1);
    CHECK_EQ(raw_res(x, "no memory"), -ENOMEM);
    raw_await(x, "no memory", 2);
    CHECK_EQ(far_read(&x->fars[0]), -EAGAIN);
}

/* Ours: each fault of zero copy happens when it is asked for. */
TEST(faults_of_zero_copy_happen) {
    raw_simulate(6, 18, late);
    raw_simulate(6, 18, refusals);
}

static void no_report(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    ask(x, "report", IORING_OP_SEND_ZC, 1, 100)->ioprio = KR__SEND_ZC_REPORT_USAGE;
    raw_quiet(x);
    CHECK_EQ(raw_count(x, "report"), 1);
    CHECK_EQ(raw_res(x, "report"), -EINVAL);
}

/* The kernel's: 6.1 knows no report of usage, and refuses it with one completion. */
TEST(linux_6_1_has_no_zero_copy_report) {
    raw_simulate(6, 1, no_report);
}

static void meddle(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    CHECK_OK(kr_sim_fault_set(x->sim, KR_SIM_ZC_HELD, 1024));
    ask(x, "send", IORING_OP_SEND_ZC, 1, 100);
    raw_await(x, "send", 1);
    much[50]++;
    far_read(&x->fars[0]);
    raw_await(x, "send", 2);
}

/* Ours: whoever takes the result for the leave to write is found out. */
TEST(bytes_changed_before_the_notification_end_the_process) {
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        CHECK_SYS(dup2(STDOUT_FILENO, STDERR_FILENO));
        raw_simulate(6, 18, meddle);
        _exit(0);
    }
    int status;
    CHECK_SYS(waitpid(child, &status, 0));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
