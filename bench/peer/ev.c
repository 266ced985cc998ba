/* The peer "libev": the same echo on libev, as a good user of it writes it: a read watcher that
 * stays started, recv and send in its callback, a write watcher only after a short send. */
#include "echo.h"

/* libev 4.33's header is not clean under -Wall itself. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-aliasing"
#pragma GCC diagnostic ignored "-Wextra"
#include <ev.h>
#pragma GCC diagnostic pop

struct conn {
    ev_io read;
    ev_io write;
    struct echo echo;
};

static void conn_end(struct ev_loop *loop, struct conn *c) {
    ev_io_stop(loop, &c->read);
    ev_io_stop(loop, &c->write);
    echo_end(&c->echo);
    free(c);
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int what) {
    (void)what;
    struct conn *c = watcher->data;
    enum echo_state state = echo_flush(&c->echo);
    if (state == ECHO_GONE)
        conn_end(loop, c);
    else if (state == ECHO_AGAIN) {
        ev_io_stop(loop, &c->write);
        ev_io_start(loop, &c->read);
    }
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int what) {
    (void)what;
    struct conn *c = watcher->data;
    enum echo_state state = echo_read(&c->echo);
    if (state == ECHO_GONE)
        conn_end(loop, c);
    else if (state == ECHO_BLOCKED) {
        ev_io_stop(loop, &c->read);
        ev_io_start(loop, &c->write);
    }
}

static void conn_start(struct ev_loop *loop, int fd) {
    struct conn *c = calloc(1, sizeof(*c));
    if (!c)
        peer_die("a connection", ENOMEM);
    c->echo.fd = fd;
    c->read.data = c->write.data = c;
    ev_io_init(&c->read, on_readable, fd, EV_READ);
    ev_io_init(&c->write, on_writable, fd, EV_WRITE);
    ev_io_start(loop, &c->read);
}

static void on_connection(struct ev_loop *loop, ev_io *watcher, int what) {
    (void)what;
    for (;;) {
        int fd = accept4(watcher->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0 && errno != EAGAIN)
            peer_die("accept4", errno);
        if (fd < 0)
            return;
        conn_start(loop, fd);
    }
}

int main(void) {
    peer_init();
    struct ev_loop *loop = ev_loop_new(EVBACKEND_EPOLL);
    if (!loop)
        peer_die("ev_loop_new", ENOMEM);
    int fd = peer_listen(SOCK_NONBLOCK);
    ev_io listener;
    ev_io_init(&listener, on_connection, fd, EV_READ);
    ev_io_start(loop, &listener);
    peer_ready(fd);
    ev_run(loop, 0);
    return 0;
}
