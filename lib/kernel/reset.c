/* A trial: bytes and a reset for a multishot receive, both before its poll is looked after.
 *
 * The fault: two wake-ups that come before the task work of a poll are handled as one; the receive
 * takes the bytes, finds the socket empty, and does not look again, so that nobody is ever told of
 * the reset (io_uring/poll.c, mended by "ensure we loop once more" for several wake-ups of which
 * one hangs up). Observed on 6.12.43, 6.16.3, 6.17.8 and 6.18.5; right are 6.1.192, 6.12.95,
 * 6.12.117 and 6.18.44. A version's number does not tell: distributions bring mends to kernels of
 * any age.
 *
 * Happy path: a pair of TCP sockets on 127.0.0.1, and a ring of its own. With DEFER_TASKRUN nothing
 * is looked after but in enter, so that one thread can send, reset, see by poll(2) that both have
 * come, and only then enter: no race, no other thread, some 200 us.
 * Failure modes: anything may be forbidden here, and a namespace may have no loopback: -errno. Each
 * wait is bounded, as a packet filter may swallow what goes over loopback. */
#include "kernel/reset.h"

#include "base/tsan.h"
#include "kernel/uapi.h"

#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define WAIT_MS 100
#define PAGE 4096u
#define GROUP 1u

struct trial {
    struct io_uring ring;
    void *page; /* the ring of buffers, and in its second half the one buffer */
    int listener, client, server;
};

static int await(int fd, short events) {
    struct pollfd one = {.fd = fd, .events = events};
    int rc = poll(&one, 1, WAIT_MS);
    return rc < 0 ? -errno : rc == 0 ? -ETIMEDOUT : 0;
}

static int new_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

static int listen_somewhere(struct trial *t, struct sockaddr_in *addr) {
    socklen_t size = sizeof *addr;
    t->listener = new_socket();
    if (t->listener < 0)
        return t->listener;
    if (bind(t->listener, (struct sockaddr *)addr, size) < 0 || listen(t->listener, 1) < 0 ||
        getsockname(t->listener, (struct sockaddr *)addr, &size) < 0)
        return -errno;
    return 0;
}

static int connect_to(struct trial *t, const struct sockaddr_in *addr) {
    t->client = new_socket();
    if (t->client < 0)
        return t->client;
    if (connect(t->client, (const struct sockaddr *)addr, sizeof *addr) < 0 && errno != EINPROGRESS)
        return -errno;
    return await(t->client, POLLOUT);
}

/* Another process may connect, too. */
static int accept_client(struct trial *t) {
    struct sockaddr_in peer, ours;
    socklen_t peer_size = sizeof peer, our_size = sizeof ours;
    int rc = await(t->listener, POLLIN);
    if (rc < 0)
        return rc;
    t->server = accept4(t->listener, (struct sockaddr *)&peer, &peer_size, SOCK_CLOEXEC);
    if (t->server < 0 || getsockname(t->client, (struct sockaddr *)&ours, &our_size) < 0)
        return -errno;
    return peer.sin_port == ours.sin_port ? 0 : -EADDRINUSE;
}

static int make_pair(struct trial *t) {
    struct sockaddr_in addr = {.sin_family = AF_INET};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int rc = listen_somewhere(t, &addr);
    if (rc == 0)
        rc = connect_to(t, &addr);
    return rc == 0 ? accept_client(t) : rc;
}

static int give_buffer(struct trial *t) {
    t->page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (t->page == MAP_FAILED) {
        t->page = NULL;
        return -errno;
    }
    struct kr__buf_reg reg = {
        .ring_addr = (uint64_t)(uintptr_t)t->page, .ring_entries = 1, .group = GROUP};
    int rc = io_uring_register((unsigned)t->ring.ring_fd, IORING_REGISTER_PBUF_RING, &reg, 1);
    if (rc < 0)
        return rc;
    struct io_uring_buf_ring *bufs = t->page;
    bufs->bufs[0].addr = reg.ring_addr + PAGE / 2;
    bufs->bufs[0].len = PAGE / 2;
    __atomic_store_n(&bufs->tail, 1, __ATOMIC_RELEASE);
    return 0;
}

static int arm(struct trial *t) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&t->ring);
    io_uring_prep_recv_multishot(sqe, t->server, NULL, 0, 0);
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = GROUP;
    int rc = io_uring_submit(&t->ring);
    return rc < 0 ? rc : 0;
}

/* Both have come when the server's socket hangs up. */
static int send_and_reset(struct trial *t) {
    struct linger reset = {.l_onoff = 1};
    if (send(t->client, "x", 1, MSG_NOSIGNAL) != 1 ||
        setsockopt(t->client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) < 0)
        return -errno;
    close(t->client);
    t->client = -1;
    return await(t->server, 0);
}

/* 1: the reset is told of after the byte. */
static int judge(struct trial *t) {
    bool byte = false, told = false;
    for (int i = 0; i < 3; i++) {
        int rc = io_uring_enter((unsigned)t->ring.ring_fd, 0, 0, IORING_ENTER_GETEVENTS, NULL);
        if (rc < 0)
            return rc;
    }
    unsigned head;
    struct io_uring_cqe *cqe;
    io_uring_for_each_cqe(&t->ring, head, cqe) {
        told |= byte && cqe->res < 0;
        byte |= cqe->res == 1;
    }
    return byte ? told : -EPROTO;
}

static int run(struct trial *t) {
    int rc = make_pair(t);
    if (rc == 0)
        rc = give_buffer(t);
    if (rc == 0)
        rc = arm(t);
    if (rc == 0)
        rc = send_and_reset(t);
    return rc == 0 ? judge(t) : rc;
}

int kr__reset_try(void) {
    struct trial t = {.listener = -1, .client = -1, .server = -1};
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    int rc = io_uring_queue_init_params(2, &t.ring, &params);
    if (rc < 0)
        return rc;
    kr__maps_acquire();
    rc = run(&t);
    const int fds[] = {t.listener, t.client, t.server};
    for (int i = 0; i < 3; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    kr__maps_release();
    io_uring_queue_exit(&t.ring);
    if (t.page)
        munmap(t.page, PAGE);
    return rc;
}
