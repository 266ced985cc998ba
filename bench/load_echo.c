/* The load generator's echo mode: connections that stay, with `depth` messages in flight on each.
 *
 * A connection has one multishot recv armed and at most one send in flight; messages that may be
 * sent meanwhile leave together afterwards. All send from the one pattern and receive into the
 * shared buffers, which are given back before the turn ends. A recv that found no buffer is armed
 * again after that. A message's time runs from when it may be sent until its last byte is back. */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OP_RECV = 0, OP_SEND = 1 };

struct flow {
    uint32_t send_at; /* of the pattern: the next byte to send */
    uint32_t recv_at; /* the next byte to come */
    uint32_t unsent;  /* bytes that may be sent and are not yet */
    uint32_t sending; /* bytes of the send in flight, 0 = none */
    uint32_t owed;    /* bytes sent or being sent that are not back */
    uint32_t part;    /* bytes of the message that is coming in */
    uint32_t oldest;  /* the stamp of that message */
    bool listed;      /* among `ready` */
    bool lost;
};

struct echo {
    const struct load_options *o;
    struct record *r;
    struct load_ring l;
    const unsigned char *pattern;
    struct flow *flows;
    int64_t *stamps; /* `depth` a flow: when each of its messages could be sent */
    unsigned *ready; /* flows with something to send */
    unsigned ready_count;
    unsigned bite; /* completions a turn */
};

static void flow_ready(struct echo *e, unsigned index) {
    struct flow *f = &e->flows[index];
    if (f->listed || f->sending || !f->unsent || f->lost)
        return;
    f->listed = true;
    e->ready[e->ready_count++] = index;
}

static void recv_arm(struct echo *e, unsigned index) {
    struct io_uring_sqe *sqe = load_sqe(&e->l);
    io_uring_prep_recv_multishot(sqe, (int)index, NULL, 0, 0);
    sqe->flags |= IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    sqe->buf_group = LOAD_GROUP;
    io_uring_sqe_set_data64(sqe, (uint64_t)index << 1 | OP_RECV);
}

static void send_arm(struct echo *e, unsigned index) {
    struct flow *f = &e->flows[index];
    struct io_uring_sqe *sqe = load_sqe(&e->l);
    io_uring_prep_send(sqe, (int)index, e->pattern + f->send_at, f->unsent, MSG_WAITALL);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, (uint64_t)index << 1 | OP_SEND);
    f->listed = false;
    f->sending = f->unsent;
    f->unsent = 0;
}

static void flow_lost(struct echo *e, unsigned index) {
    if (!e->flows[index].lost && e->r->phase != LOAD_DONE)
        e->r->errors++;
    e->flows[index].lost = true;
}

static void message_done(struct echo *e, unsigned index) {
    struct flow *f = &e->flows[index];
    int64_t *stamp = &e->stamps[(size_t)index * e->o->depth + f->oldest];
    record_message(e->r, e->r->now - *stamp);
    *stamp = e->r->now;
    f->oldest = f->oldest + 1 == e->o->depth ? 0 : f->oldest + 1;
    f->unsent += e->o->size;
    f->owed += e->o->size;
}

static void data_done(struct echo *e, unsigned index, const unsigned char *data, uint32_t size) {
    struct flow *f = &e->flows[index];
    if (size > f->owed)
        load_die("MISMATCH: %u bytes came back and only %u were due", size, f->owed);
    load_verify(e->r, data, e->pattern + f->recv_at, size);
    f->recv_at = (f->recv_at + size) % LOAD_PERIOD;
    f->owed -= size;
    for (f->part += size; f->part >= e->o->size; f->part -= e->o->size)
        message_done(e, index);
    flow_ready(e, index);
}

static void recv_done(struct echo *e, unsigned index, const struct io_uring_cqe *cqe) {
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        unsigned id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        if (cqe->res > 0)
            data_done(e, index, e->l.memory + (size_t)id * e->l.buf_size, (uint32_t)cqe->res);
        load_buf_return(&e->l, id);
    }
    if (cqe->flags & IORING_CQE_F_MORE)
        return;
    if (cqe->res > 0 || cqe->res == -ENOBUFS)
        recv_arm(e, index);
    else
        flow_lost(e, index);
}

static void send_done(struct echo *e, unsigned index, const struct io_uring_cqe *cqe) {
    struct flow *f = &e->flows[index];
    if (cqe->res < 0) {
        flow_lost(e, index);
        return;
    }
    uint32_t size = (uint32_t)cqe->res;
    f->send_at = (f->send_at + size) % LOAD_PERIOD;
    f->unsent += f->sending - size;
    f->sending = 0;
    flow_ready(e, index);
}

static void completions(struct echo *e) {
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    io_uring_for_each_cqe(&e->l.ring, head, cqe) {
        if (count == e->bite)
            break;
        count++;
        unsigned index = (unsigned)(cqe->user_data >> 1);
        if (cqe->user_data & OP_SEND)
            send_done(e, index, cqe);
        else
            recv_done(e, index, cqe);
    }
    io_uring_cq_advance(&e->l.ring, count);
}

static void sends(struct echo *e) {
    for (unsigned i = 0; i < e->ready_count; i++)
        send_arm(e, e->ready[i]);
    e->ready_count = 0;
}

static void connect_all(struct echo *e) {
    unsigned count = e->o->connections;
    int *fds = calloc(count, sizeof(*fds));
    if (!fds)
        load_die("no memory for %u connections", count);
    for (unsigned i = 0; i < count; i++)
        fds[i] = load_connect(e->o, 0);
    int rc = io_uring_register_files(&e->l.ring, fds, count);
    if (rc < 0)
        load_die("io_uring_register_files: %s", strerror(-rc));
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
    free(fds);
}

static void flows_init(struct echo *e) {
    const struct load_options *o = e->o;
    e->flows = calloc(o->connections, sizeof(*e->flows));
    e->ready = calloc(o->connections, sizeof(*e->ready));
    e->stamps = calloc((size_t)o->connections * o->depth, sizeof(*e->stamps));
    if (!e->flows || !e->ready || !e->stamps)
        load_die("no memory for %u connections", o->connections);
    for (size_t i = 0; i < (size_t)o->connections * o->depth; i++)
        e->stamps[i] = load_now();
    for (unsigned i = 0; i < o->connections; i++) {
        uint32_t bytes = o->size * o->depth, start = i * 61 % LOAD_PERIOD;
        e->flows[i] =
            (struct flow){.send_at = start, .recv_at = start, .unsent = bytes, .owed = bytes};
        recv_arm(e, i);
        flow_ready(e, i);
    }
}

static unsigned power_of_two(unsigned at_least) {
    unsigned value = 1;
    while (value < at_least)
        value *= 2;
    return value;
}

/* A buffer a connection while they are small; for large messages a few that stay warm. */
static void bufs_choose(const struct load_options *o, unsigned *size, unsigned *count) {
    unsigned flight = o->size * o->depth;
    *size = flight < 256 ? 256 : flight > 65536 ? 65536 : power_of_two(flight);
    *count = power_of_two(o->connections < 64 ? 64 : o->connections);
    while (*count > 16 && (uint64_t)*count * *size > 4u << 20)
        *count /= 2;
}

/* A turn shall last a small part of a millisecond, the unit of the rate. */
static unsigned bite_choose(unsigned size) {
    unsigned bite = (256u << 10) / size;
    return bite < 4 ? 4 : bite > 64 ? 64 : bite;
}

void load_echo(const struct load_options *o, struct record *r) {
    if ((uint64_t)o->size * o->depth > 16u << 20 || o->connections > 32768)
        load_die("echo takes at most 32768 connections, with 16 MiB in flight each");
    static struct echo e;
    unsigned buf_size, buf_count;
    bufs_choose(o, &buf_size, &buf_count);
    size_t flight = (size_t)o->size * o->depth;
    e = (struct echo){.o = o,
                      .r = r,
                      .bite = bite_choose(o->size),
                      .pattern = load_pattern(flight > buf_size ? flight : buf_size)};
    load_ring_init(&e.l, o, buf_size, buf_count);
    connect_all(&e);
    record_init(r, o);
    flows_init(&e);
    for (bool idle = false; r->phase != LOAD_DONE && r->errors < o->connections;) {
        sends(&e);
        idle = !load_enter(&e.l, o);
        record_tick(r, o, idle);
        if (!idle)
            completions(&e);
    }
    if (r->phase != LOAD_DONE)
        load_die("the server closed every connection");
}
