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
 * used in turn, so their sum should fit the cache. */
#include "peer.h"

#include <liburing.h>
#include <sys/mman.h>

enum { GROUP = 0, SQ_ENTRIES = 512, CQ_ENTRIES = 16384, NONE = 0xffff };
enum op { OP_ACCEPT, OP_RECV, OP_SEND, OP_CLOSE };

/* A connection; its index is its slot in the file table. */
struct conn {
    uint32_t offset; /* sent of the first piece */
    uint16_t first;  /* received and not yet sent wholly: buffers, linked by piece.next */
    uint16_t last;
    bool armed;   /* the multishot recv owes a completion */
    bool sending; /* a send owes a completion */
    bool ended;   /* the peer ended or an error came: nothing more to receive */
    bool broken;  /* sending failed: drop what is queued */
    uint32_t parked_next;
};

/* What a buffer holds, by buffer id. */
struct piece {
    uint32_t size;
    uint16_t next;
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
    unsigned conn_count;
    uint32_t parked_first; /* connections without a recv for want of buffers */
    uint32_t parked_last;
    int listener;
    bool defer;
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
    s->conns[slot].armed = true;
}

static void send_arm(struct server *s, uint32_t slot) {
    struct conn *c = &s->conns[slot];
    const char *data = s->memory + (size_t)c->first * s->buf_size + c->offset;
    struct io_uring_sqe *sqe = sqe_get(s, OP_SEND, slot);
    io_uring_prep_send(sqe, (int)slot, data, s->pieces[c->first].size - c->offset, MSG_WAITALL);
    sqe->flags |= IOSQE_FIXED_FILE;
    c->sending = true;
}

static void buf_return(struct server *s, uint16_t id) {
    io_uring_buf_ring_add(s->bufs, s->memory + (size_t)id * s->buf_size, s->buf_size, id,
                          io_uring_buf_ring_mask(s->buf_count), (int)s->returned++);
}

static void queue_push(struct server *s, struct conn *c, uint16_t id, uint32_t size) {
    s->pieces[id] = (struct piece){.size = size, .next = NONE};
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
    buf_return(s, id);
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

static void recv_done(struct server *s, uint32_t slot, const struct io_uring_cqe *cqe) {
    struct conn *c = &s->conns[slot];
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        uint16_t id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        s->held++;
        if (cqe->res > 0)
            queue_push(s, c, id, (uint32_t)cqe->res);
        else
            buf_return(s, id);
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
    else if ((c->offset += (uint32_t)cqe->res) == s->pieces[c->first].size)
        queue_pop(s, c);
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

static void bufs_init(struct server *s) {
    s->bufs = map(s->buf_count * sizeof(struct io_uring_buf));
    s->memory = map((size_t)s->buf_count * s->buf_size);
    s->pieces = map(s->buf_count * sizeof(*s->pieces));
    s->conns = map(s->conn_count * sizeof(*s->conns));
    struct io_uring_buf_reg reg = {
        .ring_addr = (uint64_t)(uintptr_t)s->bufs, .ring_entries = s->buf_count, .bgid = GROUP};
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
    };
    ring_init(&s);
    bufs_init(&s);
    accept_arm(&s);
    peer_ready(s.listener);
    for (;;)
        turn(&s);
}
