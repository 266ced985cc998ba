/* What each program of this folder has: a reactor that echoes nothing, a client of it, and one
 * misuse of memory that is not, or no longer, the program's to touch. Each is to be ended by
 * AddressSanitizer, at that very place; one that reaches its end has not been caught, and says so
 * by its status. */
#ifndef MISUSE_H
#define MISUSE_H

#include <kreactor.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOT_CAUGHT 3

/* What a program does at each of these moments. Those that are NULL do nothing. */
struct misuse {
    void (*opened)(struct kr_reactor *r, kr_conn conn);
    size_t (*came)(struct kr_reactor *r, kr_conn conn, const char *data, size_t size);
    void (*closed)(struct kr_reactor *r, kr_conn conn);
};

struct fixture {
    const struct misuse *misuse;
    struct kr_reactor *r;
    struct kr_conn_ops *ops; /* of the program's heap */
    int fd;                  /* the client */
    int closes;
};

static struct fixture fixture;

/* A byte is read, or written, where the compiler cannot see that it is of no use. */
static inline void touch_read(const char *at) {
    static volatile char sink;
    sink = *(const volatile char *)at;
    (void)sink;
}

static inline void touch_write(char *at) {
    *(volatile char *)at = 'x';
}

static inline void must(int rc, const char *what) {
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, kr_errname(rc));
        exit(4);
    }
}

#define MUST(call_) must((call_), #call_)

static inline void fixture_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    if (fixture.misuse->opened)
        fixture.misuse->opened(r, conn);
}

static inline size_t fixture_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                                  size_t size) {
    (void)user;
    return fixture.misuse->came ? fixture.misuse->came(r, conn, data, size) : size;
}

static inline void fixture_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                                 enum kr_why why) {
    (void)user;
    (void)error;
    (void)why;
    fixture.closes++;
    if (fixture.misuse->closed)
        fixture.misuse->closed(r, conn);
}

/* A turn; a hundred of them are more than anything here needs. */
static inline void turn(void) {
    static int turns;
    if (++turns > 1000) {
        fprintf(stderr, "what was waited for does not come\n");
        exit(5);
    }
    MUST(kr_step(fixture.r, 10000000));
}

static inline void send_text(const char *text) {
    if (send(fixture.fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        must(-1, "send");
}

/* A reactor with a client that has connected and sent `text`. */
static inline void begin(const struct misuse *misuse, size_t inline_size, const char *text) {
    fixture.misuse = misuse;
    fixture.ops = malloc(sizeof *fixture.ops);
    if (!fixture.ops)
        exit(4);
    *fixture.ops = (struct kr_conn_ops){
        .on_open = fixture_open, .on_data = fixture_data, .on_close = fixture_close};
    struct kr_failure why;
    MUST(kr_reactor_new(&fixture.r, NULL, &why));
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn.inline_size = inline_size;
    struct kr_addr addr;
    MUST(kr_addr_ip(&addr, "127.0.0.1", 0));
    kr_listener listener;
    MUST(kr_listen(fixture.r, &listener, &addr, &opts, fixture.ops, NULL));
    MUST(kr_listener_addr(fixture.r, listener, &addr));
    fixture.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fixture.fd, &addr.u.sa, addr.size) < 0)
        must(-1, "connect");
    send_text(text);
}

/* The client leaves, and the connection is gone. */
static inline void leave(void) {
    close(fixture.fd);
    while (!fixture.closes)
        turn();
}

#endif
