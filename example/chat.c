/* A chat for netcat: `chat PORT`. Port 0 lets the kernel choose. Each line goes to all members, to
 * the one who wrote it too.
 *
 * Nobody waits for anybody. What a member has not read yet is queued, for it alone. With more than
 * SEND_HIGH bytes queued it is not listened to until it has caught up, which the library sees to;
 * so the echo of their own lines keeps those who write at the pace at which they read. One for whom
 * more than SEND_CAP would have to be queued is dropped, and the others are told. */
#include <kreactor.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MOST 1024u /* bytes, with the newline */
#define SEND_HIGH ((size_t)64 << 10)
#define SEND_CAP ((size_t)256 << 10)

struct member { /* in its connection's inline memory */
    kr_conn conn;
    unsigned number;
    const char *fault; /* what it is dropped for; NULL: it left */
    struct member *next;
};

struct chat {
    struct member *members;
    unsigned joined; /* so many have, ever */
};

static struct kr_reactor *reactor;

static void on_signal(int signal) {
    (void)signal;
    kr_stop(reactor);
}

/* on_close, in a later turn, tells the others. */
static void drop(struct kr_reactor *r, struct member *m, const char *fault) {
    m->fault = fault;
    kr_conn_close(r, m->conn, KR_CLOSE_RESET);
}

/* -EPIPE is of one who is leaving already. */
static void say(struct kr_reactor *r, struct chat *chat, const struct iovec *parts, int count) {
    for (struct member *m = chat->members; m; m = m->next) {
        int rc = kr_conn_sendv(r, m->conn, parts, count);
        if (rc < 0 && rc != -EPIPE)
            drop(r, m, rc == -ENOBUFS ? "was too slow" : "found no room");
    }
}

static void announce(struct kr_reactor *r, struct chat *chat, unsigned number, const char *what) {
    char text[64];
    int size = snprintf(text, sizeof text, "* %u %s\n", number, what);
    say(r, chat, &(struct iovec){text, (size_t)size}, 1);
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct chat *chat = user;
    struct member *m = kr_conn_inline(r, conn);
    *m = (struct member){.conn = conn, .number = ++chat->joined, .next = chat->members};
    chat->members = m;
    announce(r, chat, m->number, "joined");
}

static void say_line(struct kr_reactor *r, struct chat *chat, unsigned number, const char *line,
                     size_t size) {
    char who[16];
    int who_size = snprintf(who, sizeof who, "%u: ", number);
    struct iovec parts[] = {{who, (size_t)who_size}, {(void *)(uintptr_t)line, size}};
    say(r, chat, parts, 2);
}

/* Lines that are left over when the queue is full are shown again when it is down to its low
 * mark. */
static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct member *m = kr_conn_inline(r, conn);
    const char *line = data, *end = line + size, *newline;
    while (kr_conn_queued(r, conn) <= SEND_HIGH &&
           (newline = memchr(line, '\n', (size_t)(end - line)))) {
        size_t line_size = (size_t)(newline + 1 - line);
        if (line_size > LINE_MOST) {
            drop(r, m, "wrote too long a line");
            return size;
        }
        say_line(r, user, m->number, line, line_size);
        line = newline + 1;
    }
    return (size_t)(line - (const char *)data);
}

/* A line that goes on beyond recv_cap ends its connection with -EMSGSIZE. */
static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct chat *chat = user;
    const struct member *m = kr_conn_inline(r, conn);
    struct member **link = &chat->members;
    while (*link != m)
        link = &(*link)->next;
    *link = m->next;
    const char *left = error == -EMSGSIZE ? "wrote too long a line" : "left";
    if (why != KR_WHY_REACTOR) /* then all leave */
        announce(r, chat, m->number, m->fault ? m->fault : left);
}

static const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_close = on_close};

static int chat_listen(struct kr_reactor *r, struct chat *chat, uint16_t port,
                       struct kr_addr *bound) {
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn.send_low = SEND_HIGH / 2;
    opts.conn.send_high = SEND_HIGH;
    opts.conn.send_cap = SEND_CAP;
    opts.conn.recv_cap = LINE_MOST;
    opts.conn.inline_size = sizeof(struct member);
    kr_listener listener;
    int rc = kr_addr_ip(bound, "127.0.0.1", port);
    if (rc == 0)
        rc = kr_listen(r, &listener, bound, &opts, &ops, chat);
    return rc < 0 ? rc : kr_listener_addr(r, listener, bound);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s PORT\n", argv[0]);
        return EXIT_FAILURE;
    }
    struct kr_failure why;
    if (kr_reactor_new(&reactor, NULL, &why) < 0) {
        fprintf(stderr, "chat: %s: %s; %s\n", why.tried, why.cause, why.remedy);
        return EXIT_FAILURE;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    struct chat chat = {0};
    struct kr_addr addr;
    int rc = chat_listen(reactor, &chat, (uint16_t)atoi(argv[1]), &addr);
    if (rc == 0) {
        char text[KR_ADDR_TEXT_SIZE];
        kr_addr_text(&addr, text, sizeof text);
        printf("listening on %s\n", text);
        fflush(stdout);
        rc = kr_run(reactor);
    }
    kr_reactor_free(reactor);
    if (rc < 0)
        fprintf(stderr, "chat: %s\n", kr_errname(rc));
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
