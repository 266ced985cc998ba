/* The peer "libuv": the same echo on libuv, as a good user of it writes it: one read buffer shared
 * by all connections, uv_try_write first, and only when the socket takes less a queued uv_write of
 * the rest, during which reading stops.
 *
 * --docs takes the way of libuv's own guide instead (docs/code/tcp-echo-server/main.c): a buffer
 * from malloc for each read, handed on to a uv_write that frees it. Many programs are written like
 * that. */
#include "peer.h"

#include <uv.h>

struct conn {
    uv_tcp_t tcp; /* first: its address is the connection's */
    uv_write_t write;
    char *rest; /* owned until the write's callback */
};

static char read_buffer[PEER_READ_SIZE];

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf);

static void on_alloc(uv_handle_t *handle, size_t hint, uv_buf_t *ret) {
    (void)handle;
    (void)hint;
    *ret = uv_buf_init(read_buffer, sizeof(read_buffer));
}

static void on_closed(uv_handle_t *handle) {
    struct conn *c = (struct conn *)handle;
    free(c->rest);
    free(c);
}

static void conn_close(uv_stream_t *stream) {
    if (!uv_is_closing((uv_handle_t *)stream))
        uv_close((uv_handle_t *)stream, on_closed);
}

static void on_written(uv_write_t *write, int status) {
    struct conn *c = (struct conn *)write->handle;
    free(c->rest);
    c->rest = NULL;
    if (status < 0)
        conn_close(write->handle);
    else if (!uv_is_closing((uv_handle_t *)write->handle))
        uv_read_start(write->handle, on_alloc, on_read);
}

/* Keeps what the socket did not take and reads no more until it has gone. */
static void write_rest(uv_stream_t *stream, const char *data, size_t size) {
    struct conn *c = (struct conn *)stream;
    c->rest = malloc(size);
    if (!c->rest) {
        conn_close(stream);
        return;
    }
    memcpy(c->rest, data, size);
    uv_read_stop(stream);
    uv_buf_t buf = uv_buf_init(c->rest, (unsigned)size);
    if (uv_write(&c->write, stream, &buf, 1, on_written) < 0)
        conn_close(stream);
}

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf) {
    if (size == 0)
        return;
    if (size < 0) {
        conn_close(stream);
        return;
    }
    uv_buf_t out = uv_buf_init(buf->base, (unsigned)size);
    int sent = uv_try_write(stream, &out, 1);
    if (sent < 0 && sent != UV_EAGAIN)
        conn_close(stream);
    else if (sent < (int)size)
        write_rest(stream, buf->base + (sent < 0 ? 0 : sent),
                   (size_t)(size - (sent < 0 ? 0 : sent)));
}

static void docs_alloc(uv_handle_t *handle, size_t hint, uv_buf_t *ret) {
    (void)handle;
    char *memory = malloc(hint);
    *ret = uv_buf_init(memory, memory ? (unsigned)hint : 0);
}

static void docs_written(uv_write_t *write, int status) {
    free(write->data);
    if (status < 0)
        conn_close(write->handle);
    free(write);
}

static void docs_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf) {
    uv_write_t *write = size > 0 ? malloc(sizeof(*write)) : NULL;
    if (!write) {
        free(buf->base);
        if (size != 0)
            conn_close(stream);
        return;
    }
    write->data = buf->base;
    uv_buf_t out = uv_buf_init(buf->base, (unsigned)size);
    if (uv_write(write, stream, &out, 1, docs_written) < 0) {
        free(buf->base);
        free(write);
        conn_close(stream);
    }
}

static void on_connection(uv_stream_t *listener, int status) {
    if (status < 0)
        return;
    struct conn *c = calloc(1, sizeof(*c));
    if (!c)
        peer_die("a connection", ENOMEM);
    uv_tcp_init(listener->loop, &c->tcp);
    uv_stream_t *stream = (uv_stream_t *)&c->tcp;
    const bool *docs = listener->data;
    if (uv_accept(listener, stream) < 0 ||
        uv_read_start(stream, *docs ? docs_alloc : on_alloc, *docs ? docs_read : on_read) < 0)
        conn_close(stream);
}

int main(int argc, char **argv) {
    peer_init();
    bool docs = peer_switch(argc, argv, "--docs");
    int fd = peer_listen(SOCK_NONBLOCK);
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    uv_tcp_init(loop, &listener);
    listener.data = &docs;
    int rc = uv_tcp_open(&listener, fd);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&listener, 4096, on_connection);
    if (rc < 0)
        peer_die("uv_listen", -rc);
    peer_ready(fd);
    return uv_run(loop, UV_RUN_DEFAULT);
}
