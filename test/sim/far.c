#include "sim/far.h"

#include "harness/tap.h"
#include "kernel/sim/world.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define PIECE 65536

static void transition(const struct far *far) {
    if (far->sim)
        far->sim->door.clock(&far->sim->door);
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
