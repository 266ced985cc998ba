/* The peer "raw": an echo server by hand on raw liburing, as a good engineer would write and tune
 * it.
 *
 * One ring (SINGLE_ISSUER, COOP_TASKRUN or with --defer DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL,
 * its descriptor registered), one io_uring_enter a turn. Multishot accept puts connections straight
 * into the sparse file table, a multishot recv for each takes buffers of one provided ring, and
 * what came in goes out of the very buffer it came into, one MSG_WAITALL send at a time a
 * connection. Pieces that come during a send queue behind it, linked through their buffers. Buffers
 * go back with one tail store a turn. A message costs one recv completion, one send request and one
 * send completion.
 *
 * When no buffer is left a recv ends with -ENOBUFS; its connection is parked, and armed again, in
 * order, as buffers come back. A connection is closed when it has nothing in flight: neither an
 * armed recv nor a send; so a slot is never used again while a completion of its earlier life is
 * due.
 *
 * --bufs and --bufsize say how many receive buffers of what size there are. Published buffers are
 * used in turn, so their sum should fit the cache.
 *
 * Two younger features of the kernel are off unless asked for; bench/buffers.py says what they
 * give:
 *
 * --bundle (kernel >= 6.10): a recv may fill several buffers, which stand in a row in the ring and
 * are told by one completion; what is queued goes out in one SENDMSG. So a small buffer is no
 * longer a small message. Kernels 6.13.11 to 6.14.8 mix the order of bytes up (liburing #1409,
 * #1411).
 *
 * --inc (kernel >= 6.12): a recv uses up only as much of a buffer as it fills, and the next one
 * goes on there: BUF_MORE says that it will. So small messages lie side by side. A buffer goes back
 * when the kernel has done with it and all pieces of it are sent. */
#include "peer.h"

#include <liburing.h>
#include <sys/mman.h>

enum { GROUP = 0, SQ_ENTRIES = 512, CQ_ENTRIES = 16384, NONE = 0xffff, VECTOR = 32 };

/* Newer than liburing 2.3, include/uapi/linux/io_uring.h. */
enum { RECV_BUNDLE = 1 << 4, PBUF_RING_INC = 2, CQE_BUF_MORE = 1 << 4 };

enum op { OP_ACCEPT, OP_RECV, OP_SEND, OP_CLOSE };

/* A connection; its index is its slot in the file table. */
struct conn {
    uint32_t offset; /* sent of the first piece */
    uint16_t first;  /* received and not yet sent wholly: pieces, linked by their `next` */
    uint16_t last;
    bool armed;   /* the multishot recv owes a completion */
    bool sending; /* a send owes a completion */
    bool ended;   /* the peer ended or an error came: nothing more to receive */
    bool broken;  /* sending failed: drop what is queued */
    uint32_t parked_next;
};

/* What one recv has put into a buffer. Its index is the buffer's, as a buffer has one; with --inc,
 * where it has many, any that is free. */
struct piece {
    uint32_t at; /* in the memory */
    uint32_t size;
    uint16_t buf;
    uint16_t next;
};

/* A buffer that is used up bit by bit. */
struct inc {
    uint32_t used;
    uint16_t pieces; /* not sent */
    bool finished;   /* the kernel has done with it */
};

struct vector {
    struct msghdr msg;
    struct iovec iov[VECTOR];
};

struct server {
    struct io_uring ring;
    struct io_uring_buf_ring *bufs;
    char *memory;
    unsigned buf_count;
    unsigned buf_size;
    unsigned held;     /* buffers that the kernel gave us and that are not published again */
    unsigned returned; /* of these, to be published at the turn's end */
    struct piece *pieces;
    struct conn *conns;
    uint16_t *buf_at; /* --bundle: by place in the ring, the buffer there, */
    uint16_t *place;  /* and the reverse */
    uint16_t tail;    /* the place that is filled next */
    struct vector *vectors; /* --bundle: by slot */
    struct inc *incs;       /* --inc: by buffer */
    uint16_t free_piece;    /* --inc: linked by `next` */
    unsigned conn_count;
    uint32_t parked_first; /* connections without a recv for want of buffers */
    uint32_t parked_last;
    int listener;
    bool defer;
    bool bundle;
    bool inc;
};

static const uint32_t nobody = UINT32_MAX;

static struct io_uring_sqe *sqe_get(struct server *s, enum op op, uint32_t slot) {
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&s->ring))) {
        int rc = io_uring_submit(&s->ring);
        if (rc < 0 && rc != -EBUSY && rc != -EAGAIN && rc != -EINTR)
            peer_die("io_uring_submit", -rc);
    }
    /* The prep functions leave user_data alone, man io_uring_get_sqe. */
    io_uring_sqe_set_data64(sqe, (uint64_t)op << 32 | slot);
    return sqe;
}

static void accept_arm(struct server *s) {
    struct io_uring_sqe *sqe = sqe_get(s, OP_ACCEPT, 0);
    io_uring_prep_multishot_accept_direct(sqe, s->listener, NULL, NULL, 0);
}

static void recv_arm(struct server *s, uint32_t slot) {
    struct io_uring_sqe *sqe = sqe_get(s, OP_RECV, slot);
    io_uring_prep_recv_multishot(sqe, (int)slot, NULL, 0, 0);
    sqe->flags |= IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    sqe->buf_group = GROUP;
    if (s->bundle)
        sqe->ioprio |= RECV_BUNDLE;
    s->conns[slot].armed = true;
}

/* All that is queued, or VECTOR pieces of it. */
static void sendmsg_prep(struct server *s, uint32_t slot, struct io_uring_sqe *sqe) {
    struct conn *c = &s->conns[slot];
    struct vector *v = &s->vectors[slot];
    unsigned count = 0;
    for (uint16_t id = c->first; id != NONE && count < VECTOR; id = s->pieces[id].next)
        v->iov[count++] = (struct iovec){s->memory + s->pieces[id].at, s->pieces[id].size};
    v->iov[0].iov_base = (char *)v->iov[0].iov_base + c->offset;
    v->iov[0].iov_len -= c->offset;
    v->msg = (struct msghdr){.msg_iov = v->iov, .msg_iovlen = count};
    io_uring_prep_sendmsg(sqe, (int)slot, &v->msg, MSG_WAITALL);
}

static void send_arm(struct server *s, uint32_t slot) {
    struct conn *c = &s->conns[slot];
    const struct piece *p = &s->pieces[c->first];
    struct io_uring_sqe *sqe = sqe_get(s, OP_SEND, slot);
    if (s->bundle && p->next != NONE)
        sendmsg_prep(s, slot, sqe);
    else
        io_uring_prep_send(sqe, (int)slot, s->memory + p->at + c->offset, p->size - c->offset,
                           MSG_WAITALL);
    sqe->flags |= IOSQE_FIXED_FILE;
    c->sending = true;
}

static void buf_return(struct server *s, uint16_t id) {
    int mask = io_uring_buf_ring_mask(s->buf_count);
    if (s->bundle) {
        s->buf_at[s->tail & mask] = id;
        s->place[id] = s->tail++;
    }
    io_uring_buf_ring_add(s->bufs, s->memory + (size_t)id * s->buf_size, s->buf_size, id, mask,
                          (int)s->returned++);
}

static void inc_settle(struct server *s, uint16_t buf) {
    struct inc *b = &s->incs[buf];
    if (!b->finished || b->pieces)
        return;
    *b = (struct inc){0};
    buf_return(s, buf);
}

static void piece_put(struct server *s, uint16_t id) {
    uint16_t buf = s->pieces[id].buf;
    if (!s->inc) {
        buf_return(s, buf);
        return;
    }
    s->pieces[id].next = s->free_piece;
    s->free_piece = id;
    s->incs[buf].pieces--;
    inc_settle(s, buf);
}

static void queue_push(struct server *s, struct conn *c, uint16_t id, struct piece piece) {
    s->pieces[id] = piece;
    if (c->first == NONE)
        c->first = id;
    else
        s->pieces[c->last].next = id;
    c->last = id;
}

static void queue_pop(struct server *s, struct conn *c) {
    uint16_t id = c->first;
    c->first = s->pieces[id].next;
    c->offset = 0;
    piece_put(s, id);
}

static void queue_consume(struct server *s, struct conn *c, uint32_t size) {
    while (size) {
        uint32_t left = s->pieces[c->first].size - c->offset;
        if (size < left) {
            c->offset += size;
            return;
        }
        size -= left;
        queue_pop(s, c);
    }
}

static void park(struct server *s, uint32_t slot) {
    s->conns[slot].parked_next = nobody;
    if (s->parked_first == nobody)
        s->parked_first = slot;
    else
        s->conns[s->parked_last].parked_next = slot;
    s->parked_last = slot;
}

/* As many connections as there are free buffers; the rest would only fail again. */
static void unpark(struct server *s) {
    for (unsigned free = s->buf_count - s->held; free && s->parked_first != nobody; free--) {
        uint32_t slot = s->parked_first;
        s->parked_first = s->conns[slot].parked_next;
        recv_arm(s, slot);
    }
}

static void close_arm(struct server *s, uint32_t slot) {
    struct io_uring_sqe *sqe = sqe_get(s, OP_CLOSE, slot);
    io_uring_prep_close_direct(sqe, slot);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

/* The one decision about a connection: send on, or close, or wait. */
static void conn_settle(struct server *s, uint32_t slot) {
    struct conn *c = &s->conns[slot];
    if (c->sending)
        return;
    while (c->broken && c->first != NONE)
        queue_pop(s, c);
    if (c->first != NONE)
        send_arm(s, slot);
    else if (c->ended && !c->armed)
        close_arm(s, slot);
}

static void accept_done(struct server *s, const struct io_uring_cqe *cqe) {
    if (!(cqe->flags & IORING_CQE_F_MORE))
        accept_arm(s);
    if (cqe->res < 0) {
        fprintf(stderr, "accept: %s\n", strerror(-cqe->res));
        return;
    }
    s->conns[cqe->res] = (struct conn){.first = NONE};
    recv_arm(s, (uint32_t)cqe->res);
}

/* A whole buffer, of which the first `size` bytes came. */
static void buf_came(struct server *s, struct conn *c, uint16_t buf, uint32_t size) {
    struct piece piece = {
        .at = buf * s->buf_size, .size = size, .buf = buf, .next = NONE};
    s->held++;
    if (size)
        queue_push(s, c, buf, piece);
    else
        buf_return(s, buf);
}

/* The buffers from this one on, by their places in the ring. */
static void bundle_came(struct server *s, struct conn *c, uint16_t buf, uint32_t size) {
    uint16_t place = s->place[buf];
    do {
        uint32_t part = size < s->buf_size ? size : s->buf_size;
        buf_came(s, c, s->buf_at[place++ & io_uring_buf_ring_mask(s->buf_count)], part);
        size -= part;
    } while (size);
}

/* What comes right behind the last piece of the queue makes that longer, but for one that may be in
 * flight. */
static bool inc_lengthened(struct server *s, struct conn *c, uint32_t at, uint32_t size) {
    struct piece *last = &s->pieces[c->last];
    if (c->first == NONE || (c->sending && c->first == c->last) || last->at + last->size != at)
        return false;
    last->size += size;
    return true;
}

static void inc_came(struct server *s, struct conn *c, uint16_t buf, uint32_t size, bool more) {
    struct inc *b = &s->incs[buf];
    uint32_t at = buf * s->buf_size + b->used;
    if (size && !(b->used && inc_lengthened(s, c, at, size))) {
        uint16_t id = s->free_piece;
        if (id == NONE)
            peer_die("pieces", ENOMEM);
        s->free_piece = s->pieces[id].next;
        b->pieces++;
        queue_push(s, c, id, (struct piece){.at = at, .size = size, .buf = buf, .next = NONE});
    }
    b->used += size;
    if (more)
        return;
    s->held++;
    b->finished = true;
    inc_settle(s, buf);
}

static void recv_done(struct server *s, uint32_t slot, const struct io_uring_cqe *cqe) {
    struct conn *c = &s->conns[slot];
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        uint16_t buf = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        uint32_t size = cqe->res > 0 ? (uint32_t)cqe->res : 0;
        if (s->inc)
            inc_came(s, c, buf, size, cqe->flags & CQE_BUF_MORE);
        else if (s->bundle)
            bundle_came(s, c, buf, size);
        else
            buf_came(s, c, buf, size);
    }
    if (!(cqe->flags & IORING_CQE_F_MORE)) {
        c->armed = false;
        if (cqe->res > 0)
            recv_arm(s, slot);
        else if (cqe->res == -ENOBUFS)
            park(s, slot);
        else
            c->ended = true;
    }
    conn_settle(s, slot);
}

static void send_done(struct server *s, uint32_t slot, const struct io_uring_cqe *cqe) {
    struct conn *c = &s->conns[slot];
    c->sending = false;
    if (cqe->res < 0)
        c->broken = true;
    else
        queue_consume(s, c, (uint32_t)cqe->res);
    conn_settle(s, slot);
}

static void complete(struct server *s, const struct io_uring_cqe *cqe) {
    uint32_t slot = (uint32_t)cqe->user_data;
    switch ((enum op)(cqe->user_data >> 32)) {
    case OP_RECV: recv_done(s, slot, cqe); break;
    case OP_SEND: send_done(s, slot, cqe); break;
    case OP_ACCEPT: accept_done(s, cqe); break;
    case OP_CLOSE: peer_die("close", -cqe->res);
    }
}

/* DEFER_TASKRUN from kernel 6.13 on brings one completion after a sleep and 20 an enter
 * (io_uring/tw.c, IO_LOCAL_TW_DEFAULT_MAX); the flag says that more are due, and a second enter
 * fetches them. */
static void wait_one(struct server *s) {
    int rc = io_uring_submit_and_wait(&s->ring, 1);
    if (rc >= 0 && s->defer && IO_URING_READ_ONCE(*s->ring.sq.kflags) & IORING_SQ_TASKRUN)
        rc = io_uring_get_events(&s->ring);
    if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
        peer_die("io_uring_enter", -rc);
}

static void bufs_publish(struct server *s) {
    unsigned count = s->returned;
    if (!count)
        return;
    io_uring_buf_ring_advance(s->bufs, (int)count);
    s->held -= count;
    s->returned = 0;
}

static void turn(struct server *s) {
    wait_one(s);
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    io_uring_for_each_cqe(&s->ring, head, cqe) {
        complete(s, cqe);
        count++;
    }
    io_uring_cq_advance(&s->ring, count);
    bufs_publish(s);
    unpark(s);
}

static void ring_init(struct server *s) {
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL |
                 IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
                 (s->defer ? IORING_SETUP_DEFER_TASKRUN : IORING_SETUP_COOP_TASKRUN),
        .cq_entries = CQ_ENTRIES,
    };
    int rc = io_uring_queue_init_params(SQ_ENTRIES, &s->ring, &params);
    if (rc < 0)
        peer_die("io_uring_setup", -rc);
    rc = io_uring_register_ring_fd(&s->ring);
    if (rc < 0)
        peer_die("io_uring_register_ring_fd", -rc);
    rc = io_uring_register_files_sparse(&s->ring, s->conn_count);
    if (rc < 0)
        peer_die("io_uring_register_files_sparse", -rc);
}

static void *map(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        peer_die("mmap", errno);
    return memory;
}

static void inc_init(struct server *s) {
    s->incs = map(s->buf_count * sizeof(*s->incs));
    for (unsigned i = 0; i < NONE; i++)
        s->pieces[i].next = (uint16_t)(i + 1); /* up to NONE */
}

static void bundle_init(struct server *s) {
    s->buf_at = map(s->buf_count * sizeof(*s->buf_at));
    s->place = map(s->buf_count * sizeof(*s->place));
    s->vectors = map(s->conn_count * sizeof(*s->vectors));
}

static void bufs_init(struct server *s) {
    s->bufs = map(s->buf_count * sizeof(struct io_uring_buf));
    s->memory = map((size_t)s->buf_count * s->buf_size);
    s->pieces = map((s->inc ? NONE : s->buf_count) * sizeof(*s->pieces));
    s->conns = map(s->conn_count * sizeof(*s->conns));
    if (s->bundle)
        bundle_init(s);
    if (s->inc)
        inc_init(s);
    struct io_uring_buf_reg reg = {.ring_addr = (uint64_t)(uintptr_t)s->bufs,
                                   .ring_entries = s->buf_count,
                                   .bgid = GROUP,
                                   .pad = s->inc ? PBUF_RING_INC : 0};
    int rc = io_uring_register_buf_ring(&s->ring, &reg, 0);
    if (rc < 0)
        peer_die("io_uring_register_buf_ring", -rc);
    io_uring_buf_ring_init(s->bufs);
    for (unsigned i = 0; i < s->buf_count; i++)
        buf_return(s, (uint16_t)i);
    io_uring_buf_ring_advance(s->bufs, (int)s->returned);
    s->returned = 0;
}

int main(int argc, char **argv) {
    peer_init();
    struct server s = {
        .buf_count = peer_option(argc, argv, "--bufs", 256),
        .buf_size = peer_option(argc, argv, "--bufsize", 4096),
        .conn_count = peer_nofile(),
        .parked_first = nobody,
        .listener = peer_listen(0),
        .defer = peer_switch(argc, argv, "--defer"),
        .bundle = peer_switch(argc, argv, "--bundle"),
        .inc = peer_switch(argc, argv, "--inc"),
    };
    if (s.bundle && s.inc)
        peer_die("--bundle and --inc", EINVAL);
    ring_init(&s);
    bufs_init(&s);
    accept_arm(&s);
    peer_ready(s.listener);
    for (;;)
        turn(&s);
}
