/* What does not wait in a request: MSG_DONTWAIT, and POLL_ADD on sockets, on both kernels. */
#include "harness/tap.h"
#include "sim/raw.h"

#include <errno.h>
#include <poll.h>

#define COUNT(table_) (sizeof(table_) / sizeof *(table_))
#define PIECE 1000

static char own[4096];

/* ---- MSG_DONTWAIT ---- */

static struct io_uring_sqe *recv_now(struct raw *x, const char *name, int slot, bool selects) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_RECV, slot);
    sqe->msg_flags = MSG_DONTWAIT;
    if (selects) {
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = RAW_GROUP;
    } else {
        sqe->addr = (uint64_t)(uintptr_t)own;
        sqe->len = 64;
    }
    return sqe;
}

static void recvmsg_now(struct raw *x, const char *name, int slot) {
    static struct msghdr msg;
    struct io_uring_sqe *sqe = recv_now(x, name, slot, true);
    sqe->opcode = IORING_OP_RECVMSG;
    msg = (struct msghdr){0};
    sqe->addr = (uint64_t)(uintptr_t)&msg;
    sqe->len = 1;
}

static void send_now(struct raw *x, const char *name, unsigned opcode, int slot) {
    static struct iovec piece;
    static struct msghdr msg;
    piece = (struct iovec){own, PIECE};
    msg = (struct msghdr){.msg_iov = &piece, .msg_iovlen = 1};
    bool one = opcode == IORING_OP_SEND || opcode == IORING_OP_SEND_ZC;
    struct io_uring_sqe *sqe = raw_ask(x, name, opcode, slot);
    sqe->addr = (uint64_t)(uintptr_t)(one ? (void *)own : &msg);
    sqe->len = one ? PIECE : 1;
    sqe->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
}

/* There is one buffer, which is there for the last one that asks. */
static void receives(struct raw *x) {
    raw_bufs(x, 1);
    recv_now(x, "own", 1, false);
    recv_now(x, "selected", 1, true);
    recvmsg_now(x, "message", 1);
    recv_now(x, "multishot", 1, true)->ioprio = IORING_RECV_MULTISHOT;
    raw_await(x, "multishot", 1);
    far_send(&x->fars[0], 20);
    recv_now(x, "has come", 1, true);
    raw_await(x, "has come", 1);
    far_shutdown(&x->fars[0]);
    raw_quiet(x);
    recv_now(x, "no buffer", 1, true);
    recv_now(x, "end", 1, false);
    raw_await(x, "end", 1);
}

static void receives_now(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    receives(x);
}

static void unix_receives_now(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    receives(x);
}

/* It is refused at once, and what the far end takes makes room again. */
static void sends(struct raw *x) {
    raw_fill(x, 1);
    send_now(x, "full", IORING_OP_SEND, 1);
    raw_await(x, "full", 1);
    send_now(x, "full, message", IORING_OP_SENDMSG, 1);
    raw_await(x, "full, message", 1);
    far_read(&x->fars[0]);
    raw_quiet(x);
    far_read(&x->fars[0]);
    send_now(x, "room", IORING_OP_SEND, 1);
    raw_await(x, "room", 1);
    far_end(&x->fars[0], true);
    raw_quiet(x);
    send_now(x, "nobody", IORING_OP_SEND, 1);
    raw_await(x, "nobody", 1);
}

static void sends_now(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    sends(x);
}

static void unix_sends_now(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    sends(x);
}

static void zc_now(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_fill(x, 1);
    send_now(x, "full", IORING_OP_SEND_ZC, 1);
    raw_quiet(x);
    far_read(&x->fars[0]);
    raw_await(x, "full", 2);
    send_now(x, "message", IORING_OP_SENDMSG_ZC, 1);
    raw_quiet(x);
    far_read(&x->fars[0]);
    raw_await(x, "message", 2);
}

static const struct raw_script nows[] = {
    {.name = "receives now", .run = receives_now},
    {.name = "Unix receives now", .run = unix_receives_now},
    {.name = "sends now", .run = sends_now, .loose = true},
    {.name = "Unix sends now", .run = unix_sends_now, .loose = true},
    {.name = "zero copy now", .run = zc_now, .loose = true},
};

/* The kernel's: what may not wait is refused at once, and takes no buffer. */
TEST_EACH(what_does_not_wait_is_answered_alike, .deadline_s = 60) {
    raw_compare(nows, COUNT(nows));
}

/* ---- POLL_ADD ---- */

static struct io_uring_sqe *ask_poll(struct raw *x, const char *name, int slot, unsigned events) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_POLL_ADD, slot);
    sqe->poll32_events = events;
    return sqe;
}

static void ask_polls(struct raw *x, const char *name, int slot, unsigned events) {
    ask_poll(x, name, slot, events)->len = IORING_POLL_ADD_MULTI;
}

static void once(struct raw *x) {
    ask_poll(x, "room", 1, POLLOUT);
    ask_poll(x, "either", 1, POLLIN | POLLOUT);
    ask_poll(x, "data", 1, POLLIN);
    ask_poll(x, "end", 1, POLLRDHUP);
    raw_quiet(x);
    far_send(&x->fars[0], 20);
    raw_await(x, "data", 1);
    ask_poll(x, "is there", 1, POLLIN | POLLRDNORM);
    raw_await(x, "is there", 1);
    far_shutdown(&x->fars[0]);
    raw_await(x, "end", 1);
    ask_poll(x, "room after the end", 1, POLLOUT);
    ask_poll(x, "all", 1, POLLIN | POLLOUT | POLLRDHUP | POLLPRI);
    ask_poll(x, "cancelled", 1, POLLPRI); /* the end of the stream is told anyway */
    raw_await(x, "cancelled", 1);
}

static void polls_once(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    once(x);
    far_end(&x->fars[0], true);
    raw_quiet(x);
    ask_poll(x, "reset", 1, POLLIN | POLLOUT);
    raw_await(x, "reset", 1);
}

static void unix_polls_once(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    once(x);
    far_end(&x->fars[0], false);
    raw_quiet(x);
    ask_poll(x, "closed", 1, POLLIN | POLLOUT);
    raw_await(x, "closed", 1);
}

/* What stands is told when it is armed, and then each time that something comes, read or not. */
static void many(struct raw *x) {
    ask_polls(x, "in", 1, POLLIN | POLLRDHUP);
    ask_polls(x, "out", 1, POLLOUT);
    raw_await(x, "out", 1);
    far_send(&x->fars[0], 20);
    raw_await(x, "in", 1);
    far_send(&x->fars[0], 20);
    raw_await(x, "in", 2);
    raw_quiet(x);
    ask_polls(x, "armed later", 1, POLLIN);
    raw_await(x, "armed later", 1);
    far_shutdown(&x->fars[0]);
    raw_await(x, "in", 3);
    raw_quiet(x);
    raw_cancel(x, "cancel", "in");
    raw_cancel(x, "cancel", "armed later");
    raw_await(x, "in", 4);
    raw_await(x, "armed later", 3);
    far_end(&x->fars[0], false);
    raw_quiet(x);
}

static void polls_many(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    many(x);
}

static void unix_polls_many(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    many(x);
}

/* The end of the far end's sending is told once, though it stands; then room is, when it is there.
 * Reading often tells of room more than once. */
static void polls_room(struct raw *x) {
    raw_fill(x, 1);
    ask_polls(x, "out", 1, POLLOUT);
    raw_quiet(x);
    far_shutdown(&x->fars[0]);
    raw_quiet(x);
    while (!(raw_res(x, "out") & POLLOUT)) {
        far_read(&x->fars[0]);
        raw_quiet(x);
    }
    send_now(x, "send", IORING_OP_SEND, 1);
    raw_await(x, "send", 1);
    raw_cancel(x, "cancel", "out");
    raw_await(x, "cancel", 1);
    raw_quiet(x);
    CHECK_EQ(raw_res(x, "out"), -ECANCELED);
}

static void polls_for_room(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    polls_room(x);
}

static void unix_polls_for_room(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    polls_room(x);
}

static void poll_forms(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_socket(x, 2, AF_INET);
    raw_socket(x, 3, AF_UNIX);
    raw_install(x, 4, raw_file(x));
    raw_wake(x, 5);
    ask_poll(x, "not connected", 2, POLLIN | POLLOUT);
    ask_poll(x, "not connected, Unix", 3, POLLIN | POLLOUT);
    ask_poll(x, "file", 4, POLLIN | POLLOUT);
    ask_polls(x, "file, many", 4, POLLIN);
    ask_poll(x, "file, never", 4, POLLPRI);
    ask_poll(x, "buffer", 1, POLLOUT)->buf_index = 1;
    ask_poll(x, "offset", 1, POLLOUT)->off = 1;
    ask_poll(x, "address", 1, POLLOUT)->addr = 1;
    ask_poll(x, "level", 1, POLLOUT)->len = 1u << 3; /* IORING_POLL_ADD_LEVEL */
    ask_poll(x, "no file", 6, POLLOUT);
    ask_poll(x, "waits", 1, POLLIN);
    ask_polls(x, "waits, many", 1, POLLIN);
    recv_now(x, "no poll", 1, false)->msg_flags = 0;
    raw_quiet(x);
}

static void ask_remove(struct raw *x, const char *name, const char *target) {
    raw_cancel(x, name, target);
    x->ring.uring.sq.sqes[(x->ring.uring.sq.sqe_tail - 1) & x->ring.uring.sq.ring_mask].opcode =
        IORING_OP_POLL_REMOVE;
}

static void removals(struct raw *x) {
    poll_forms(x);
    ask_remove(x, "remove", "waits");
    ask_remove(x, "remove many", "waits, many");
    ask_remove(x, "remove none", "file");
    ask_remove(x, "remove no poll", "no poll");
    raw_await(x, "waits", 1);
    raw_await(x, "waits, many", 1);
    raw_quiet(x);
}

static const struct raw_script polls[] = {
    {.name = "polls once", .run = polls_once},
    {.name = "Unix polls once", .run = unix_polls_once},
    {.name = "polls many times", .run = polls_many},
    {.name = "Unix polls many times", .run = unix_polls_many},
    {.name = "polls for room", .run = polls_for_room, .loose = true},
    {.name = "Unix polls for room", .run = unix_polls_for_room, .loose = true},
    {.name = "poll forms", .run = poll_forms},
    {.name = "poll removals", .run = removals},
};

/* The kernel's: what a poll tells of a socket, and how often. */
TEST_EACH(poll_is_answered_alike, .deadline_s = 60) {
    raw_compare(polls, COUNT(polls));
}
