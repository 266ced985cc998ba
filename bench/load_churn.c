/* The load generator's churn mode: `connections` at a time are opened, echo one message, are
 * closed.
 *
 * Opening is plain system calls: on loopback connect ends before it would sleep, and the send
 * follows at once. The echo is awaited through the ring. The client closes first and leaves a
 * TIME_WAIT, so the connections come from 64 addresses of 127/8 in turn: a port is then used again
 * after minutes or by tcp_tw_reuse after a second. A message's time runs from connect until close.
 * */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct flow {
    int fd;
    uint32_t start; /* of the pattern: the message's first byte */
    uint32_t got;
    int64_t since;
};

struct churn {
    const struct load_options *o;
    struct record *r;
    struct load_ring l;
    const unsigned char *pattern;
    struct flow *flows;
    uint32_t serial;
};

static void recv_arm(struct churn *c, unsigned index) {
    struct io_uring_sqe *sqe = load_sqe(&c->l);
    io_uring_prep_recv(sqe, c->flows[index].fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECVSEND_POLL_FIRST;
    sqe->buf_group = LOAD_GROUP;
    io_uring_sqe_set_data64(sqe, index);
}

static void flow_open(struct churn *c, unsigned index) {
    struct flow *f = &c->flows[index];
    uint32_t serial = c->serial++;
    uint32_t source = 0x7f010001u + (serial / 64 % 64 << 8);
    *f = (struct flow){.start = serial * 61 % LOAD_PERIOD, .since = load_now()};
    f->fd = load_connect(c->o, source);
    ssize_t sent = send(f->fd, c->pattern + f->start, c->o->size, MSG_NOSIGNAL);
    if (sent != (ssize_t)c->o->size)
        load_die("send on a new connection: %s", sent < 0 ? strerror(errno) : "short");
    recv_arm(c, index);
}

static void flow_end(struct churn *c, unsigned index) {
    struct flow *f = &c->flows[index];
    close(f->fd);
    if (f->got == c->o->size)
        record_message(c->r, load_now() - f->since);
    else
        c->r->errors++;
    if (c->r->phase != LOAD_DONE)
        flow_open(c, index);
}

static void recv_done(struct churn *c, unsigned index, const struct io_uring_cqe *cqe) {
    struct flow *f = &c->flows[index];
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        unsigned id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        uint32_t size = cqe->res > 0 ? (uint32_t)cqe->res : 0;
        if (size > c->o->size - f->got)
            load_die("MISMATCH: more came back than was sent");
        load_verify(c->r, c->l.memory + (size_t)id * c->l.buf_size, c->pattern + f->start + f->got,
                    size);
        f->got += size;
        load_buf_return(&c->l, id);
    }
    bool more = cqe->res == -ENOBUFS || (cqe->res > 0 && f->got < c->o->size);
    if (more)
        recv_arm(c, index);
    else
        flow_end(c, index);
}

/* One at a time: a connection costs the client some 20 us, and the clock is read in between. */
static void completion(struct churn *c) {
    struct io_uring_cqe *first = NULL;
    io_uring_peek_cqe(&c->l.ring, &first);
    struct io_uring_cqe cqe = *first;
    io_uring_cq_advance(&c->l.ring, 1);
    recv_done(c, (unsigned)cqe.user_data, &cqe);
}

void load_churn(const struct load_options *o, struct record *r) {
    if (o->depth != 1 || o->size > 16384 || o->connections > 1024)
        load_die("churn takes depth 1, at most 16 KiB and 1024 connections");
    static struct churn c;
    c = (struct churn){.o = o, .r = r, .pattern = load_pattern(LOAD_PERIOD + 16384)};
    c.flows = calloc(o->connections, sizeof(*c.flows));
    if (!c.flows)
        load_die("no memory for %u connections", o->connections);
    c.serial = (uint32_t)load_now() >> 8;
    load_ring_init(&c.l, o, o->size < 256 ? 256 : 16384, 64);
    record_init(r, o);
    for (unsigned i = 0; i < o->connections; i++)
        flow_open(&c, i);
    while (r->phase != LOAD_DONE) {
        bool idle = !load_enter(&c.l, o);
        record_tick(r, o, idle);
        if (!idle)
            completion(&c);
        if (r->errors > 100)
            load_die("more than 100 connections lost");
    }
}
