/* Options of sockets in slots (URING_CMD), and descriptors for them (FIXED_FD_INSTALL), on both
 * kernels. */
#include "harness/tap.h"
#include "sim/raw.h"

#include <errno.h>
#include <netinet/tcp.h>

#define COUNT(table_) (sizeof(table_) / sizeof *(table_))

static struct io_uring_sqe *ask(struct raw *x, const char *name, int slot, unsigned cmd, int level,
                                int option, void *value, unsigned size) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_URING_CMD, slot);
    sqe->off = cmd;
    sqe->addr = (uint32_t)level | (uint64_t)(uint32_t)option << 32;
    sqe->file_index = size;
    sqe->addr3 = (uint64_t)(uintptr_t)value;
    return sqe;
}

static void set(struct raw *x, const char *name, int slot, int level, int option, int value) {
    ask(x, name, slot, KR__SOCKET_SETSOCKOPT, level, option, &value, sizeof value);
    raw_await(x, name, 1);
}

/* The result, and the number if there is one. */
static void get(struct raw *x, const char *name, int slot, int level, int option) {
    int value = 0;
    ask(x, name, slot, KR__SOCKET_GETSOCKOPT, level, option, &value, sizeof value);
    raw_await(x, name, 1);
    raw_note(x, name, value);
}

static void tcp(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    set(x, "no delay", 1, IPPROTO_TCP, TCP_NODELAY, 1);
    set(x, "keep alive", 1, SOL_SOCKET, SO_KEEPALIVE, 1);
    get(x, "is alive", 1, SOL_SOCKET, SO_KEEPALIVE);
    set(x, "send buffer", 1, SOL_SOCKET, SO_SNDBUF, 20000);
    get(x, "doubled", 1, SOL_SOCKET, SO_SNDBUF);
    set(x, "too small", 1, SOL_SOCKET, SO_RCVBUF, 1);
    set(x, "idle", 1, IPPROTO_TCP, TCP_KEEPIDLE, 7);
    set(x, "no such", 1, SOL_SOCKET, 9999, 1);
    set(x, "no such of tcp", 1, IPPROTO_TCP, 9999, 1);
    get(x, "of tcp", 1, IPPROTO_TCP, TCP_NODELAY);
    get(x, "no such one", 1, SOL_SOCKET, 9999);
    get(x, "type", 1, SOL_SOCKET, SO_TYPE);
    get(x, "listens", 1, SOL_SOCKET, SO_ACCEPTCONN);
    get(x, "error", 1, SOL_SOCKET, SO_ERROR);
    far_end(&x->fars[0], true);
    get(x, "reset", 1, SOL_SOCKET, SO_ERROR);
    get(x, "told", 1, SOL_SOCKET, SO_ERROR);
}

static void lengths(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    int value = 1;
    struct sockaddr_in6 name;
    ask(x, "short value", 1, KR__SOCKET_SETSOCKOPT, SOL_SOCKET, SO_KEEPALIVE, &value, 2);
    ask(x, "short answer", 1, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_TYPE, &value, 2);
    ask(x, "long answer", 1, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_TYPE, &name, sizeof name);
    ask(x, "peer", 1, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_PEERNAME, &name,
        sizeof(struct sockaddr_in));
    ask(x, "part of it", 1, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_PEERNAME, &name, 4);
    ask(x, "more than it", 1, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_PEERNAME, &name, sizeof name);
    raw_socket(x, 2, AF_INET);
    ask(x, "no peer", 2, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_PEERNAME, &name, 4);
    ask(x, "no command", 1, 99, SOL_SOCKET, SO_TYPE, &value, sizeof value);
    ask(x, "flags", 1, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_TYPE, &value, sizeof value)->rw_flags =
        1 << 20;
    raw_wake(x, 3);
    ask(x, "no socket", 3, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_TYPE, &value, sizeof value);
    ask(x, "no file", 4, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_TYPE, &value, sizeof value);
    raw_quiet(x);
    far_send(&x->fars[0], 123);
    ask(x, "how much", 1, 0, 0, 0, NULL, 0);
    raw_await(x, "how much", 1);
}

static void lingers(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    struct linger linger = {.l_onoff = 1};
    ask(x, "linger", 1, KR__SOCKET_SETSOCKOPT, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    raw_await(x, "linger", 1);
    raw_close(x, "close", 1);
    raw_await(x, "close", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
}

static void local(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    set(x, "send buffer", 1, SOL_SOCKET, SO_SNDBUF, 20000);
    get(x, "doubled", 1, SOL_SOCKET, SO_SNDBUF);
    set(x, "no delay", 1, IPPROTO_TCP, TCP_NODELAY, 1);
    struct ucred cred;
    ask(x, "cred", 1, KR__SOCKET_GETSOCKOPT, SOL_SOCKET, SO_PEERCRED, &cred, sizeof cred);
    raw_await(x, "cred", 1);
    CHECK_GT(cred.pid, 0);
}

/* ---- descriptors ---- */

static void exports(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_any(x, "export");
    raw_ask(x, "export", KR__OP_FIXED_FD_INSTALL, 1);
    raw_await(x, "export", 1);
    int fd = raw_res(x, "export");
    CHECK_GT(fd, 0);
    raw_close(x, "close", 1);
    raw_await(x, "close", 1);
    raw_note(x, "far reads", far_read(&x->fars[0])); /* it is still there */
    raw_install(x, 2, fd);
    raw_send(x, "send", 2, "hello");
    raw_await(x, "send", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    raw_ask(x, "no slot", KR__OP_FIXED_FD_INSTALL, 5);
    raw_ask(x, "no such slot", KR__OP_FIXED_FD_INSTALL, 500);
    raw_ask(x, "flags", KR__OP_FIXED_FD_INSTALL, 2)->rw_flags = 8;
    raw_ask(x, "off", KR__OP_FIXED_FD_INSTALL, 2)->off = 8;
    raw_ask(x, "not fixed", KR__OP_FIXED_FD_INSTALL, 2)->flags = 0;
    raw_quiet(x);
}

static const struct raw_script scripts[] = {
    {.name = "tcp", .run = tcp},
    {.name = "lengths", .run = lengths},
    {.name = "lingers", .run = lingers},
    {.name = "local", .run = local},
    {.name = "exports", .run = exports},
};

/* The kernel's: what can be asked of sockets in slots, and told them. */
TEST_EACH(socket_options_are_answered_alike, .deadline_s = 60) {
    raw_compare(scripts, COUNT(scripts));
}

/* ---- what only the simulated world can be asked ---- */

static void old(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    set(x, "no delay", 1, IPPROTO_TCP, TCP_NODELAY, 1);
    CHECK_EQ(raw_res(x, "no delay"), -EOPNOTSUPP);
    raw_ask(x, "export", KR__OP_FIXED_FD_INSTALL, 1);
    raw_await(x, "export", 1);
    CHECK_EQ(raw_res(x, "export"), -EINVAL);
    far_send(&x->fars[0], 123);
    ask(x, "how much", 1, 0, 0, 0, NULL, 0);
    raw_await(x, "how much", 1);
}

static void linux_6_1(struct raw *x) {
    old(x);
    CHECK_EQ(raw_res(x, "how much"), -EOPNOTSUPP);
}

static void linux_6_6(struct raw *x) {
    old(x);
    CHECK_EQ(raw_res(x, "how much"), 123);
}

/* The kernel's: older ones know neither. */
TEST(old_kernels_refuse_what_came_later) {
    raw_simulate(6, 1, linux_6_1);
    raw_simulate(6, 6, linux_6_6);
}

static bool knows(struct raw *x, unsigned opcode) {
    _Alignas(struct io_uring_probe) char
        room[sizeof(struct io_uring_probe) + 64 * sizeof(struct io_uring_probe_op)] = {0};
    struct io_uring_probe *probe = (struct io_uring_probe *)(void *)room;
    CHECK_OK(kr__ring_register(&x->ring, IORING_REGISTER_PROBE, probe, 64));
    CHECK_EQ(probe->ops_len, 64);
    return probe->ops[opcode].flags & IO_URING_OP_SUPPORTED;
}

static void probed_new(struct raw *x) {
    CHECK(knows(x, IORING_OP_RECV) && knows(x, KR__OP_FIXED_FD_INSTALL) && !knows(x, 63));
}

static void probed_old(struct raw *x) {
    CHECK(knows(x, IORING_OP_RECV) && knows(x, IORING_OP_SENDMSG_ZC) &&
          !knows(x, KR__OP_FIXED_FD_INSTALL));
}

/* Ours: the probe of a world's kernel tells what it has. */
TEST(probe_tells_what_a_kernel_has) {
    raw_simulate(6, 18, probed_new);
    raw_simulate(6, 1, probed_old);
}

static void no_descriptor(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    CHECK_OK(kr_sim_fault_set(x->sim, KR_SIM_EXPORT_EMFILE, 1024));
    raw_ask(x, "export", KR__OP_FIXED_FD_INSTALL, 1);
    raw_await(x, "export", 1);
    CHECK_EQ(raw_res(x, "export"), -EMFILE);
}

/* Ours: the fault of exports happens when it is asked for. */
TEST(fault_of_exports_happens) {
    raw_simulate(6, 18, no_descriptor);
}
