#include "sim/far.h"

#include "harness/tap.h"
#include "kernel/sim/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE 65536

static void transition(const struct far *far) {
    if (far->sim)
        far->sim->door.process.clock(&far->sim->door);
}

void far_connect(struct far *far, struct kr_sim *sim, uint16_t port) {
    *far = (struct far){.sim = sim, .open = true};
    if (sim) {
        CHECK_OK(kr_sim_connect(sim, &far->peer, port));
        CHECK_OK(kr_sim_window(sim, far->peer, 4 << 20, PIECE)); /* about loopback's own */
        return;
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    far->fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(connect(far->fd, (struct sockaddr *)&to, sizeof to));
    CHECK_SYS(fcntl(far->fd, F_SETFL, O_NONBLOCK));
}

int far_send(struct far *far, size_t size) {
    static const char bytes[PIECE];
    CHECK_LE(size, sizeof bytes);
    transition(far);
    if (far->sim)
        return (int)kr_sim_send(far->sim, far->peer, bytes, size);
    ssize_t n = send(far->fd, bytes, size, MSG_NOSIGNAL);
    return n < 0 ? -errno : (int)n;
}

int far_urge(struct far *far) {
    transition(far);
    if (far->sim)
        return (int)kr_sim_urge(far->sim, far->peer, '!');
    ssize_t n = send(far->fd, "!", 1, MSG_NOSIGNAL | MSG_OOB);
    return n < 0 ? -errno : (int)n;
}

bool far_is_read(struct far *far) {
    transition(far);
    if (far->sim)
        return !kr__sim_peer_find(far->sim, far->peer)->file->stream.other->stream.size;
    int left;
    CHECK_SYS(ioctl(far->fd, SIOCOUTQ, &left));
    return !left;
}

static int64_t read_some(struct far *far) {
    static char bytes[PIECE];
    if (far->sim)
        return kr_sim_recv(far->sim, far->peer, bytes, sizeof bytes);
    ssize_t n = recv(far->fd, bytes, sizeof bytes, 0);
    return n < 0 ? -errno : n;
}

int64_t far_read_once(struct far *far) {
    transition(far);
    return read_some(far);
}

int64_t far_read(struct far *far) {
    int64_t all = 0, got;
    transition(far);
    while ((got = read_some(far)) > 0)
        all += got;
    return all ? all : got;
}

#define FDS 8u

static int send_simulated(struct far *far, const char *bytes, size_t size, unsigned count) {
    int fds[FDS];
    for (unsigned i = 0; i < count; i++)
        fds[i] = CHECK_OK(kr_sim_file(far->sim, "x", 1));
    int64_t sent = kr_sim_send_fds(far->sim, far->peer, bytes, size, fds, count);
    for (unsigned i = 0; i < count; i++)
        CHECK_OK(kr_sim_fd_close(far->sim, fds[i]));
    return (int)sent;
}

int far_send_fds(struct far *far, size_t size, unsigned count) {
    static char bytes[PIECE];
    CHECK_LE(count, FDS);
    transition(far);
    if (far->sim)
        return send_simulated(far, bytes, size, count);
    char control[CMSG_SPACE(FDS * sizeof(int))] = {0};
    struct iovec piece = {bytes, size};
    struct msghdr msg = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control,
                         .msg_controllen = CMSG_LEN(count * sizeof(int))};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    for (unsigned i = 0; i < count; i++)
        memcpy(CMSG_DATA(cmsg) + i * sizeof(int), &far->fd, sizeof(int)); /* any will do: itself */
    ssize_t n = sendmsg(far->fd, &msg, MSG_NOSIGNAL);
    return n < 0 ? -errno : (int)n;
}

static int64_t recv_simulated(struct far *far, char *bytes, size_t size, unsigned room,
                              unsigned *count) {
    int fds[FDS];
    int64_t got = kr_sim_recv_fds(far->sim, far->peer, bytes, size, fds, room, count);
    for (unsigned i = 0; i < *count; i++)
        CHECK_OK(kr_sim_fd_close(far->sim, fds[i]));
    return got;
}

int64_t far_recv_fds(struct far *far, size_t size, unsigned room, unsigned *count) {
    static char bytes[PIECE];
    CHECK_LE(room, FDS);
    transition(far);
    if (far->sim)
        return recv_simulated(far, bytes, size, room, count);
    char control[CMSG_SPACE(FDS * sizeof(int))] = {0};
    struct iovec piece = {bytes, size};
    struct msghdr msg = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = room ? control : NULL,
                         .msg_controllen = room ? CMSG_LEN(room * sizeof(int)) : 0};
    ssize_t n = recvmsg(far->fd, &msg, MSG_CMSG_CLOEXEC);
    struct cmsghdr *cmsg = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    *count = cmsg ? (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;
    for (unsigned i = 0; i < *count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof fd, sizeof fd);
        CHECK_SYS(close(fd));
    }
    return n < 0 ? -errno : n;
}

void far_shutdown(struct far *far) {
    transition(far);
    if (far->sim)
        CHECK_OK(kr_sim_shutdown(far->sim, far->peer));
    else
        CHECK_SYS(shutdown(far->fd, SHUT_WR));
}

void far_end(struct far *far, bool reset) {
    transition(far);
    far->open = false;
    if (far->sim) {
        CHECK_OK(reset ? kr_sim_reset(far->sim, far->peer) : kr_sim_close(far->sim, far->peer));
        return;
    }
    struct linger linger = {.l_onoff = 1};
    if (reset)
        CHECK_SYS(setsockopt(far->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    CHECK_SYS(close(far->fd));
}
