/* The peer "epoll": an echo server by hand on epoll, as fast as we can make it.
 *
 * A connection is registered once, edge-triggered, for reading, writing and the end of the peer,
 * and epoll_ctl is never called again. (EPOLLOUT in that set is free: the kernel reports it only
 * after a write was short.) A read that does not fill the buffer has emptied the socket, man 7
 * epoll; so a message costs one recv and one send, and epoll_wait is shared by all that are ready.
 * --level takes level-triggered registrations instead, which cost more: the kernel polls each
 * socket once again. */
#include "echo.h"

#include <sys/epoll.h>

enum { EVENTS = 512 };

struct server {
    int epoll;
    int listener;
    bool level;
};

static void conn_watch(struct server *s, struct echo *e, int op, uint32_t events) {
    struct epoll_event event = {.events = events | (s->level ? 0 : EPOLLET), .data.ptr = e};
    if (epoll_ctl(s->epoll, op, e->fd, &event) < 0)
        peer_die("epoll_ctl", errno);
}

static void accept_all(struct server *s) {
    for (;;) {
        int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0 && errno != EAGAIN)
            peer_die("accept4", errno);
        if (fd < 0)
            return;
        struct echo *e = calloc(1, sizeof(*e));
        if (!e)
            peer_die("a connection", ENOMEM);
        e->fd = fd;
        conn_watch(s, e, EPOLL_CTL_ADD, s->level ? EPOLLIN : EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    }
}

/* Closing takes the descriptor out of the epoll set, man 7 epoll. */
static void conn_end(struct echo *e) {
    echo_end(e);
    free(e);
}

/* Edge-triggered: goes on until the socket is empty, blocked or gone. A connection whose peer has
 * ended is read until the 0, as no further edge would tell of it. */
static void conn_edge(struct echo *e, uint32_t events) {
    bool ended = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (!e->rest && !ended && !(events & EPOLLIN))
        return;
    enum echo_state state = e->rest ? echo_flush(e) : ECHO_AGAIN;
    while (state == ECHO_AGAIN)
        state = echo_read(e);
    while (ended && state == ECHO_IDLE)
        state = echo_read(e);
    if (state == ECHO_GONE)
        conn_end(e);
}

static void conn_level(struct server *s, struct echo *e) {
    bool blocked = e->rest;
    enum echo_state state = blocked ? echo_flush(e) : echo_read(e);
    if (state == ECHO_GONE)
        conn_end(e);
    else if (blocked != (state == ECHO_BLOCKED))
        conn_watch(s, e, EPOLL_CTL_MOD, blocked ? EPOLLIN : EPOLLOUT);
}

static void turn(struct server *s) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(s->epoll, events, EVENTS, -1);
    if (count < 0 && errno != EINTR)
        peer_die("epoll_wait", errno);
    for (int i = 0; i < count; i++) {
        struct echo *e = events[i].data.ptr;
        if (!e)
            accept_all(s);
        else if (s->level)
            conn_level(s, e);
        else
            conn_edge(e, events[i].events);
    }
}

int main(int argc, char **argv) {
    peer_init();
    struct server s = {.epoll = epoll_create1(EPOLL_CLOEXEC),
                       .listener = peer_listen(SOCK_NONBLOCK),
                       .level = peer_switch(argc, argv, "--level")};
    if (s.epoll < 0)
        peer_die("epoll_create1", errno);
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(s.epoll, EPOLL_CTL_ADD, s.listener, &event) < 0)
        peer_die("epoll_ctl", errno);
    peer_ready(s.listener);
    for (;;)
        turn(&s);
}
