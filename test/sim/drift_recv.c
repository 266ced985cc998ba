/* RECV of all kinds on both kernels. */
#include "harness/tap.h"
#include "sim/raw.h"

#include <errno.h>

#define COUNT(table_) (sizeof(table_) / sizeof *(table_))

static char own[4096];

/* Into a buffer of the ring. */
static struct io_uring_sqe *select_one(struct raw *x, const char *name, int slot) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_RECV, slot);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = RAW_GROUP;
    return sqe;
}

/* Into memory of the program's. */
static struct io_uring_sqe *recv_own(struct raw *x, const char *name, int slot, unsigned size) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_RECV, slot);
    sqe->addr = (uint64_t)(uintptr_t)own;
    sqe->len = size;
    return sqe;
}

static void once_selected(struct raw *x) {
    raw_bufs(x, 4);
    raw_join(x, 1, &x->fars[0]);
    select_one(x, "waits", 1);
    raw_quiet(x);
    far_send(&x->fars[0], 100);
    raw_await(x, "waits", 1);
    select_one(x, "rest", 1);
    raw_await(x, "rest", 1);
    far_send(&x->fars[0], 20);
    select_one(x, "length", 1)->len = 8;
    raw_await(x, "length", 1);
    select_one(x, "last", 1);
    raw_await(x, "last", 1);
    select_one(x, "no buffer", 1);
    raw_await(x, "no buffer", 1);
    select_one(x, "no buffer, poll first", 1)->ioprio = IORING_RECVSEND_POLL_FIRST;
    raw_quiet(x);
    CHECK(raw_count(x, "no buffer, poll first") == 0 || (x->sim && !x->calm));
    far_send(&x->fars[0], 20);
    raw_await(x, "no buffer, poll first", 1);
    raw_bufs(x, 2);
    far_shutdown(&x->fars[0]);
    select_one(x, "before the end", 1);
    raw_await(x, "before the end", 1);
    select_one(x, "end", 1);
    raw_await(x, "end", 1);
    raw_recv(x, "multishot", 1);
    raw_await(x, "multishot", 1);
}

static void once_own(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    recv_own(x, "waits", 1, 64);
    raw_quiet(x);
    far_send(&x->fars[0], 100);
    raw_await(x, "waits", 1);
    recv_own(x, "rest", 1, 64);
    raw_await(x, "rest", 1);
    recv_own(x, "at once", 1, 64)->msg_flags = MSG_DONTWAIT;
    raw_await(x, "at once", 1);
    recv_own(x, "cancelled", 1, 64);
    raw_quiet(x);
    raw_cancel(x, "cancel", "cancelled");
    raw_await(x, "cancelled", 1);
    far_send(&x->fars[0], 20);
    recv_own(x, "poll first", 1, 64)->ioprio = IORING_RECVSEND_POLL_FIRST;
    raw_await(x, "poll first", 1);
    recv_own(x, "is reset", 1, 64);
    raw_quiet(x);
    far_end(&x->fars[0], true);
    raw_await(x, "is reset", 1);
    recv_own(x, "after", 1, 64);
    raw_await(x, "after", 1);
}

/* Both come before the receive runs, at least under DEFER, where nothing runs but in enter. */
static void reset_with_bytes(struct raw *x) {
    raw_bufs(x, 4);
    raw_join(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    raw_quiet(x);
    far_send(&x->fars[0], 20);
    far_end(&x->fars[0], true);
    raw_quiet(x);
}

static void all(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    recv_own(x, "all", 1, 100)->msg_flags = MSG_WAITALL;
    far_send(&x->fars[0], 60);
    raw_quiet(x);
    CHECK_EQ(raw_count(x, "all"), 0);
    far_send(&x->fars[0], 60);
    raw_await(x, "all", 1);
    recv_own(x, "cancelled", 1, 100)->msg_flags = MSG_WAITALL;
    raw_quiet(x);
    raw_cancel(x, "cancel", "cancelled");
    raw_await(x, "cancelled", 1);
    far_send(&x->fars[0], 60);
    recv_own(x, "cut short", 1, 100)->msg_flags = MSG_WAITALL;
    raw_quiet(x);
    far_shutdown(&x->fars[0]);
    raw_await(x, "cut short", 1);
    recv_own(x, "end", 1, 100)->msg_flags = MSG_WAITALL;
    raw_await(x, "end", 1);
}

static void all_reset(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    recv_own(x, "all", 1, 100)->msg_flags = MSG_WAITALL;
    far_send(&x->fars[0], 60);
    raw_quiet(x);
    far_end(&x->fars[0], true);
    raw_await(x, "all", 1);
    recv_own(x, "after", 1, 100);
    raw_await(x, "after", 1);
}

static void forms(struct raw *x) {
    raw_bufs(x, 4);
    raw_join(x, 1, &x->fars[0]);
    recv_own(x, "multishot, own", 1, 10)->ioprio = IORING_RECV_MULTISHOT;
    struct io_uring_sqe *sqe = select_one(x, "multishot, all", 1);
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->msg_flags = MSG_WAITALL;
    recv_own(x, "flags", 1, 10)->ioprio = 1u << 14;
    recv_own(x, "addr2", 1, 10)->addr2 = 8;
    raw_wake(x, 2);
    recv_own(x, "no socket", 2, 10);
    recv_own(x, "no file", 3, 10);
    raw_quiet(x);
}

static void pieces(struct raw *x) {
    raw_bufs(x, 8);
    raw_join(x, 1, &x->fars[0]);
    struct io_uring_sqe *sqe = select_one(x, "recv", 1);
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->len = 30;
    far_send(&x->fars[0], 90);
    raw_await(x, "recv", 1);
}

static const struct raw_script scripts[] = {
    {.name = "once, selected", .run = once_selected},
    {.name = "once, own", .run = once_own},
    {.name = "reset with bytes", .run = reset_with_bytes},
    {.name = "all", .run = all},
    {.name = "all, reset", .run = all_reset},
    {.name = "forms", .run = forms},
    {.name = "pieces", .run = pieces},
};

/* The kernel's: what a receive brings, when, and where to. */
TEST_EACH(recv_is_answered_alike, .deadline_s = 60) {
    raw_compare(scripts, COUNT(scripts));
}

static void old_pieces(struct raw *x) {
    pieces(x);
    CHECK_EQ(raw_res(x, "recv"), -EINVAL);
}

/* The kernel's: a multishot receive takes no length before 6.17. */
TEST(linux_6_16_bounds_no_multishot_receive) {
    raw_simulate(6, 16, old_pieces);
}

static void reset_kept(struct raw *x) {
    reset_with_bytes(x);
    CHECK_EQ(raw_count(x, "recv"), 1u);
    CHECK_EQ(raw_res(x, "recv"), 20);
    CHECK(raw_flags(x, "recv") & IORING_CQE_F_MORE);
}

static void reset_told(struct raw *x) {
    reset_with_bytes(x);
    CHECK_EQ(raw_count(x, "recv"), 2u);
    CHECK_EQ(raw_res(x, "recv"), -ECONNRESET);
}

/* The kernel's, as it was at first: a multishot receive keeps a reset to itself that came with
 * bytes (observed on 6.12.43, 6.16.3, 6.17.8 and 6.18.5). */
TEST(linux_6_12_keeps_a_reset_to_itself) {
    raw_simulate(6, 12, reset_kept);
    raw_simulate(6, 17, reset_kept);
    raw_simulate(6, 1, reset_told);
    raw_simulate(6, 18, reset_told);
}
