/* The echo of the servers that are told of readiness (epoll, libevent, libev): read into the one
 * warm buffer, try to write at once, and only if the socket took less, keep the rest and read no
 * more until it has gone. In the usual case a message costs one recv and one send and no call
 * besides. */
#ifndef BENCH_ECHO_H
#define BENCH_ECHO_H

#include "peer.h"

enum echo_state {
    ECHO_IDLE,    /* nothing to read at the moment */
    ECHO_AGAIN,   /* the read filled the buffer: there may be more */
    ECHO_BLOCKED, /* a rest is kept; wait until the socket is writable */
    ECHO_GONE,    /* the peer ended, or an error */
};

struct echo {
    int fd;
    char *rest; /* what a short write left; owned, freed when it has gone */
    size_t rest_at;
    size_t rest_size;
};

static char echo_buffer[PEER_READ_SIZE];

static inline enum echo_state echo_keep(struct echo *e, const char *data, size_t size) {
    e->rest = malloc(size);
    if (!e->rest)
        return ECHO_GONE;
    memcpy(e->rest, data, size);
    e->rest_at = 0;
    e->rest_size = size;
    return ECHO_BLOCKED;
}

static inline bool echo_would_block(void) {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* The socket is writable: sends the rest. ECHO_AGAIN when it has gone. */
static inline enum echo_state echo_flush(struct echo *e) {
    ssize_t sent = send(e->fd, e->rest + e->rest_at, e->rest_size - e->rest_at, MSG_NOSIGNAL);
    if (sent < 0)
        return echo_would_block() ? ECHO_BLOCKED : ECHO_GONE;
    e->rest_at += (size_t)sent;
    if (e->rest_at < e->rest_size)
        return ECHO_BLOCKED;
    free(e->rest);
    e->rest = NULL;
    return ECHO_AGAIN;
}

/* The socket is readable: one read and the write of it. */
static inline enum echo_state echo_read(struct echo *e) {
    ssize_t size = recv(e->fd, echo_buffer, sizeof(echo_buffer), 0);
    if (size < 0)
        return echo_would_block() ? ECHO_IDLE : ECHO_GONE;
    if (size == 0)
        return ECHO_GONE;
    ssize_t sent = send(e->fd, echo_buffer, (size_t)size, MSG_NOSIGNAL);
    if (sent < 0 && !echo_would_block())
        return ECHO_GONE;
    size_t done = sent < 0 ? 0 : (size_t)sent;
    if (done < (size_t)size)
        return echo_keep(e, echo_buffer + done, (size_t)size - done);
    return (size_t)size == sizeof(echo_buffer) ? ECHO_AGAIN : ECHO_IDLE;
}

static inline void echo_end(struct echo *e) {
    free(e->rest);
    close(e->fd);
}

#endif
