/* The fixture of suites about connections: a reactor, its listener, one client, and counters of
 * what the listener's connections were told.
 *
 * Happy path: a case zeroes the struct and fills in what is special; test_server_begin makes the
 * rest, and returns when the client's connection is open; the callbacks count, and call the case's
 * hooks; test_server_end closes the client, waits until every connection has closed, and frees the
 * reactor. Connections that the case connects or adopts itself count in the same way, with the
 * server as their `user`. A suite with callbacks of its own composes its ops of those and of these:
 * what ops lack matters to the library. */
#pragma once

#include "harness/net.h"

struct test_server;
typedef void test_hook(struct test_server *s, kr_conn conn);

struct test_server {
    /* The case's to fill in. */
    struct kr_reactor *r; /* NULL: with the defaults */
    int recv_size;        /* SO_RCVBUF of the client; 0: the system's */
    uint64_t stream;      /* test_server_data checks that all bytes are this one's; 0: any bytes */
    test_hook *in_open, *in_data, *in_eof, *in_timeout, *in_close; /* after it was counted */

    kr_listener listener;
    uint16_t port;
    int fd; /* of the client */

    kr_conn conn;        /* the last that opened */
    unsigned open, most; /* now, and at most at a time */
    unsigned opens, datas, eofs, drains, closes;
    unsigned told[KR_DEADLINE_FLUSH + 1]; /* timeouts, by deadline */
    enum kr_deadline which;               /* the last of them */
    int64_t opened_at, told_at;           /* kr_now, the last */
    size_t bytes;                         /* consumed */
    int error;                            /* of the last close, as is `why` */
    enum kr_why why;
};

/* ---- callbacks ---- */

void test_server_open(struct kr_reactor *r, kr_conn conn, void *server);
size_t test_server_data(struct kr_reactor *r, kr_conn conn, void *server, const void *data,
                        size_t size);

/* Sends it back. What cannot be sent, for whatever reason, is not consumed. */
size_t test_server_echo(struct kr_reactor *r, kr_conn conn, void *server, const void *data,
                        size_t size);
void test_server_eof(struct kr_reactor *r, kr_conn conn, void *server);

/* The same, and closes with KR_CLOSE_FLUSH. */
void test_server_eof_close(struct kr_reactor *r, kr_conn conn, void *server);
void test_server_drain(struct kr_reactor *r, kr_conn conn, void *server);
void test_server_timeout(struct kr_reactor *r, kr_conn conn, void *server, enum kr_deadline which);
void test_server_close(struct kr_reactor *r, kr_conn conn, void *server, int error,
                       enum kr_why why);

/* on_open, on_data as an echo, on_close; and with on_eof, which closes. */
extern const struct kr_conn_ops test_server_echo_ops, test_server_echo_eof_ops;

/* ---- begin and end ---- */

/* The reactor, if there is none yet, and its listener. */
void test_server_listen(struct test_server *s, const struct kr_listen_opts *opts,
                        const struct kr_conn_ops *ops);

/* And a client, with its connection open. */
void test_server_begin(struct test_server *s, const struct kr_listen_opts *opts,
                       const struct kr_conn_ops *ops);

/* Closes the client, waits until all that opened has closed and the reactor is at rest, and frees
 * the reactor. */
void test_server_end(struct test_server *s);

/* ---- callbacks that need no server ---- */

size_t test_take_all(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);
size_t test_keep_all(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);

/* As test_server_echo; `user` may be anything. */
size_t test_send_back(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size);
extern const struct kr_conn_ops test_take_all_ops, test_send_back_ops; /* on_data alone */
void test_ignore_eof(struct kr_reactor *r, kr_conn conn, void *user);

/* One more; `count` is an unsigned. */
void test_count_call(struct kr_reactor *r, void *count);
void test_count_fire(struct kr_reactor *r, kr_timer timer, void *count);
