/* The clients of a server whose instructions are counted, in the server's own thread.
 *
 * Whoever runs the server calls client_goes_on before each of its turns, and puts what is to be
 * counted between cost_begin and cost_end. So everything is done in the same order in every run: a
 * batch of messages is sent, the server has its turns, and the next batch follows when all of the
 * last one is back. Over loopback a send has put its bytes into the other socket when it returns,
 * and the completion that they cause is in the ring by then, since io_uring posts it as the thread
 * leaves the system call. So a turn finds all that there is to find, whatever else the machine
 * does. Should a packet come late all the same, then its batch has a turn more, which costs some
 * hundred instructions a batch and not a message.
 *
 * Failure modes: a server that does not echo ends with SIGALRM; a system call that fails ends the
 * program with status 1. */
#ifndef KR_TEST_COST_CLIENT_H
#define KR_TEST_COST_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#define CLIENT_CONNS 64
#define CLIENT_WARM 16      /* batches that are not counted */
#define CLIENT_DEADLINE 120 /* seconds */
#define CLIENT_ROOM 65536   /* no message is larger */

/* Each of CLIENT_CONNS connections sends `depth` messages of `size` bytes and reads them back. */
struct client_load {
    const char *name;
    size_t size;
    unsigned depth;
    bool churns; /* a batch begins with connecting and ends with closing */
};

static const struct client_load client_loads[] = {
    {.name = "echo", .size = 64, .depth = 1},
    {.name = "deep", .size = 64, .depth = 16},
    {.name = "large", .size = CLIENT_ROOM, .depth = 1},
    {.name = "churn", .size = 64, .depth = 1, .churns = true},
};

struct client_flow {
    int fd;
    size_t unsent; /* of this batch, in bytes */
    size_t unread;
};

struct client {
    const struct client_load *load;
    struct sockaddr_in server;
    struct client_flow flows[CLIENT_CONNS];
    unsigned batch;   /* its number, from 1 on */
    unsigned batches; /* how many there are to be, the first ones included, which are not counted */
    unsigned turns;   /* that were counted */
};

static struct client client;

static inline bool client_counts(void) {
    return client.batch > CLIENT_WARM;
}

static inline void cost_begin(void) {
    if (client_counts())
        CALLGRIND_TOGGLE_COLLECT;
}

static inline void cost_end(void) {
    if (client_counts())
        CALLGRIND_TOGGLE_COLLECT;
}

static inline void client_die(const char *what) {
    perror(what);
    exit(1);
}

/* False: there is no such load. */
static inline bool client_init(const char *name, const char *batches) {
    for (size_t i = 0; i < sizeof client_loads / sizeof *client_loads; i++)
        if (!strcmp(client_loads[i].name, name))
            client.load = &client_loads[i];
    client.batches = CLIENT_WARM + (unsigned)strtoul(batches, NULL, 10);
    alarm(CLIENT_DEADLINE);
    return client.load;
}

static inline void client_aim(unsigned port) {
    client.server = (struct sockaddr_in){.sin_family = AF_INET,
                                         .sin_port = htons((uint16_t)port),
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* With room for all that is echoed before this client reads again. */
static inline void client_connect(struct client_flow *f) {
    int one = 1, room = 8 * CLIENT_ROOM;
    f->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (f->fd < 0 || setsockopt(f->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0 ||
        setsockopt(f->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) < 0 ||
        connect(f->fd, (struct sockaddr *)&client.server, sizeof client.server) < 0)
        client_die("connect");
}

/* What does not fit is sent later. */
static inline void client_send(struct client_flow *f) {
    static const char bytes[CLIENT_ROOM];
    size_t size = f->unsent < client.load->size ? f->unsent : client.load->size;
    ssize_t sent = size ? send(f->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (sent < 0 && errno != EAGAIN)
        client_die("send");
    f->unsent -= sent > 0 ? (size_t)sent : 0;
}

/* A message of each connection, then the next of each. */
static inline void client_send_all(void) {
    for (unsigned message = 0; message < client.load->depth; message++)
        for (unsigned i = 0; i < CLIENT_CONNS; i++)
            client_send(&client.flows[i]);
}

/* True when all of the batch is back. */
static inline bool client_read(struct client_flow *f) {
    static char bytes[CLIENT_ROOM];
    while (f->unread) {
        ssize_t size = recv(f->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (size < 0 && errno == EAGAIN)
            return false;
        if (size <= 0)
            client_die("recv");
        f->unread -= (size_t)size;
    }
    return true;
}

static inline bool client_read_all(void) {
    unsigned back = 0;
    for (unsigned i = 0; i < CLIENT_CONNS; i++)
        back += client_read(&client.flows[i]);
    return back == CLIENT_CONNS;
}

static inline void client_batch_begin(void) {
    for (unsigned i = 0; i < CLIENT_CONNS; i++) {
        struct client_flow *f = &client.flows[i];
        if (client.load->churns && client.batch)
            close(f->fd);
        if (client.load->churns || !client.batch)
            client_connect(f);
        f->unsent = f->unread = client.load->size * client.load->depth;
    }
    client.batch++;
}

/* To be called before each turn; false when all batches are over. */
static inline bool client_goes_on(void) {
    if (client.batch && !client_read_all()) {
        client_send_all();
    } else if (client.batch < client.batches) {
        client_batch_begin();
        client_send_all();
    } else {
        return false;
    }
    client.turns += client_counts();
    return true;
}

/* Of how much the instructions are that have been counted. */
static inline void client_print(void) {
    unsigned depth = client.load ? client.load->depth : 1;
    unsigned messages = (client.batches - CLIENT_WARM) * CLIENT_CONNS * depth;
    printf("messages %u turns %u\n", messages, client.turns);
}

#endif
