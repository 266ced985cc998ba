/* The peer "libevent": the same echo on libevent's plain events, which is its fastest way: a
 * persistent read event a connection, recv and send in the callback, a write event only after a
 * short send. --bufferevent takes bufferevents instead, the way most of its users go; it is slower.
 * */
#include "echo.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>

struct conn {
    struct echo echo;
    struct event *read;
    struct event *write;
};

static struct event_base *base;

static void conn_end(struct conn *c) {
    event_free(c->read);
    event_free(c->write);
    echo_end(&c->echo);
    free(c);
}

static void on_writable(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct conn *c = arg;
    enum echo_state state = echo_flush(&c->echo);
    if (state == ECHO_GONE)
        conn_end(c);
    else if (state == ECHO_AGAIN) {
        event_del(c->write);
        event_add(c->read, NULL);
    }
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct conn *c = arg;
    enum echo_state state = echo_read(&c->echo);
    if (state == ECHO_GONE)
        conn_end(c);
    else if (state == ECHO_BLOCKED) {
        event_del(c->read);
        event_add(c->write, NULL);
    }
}

static void conn_plain(int fd) {
    struct conn *c = calloc(1, sizeof(*c));
    if (!c)
        peer_die("a connection", ENOMEM);
    c->echo.fd = fd;
    c->read = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, c);
    c->write = event_new(base, fd, EV_WRITE | EV_PERSIST, on_writable, c);
    if (!c->read || !c->write || event_add(c->read, NULL) < 0)
        peer_die("event_add", ENOMEM);
}

static void on_buffered(struct bufferevent *be, void *arg) {
    (void)arg;
    bufferevent_write_buffer(be, bufferevent_get_input(be));
}

static void on_event(struct bufferevent *be, short what, void *arg) {
    (void)what;
    (void)arg;
    bufferevent_free(be);
}

static void conn_buffered(int fd) {
    struct bufferevent *be = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (!be)
        peer_die("bufferevent_socket_new", ENOMEM);
    bufferevent_setcb(be, on_buffered, NULL, on_event, NULL);
    bufferevent_enable(be, EV_READ | EV_WRITE);
}

static void on_connection(evutil_socket_t listener, short what, void *arg) {
    (void)what;
    const bool *buffered = arg;
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0 && errno != EAGAIN)
            peer_die("accept4", errno);
        if (fd < 0)
            return;
        if (*buffered)
            conn_buffered(fd);
        else
            conn_plain(fd);
    }
}

int main(int argc, char **argv) {
    peer_init();
    bool buffered = peer_switch(argc, argv, "--bufferevent");
    struct event_config *config = event_config_new();
    if (!config || event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK) < 0)
        peer_die("event_config_new", ENOMEM);
    base = event_base_new_with_config(config);
    int fd = peer_listen(SOCK_NONBLOCK);
    struct event *listener = event_new(base, fd, EV_READ | EV_PERSIST, on_connection, &buffered);
    if (!base || !listener || event_add(listener, NULL) < 0)
        peer_die("event_add", ENOMEM);
    peer_ready(fd);
    return event_base_dispatch(base);
}
