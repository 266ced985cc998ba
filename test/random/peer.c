/* The peers: they connect, accept, send, read slowly or not at all, end their side, go, reset, and
 * send urgent bytes and descriptors. */
#include "random/random.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PIECE 6000u

static void peer_gone(struct link *l) {
    test_close(l->fd);
    l->fd = -1;
}

static void peer_reset(struct link *l) {
    struct linger off = {.l_onoff = 1};
    (void)setsockopt(l->fd, SOL_SOCKET, SO_LINGER, &off, sizeof off); /* a pipe has none */
    peer_gone(l);
}

/* Descriptors go with its first byte. */
static ssize_t send_with_fds(struct link *l, char *bytes, size_t size) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(2 * sizeof(int))];
    } control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    unsigned count = 1 + (unsigned)chance_number(l->w, 2);
    int fds[2] = {l->w->null, l->w->null};
    control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    struct iovec piece = {bytes, size};
    struct msghdr msg = {.msg_iov = &piece,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    return sendmsg(l->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void peer_sends(struct link *l) {
    char bytes[PIECE];
    size_t size = chance_some(l->w, sizeof bytes);
    test_pattern(bytes, size, l->in_seed, l->in_sent);
    ssize_t n = l->reads ? write(l->fd, bytes, size)
                : l->local && chance(l->w, 60)
                    ? send_with_fds(l, bytes, size)
                    : send(l->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0)
        l->in_sent += (uint64_t)n;
    else if (errno != EAGAIN && errno != ETOOMANYREFS)
        l->peer_shut = l->peer_failed = true; /* the socket's error was told: it reads an end now */
}

static void peer_reads(struct link *l) {
    char bytes[PIECE];
    size_t most = chance_some(l->w, sizeof bytes);
    ssize_t n = l->writes ? read(l->fd, bytes, most) : recv(l->fd, bytes, most, MSG_DONTWAIT);
    if (n > 0) {
        stream_received(l, bytes, (size_t)n);
        return;
    }
    if (n < 0 && errno == EAGAIN)
        return;
    l->got_end = n == 0 && !l->peer_failed;
    trace(l->w, "link %u: its peer has read an end, %d", l->index, (int)n);
    stream_check_whole(l);
    peer_gone(l);
}

/* One, or the kernel would take the earlier for an ordinary byte. */
static void peer_urges(struct link *l) {
    if (l->urgent || l->twin || l->reads || l->writes)
        return;
    char byte;
    test_pattern(&byte, 1, l->in_seed, l->in_sent);
    ssize_t n = send(l->fd, &byte, 1, MSG_OOB | MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        l->peer_shut = l->peer_failed = true; /* as in peer_sends */
    l->urgent = n == 1;
    l->in_sent += l->urgent && !l->local; /* of TCP it is a byte of the stream, of Unix sockets it is not */
}

static void peer_accepts(struct link *l) {
    int fd = accept4(l->listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && !chance(l->w, 4))
        return;
    test_close(l->listening);
    l->listening = -1;
    l->fd = fd;
}

static void peer_act(struct link *l) {
    struct world *w = l->w;
    if (l->listening >= 0) {
        peer_accepts(l);
        return;
    }
    bool may_send = !l->peer_shut && !l->writes;
    if (may_send && chance(w, 300))
        peer_sends(l);
    if (l->fd >= 0 && !l->reads && !chance(w, l->slowness))
        peer_reads(l);
    if (l->fd < 0)
        return;
    if (may_send && !l->reads && chance(w, 6)) {
        l->peer_shut = true;
        CHECK(shutdown(l->fd, SHUT_WR) == 0 || errno == ENOTCONN);
    } else if (chance(w, 3)) {
        peer_gone(l);
    } else if (chance(w, 3)) {
        peer_reset(l);
    } else if (may_send && chance(w, 3)) {
        peer_urges(l);
    }
}

void peers_act(struct world *w) {
    for (unsigned i = 0; i < w->link_count; i++) {
        struct link *l = &w->links[i];
        if ((l->fd >= 0 || l->listening >= 0) && chance(w, 400))
            peer_act(l);
    }
}

/* Says whose it is first of all. */
void peer_client(struct world *w) {
    unsigned i = (unsigned)chance_number(w, LISTENERS);
    if (!w->listening[i] || links_alive(w) >= ALIVE_MAX)
        return;
    const struct kr_addr *addr = &w->addrs[i];
    int fd = CHECK_SYS(socket(addr->u.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    int sizes[] = {4096};
    if (chance(w, 512))
        CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, sizes, sizeof *sizes));
    struct link *l = link_new(w);
    uint32_t id = l ? l->index : 0;
    bool there = l && (connect(fd, &addr->u.sa, addr->size) == 0 || errno == EINPROGRESS) &&
                 send(fd, &id, sizeof id, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof id;
    if (!there) { /* its backlog is full, or nobody listens any more */
        test_close(fd);
        return;
    }
    l->fd = fd;
    l->local = addr->u.sa.sa_family == AF_UNIX;
}

void peers_close(struct world *w) {
    for (unsigned i = 0; i < w->link_count; i++) {
        struct link *l = &w->links[i];
        if (l->listening >= 0)
            test_close(l->listening);
        if (l->fd >= 0)
            peer_gone(l);
        l->listening = -1;
    }
}
