/* Descriptors that go with bytes, on both kernels: SENDMSG and RECVMSG with SCM_RIGHTS. */
#include "base/poison.h"
#include "harness/tap.h"
#include "sim/raw.h"

#include <errno.h>

#define COUNT(table_) (sizeof(table_) / sizeof *(table_))
#define FDS 4u

/* One message, and what the kernel writes into it. */
struct message {
    struct msghdr msg;
    struct iovec piece;
    char bytes[200];
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(300 * sizeof(int))];
};

static struct message messages[8];

/* ---- sending ---- */

static struct cmsghdr *rights(struct message *m, const int *fds, unsigned count) {
    *m = (struct message){.piece = {m->bytes, 10}};
    m->msg = (struct msghdr){.msg_iov = &m->piece, .msg_iovlen = 1, .msg_control = m->control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&m->msg);
    cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
    return cmsg;
}

static struct io_uring_sqe *ask_send(struct raw *x, const char *name, int slot, struct message *m) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_SENDMSG, slot);
    sqe->addr = (uint64_t)(uintptr_t)&m->msg;
    sqe->len = 1;
    sqe->msg_flags = MSG_NOSIGNAL;
    return sqe;
}

static void far_gets(struct raw *x, size_t size, unsigned room) {
    unsigned count;
    raw_note(x, "far gets", far_recv_fds(&x->fars[0], size, room, &count));
    raw_note(x, "far gets fds", count);
}

static void sends(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    int fd = raw_file(x), fds[FDS] = {fd, fd, fd, fd};
    rights(&messages[0], fds, 2);
    ask_send(x, "two", 1, &messages[0]);
    raw_await(x, "two", 1);
    far_gets(x, 100, 4);
    rights(&messages[0], fds, 3);
    ask_send(x, "three", 1, &messages[0]);
    raw_send(x, "plain", 1, "hello");
    raw_await(x, "three", 1);
    raw_await(x, "plain", 1);
    far_gets(x, 100, 1); /* the rest finds no room */
    far_gets(x, 100, 1);
    rights(&messages[0], fds, 1);
    ask_send(x, "for nobody", 1, &messages[0]);
    raw_await(x, "for nobody", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    rights(&messages[0], fds, 1);
    messages[0].piece.iov_len = 0;
    ask_send(x, "without bytes", 1, &messages[0]);
    raw_await(x, "without bytes", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    rights(&messages[0], fds, 1);
    ask_send(x, "one", 1, &messages[0]);
    raw_await(x, "one", 1);
    CHECK_OK(x->door->file.close(x->door, fd));
    far_gets(x, 4, 4);
    far_gets(x, 100, 4);
}

static void send_errors(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    raw_join(x, 2, &x->fars[1]);
    int fd = raw_file(x), fds[300];
    for (unsigned i = 0; i < 300; i++)
        fds[i] = fd;
    rights(&messages[0], fds, 254);
    ask_send(x, "too many", 1, &messages[0]);
    rights(&messages[1], fds, 2)->cmsg_len = CMSG_LEN(0) - 1;
    ask_send(x, "too short", 1, &messages[1]);
    rights(&messages[2], fds, 2)->cmsg_len = 1000;
    ask_send(x, "too long", 1, &messages[2]);
    rights(&messages[3], fds, 1)->cmsg_type = 77;
    ask_send(x, "type", 1, &messages[3]);
    rights(&messages[4], fds, 1)->cmsg_level = SOL_IP;
    ask_send(x, "level", 1, &messages[4]);
    rights(&messages[5], (const int[]){-1}, 1);
    ask_send(x, "no such", 1, &messages[5]);
    rights(&messages[6], (const int[]){fd, 999}, 2);
    ask_send(x, "nor this", 1, &messages[6]);
    rights(&messages[7], fds, 1);
    ask_send(x, "tcp", 2, &messages[7]);
    raw_quiet(x);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    raw_note(x, "far 1 reads", far_read(&x->fars[1]));
    far_end(&x->fars[0], false);
    rights(&messages[0], fds, 1);
    ask_send(x, "to nobody", 1, &messages[0]);
    raw_await(x, "to nobody", 1);
    CHECK_OK(x->door->file.close(x->door, fd));
}

/* ---- receiving ---- */

/* RECVMSG of `size` bytes with room for so many descriptors. */
static struct io_uring_sqe *ask_recv(struct raw *x, const char *name, int slot, struct message *m,
                                     size_t size, unsigned room) {
    *m = (struct message){.piece = {m->bytes, size}};
    m->msg = (struct msghdr){.msg_iov = &m->piece, .msg_iovlen = 1,
                             .msg_control = room ? m->control : NULL,
                             .msg_controllen = room ? CMSG_LEN(room * sizeof(int)) : 0};
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_RECVMSG, slot);
    sqe->addr = (uint64_t)(uintptr_t)&m->msg;
    sqe->len = 1;
    sqe->msg_flags = MSG_CMSG_CLOEXEC;
    return sqe;
}

static void close_all(struct raw *x, const char *control, size_t size) {
    struct cmsghdr cmsg;
    if (size < sizeof cmsg)
        return;
    memcpy(&cmsg, control, sizeof cmsg);
    CHECK_EQ(cmsg.cmsg_type, SCM_RIGHTS);
    for (size_t at = CMSG_LEN(0); at < cmsg.cmsg_len; at += sizeof(int)) {
        int fd;
        memcpy(&fd, control + at, sizeof fd);
        CHECK_OK(x->door->file.close(x->door, fd));
    }
}

/* Once it is there: what was written into it. */
static void come(struct raw *x, const char *name, struct message *m) {
    raw_await(x, name, 1);
    raw_note(x, name, (int64_t)m->msg.msg_controllen);
    raw_note(x, name, m->msg.msg_flags & MSG_CTRUNC ? 1 : 0);
    close_all(x, m->control, m->msg.msg_controllen);
}

static void receives(struct raw *x) {
    struct message *m = &messages[0];
    raw_pair(x, 1, &x->fars[0]);
    ask_recv(x, "waits", 1, m, 100, 2);
    raw_quiet(x);
    raw_note(x, "far sends", far_send_fds(&x->fars[0], 10, 2));
    come(x, "waits", m);
    far_send_fds(&x->fars[0], 10, 3);
    ask_recv(x, "little room", 1, m, 100, 2);
    come(x, "little room", m);
    far_send_fds(&x->fars[0], 10, 2);
    ask_recv(x, "no room", 1, m, 100, 0);
    come(x, "no room", m);
    far_send_fds(&x->fars[0], 10, 1);
    ask_recv(x, "first", 1, m, 4, 1);
    come(x, "first", m);
    ask_recv(x, "second", 1, m, 100, 1);
    come(x, "second", m);
    far_send(&x->fars[0], 5);
    far_send_fds(&x->fars[0], 5, 1);
    far_send(&x->fars[0], 5);
    ask_recv(x, "plain before", 1, m, 100, 1);
    come(x, "plain before", m);
    ask_recv(x, "plain behind", 1, m, 100, 1);
    come(x, "plain behind", m);
    far_send_fds(&x->fars[0], 5, 1);
    far_send_fds(&x->fars[0], 5, 1);
    raw_bufs(x, 4);
    raw_recv(x, "recv", 1);
    raw_await(x, "recv", 2);
    raw_cancel(x, "cancel", "recv");
    raw_await(x, "recv", 3);
    far_shutdown(&x->fars[0]);
    ask_recv(x, "end", 1, m, 100, 1);
    come(x, "end", m);
}

static void receive_forms(struct raw *x) {
    raw_bufs(x, 2);
    raw_pair(x, 1, &x->fars[0]);
    struct message *m = messages;
    ask_recv(x, "multishot", 1, &m[0], 100, 1)->ioprio = IORING_RECV_MULTISHOT;
    ask_recv(x, "flags", 1, &m[1], 100, 1)->ioprio = 1u << 14;
    ask_recv(x, "addr2", 1, &m[2], 100, 1)->addr2 = 8;
    raw_wake(x, 2);
    ask_recv(x, "no socket", 2, &m[3], 100, 1);
    ask_recv(x, "at once", 1, &m[4], 100, 1)->msg_flags |= MSG_DONTWAIT;
    ask_recv(x, "cancelled", 1, &m[5], 100, 1);
    raw_quiet(x);
    raw_cancel(x, "cancel", "cancelled");
    raw_await(x, "cancelled", 1);
    far_send_fds(&x->fars[0], 10, 1);
    struct io_uring_sqe *sqe = ask_recv(x, "selected", 1, &m[0], 100, 1);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    come(x, "selected", &m[0]);
    ask_recv(x, "two pieces", 1, &m[0], 100, 1);
    m[0].msg.msg_iovlen = 2;
    m[0].msg.msg_iov = (struct iovec[]){{m[0].bytes, 2}, {m[0].bytes + 10, 100}};
    far_send_fds(&x->fars[0], 10, 1);
    come(x, "two pieces", &m[0]);
    raw_join(x, 3, &x->fars[1]);
    far_send(&x->fars[1], 10);
    ask_recv(x, "tcp", 3, &m[0], 100, 1);
    come(x, "tcp", &m[0]);
    far_end(&x->fars[1], true);
    ask_recv(x, "tcp reset", 3, &m[0], 100, 1);
    raw_await(x, "tcp reset", 1);
}

/* ---- receiving once, into a buffer of the ring ---- */

static struct message *ask_selected(struct raw *x, const char *name, unsigned room) {
    struct message *m = &messages[0];
    struct io_uring_sqe *sqe = ask_recv(x, name, 1, m, 0, room);
    m->msg.msg_iovlen = 0;
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = RAW_GROUP;
    return m;
}

static void receives_selected(struct raw *x) {
    raw_bufs(x, 0);
    raw_pair(x, 1, &x->fars[0]);
    ask_selected(x, "no buffer", 2);
    raw_await(x, "no buffer", 1);
    far_send_fds(&x->fars[0], 10, 2);
    ask_selected(x, "no buffer, bytes", 2);
    raw_await(x, "no buffer, bytes", 1);
    raw_bufs(x, 8);
    come(x, "two", ask_selected(x, "two", 2));
    ask_selected(x, "cancelled", 2);
    raw_quiet(x);
    raw_cancel(x, "cancel", "cancelled");
    raw_await(x, "cancelled", 1);
    far_send_fds(&x->fars[0], 10, 4);
    come(x, "little room", ask_selected(x, "little room", 2));
    struct message *m = ask_selected(x, "waits", 3);
    raw_quiet(x);
    far_send_fds(&x->fars[0], 10, 3);
    come(x, "waits", m);
    far_send(&x->fars[0], 10);
    come(x, "plain", ask_selected(x, "plain", 3));
    far_send(&x->fars[0], 5);
    far_send_fds(&x->fars[0], 5, 1);
    far_send(&x->fars[0], 5);
    come(x, "before", ask_selected(x, "before", 3));
    come(x, "behind", ask_selected(x, "behind", 3));
    far_shutdown(&x->fars[0]);
    come(x, "end", ask_selected(x, "end", 3));
}

/* An urgent byte in front of descriptors, and between them. */
static void receives_behind_urgent(struct raw *x) {
    raw_bufs(x, 8);
    raw_pair(x, 1, &x->fars[0]);
    CHECK_EQ(far_urge(&x->fars[0]), 1);
    far_send_fds(&x->fars[0], 4, 1);
    far_send_fds(&x->fars[0], 1, 1);
    come(x, "first", ask_selected(x, "first", 3));
    CHECK_EQ(far_urge(&x->fars[0]), 1);
    far_send_fds(&x->fars[0], 5, 1);
    come(x, "second", ask_selected(x, "second", 3));
    come(x, "third", ask_selected(x, "third", 3));
    far_shutdown(&x->fars[0]);
    come(x, "end", ask_selected(x, "end", 3));
}

static void receives_selected_of_a_reset(struct raw *x) {
    raw_bufs(x, 2);
    raw_pair(x, 1, &x->fars[0]);
    raw_send(x, "send", 1, "unread");
    raw_await(x, "send", 1);
    far_send_fds(&x->fars[0], 5, 1);
    far_end(&x->fars[0], false);
    come(x, "bytes", ask_selected(x, "bytes", 1));
    ask_selected(x, "reset", 1);
    raw_await(x, "reset", 1);
    come(x, "end", ask_selected(x, "end", 1));
}

/* ---- receiving, multishot ---- */

static void ask_many(struct raw *x, const char *name, unsigned room, unsigned name_size) {
    struct message *m = &messages[0];
    struct io_uring_sqe *sqe = ask_recv(x, name, 1, m, 0, room);
    m->msg.msg_namelen = name_size;
    m->msg.msg_iovlen = 0;
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->buf_group = RAW_GROUP;
}

/* What the buffer says that came last. */
static void told(struct raw *x, const char *name) {
    unsigned id = raw_flags(x, name) >> IORING_CQE_BUFFER_SHIFT;
    struct io_uring_recvmsg_out out;
    kr__unpoison(x->bufs[id], sizeof x->bufs[id]);
    memcpy(&out, x->bufs[id], sizeof out);
    raw_note(x, "told", out.payloadlen);
    raw_note(x, "told", out.controllen);
    raw_note(x, "told", out.flags & MSG_CTRUNC ? 1 : 0);
    close_all(x, x->bufs[id] + sizeof out, out.controllen);
}

static void receives_many(struct raw *x) {
    raw_bufs(x, 8);
    raw_pair(x, 1, &x->fars[0]);
    ask_many(x, "many", 2, 0);
    raw_quiet(x);
    far_send_fds(&x->fars[0], 10, 2);
    raw_await(x, "many", 1);
    told(x, "many");
    far_send(&x->fars[0], 10);
    raw_await(x, "many", 2);
    told(x, "many");
    far_send_fds(&x->fars[0], 10, 3);
    raw_await(x, "many", 3);
    told(x, "many");
    far_send(&x->fars[0], 50);
    raw_await(x, "many", 5);
    told(x, "many");
    far_shutdown(&x->fars[0]);
    raw_await(x, "many", 6);
    told(x, "many");
    ask_many(x, "too small", 2, 40);
    raw_await(x, "too small", 1);
}

static const struct raw_script scripts[] = {
    {.name = "sends", .run = sends},
    {.name = "send errors", .run = send_errors},
    {.name = "receives", .run = receives},
    {.name = "receive forms", .run = receive_forms},
    {.name = "receives selected", .run = receives_selected},
    {.name = "receives selected of a reset", .run = receives_selected_of_a_reset},
    {.name = "receives behind urgent", .run = receives_behind_urgent},
    {.name = "receives many", .run = receives_many},
};

/* The kernel's: which descriptors arrive with which bytes, and which do not. */
TEST_EACH(descriptors_go_with_bytes_alike, .deadline_s = 60) {
    raw_compare(scripts, COUNT(scripts));
}

/* ---- what only the simulated world can be asked ---- */

static void same(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    int fd = raw_file(x), other = raw_file(x), fds[2];
    rights(&messages[0], (const int[]){fd, other}, 2);
    ask_send(x, "send", 1, &messages[0]);
    raw_await(x, "send", 1);
    char bytes[10];
    unsigned count;
    CHECK_EQ(kr_sim_recv_fds(x->sim, x->fars[0].peer, bytes, 10, fds, 2, &count), 10);
    CHECK_EQ(count, 2);
    CHECK(kr_sim_fd_same(x->sim, fd, fds[0]) && kr_sim_fd_same(x->sim, other, fds[1]));
    CHECK(!kr_sim_fd_same(x->sim, fd, other) && !kr_sim_fd_same(x->sim, fd, 999));
    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(kr_sim_fd_close(x->sim, fds[i]));
    CHECK_ERR(kr_sim_fd_close(x->sim, fds[0]), EBADF);
    CHECK_OK(kr_sim_fd_close(x->sim, other));
    CHECK_ERR(kr_sim_send_fds(x->sim, x->fars[0].peer, bytes, 10, &other, 1), EBADF);
    CHECK_ERR(kr_sim_send_fds(x->sim, x->fars[0].peer, bytes, 0, &fd, 1), EINVAL);
    CHECK_ERR(kr_sim_send_fds(x->sim, x->fars[0].peer, bytes, 10, &fd, 254), EINVAL);
    /* for nobody to receive */
    CHECK_EQ(kr_sim_send_fds(x->sim, x->fars[0].peer, bytes, 10, &fd, 1), 10);
    CHECK_OK(kr_sim_fd_close(x->sim, fd));
}

/* Ours: descriptors of the world lead to the same file wherever they go, and none stays behind. */
TEST(descriptors_of_the_world_are_told_apart) {
    raw_simulate(6, 18, same);
}

static void no_more(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    CHECK_OK(kr_sim_fault_set(x->sim, KR_SIM_SCM_EMFILE, 1024));
    far_send_fds(&x->fars[0], 10, 2);
    ask_recv(x, "recv", 1, &messages[0], 100, 2);
    come(x, "recv", &messages[0]);
    CHECK_EQ(messages[0].msg.msg_controllen, 0);
    CHECK(messages[0].msg.msg_flags & MSG_CTRUNC);
}

/* Ours: a process without room for descriptors loses those that come, and is told. */
TEST(fault_of_descriptors_happens) {
    raw_simulate(6, 18, no_more);
}
