/* Every verb with every completion that may come of it: a cell is a verb, the state of its owner, a
 * result and flags; each says what must have come of it, and that the reactor goes on serving.
 *
 * The ring is real, but requests of chosen verbs are stolen on their way: the submission carries a
 * NOP without a completion in their place. The kernel then owes nothing for them, and a completion
 * of the test's making, handed to the loop's own funnel, is the only one there will be. A cancel of
 * a stolen request is answered as the kernel would. Where receives are stolen, the test plays the
 * kernel's part with the provided buffers, too. The other way, for results without flags: the NOP
 * in the request's place completes with the result, through the real queue
 * (IORING_NOP_INJECT_RESULT, kernel >= 6.10). */
#include "harness/net.h"

#include "base/poison.h"
#include "kernel/probe.h"
#include "loop.h"
#include "op/nop.h"
#include "op/op.h"
#include "pool/files.h"
#include "ring/tag.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define COUNT(table_) (sizeof(table_) / sizeof *(table_))
#define MORE IORING_CQE_F_MORE
#define NONEMPTY IORING_CQE_F_SOCK_NONEMPTY
#define BUFFER IORING_CQE_F_BUFFER
#define NOTIF IORING_CQE_F_NOTIF
#define THEFTS 64
#define HELLO "hello"
#define HELLO_SIZE 5

/* ---- the thief ---- */

/* What a case of this suite has: a reactor, the requests stolen from it, and what its user has
 * seen. */
struct world {
    struct kr__kernel kernel; /* first: the functions are given a pointer to it */
    struct kr_reactor *r;
    uint32_t steal;  /* the verbs whose requests are stolen */
    uint32_t inject; /* those whose next request completes with `injected` */
    int32_t injected;
    unsigned injections;
    uint64_t thefts[THEFTS];
    unsigned theft_count;
    unsigned one_shots; /* stolen receives that are no multishot */
    bool deaf;        /* cancels are swallowed: the kernel is just running the request */
    unsigned cancels; /* that were made */
    uint16_t buf_head;

    kr_listener listener;
    uint16_t port;
    kr_conn conn; /* the last opened */
    int fd;       /* its client */
    unsigned opens, closes, eofs, datas, posts;
    uint64_t flight;   /* the tag of a send by zero-copy */
    unsigned returned; /* loans */
    int error;
    enum kr_why why;
    size_t got;
};

/* Which of the stolen requests has that tag; -1: none. */
static int theft_of(const struct world *w, uint64_t user_data) {
    for (unsigned i = 0; i < w->theft_count; i++) {
        if (w->thefts[i] == user_data)
            return (int)i;
    }
    return -1;
}

static void drop_theft(struct world *w, int i) {
    w->theft_count--;
    w->thefts[i] = w->thefts[w->theft_count];
}

/* The request is the test's to complete. */
static void take(struct world *w, struct io_uring_sqe *sqe) {
    CHECK_LT(w->theft_count, (unsigned)THEFTS);
    uint64_t user_data = sqe->user_data;
    w->thefts[w->theft_count++] = user_data;
    w->one_shots += sqe->opcode == IORING_OP_RECV && !(sqe->ioprio & IORING_RECV_MULTISHOT);
    /* of a plain table: whatever it answers, the descriptor is gone (man close) */
    if (sqe->opcode == IORING_OP_CLOSE && !sqe->file_index)
        test_close(sqe->fd);
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_NOP;
    sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = user_data;
}

static void inject(struct world *w, struct io_uring_sqe *sqe, uint32_t verb) {
    uint64_t user_data = sqe->user_data;
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_NOP;
    sqe->rw_flags = KR__NOP_INJECT_RESULT;
    sqe->len = (uint32_t)w->injected;
    sqe->user_data = user_data;
    w->inject &= ~verb;
    w->injections++;
}

/* The next request of these verbs completes with `result`, by a NOP in its place. */
static void inject_next(struct world *w, uint32_t verbs, int32_t result) {
    tap_need_kernel(6, 10); /* NOP with a result */
    w->inject = verbs;
    w->injected = result;
}

/* The tag that a swallowed cancel was about; 0: it goes its way. */
static uint64_t swallow_cancel(struct world *w, struct io_uring_sqe *sqe) {
    uint64_t target = sqe->addr;
    w->cancels++;
    if (!w->deaf && theft_of(w, target) < 0)
        return 0;
    uint64_t user_data = sqe->user_data;
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_NOP;
    sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = user_data;
    return w->deaf ? 0 : target;
}

/* A NOP is ours already, or the test's own, with any tag; but of a plain table installs, exports and
 * shutdowns are NOPs, too. */
static bool is_ours(const struct io_uring_sqe *sqe, uint32_t verb) {
    bool fresh = !sqe->flags && !sqe->rw_flags;
    bool of_table = verb & (KR__SET(install) | KR__SET(export) | KR__SET(shutdown));
    return sqe->opcode == IORING_OP_NOP && !(fresh && of_table);
}

/* One request on its way; returns the tag of a stolen one that it cancels. */
static uint64_t pass(struct world *w, struct io_uring_sqe *sqe) {
    unsigned op = kr__tag_unpack(sqe->user_data).op;
    uint32_t verb = op < KR__VERB_COUNT ? 1u << op : 0;
    if (is_ours(sqe, verb))
        return 0;
    if (sqe->opcode == IORING_OP_ASYNC_CANCEL)
        return swallow_cancel(w, sqe);
    if (w->inject & verb)
        inject(w, sqe, verb);
    else if (w->steal & verb)
        take(w, sqe);
    return 0;
}

static void complete_all(struct world *w, uint64_t user_data, int32_t res) {
    int i;
    while ((i = theft_of(w, user_data)) >= 0) {
        drop_theft(w, i);
        kr__loop_complete(w->r, user_data, res, 0);
    }
}

static int thief_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                       unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    struct world *w = (struct world *)(uintptr_t)k;
    uint64_t cancelled[THEFTS];
    unsigned count = 0, head = *ring->sq.khead;
    for (unsigned i = 0; i < submit; i++) {
        uint64_t target = pass(w, &ring->sq.sqes[(head + i) & *ring->sq.kring_mask]);
        if (target)
            cancelled[count++] = target;
        CHECK_LT(count, (unsigned)THEFTS);
    }
    int rc = kr__linux.enter(&kr__linux, ring, submit, count ? 0 : wait_for, flags, arg);
    for (unsigned i = 0; i < count; i++)
        complete_all(w, cancelled[i], -ECANCELED);
    return rc;
}

/* The tag of a stolen request of that verb and slot; 0: there is none. */
static uint64_t stolen(const struct world *w, enum kr__verb verb, uint32_t slot) {
    for (unsigned i = 0; i < w->theft_count; i++) {
        struct kr__tag tag = kr__tag_unpack(w->thefts[i]);
        if (tag.op == verb && tag.slot == slot)
            return w->thefts[i];
    }
    return 0;
}

/* Completes it. It stays in flight if the flags say so. */
static void complete(struct world *w, enum kr__verb verb, uint32_t slot, int32_t res,
                     uint32_t flags) {
    uint64_t user_data = stolen(w, verb, slot);
    CHECK_NE(user_data, 0u);
    if (!(flags & MORE))
        drop_theft(w, theft_of(w, user_data));
    kr__loop_complete(w->r, user_data, res, flags);
}

/* Fills the next buffer, as the kernel does, and returns the flags that say so. */
static uint32_t fill(struct world *w, const void *data, size_t size) {
    const struct kr__bufs *bufs = &w->r->bufs;
    CHECK_NE(w->buf_head, bufs->tail);
    const struct io_uring_buf *entry = &bufs->ring->bufs[w->buf_head++ & bufs->mask];
    CHECK_LE(size, entry->len);
    kr__unpoison((void *)(uintptr_t)entry->addr, size);
    if (size)
        memcpy((void *)(uintptr_t)entry->addr, data, size);
    return BUFFER | (uint32_t)entry->bid << IORING_CQE_BUFFER_SHIFT;
}

/* ---- the user ---- */

static void world_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct world *w = user;
    w->opens++;
    w->conn = conn;
}

static size_t world_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct world *w = user;
    w->datas++;
    w->got += size;
    int rc = kr_conn_send(r, conn, data, size);
    CHECK(rc == 0 || rc == -EPIPE);
    return size;
}

static void world_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    (void)conn;
    ((struct world *)user)->eofs++;
}

static void world_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    (void)r;
    (void)conn;
    struct world *w = user;
    w->closes++;
    w->error = error;
    w->why = why;
}

static void world_post(struct kr_reactor *r, void *arg) {
    (void)r;
    __atomic_fetch_add(&((struct world *)arg)->posts, 1, __ATOMIC_ACQ_REL);
}

static const struct kr_conn_ops world_ops = {
    .on_open = world_open,
    .on_data = world_data,
    .on_eof = world_eof,
    .on_close = world_close,
};

/* ---- a cell ---- */

static int64_t *cells_run;
static char cell_text[160];

static void cell_show(void *unused) {
    (void)unused;
    tap_note("the cell: %s", cell_text);
}

/* What a cell is about, for the line that tells of its failure. */
static void cell_begin(const char *verb, const char *state, int32_t res, uint32_t flags) {
    if (!cell_text[0])
        tap_on_fail(cell_show, NULL);
    snprintf(cell_text, sizeof cell_text, "%s, %s, result %d%s%s,%s%s%s", verb, state, res,
             res < 0 ? " " : "", res < 0 ? kr_errname(res) : "", flags & MORE ? " F_MORE" : "",
             flags & NONEMPTY ? " F_SOCK_NONEMPTY" : "", flags & BUFFER ? " F_BUFFER" : "");
    __atomic_fetch_add(cells_run, 1, __ATOMIC_RELAXED);
}

/* How a listener of a cell accepts: multishot while the table is large; else it polls, then one by
 * one. */
enum accepting { BY_MULTISHOT, BY_ONES, BY_FD };

static struct kr_listen_opts opts_of(enum accepting accepting) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    opts.addresses = accepting == BY_FD;
    opts.conn.zerocopy_min = 2; /* of loans, which few cases have */
    return opts;
}

/* A listener, no client yet. Of one world at a time. */
static struct world *world_begin_with(enum accepting accepting, uint32_t steal, unsigned bufs) {
    static struct world world;
    struct world *w = &world;
    *w = (struct world){.kernel = kr__linux, .steal = steal};
    w->kernel.enter = thief_enter;
    struct kr_config config = test_config();
    config.sq_entries = 32;
    config.cq_entries = 128;
    config.conn_max = accepting == BY_MULTISHOT ? 256 : 8;
    config.file_max = 4;
    config.buf_count = bufs;
    config.buf_size = 512;
    w->r = test_reactor_on(&w->kernel, &config);
    struct kr_listen_opts opts = opts_of(accepting);
    w->port = test_listen(w->r, &w->listener, &opts, &world_ops, w);
    return w;
}

static struct world *world_begin(enum accepting accepting, uint32_t steal) {
    return world_begin_with(accepting, steal, 8);
}

static uint32_t slot_of(kr_conn conn) {
    return kr__handle_slot(conn.bits);
}

static uint32_t listener_slot(const struct world *w) {
    return kr__handle_slot(w->listener.bits);
}

static struct kr__conn *conn_of(const struct world *w) {
    return &w->r->conns.table[slot_of(w->conn)];
}

static struct kr__listener *listener_of(const struct world *w) {
    return &w->r->listeners.table[listener_slot(w) - w->r->listeners.first_slot];
}

/* The listener's request is there to be completed. */
static void await_stolen(struct world *w, enum kr__verb verb, uint32_t slot) {
    TEST_UNTIL(w->r, stolen(w, verb, slot));
}

/* A client whose connection is open, with its receive in flight. */
static void connect_client(struct world *w) {
    unsigned opens = w->opens;
    w->fd = test_connect(w->port);
    TEST_UNTIL(w->r, w->opens == opens + 1);
    if (w->steal & KR__SET(recv))
        await_stolen(w, KR__VERB_recv, slot_of(w->conn));
    else
        TEST_UNTIL(w->r, conn_of(w)->owner.armed & KR__VERBS_THAT_RECEIVE);
}

/* The open connection is served: bytes in, the same bytes out. */
static void check_echoes(struct world *w) {
    char back[HELLO_SIZE];
    if (w->steal & KR__SET(recv)) {
        await_stolen(w, KR__VERB_recv, slot_of(w->conn));
        complete(w, KR__VERB_recv, slot_of(w->conn), HELLO_SIZE, MORE | fill(w, HELLO, HELLO_SIZE));
    } else {
        test_send(w->r, w->fd, HELLO, HELLO_SIZE);
    }
    test_recv(w->r, w->fd, back, HELLO_SIZE);
    CHECK_MEM_EQ(back, HELLO, HELLO_SIZE);
}

/* A new client is served, and may leave. Stealing ends, but for the receives, whose buffers are in
 * our hands. */
static void check_serves(struct world *w) {
    w->steal &= KR__SET(recv);
    unsigned closes = w->closes;
    connect_client(w);
    check_echoes(w);
    CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    TEST_UNTIL(w->r, w->closes == closes + 1);
    test_close(w->fd);
}

static void world_end(struct world *w) {
    check_serves(w);
    CHECK_OK(kr_listener_close(w->r, w->listener));
    test_rest(w->r,
              (struct test_levels){.blocks = w->r->blocks.out ? (unsigned)w->r->blocks.out : 0});
    const struct kr__bufs *bufs = &w->r->bufs;
    CHECK_EQ(bufs->published + bufs->free_count, bufs->count); /* each is somewhere, none twice */
    CHECK_EQ(w->theft_count, 0u);
    CHECK_EQ(w->r->conns.promised, 0u);
    test_reactor_free(w->r);
    CHECK_EQ(w->opens, w->closes);
}

/* The connection ends with that error and cause, and its slot is free. */
static void check_ended(struct world *w, int error, enum kr_why why) {
    TEST_UNTIL(w->r, w->closes == 1);
    CHECK_EQ(w->error, error);
    CHECK_EQ(w->why, why);
    CHECK_ERR(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW), ESTALE);
    test_close(w->fd);
}

static void end_conn(struct world *w) {
    CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    check_ended(w, 0, KR_WHY_LOCAL);
}

/* ---- recv ---- */

/* man recv, man io_uring_prep_recv_multishot; what a network tells later, too (man 7 tcp, man 7
 * ip). */
static const int recv_errors[] = {
    EBADF,        ECONNABORTED, ECONNREFUSED, ECONNRESET, EFAULT,      EHOSTDOWN,
    EHOSTUNREACH, EINVAL,       EIO,          ENETDOWN,   ENETUNREACH, ENOMEM,
    ENOTCONN,     ENOTSOCK,     EOPNOTSUPP,   EPIPE,      ETIMEDOUT,
};
static const int recv_passing[] = {ECANCELED, EINTR};

/* The states in which a receive can complete. */
enum conn_state { OPEN, PAUSED, LINGERING, JOINING, CONN_STATES };
static const char *const conn_states[] = {"open", "paused", "lingering", "joining"};

/* Brings an open one there. */
static void conn_enter(struct world *w, enum conn_state state) {
    if (state == PAUSED)
        CHECK_OK(kr_conn_pause(w->r, w->conn));
    else if (state == LINGERING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_LINGER));
    else if (state == JOINING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
}

/* A connection in that state, whose receive is in flight, and whose cancel is not made yet. */
static struct world *recv_begin(enum conn_state state, int32_t res, uint32_t flags) {
    cell_begin("recv", conn_states[state], res, flags);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(recv));
    connect_client(w);
    conn_enter(w, state);
    return w;
}

static void recv_complete(struct world *w, int32_t res, uint32_t flags) {
    complete(w, KR__VERB_recv, slot_of(w->conn), res, flags);
}

/* It waits for the peer's end, and drops what comes before. */
static void check_lingers(struct world *w) {
    await_stolen(w, KR__VERB_recv, slot_of(w->conn));
    recv_complete(w, HELLO_SIZE, MORE | fill(w, HELLO, HELLO_SIZE));
    test_step(w->r, "a turn that changes nothing");
    CHECK_EQ(w->closes + w->datas + w->eofs, 0u);
    recv_complete(w, 0, 0);
    check_ended(w, 0, KR_WHY_LOCAL);
    CHECK_EQ(w->datas + w->eofs, 0u);
}

/* Nothing was told, and it goes on as if nothing had been. */
static void recv_goes_on(struct world *w, enum conn_state state) {
    CHECK_EQ(w->closes, 0u);
    CHECK_EQ(w->datas + w->eofs, 0u);
    if (state == JOINING) {
        check_ended(w, 0, KR_WHY_LOCAL);
        return;
    }
    if (state == LINGERING) {
        check_lingers(w);
        return;
    }
    if (state == PAUSED) {
        test_step(w->r, "a turn while paused");
        CHECK(!stolen(w, KR__VERB_recv, slot_of(w->conn)));
        CHECK_OK(kr_conn_resume(w->r, w->conn));
    }
    check_echoes(w);
    end_conn(w);
}

/* Ours: an error of the stream ends the connection with just that error, unless it is ending
 * already. */
TEST_EACH(recv_errors) {
    for (size_t i = 0; i < COUNT(recv_errors) * CONN_STATES; i++) {
        int error = -recv_errors[i % COUNT(recv_errors)];
        enum conn_state state = (enum conn_state)(i / COUNT(recv_errors));
        struct world *w = recv_begin(state, error, 0);
        recv_complete(w, error, 0);
        if (state == JOINING)
            check_ended(w, 0, KR_WHY_LOCAL);
        else
            check_ended(w, error, KR_WHY_ERROR);
        world_end(w);
    }
}

/* Ours: an error that comes while the request stays in flight: it is cancelled and awaited before
 * the close. */
TEST_EACH(recv_errors_with_more) {
    for (size_t i = 0; i < COUNT(recv_errors); i++) {
        struct world *w = recv_begin(OPEN, -recv_errors[i], MORE);
        recv_complete(w, -recv_errors[i], MORE);
        CHECK(stolen(w, KR__VERB_recv, slot_of(w->conn)));
        check_ended(w, -recv_errors[i], KR_WHY_ERROR);
        CHECK_EQ(w->cancels, 1u);
        world_end(w);
    }
}

/* Ours: a cancel nobody asked for, a signal, a wish to try again: armed once more if it is
 * wanted. */
TEST_EACH(recv_that_passes) {
    for (size_t i = 0; i < COUNT(recv_passing) * CONN_STATES; i++) {
        int error = -recv_passing[i % COUNT(recv_passing)];
        enum conn_state state = (enum conn_state)(i / COUNT(recv_passing));
        struct world *w = recv_begin(state, error, 0);
        recv_complete(w, error, 0);
        recv_goes_on(w, state);
        world_end(w);
    }
}

/* Ours: no buffer: it waits for one, unless it does not want any. The kernel keeps its data. */
TEST_EACH(recv_without_a_buffer) {
    static const uint32_t flags[] = {0, NONEMPTY};
    for (size_t i = 0; i < COUNT(flags) * CONN_STATES; i++) {
        enum conn_state state = (enum conn_state)(i / COUNT(flags));
        struct world *w = recv_begin(state, -ENOBUFS, flags[i % COUNT(flags)]);
        recv_complete(w, -ENOBUFS, flags[i % COUNT(flags)]);
        bool waits = state == OPEN || state == LINGERING;
        CHECK_EQ(conn_of(w)->parked, waits);
        CHECK_EQ(test_stats(w->r).starved_parks, waits);
        recv_goes_on(w, state);
        world_end(w);
    }
}

/* Sends what came back to the client, and checks it. */
static void check_came(struct world *w, const char *data, int size) {
    char back[512];
    test_recv(w->r, w->fd, back, (size_t)size);
    CHECK_MEM_EQ(back, data, (size_t)size);
}

/* Ours: after bytes a kernel that may keep a reset to itself is asked again when nothing has
 * followed: the receive is cancelled, and the next one is told. Others are not. */
TEST_EACH(recv_looks_again_after_bytes) {
    struct world *w = recv_begin(OPEN, -ECONNRESET, 0);
    bool told = w->r->ring.caps & KR__CAP_RESET_TOLD;
    recv_complete(w, HELLO_SIZE, MORE | fill(w, HELLO, HELLO_SIZE));
    CHECK_EQ(conn_of(w)->unsure, !told);
    check_came(w, HELLO, HELLO_SIZE);
    if (!told) {
        TEST_UNTIL(w->r, w->cancels == 1);
        await_stolen(w, KR__VERB_recv, slot_of(w->conn));
        CHECK(!conn_of(w)->unsure && !conn_of(w)->looks);
    }
    recv_complete(w, -ECONNRESET, 0);
    check_ended(w, -ECONNRESET, KR_WHY_ERROR);
    CHECK_EQ(w->cancels, !told);
    world_end(w);
}

static const int recv_sizes[] = {1, 5, 511, 512};
static const uint32_t recv_flags[] = {MORE, 0, MORE | NONEMPTY, NONEMPTY};

/* Ours: data is shown once, whatever the flags; only F_MORE says whether the receive is still
 * armed. While paused it is kept, and shown afterwards; on a closing connection nobody sees it, and
 * its buffer goes back. */
TEST_EACH(recv_data) {
    char data[512];
    test_pattern(data, sizeof data, 1, 0);
    for (size_t i = 0; i < COUNT(recv_sizes) * COUNT(recv_flags) * CONN_STATES; i++) {
        int size = recv_sizes[i % COUNT(recv_sizes)];
        uint32_t flags = recv_flags[i / COUNT(recv_sizes) % COUNT(recv_flags)];
        enum conn_state state = (enum conn_state)(i / (COUNT(recv_sizes) * COUNT(recv_flags)));
        struct world *w = recv_begin(state, size, flags | BUFFER);
        recv_complete(w, size, flags | fill(w, data, (size_t)size));
        CHECK_EQ(w->datas, state == OPEN);
        CHECK_EQ((conn_of(w)->owner.armed & KR__SET(recv)) != 0, (flags & MORE) != 0);
        if (state == JOINING) {
            check_ended(w, 0, KR_WHY_LOCAL);
            CHECK_EQ(w->datas, 0u);
            world_end(w);
            continue;
        }
        if (state == LINGERING) {
            check_lingers(w);
            world_end(w);
            continue;
        }
        if (state == PAUSED) {
            test_step(w->r, "a turn while paused");
            CHECK_EQ(w->datas, 0u);
            CHECK_OK(kr_conn_resume(w->r, w->conn));
        }
        check_came(w, data, size);
        CHECK_EQ(w->datas, 1u);
        check_echoes(w);
        end_conn(w);
        world_end(w);
    }
}

static const uint32_t eof_flags[] = {0, NONEMPTY, MORE, BUFFER, BUFFER | NONEMPTY, BUFFER | MORE};

/* Ours: a result of 0 is the end of the stream, whatever the flags: told once, after a pause if
 * need be. A buffer that came with it is given back; a receive that is still armed is cancelled. */
TEST_EACH(recv_end_of_stream) {
    for (size_t i = 0; i < COUNT(eof_flags) * CONN_STATES; i++) {
        uint32_t flags = eof_flags[i % COUNT(eof_flags)];
        enum conn_state state = (enum conn_state)(i / COUNT(eof_flags));
        struct world *w = recv_begin(state, 0, flags);
        recv_complete(w, 0, flags & BUFFER ? (flags & ~BUFFER) | fill(w, NULL, 0) : flags);
        CHECK_EQ(w->eofs, state == OPEN);
        if (state == JOINING || state == LINGERING) {
            check_ended(w, 0, KR_WHY_LOCAL);
            CHECK_EQ(w->eofs, 0u);
        } else {
            if (state == PAUSED)
                CHECK_OK(kr_conn_resume(w->r, w->conn));
            TEST_UNTIL(w->r, w->eofs == 1);
            test_step(w->r, "a turn after the end");
            CHECK_EQ(w->eofs, 1u);
            CHECK_EQ(w->cancels, (flags & MORE) != 0);
            CHECK_OK(kr_conn_send(w->r, w->conn, HELLO, HELLO_SIZE)); /* its other half is open */
            check_came(w, HELLO, HELLO_SIZE);
            end_conn(w);
        }
        world_end(w);
    }
}

/* Ours: the same errors, as results of NOPs that come through the real queue. */
TEST_EACH(recv_errors_through_the_ring) {
    for (size_t i = 0; i < COUNT(recv_errors); i++) {
        cell_begin("recv through the ring", "open", -recv_errors[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        inject_next(w, KR__SET(recv), -recv_errors[i]);
        w->fd = test_connect(w->port);
        TEST_UNTIL(w->r, w->opens == 1);
        check_ended(w, -recv_errors[i], KR_WHY_ERROR);
        CHECK_EQ(w->injections, 1u);
        world_end(w);
    }
}

static const int recv_passing_ring[] = {EAGAIN, ECANCELED, EINTR, ENOBUFS};

TEST_EACH(recv_that_passes_through_the_ring) {
    for (size_t i = 0; i < COUNT(recv_passing_ring); i++) {
        cell_begin("recv through the ring", "open", -recv_passing_ring[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        inject_next(w, KR__SET(recv), -recv_passing_ring[i]);
        connect_client(w);
        check_echoes(w);
        CHECK_EQ(w->injections, 1u);
        end_conn(w);
        world_end(w);
    }
}

/* One of two connections that are shown their kept bytes resumes the other. */
static size_t resume_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct world *w = user;
    (void)conn;
    (void)data;
    w->datas++;
    if (w->datas == 1)
        CHECK_OK(kr_conn_resume(r, w->conn));
    return size;
}

static const struct kr_conn_ops resume_ops = {
    .on_open = world_open, .on_data = resume_data, .on_eof = world_eof, .on_close = world_close};

static kr_conn connect_paused(struct world *w) {
    connect_client(w);
    CHECK_OK(kr_conn_pause(w->r, w->conn));
    recv_complete(w, HELLO_SIZE, fill(w, HELLO, HELLO_SIZE));
    test_close(w->fd); /* nobody reads it any more: its receive is stolen */
    return w->conn;
}

/* Ours: bytes that come to be shown while others are shown are shown in the next turn, which does
 * not wait. */
TEST_EACH(recv_resumed_while_another_is_shown) {
    cell_begin("recv", "paused", HELLO_SIZE, BUFFER);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(recv));
    struct kr_listen_opts opts = opts_of(BY_MULTISHOT);
    CHECK_OK(kr_listener_close(w->r, w->listener));
    w->port = test_listen(w->r, &w->listener, &opts, &resume_ops, w);
    kr_conn first = connect_paused(w);
    connect_paused(w);
    test_step(w->r, "a turn while paused");
    CHECK_OK(kr_conn_resume(w->r, first));
    CHECK_OK(kr_step(w->r, tap_remaining_ns() / 4));
    CHECK_OK(kr_step(w->r, tap_remaining_ns() / 4));
    CHECK_EQ(w->datas, 2u);
    CHECK_OK(kr_conn_close(w->r, first, KR_CLOSE_NOW));
    CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    TEST_UNTIL(w->r, w->closes == 2);
    test_reactor_free(w->r);
}

/* ---- the line for a buffer ---- */

/* Two clients whose receives are in flight. */
struct pair {
    struct world *w;
    kr_conn first, second;
    int first_fd;
};

static struct pair pair_begin(const char *what, unsigned bufs) {
    cell_begin("recv", what, -ENOBUFS, 0);
    struct pair p = {.w = world_begin_with(BY_MULTISHOT, KR__SET(recv), bufs)};
    connect_client(p.w);
    p.first = p.w->conn;
    p.first_fd = p.w->fd;
    connect_client(p.w);
    p.second = p.w->conn;
    return p;
}

static void pair_end(struct pair *p) {
    CHECK_OK(kr_conn_close(p->w->r, p->first, KR_CLOSE_NOW));
    CHECK_OK(kr_conn_close(p->w->r, p->second, KR_CLOSE_NOW));
    TEST_UNTIL(p->w->r, p->w->closes == p->w->opens);
    test_close(p->first_fd);
    test_close(p->w->fd);
    test_reactor_free(p->w->r);
}

static struct kr__conn *of_pair(const struct pair *p, kr_conn conn) {
    return &p->w->r->conns.table[slot_of(conn)];
}

/* The ring was empty for this moment only: what is published is in it again. */
static void refuse(struct pair *p, kr_conn conn) {
    complete(p->w, KR__VERB_recv, slot_of(conn), -ENOBUFS, 0);
    p->w->r->bufs.refused = false;
}

/* It receives, and its receive stays armed. */
static void feed(struct pair *p, kr_conn conn) {
    complete(p->w, KR__VERB_recv, slot_of(conn), HELLO_SIZE, MORE | fill(p->w, HELLO, HELLO_SIZE));
}

/* Ours: buffers are published, and yet the ring is empty, as workers of the kernel have taken them: no
 * turn is made for those that wait, and after a while one tries whether they are back. */
TEST_EACH(recv_waits_for_buffers_that_are_stuck) {
    struct pair p = pair_begin("the kernel keeps all buffers", 8);
    complete(p.w, KR__VERB_recv, slot_of(p.second), -ENOBUFS, 0);
    CHECK(p.w->r->bufs.refused);
    int64_t refused_at = tap_now_ns();
    uint64_t turns = test_stats(p.w->r).turns;
    test_step(p.w->r, "the refusal to be reckoned with");
    CHECK_EQ(p.w->r->bufs.stuck, 8u);
    CHECK_OK(kr_step(p.w->r, INT64_C(5) * MS));
    CHECK(!stolen(p.w, KR__VERB_recv, slot_of(p.second)));
    CHECK_LE(test_stats(p.w->r).turns - turns, 2u);
    await_stolen(p.w, KR__VERB_recv, slot_of(p.second));
    CHECK_GE(tap_now_ns() - refused_at, 5 * MS);
    check_echoes(p.w);
    pair_end(&p);
}

/* Ours: a multishot that takes a buffer while another waits for one is cancelled, and its
 * connection waits behind that one; both try again by a receive of one shot each, and then nobody
 * waits. */
TEST_EACH(recv_out_of_turn_gives_way) {
    struct pair p = pair_begin("another waits for a buffer", 8);
    refuse(&p, p.second);
    feed(&p, p.first);
    CHECK(of_pair(&p, p.first)->parked);
    CHECK(p.w->r->line.list.head.next == &of_pair(&p, p.second)->wait);
    TEST_UNTIL(p.w->r, kr__line_empty(&p.w->r->line));
    CHECK_EQ(p.w->cancels, 1u);
    CHECK_EQ(p.w->one_shots, 2u);
    CHECK(stolen(p.w, KR__VERB_recv, slot_of(p.first)));
    check_echoes(p.w);
    pair_end(&p);
}

/* Ours: one whose multishot is not cancelled yet does not try, whatever buffers there are; others
 * do, and one that comes new goes past the line by a receive of one shot, as there is a buffer for
 * both. */
TEST_EACH(recv_under_cancel_waits_in_the_line) {
    struct pair p = pair_begin("another is being cancelled", 8);
    p.w->deaf = true;
    refuse(&p, p.second);
    feed(&p, p.first);
    await_stolen(p.w, KR__VERB_recv, slot_of(p.second));
    TEST_UNTIL(p.w->r, p.w->r->line.trying == 0);
    CHECK(of_pair(&p, p.first)->parked);
    CHECK_EQ(test_stats(p.w->r).starved_parks, 2u);
    test_close(p.w->fd);
    connect_client(p.w);
    CHECK_EQ(test_stats(p.w->r).starved_parks, 2u);
    CHECK_EQ(p.w->one_shots, 2u);
    CHECK(of_pair(&p, p.first)->parked);
    complete(p.w, KR__VERB_recv, slot_of(p.first), -ECANCELED, 0);
    await_stolen(p.w, KR__VERB_recv, slot_of(p.first));
    CHECK_EQ(p.w->one_shots, 3u);
    p.w->deaf = false;
    CHECK_OK(kr_conn_close(p.w->r, p.w->conn, KR_CLOSE_NOW));
    pair_end(&p);
}

/* Ours: one that comes new when there is no buffer for it comes into the line. */
TEST_EACH(recv_that_is_new_comes_into_the_line) {
    struct pair p = pair_begin("a new one, and a buffer for one", 1);
    p.w->deaf = true;
    refuse(&p, p.second);
    feed(&p, p.first);
    await_stolen(p.w, KR__VERB_recv, slot_of(p.second));
    TEST_UNTIL(p.w->r, p.w->r->line.trying == 0);
    CHECK(of_pair(&p, p.first)->parked);
    CHECK_EQ(test_stats(p.w->r).starved_parks, 2u);
    test_close(p.w->fd);
    connect_client(p.w);
    test_step(p.w->r, "the new one wants to receive");
    CHECK_EQ(test_stats(p.w->r).starved_parks, 3u);
    complete(p.w, KR__VERB_recv, slot_of(p.first), -ECANCELED, 0);
    p.w->deaf = false;
    CHECK_OK(kr_conn_close(p.w->r, p.w->conn, KR_CLOSE_NOW));
    pair_end(&p);
}

/* Ours: one that tried, and found the buffer taken, keeps its place. */
TEST_EACH(recv_refused_again_keeps_its_place) {
    struct pair p = pair_begin("the buffer is taken", 1);
    refuse(&p, p.first);
    refuse(&p, p.second);
    inject_next(p.w, KR__SET(recv), -ENOBUFS);
    TEST_UNTIL(p.w->r, p.w->injections == 1);
    CHECK(p.w->r->line.list.head.next == &of_pair(&p, p.first)->wait);
    CHECK(of_pair(&p, p.second)->parked);
    TEST_UNTIL(p.w->r, kr__line_empty(&p.w->r->line));
    pair_end(&p);
}

/* ---- waiting for something to receive ---- */

/* What a poll may answer (man io_uring_enter, IORING_OP_POLL_ADD; man poll), and what follows: the
 * receive at once, after a while, or not before another poll. */
static const struct poll_answer {
    int32_t res;
    bool by_wake; /* the polls that follow are multishot */
    bool refused; /* the poll is made again after a while */
} recv_answers[] = {
    {POLLIN, false, false},  {POLLIN | POLLRDHUP, false, false}, {POLLRDHUP, false, false},
    {POLLHUP, false, false}, {POLLERR, true, false},             {POLLERR | POLLIN, false, false},
    {-ENOMEM, false, true},  {-EINVAL, false, true},             {-ECANCELED, false, false},
};

/* An open one whose receive has found nothing, so that it polls. */
static struct world *recv_poll_begin(int32_t res, uint32_t flags) {
    cell_begin("recv_poll", "open", res, flags);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(recv) | KR__SET(recv_poll));
    connect_client(w);
    recv_complete(w, -EAGAIN, 0);
    await_stolen(w, KR__VERB_recv_poll, slot_of(w->conn));
    CHECK(!stolen(w, KR__VERB_recv, slot_of(w->conn)));
    return w;
}

/* Ours: whatever the poll answers, the receive is made then, and brings what there is; where the
 * poll is refused, another one comes first. */
TEST_EACH(recv_poll_answers) {
    for (size_t i = 0; i < COUNT(recv_answers); i++) {
        struct world *w = recv_poll_begin(recv_answers[i].res, 0);
        complete(w, KR__VERB_recv_poll, slot_of(w->conn), recv_answers[i].res, 0);
        CHECK_EQ(conn_of(w)->recv_by_wake, recv_answers[i].by_wake);
        CHECK_EQ(conn_of(w)->rests, recv_answers[i].refused);
        if (recv_answers[i].refused) {
            await_stolen(w, KR__VERB_recv_poll, slot_of(w->conn));
            complete(w, KR__VERB_recv_poll, slot_of(w->conn), POLLIN, 0);
        }
        check_echoes(w);
        end_conn(w);
        world_end(w);
    }
}

/* Ours: a poll that tells of something although a receive finds nothing is followed by a multishot
 * one, which is made once, so that nothing spins; each wake-up is followed by one receive. */
TEST_EACH(recv_poll_that_is_wrong) {
    struct world *w = recv_poll_begin(POLLIN, 0);
    complete(w, KR__VERB_recv_poll, slot_of(w->conn), POLLIN, 0);
    await_stolen(w, KR__VERB_recv, slot_of(w->conn));
    recv_complete(w, -EAGAIN, 0);
    await_stolen(w, KR__VERB_recv_poll, slot_of(w->conn));
    CHECK(conn_of(w)->recv_by_wake);
    for (int i = 0; i < 3; i++) {
        complete(w, KR__VERB_recv_poll, slot_of(w->conn), POLLIN, MORE);
        await_stolen(w, KR__VERB_recv, slot_of(w->conn));
        recv_complete(w, -EAGAIN, 0);
        for (int turn = 0; turn < 3; turn++)
            test_step(w->r, "nothing: it waits for a wake-up");
        CHECK(!stolen(w, KR__VERB_recv, slot_of(w->conn)));
    }
    complete(w, KR__VERB_recv_poll, slot_of(w->conn), POLLIN, MORE);
    check_echoes(w);
    end_conn(w);
    world_end(w);
}

/* Ours: closing cancels the poll, and pausing does; resumed, it receives again. */
TEST_EACH(recv_poll_is_cancelled) {
    for (int paused = 0; paused < 2; paused++) {
        struct world *w = recv_poll_begin(-ECANCELED, 0);
        if (paused) {
            CHECK_OK(kr_conn_pause(w->r, w->conn));
            TEST_UNTIL(w->r, !stolen(w, KR__VERB_recv_poll, slot_of(w->conn)));
            CHECK_OK(kr_conn_resume(w->r, w->conn));
            check_echoes(w);
        }
        end_conn(w);
        world_end(w);
    }
}

/* ---- send ---- */

/* man send, and what a network tells later. */
static const int send_errors[] = {
    EACCES,   EBADF,    ECONNRESET, EDESTADDRREQ, EFAULT,      EHOSTUNREACH, EINVAL,
    EIO,      EISCONN,  EMSGSIZE,   ENETDOWN,     ENETUNREACH, ENOBUFS,      ENOMEM,
    ENOTCONN, ENOTSOCK, EOPNOTSUPP, EPIPE,        ETIMEDOUT,
};
static const int send_passing[] = {ECANCELED, EINTR, 0};

enum send_state { SENDING, FLUSHING, DRAINING, ENDING, SEND_STATES };
static const char *const send_states[] = {"open", "lingering", "draining", "joining"};
static const char digits[] = "0123456789";
#define DIGITS 10

/* A connection in that state, whose send of ten digits is in flight: in one piece, or in the pieces
 * of two records. */
static struct world *send_begin(enum send_state state, int32_t res, bool pieces) {
    cell_begin(pieces ? "send of two pieces" : "send", send_states[state], res, 0);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(send));
    connect_client(w);
    if (pieces) {
        struct kr__conn *c = conn_of(w);
        CHECK_OK(kr_conn_send(w->r, w->conn, digits, 4));
        c->queue.tail->spare = 0; /* or the rest would share the record */
        CHECK_OK(kr_conn_send(w->r, w->conn, digits + 4, DIGITS - 4));
        CHECK_NE(c->queue.head, c->queue.tail);
    } else {
        CHECK_OK(kr_conn_send(w->r, w->conn, digits, DIGITS));
    }
    await_stolen(w, KR__VERB_send, slot_of(w->conn));
    CHECK_EQ(conn_of(w)->vector != NULL, pieces);
    if (state == FLUSHING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_LINGER));
    else if (state == DRAINING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_FLUSH));
    else if (state == ENDING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    return w;
}

/* Where the error says that the peer takes nothing more, it is heard to its end first. */
static void check_send_failed(struct world *w, enum send_state state, int error) {
    static const int of_the_peer[] = {EPIPE,        ECONNRESET,  ETIMEDOUT,
                                      EHOSTUNREACH, ENETUNREACH, ENOTCONN};
    bool heard = false;
    for (size_t i = 0; i < COUNT(of_the_peer); i++)
        heard = heard || error == -of_the_peer[i];
    if (state == SENDING && heard) {
        TEST_UNTIL(w->r, conn_of(w)->broken);
        for (unsigned i = 0; i < 4; i++)
            test_step(w->r, "a turn in which the peer may be heard");
        CHECK_EQ(w->closes, 0u);
        CHECK_ERR(kr_conn_send(w->r, w->conn, "x", 1), EPIPE);
        CHECK_SYS(shutdown(w->fd, SHUT_WR));
    }
    check_ended(w, state == ENDING ? 0 : error, state == ENDING ? KR_WHY_LOCAL : KR_WHY_ERROR);
}

static void send_complete(struct world *w, int32_t res) {
    w->steal = 0; /* what is sent again is really sent */
    complete(w, KR__VERB_send, slot_of(w->conn), res, 0);
    CHECK(!conn_of(w)->vector);
}

/* `taken` of the digits are gone; the client gets the others, no byte more or less. */
static void send_goes_on(struct world *w, enum send_state state, size_t taken) {
    if (state == SENDING) {
        CHECK_EQ(kr_conn_queued(w->r, w->conn), DIGITS - taken);
        check_came(w, digits + taken, (int)(DIGITS - taken));
        check_echoes(w);
        end_conn(w);
        return;
    }
    if (state != FLUSHING)
        TEST_UNTIL(w->r, w->closes == 1);
    char back[DIGITS];
    size_t want = state == ENDING ? 0 : DIGITS - taken;
    test_recv(w->r, w->fd, back, want);
    CHECK_MEM_EQ(back, digits + taken, want);
    CHECK_EQ(test_recv_end(w->r, w->fd, NULL), 0);
    if (state == FLUSHING)
        CHECK_EQ(w->closes, 0u);
    if (state == FLUSHING)
        CHECK_SYS(shutdown(w->fd, SHUT_WR));
    check_ended(w, 0, KR_WHY_LOCAL);
}

/* Ours: an error ends the connection, when a peer that takes nothing more has been heard; one that was
 * draining has lost bytes and says so; on one that is ending already it changes nothing. */
TEST_EACH(send_errors) {
    for (size_t i = 0; i < COUNT(send_errors) * SEND_STATES; i++) {
        int error = -send_errors[i % COUNT(send_errors)];
        enum send_state state = (enum send_state)(i / COUNT(send_errors));
        struct world *w = send_begin(state, error, i % 2);
        send_complete(w, error);
        check_send_failed(w, state, error);
        world_end(w);
    }
}

/* Ours: nothing was taken: all is sent again. */
TEST_EACH(send_that_passes) {
    for (size_t i = 0; i < COUNT(send_passing) * SEND_STATES; i++) {
        int error = -send_passing[i % COUNT(send_passing)];
        enum send_state state = (enum send_state)(i / COUNT(send_passing));
        struct world *w = send_begin(state, error, i % 2);
        send_complete(w, error);
        send_goes_on(w, state, 0);
        world_end(w);
    }
}

/* A send that has met a full socket: a poll waits for room. */
static struct world *send_poll_begin(enum send_state state, int32_t res) {
    struct world *w = send_begin(state, res, false);
    w->steal = KR__SET(send_poll);
    complete(w, KR__VERB_send, slot_of(w->conn), -EAGAIN, 0);
    if (state != ENDING)
        await_stolen(w, KR__VERB_send_poll, slot_of(w->conn));
    return w;
}

static const int32_t send_answers[] = {
    POLLOUT,    POLLOUT | POLLRDHUP, POLLOUT | POLLERR, POLLERR,
    POLLHUP,    POLLHUP | POLLRDHUP, -ENOMEM,           -EINVAL,
};

/* Ours: a full socket is polled, and sent to when the poll has answered, in each state in which
 * sends go. */
TEST_EACH(send_poll_answers) {
    for (size_t i = 0; i < COUNT(send_answers) * SEND_STATES; i++) {
        enum send_state state = (enum send_state)(i / COUNT(send_answers));
        int32_t res = send_answers[i % COUNT(send_answers)];
        struct world *w = send_poll_begin(state, res);
        if (state != ENDING)
            complete(w, KR__VERB_send_poll, slot_of(w->conn), res, 0);
        w->steal = 0;
        send_goes_on(w, state, 0);
        world_end(w);
    }
}

/* Ours: the peer's end stands for ever and is no room: the poll goes over to a multishot one, and
 * nothing is sent before that tells of room. */
TEST_EACH(send_poll_of_a_half_closed_peer) {
    struct world *w = send_poll_begin(SENDING, POLLRDHUP);
    complete(w, KR__VERB_send_poll, slot_of(w->conn), POLLRDHUP, 0);
    w->steal |= KR__SET(send);
    await_stolen(w, KR__VERB_send_poll, slot_of(w->conn));
    CHECK(conn_of(w)->send_by_wake);
    for (int i = 0; i < 3; i++) {
        complete(w, KR__VERB_send_poll, slot_of(w->conn), POLLRDHUP, MORE);
        test_step(w->r, "nothing: there is no room");
        CHECK(!stolen(w, KR__VERB_send, slot_of(w->conn)));
    }
    complete(w, KR__VERB_send_poll, slot_of(w->conn), POLLRDHUP | POLLOUT, MORE);
    await_stolen(w, KR__VERB_send, slot_of(w->conn));
    complete(w, KR__VERB_send, slot_of(w->conn), 4, 0);
    await_stolen(w, KR__VERB_send, slot_of(w->conn));
    w->steal = 0;
    complete(w, KR__VERB_send, slot_of(w->conn), DIGITS - 4, 0);
    TEST_UNTIL(w->r, !conn_of(w)->owner.armed || conn_of(w)->owner.armed == KR__SET(recv));
    CHECK_EQ(kr_conn_queued(w->r, w->conn), 0u);
    check_echoes(w);
    end_conn(w);
    world_end(w);
}

/* Ours: a poll tells of room and the send meets none, as when the kernel is short of memory: it is
 * sent again after a while, and until then the reactor does not turn for it. */
TEST_EACH(send_that_meets_no_room_after_all) {
    struct world *w = send_poll_begin(SENDING, POLLOUT);
    w->steal |= KR__SET(send);
    complete(w, KR__VERB_send_poll, slot_of(w->conn), POLLOUT, 0);
    await_stolen(w, KR__VERB_send, slot_of(w->conn));
    int64_t refused_at = tap_now_ns();
    complete(w, KR__VERB_send, slot_of(w->conn), -EAGAIN, 0);
    await_stolen(w, KR__VERB_send, slot_of(w->conn));
    CHECK_GE(tap_now_ns() - refused_at, 5 * MS);
    w->steal = 0;
    complete(w, KR__VERB_send, slot_of(w->conn), 0, 0);
    send_goes_on(w, SENDING, 0);
    world_end(w);
}

/* Ours: however much was taken, the rest is sent from there on, across the records. */
TEST_EACH(send_that_is_short) {
    for (size_t i = 0; i < DIGITS * 2 * SEND_STATES; i++) {
        size_t taken = 1 + i % DIGITS;
        enum send_state state = (enum send_state)(i / (DIGITS * 2));
        struct world *w = send_begin(state, (int)taken, i / DIGITS % 2);
        send_complete(w, (int)taken);
        send_goes_on(w, state, taken);
        world_end(w);
    }
}

/* Ours: the same through the real queue. */
TEST_EACH(send_errors_through_the_ring) {
    for (size_t i = 0; i < COUNT(send_errors); i++) {
        cell_begin("send through the ring", "open", -send_errors[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        connect_client(w);
        inject_next(w, KR__SET(send), -send_errors[i]);
        CHECK_OK(kr_conn_send(w->r, w->conn, digits, DIGITS));
        check_send_failed(w, SENDING, -send_errors[i]);
        CHECK_EQ(w->injections, 1u);
        world_end(w);
    }
}

TEST_EACH(send_that_is_short_through_the_ring) {
    for (int taken = 0; taken < DIGITS; taken++) {
        cell_begin("send through the ring", "open", taken, 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        connect_client(w);
        inject_next(w, KR__SET(send), taken);
        CHECK_OK(kr_conn_send(w->r, w->conn, digits, DIGITS));
        check_came(w, digits + taken, DIGITS - taken);
        CHECK_EQ(w->injections, 1u);
        check_echoes(w);
        end_conn(w);
        world_end(w);
    }
}

/* ---- send by zero-copy ---- */

static void loan_end(struct kr_reactor *r, void *arg) {
    (void)r;
    struct world *w = arg;
    CHECK_EQ(w->closes, 0u);
    w->returned++;
}

/* A connection in that state, whose send of ten lent digits is in flight: in one loan or in two. */
static struct world *zc_begin(enum send_state state, int32_t res, uint32_t flags, bool pieces) {
    cell_begin(pieces ? "send_zc of two pieces" : "send_zc", send_states[state], res, flags);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(send_zc));
    connect_client(w);
    size_t first = pieces ? 4 : DIGITS;
    CHECK_OK(kr_conn_send_ref(w->r, w->conn, digits, first, loan_end, w));
    if (pieces)
        CHECK_OK(kr_conn_send_ref(w->r, w->conn, digits + first, DIGITS - first, loan_end, w));
    await_stolen(w, KR__VERB_send_zc, slot_of(w->conn));
    w->flight = stolen(w, KR__VERB_send_zc, slot_of(w->conn));
    CHECK_EQ(conn_of(w)->vector != NULL, pieces);
    if (state == FLUSHING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_LINGER));
    else if (state == DRAINING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_FLUSH));
    else if (state == ENDING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    return w;
}

static void zc_complete(struct world *w, int32_t res, uint32_t flags) {
    if (!(flags & MORE))
        drop_theft(w, theft_of(w, w->flight));
    kr__loop_complete(w->r, w->flight, res, flags);
}

/* The result, and with F_MORE some turns in which the kernel refers to the loans, as it does to a
 * loan that it refused, too; then the notification. */
static void zc_run(struct world *w, int32_t res, uint32_t flags) {
    w->steal = 0; /* what is sent again is really sent */
    zc_complete(w, res, flags);
    CHECK(!conn_of(w)->vector);
    if (!(flags & MORE))
        return;
    for (int i = 0; i < 4; i++)
        test_step(w->r, "turns before the notification");
    CHECK_EQ(w->returned, 0u);
    CHECK_EQ(w->closes, 0u);
    zc_complete(w, 0, NOTIF);
}

static bool zc_is_passed_over(int error) {
    return error == ENOMEM || error == ENOBUFS || error == EOPNOTSUPP;
}

/* As a send's, but for the loans: what goes again may have a notification still to come. */
static void zc_goes_on(struct world *w, enum send_state state, size_t taken) {
    if (state != SENDING) {
        send_goes_on(w, state, taken);
        return;
    }
    check_came(w, digits + taken, (int)(DIGITS - taken));
    check_echoes(w);
    end_conn(w);
}

static void zc_end(struct world *w, bool pieces) {
    CHECK_EQ(w->returned, pieces ? 2u : 1u);
    world_end(w);
}

/* Ours: an error ends the connection, but not before the notification, if one follows; and the
 * loans come back in between. What only zero-copy cannot do is done by copying. */
TEST_EACH(send_zc_errors) {
    for (size_t i = 0; i < COUNT(send_errors) * SEND_STATES * 2; i++) {
        int error = send_errors[i % COUNT(send_errors)];
        enum send_state state = (enum send_state)(i / COUNT(send_errors) % SEND_STATES);
        uint32_t flags = i / COUNT(send_errors) / SEND_STATES ? MORE : 0;
        bool pieces = i % 2;
        struct world *w = zc_begin(state, -error, flags, pieces);
        zc_run(w, -error, flags);
        if (zc_is_passed_over(error))
            zc_goes_on(w, state, 0);
        else
            check_send_failed(w, state, -error);
        zc_end(w, pieces);
    }
}

/* Ours: nothing was taken: all is sent again, by zero-copy, and the loans come back once. */
TEST_EACH(send_zc_that_passes) {
    for (size_t i = 0; i < COUNT(send_passing) * SEND_STATES * 2; i++) {
        int error = -send_passing[i % COUNT(send_passing)];
        enum send_state state = (enum send_state)(i / COUNT(send_passing) % SEND_STATES);
        uint32_t flags = i / COUNT(send_passing) / SEND_STATES ? MORE : 0;
        struct world *w = zc_begin(state, error, flags, i % 2);
        zc_run(w, error, flags);
        if (state != ENDING)
            TEST_UNTIL(w->r, test_stats(w->r).zerocopy_sends == 2);
        if (state == SENDING)
            TEST_UNTIL(w->r, !kr_conn_queued(w->r, w->conn));
        zc_goes_on(w, state, 0);
        zc_end(w, i % 2);
    }
}

/* Ours: however much was taken, the rest goes from there on, and each loan comes back when both its
 * parts have landed, not when they are taken. */
TEST_EACH(send_zc_that_is_short) {
    for (size_t i = 0; i < DIGITS * 4 * SEND_STATES; i++) {
        size_t taken = 1 + i % DIGITS;
        bool pieces = i / DIGITS % 2;
        uint32_t flags = i / DIGITS / 2 % 2 ? MORE : 0;
        enum send_state state = (enum send_state)(i / (DIGITS * 4));
        struct world *w = zc_begin(state, (int)taken, flags, pieces);
        zc_run(w, (int)taken, flags);
        zc_goes_on(w, state, taken);
        zc_end(w, pieces);
    }
}

/* Ours: a notification whose result was lost leaves nothing armed, and ends the connection, as nobody
 * knows what was taken. */
TEST_EACH(send_zc_whose_result_is_lost) {
    for (size_t i = 0; i < SEND_STATES * 2; i++) {
        enum send_state state = (enum send_state)(i / 2);
        struct world *w = zc_begin(state, 0, NOTIF, i % 2);
        zc_complete(w, 0, NOTIF);
        check_ended(w, state == ENDING ? 0 : -EBADR,
                    state == ENDING ? KR_WHY_LOCAL : KR_WHY_ERROR);
        zc_end(w, i % 2);
    }
}

/* Ours: a kernel that says it has copied all the same is not asked again on that connection; one
 * that only never used the pages, as nothing was sent, is. */
TEST_EACH(send_zc_that_was_copied) {
    for (int res = 0; res <= DIGITS; res += DIGITS) {
        struct world *w = zc_begin(SENDING, res, MORE, false);
        zc_complete(w, res, MORE);
        zc_complete(w, INT32_MIN, NOTIF);
        CHECK_EQ(conn_of(w)->more->zerocopy.off, res > 0);
        CHECK_EQ(test_stats(w->r).zerocopy_copied, res > 0);
        if (!res) {
            await_stolen(w, KR__VERB_send_zc, slot_of(w->conn));
            w->flight = stolen(w, KR__VERB_send_zc, slot_of(w->conn));
            zc_run(w, DIGITS, 0);
        } else {
            CHECK_OK(kr_conn_send_ref(w->r, w->conn, digits, DIGITS, loan_end, w));
            check_came(w, digits, DIGITS);
        }
        w->steal = 0;
        end_conn(w);
        zc_end(w, res > 0);
    }
}

/* Ours: memory that may not be locked now is tried again when the queue has gone by copying. */
TEST_EACH(send_zc_that_was_refused_once) {
    struct world *w = zc_begin(SENDING, -ENOMEM, MORE, false);
    zc_complete(w, -ENOMEM, MORE);
    zc_complete(w, INT32_MIN, NOTIF);
    check_came(w, digits, DIGITS);
    TEST_UNTIL(w->r, w->returned == 1);
    CHECK_OK(kr_conn_send_ref(w->r, w->conn, digits, DIGITS, loan_end, w));
    await_stolen(w, KR__VERB_send_zc, slot_of(w->conn));
    w->flight = stolen(w, KR__VERB_send_zc, slot_of(w->conn));
    zc_run(w, DIGITS, 0);
    TEST_UNTIL(w->r, w->returned == 2);
    end_conn(w);
    zc_end(w, true);
}

/* Ours: or as soon as the kernel has given some back, but not beside the copy that is in flight. */
TEST_EACH(send_zc_that_was_refused_until_one_landed) {
    struct world *w = zc_begin(SENDING, DIGITS, MORE, false);
    uint64_t first = w->flight;
    zc_complete(w, DIGITS, MORE);
    CHECK_OK(kr_conn_send_ref(w->r, w->conn, digits, DIGITS, loan_end, w));
    TEST_UNTIL(w->r, w->theft_count == 2);
    w->flight = w->thefts[w->thefts[0] == first];
    zc_complete(w, -ENOMEM, MORE);
    zc_complete(w, INT32_MIN, NOTIF);
    w->steal |= KR__SET(send);
    await_stolen(w, KR__VERB_send, slot_of(w->conn));
    w->flight = first;
    zc_complete(w, 0, NOTIF);
    CHECK(!conn_of(w)->more->zerocopy.refused);
    for (int i = 0; i < 3; i++)
        test_step(w->r, "nothing: one send is in flight");
    CHECK_EQ(w->theft_count, 1u);
    w->steal = 0;
    complete(w, KR__VERB_send, slot_of(w->conn), -EAGAIN, 0);
    check_came(w, digits, DIGITS);
    CHECK_EQ(test_stats(w->r).zerocopy_sends, 3u);
    TEST_UNTIL(w->r, w->returned == 2);
    end_conn(w);
    zc_end(w, true);
}

/* Ours: while a notification is awaited the next send goes, and its notification may come first. */
TEST_EACH(send_zc_notified_out_of_order) {
    struct world *w = zc_begin(SENDING, DIGITS, MORE, false);
    uint64_t first = w->flight;
    zc_complete(w, DIGITS, MORE);
    CHECK_OK(kr_conn_send_ref(w->r, w->conn, digits, DIGITS, loan_end, w));
    TEST_UNTIL(w->r, w->theft_count == 2);
    w->flight = w->thefts[w->thefts[0] == first];
    zc_complete(w, DIGITS, MORE);
    zc_complete(w, 0, NOTIF);
    test_step(w->r, "the release");
    CHECK_EQ(w->returned, 1u);
    test_step(w->r, "another turn");
    CHECK_EQ(w->returned, 1u);
    w->flight = first;
    zc_complete(w, 0, NOTIF);
    test_step(w->r, "the other release");
    CHECK_EQ(w->returned, 2u);
    w->steal = 0;
    end_conn(w);
    zc_end(w, true);
}

static int64_t leap; /* by which the reactor's clock is ahead */

static int64_t leaping_clock(const struct kr__kernel *k) {
    (void)k;
    return kr__linux.clock(&kr__linux) + leap;
}

/* Time passes, but for a peer that is waited for nothing comes of it. */
static void leap_in_peace(struct world *w, int64_t ns) {
    leap += ns;
    for (int i = 0; i < 3; i++)
        test_step(w->r, "nothing");
    CHECK_EQ(w->closes, 0u);
    CHECK_EQ(test_stats(w->r).timer_fires, 0u);
    CHECK(!conn_of(w)->reset);
}

/* Ours: a peer that has been closed has flush_ns (30 s) for its acknowledgement, and again after
 * each; then it is reset, and the last notification still awaited. */
TEST_EACH(send_zc_that_lands_late) {
    for (int how = KR_CLOSE_FLUSH; how <= KR_CLOSE_NOW; how++) {
        leap = 0;
        struct world *w = zc_begin(SENDING, DIGITS, MORE, false);
        w->kernel.clock = leaping_clock;
        uint64_t first = w->flight;
        zc_complete(w, DIGITS, MORE);
        CHECK_OK(kr_conn_send_ref(w->r, w->conn, digits, DIGITS, loan_end, w));
        TEST_UNTIL(w->r, w->theft_count == 2);
        w->flight = w->thefts[w->thefts[0] == first];
        zc_complete(w, DIGITS, MORE);
        CHECK_OK(kr_conn_close(w->r, w->conn, (enum kr_close)how));
        leap_in_peace(w, 20000 * MS);
        zc_complete(w, 0, NOTIF);
        leap_in_peace(w, 20000 * MS);
        CHECK_EQ(w->returned, 1u);
        leap += 20000 * MS;
        CHECK_EQ(test_recv_end(w->r, w->fd, NULL), ECONNRESET);
        for (int i = 0; i < 3; i++)
            test_step(w->r, "nothing more, until the notification");
        CHECK_EQ(w->closes, 0u);
        w->flight = first;
        zc_complete(w, 0, NOTIF);
        w->steal = 0;
        bool late = how == KR_CLOSE_FLUSH;
        check_ended(w, late ? -ETIMEDOUT : 0, late ? KR_WHY_TIMEOUT : KR_WHY_LOCAL);
        zc_end(w, true);
    }
}

/* ---- read ---- */

/* man 2 read, and what io_uring/rw.c and io-wq.c may answer; 0: the file has become too short. */
static const int read_errors[] = {EACCES, EBADF, EFAULT, EINVAL, EIO,        EISDIR, ENODEV,
                                  ENOMEM, ENXIO, EPERM,  ESTALE, EOPNOTSUPP, 0};
static const int read_passing[] = {-EINTR, -EAGAIN, -ECANCELED};
#define READ_GOOD (DIGITS + COUNT(read_passing))

static struct {
    unsigned told;
    uint64_t sent;
    int error;
} file_seen;

static void file_told(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    (void)r;
    CHECK_EQ(((struct world *)arg)->closes, 0u);
    file_seen.told++;
    file_seen.sent = sent;
    file_seen.error = error;
}

static int digits_file(void) {
    int fd = CHECK_SYS(memfd_create("digits", MFD_CLOEXEC));
    CHECK_EQ(CHECK_SYS(write(fd, digits, DIGITS)), DIGITS);
    return fd;
}

/* A connection in that state, for which ten digits of a file are being read. */
static struct world *read_begin(enum send_state state, int32_t res, int *fd) {
    cell_begin("read", send_states[state], res, 0);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(read));
    connect_client(w);
    memset(&file_seen, 0, sizeof file_seen);
    *fd = digits_file();
    CHECK_OK(kr_conn_send_file(w->r, w->conn, *fd, 0, DIGITS, file_told, w));
    await_stolen(w, KR__VERB_read, slot_of(w->conn));
    if (state == FLUSHING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_LINGER));
    else if (state == DRAINING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_FLUSH));
    else if (state == ENDING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    return w;
}

static void read_fails(struct world *w, enum send_state state, int fd, int res) {
    int error = res ? res : -ENODATA;
    if (state == ENDING)
        check_ended(w, 0, KR_WHY_LOCAL);
    else
        check_ended(w, error, KR_WHY_FILE);
    CHECK_EQ(file_seen.told, 1u);
    CHECK_EQ(file_seen.error, state == ENDING ? -ECANCELED : error);
    CHECK_EQ(file_seen.sent, 0u);
    test_close(fd);
    world_end(w);
}

/* Ours: an error ends the connection, unless it is ending already. */
TEST_EACH(read_errors) {
    for (size_t i = 0; i < COUNT(read_errors) * SEND_STATES; i++) {
        int res = -read_errors[i % COUNT(read_errors)], fd;
        enum send_state state = (enum send_state)(i / COUNT(read_errors));
        struct world *w = read_begin(state, res, &fd);
        complete(w, KR__VERB_read, slot_of(w->conn), res, 0);
        read_fails(w, state, fd, res);
    }
}

/* Ours: the same through the real queue. */
TEST_EACH(read_errors_through_the_ring) {
    for (size_t i = 0; i < COUNT(read_errors); i++) {
        cell_begin("read through the ring", "open", -read_errors[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        connect_client(w);
        memset(&file_seen, 0, sizeof file_seen);
        int fd = digits_file();
        inject_next(w, KR__SET(read), -read_errors[i]);
        CHECK_OK(kr_conn_send_file(w->r, w->conn, fd, 0, DIGITS, file_told, w));
        TEST_UNTIL(w->r, file_seen.told);
        CHECK_EQ(w->injections, 1u);
        read_fails(w, SENDING, fd, -read_errors[i]);
    }
}

/* Ours: read in part or not at all, the rest is read from there on; -EAGAIN, by a worker;
 * -ECANCELED, by this thread. */
TEST_EACH(read_goes_on) {
    for (size_t i = 0; i < READ_GOOD * SEND_STATES; i++) {
        size_t n = i % READ_GOOD;
        int res = n < DIGITS ? (int)n + 1 : read_passing[n - DIGITS];
        enum send_state state = (enum send_state)(i / READ_GOOD);
        int fd;
        struct world *w = read_begin(state, res, &fd);
        if (res > 0)
            memcpy(conn_of(w)->more->files->reading->block, digits, (size_t)res);
        w->steal = 0;
        complete(w, KR__VERB_read, slot_of(w->conn), res, 0);
        if (state == ENDING) {
            check_ended(w, 0, KR_WHY_LOCAL);
        } else {
            char got[DIGITS];
            test_recv(w->r, w->fd, got, DIGITS);
            CHECK_MEM_EQ(got, digits, DIGITS);
            if (state == FLUSHING)
                CHECK_SYS(shutdown(w->fd, SHUT_WR));
            if (state == SENDING)
                end_conn(w);
            else
                check_ended(w, 0, KR_WHY_LOCAL);
        }
        CHECK_EQ(file_seen.told, 1u);
        CHECK_EQ(file_seen.error, state == ENDING ? -ECANCELED : 0);
        CHECK_EQ(file_seen.sent, state == ENDING ? 0 : DIGITS);
        test_close(fd);
        world_end(w);
    }
}

/* Ours: one that is running runs to its end: it is waited for, and cancelled once only. */
TEST_EACH(read_is_waited_for) {
    int fd;
    struct world *w = read_begin(SENDING, -ECANCELED, &fd);
    CHECK_OK(kr_conn_pause(w->r, w->conn));
    TEST_UNTIL(w->r, !(conn_of(w)->owner.armed & KR__SET(recv)));
    unsigned others = w->cancels;
    w->deaf = true;
    CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    TEST_UNTIL(w->r, w->cancels == others + 1);
    struct kr__tag tag = kr__tag_unpack(stolen(w, KR__VERB_read, slot_of(w->conn)));
    tag.op = KR__VERB_cancel;
    tag.operand = KR__VERB_read;
    kr__loop_complete(w->r, kr__tag_pack(tag), -EALREADY, 0);
    for (int i = 0; i < 3; i++)
        test_step(w->r, "turns in which it is being read");
    CHECK_EQ(w->cancels, others + 1);
    CHECK_EQ(file_seen.told + w->closes, 0u);
    w->deaf = false;
    complete(w, KR__VERB_read, slot_of(w->conn), DIGITS, 0);
    check_ended(w, 0, KR_WHY_LOCAL);
    CHECK_EQ(file_seen.error, -ECANCELED);
    test_close(fd);
    world_end(w);
}

/* ---- connect ---- */

/* man connect, and what a network tells instead of an answer. */
static const int connect_errors[] = {
    EACCES,      EADDRINUSE,   EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN,    EALREADY, EBADF,
    ECANCELED,   ECONNABORTED, ECONNREFUSED,  ECONNRESET,   EFAULT,    EHOSTDOWN, EHOSTUNREACH,
    EINPROGRESS, EINTR,        EINVAL,        EISCONN,      ENETUNREACH, ENOBUFS, ENOMEM,
    ENOTSOCK,    EPERM,        EPROTOTYPE,    ETIMEDOUT,
};

enum connect_state {
    CALLING,
    CALLING_AND_LINGERING,
    CALLING_AND_DRAINING,
    GIVEN_UP,
    CONNECT_STATES
};
static const char *const connect_states[] = {"opening", "lingering", "draining", "joining"};

/* A connection of our own in that state, whose CONNECT is in flight. */
static struct world *connect_begin(enum connect_state state, int32_t res) {
    cell_begin("connect", connect_states[state], res, 0);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(connect));
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", w->port));
    CHECK_OK(kr_connect(w->r, &w->conn, &addr, NULL, &world_ops, w));
    CHECK_OK(kr_conn_send(w->r, w->conn, digits, DIGITS));
    await_stolen(w, KR__VERB_connect, slot_of(w->conn));
    if (state == CALLING_AND_LINGERING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_LINGER));
    else if (state == CALLING_AND_DRAINING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_FLUSH));
    else if (state == GIVEN_UP)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    if (state != GIVEN_UP)
        test_step(w->r, "a turn with the connect in flight");
    return w;
}

/* The attempt has come to that. There was no client; the world counts lives by their opening. */
static void check_attempt_ended(struct world *w, int error, enum kr_why why) {
    CHECK_EQ(w->opens, 0u);
    w->opens++;
    w->fd = CHECK_SYS(dup(0));
    check_ended(w, error, why);
}

/* Ours: any error is the last word, unless the connection is ending already. */
TEST_EACH(connect_fails) {
    for (size_t i = 0; i < COUNT(connect_errors) * CONNECT_STATES; i++) {
        int error = -connect_errors[i % COUNT(connect_errors)];
        enum connect_state state = (enum connect_state)(i / COUNT(connect_errors));
        struct world *w = connect_begin(state, error);
        complete(w, KR__VERB_connect, slot_of(w->conn), error, 0);
        bool ending = state == GIVEN_UP;
        check_attempt_ended(w, ending ? 0 : error, ending ? KR_WHY_LOCAL : KR_WHY_CONNECT);
        CHECK_EQ(test_stats(w->r).connect_errors, 1u);
        world_end(w);
    }
}

/* Ours: the same through the real queue. */
TEST_EACH(connect_fails_through_the_ring) {
    for (size_t i = 0; i < COUNT(connect_errors); i++) {
        cell_begin("connect through the ring", "opening", -connect_errors[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        inject_next(w, KR__SET(connect), -connect_errors[i]);
        struct kr_addr addr;
        CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", w->port));
        CHECK_OK(kr_connect(w->r, &w->conn, &addr, NULL, &world_ops, w));
        check_attempt_ended(w, -connect_errors[i], KR_WHY_CONNECT);
        CHECK_EQ(w->injections, 1u);
        world_end(w);
    }
}

/* Ours: an answer that it stands. The socket does not in truth, as the request was stolen: then
 * what was queued meets the kernel's error, and this is what ends it. */
TEST_EACH(connect_stands) {
    for (int state = CALLING; state < CONNECT_STATES; state++) {
        struct world *w = connect_begin((enum connect_state)state, 0);
        complete(w, KR__VERB_connect, slot_of(w->conn), 0, 0);
        CHECK_EQ(w->opens, state == CALLING);
        CHECK_EQ(test_stats(w->r).connects, state != GIVEN_UP);
        if (state == CALLING)
            w->opens = 0;
        TEST_UNTIL(w->r, w->closes == 1);
        if (state == GIVEN_UP)
            check_attempt_ended(w, 0, KR_WHY_LOCAL);
        else
            check_attempt_ended(w, w->error == -EPIPE ? -EPIPE : -ENOTCONN, KR_WHY_ERROR);
        world_end(w);
    }
}

/* Ours: an attempt that is given up is cancelled, once, and joined before its slot is closed. */
TEST_EACH(connect_cancelled) {
    cell_begin("connect", "joining", -ECANCELED, 0);
    struct world *w = connect_begin(GIVEN_UP, -ECANCELED);
    w->deaf = true;
    for (int i = 0; i < 3; i++)
        test_step(w->r, "turns without an answer");
    CHECK_EQ(w->cancels, 1u);
    CHECK_EQ(w->closes, 0u);
    CHECK(!(conn_of(w)->owner.armed & KR__SET(close)));
    w->deaf = false;
    complete(w, KR__VERB_connect, slot_of(w->conn), -ECANCELED, 0);
    check_attempt_ended(w, 0, KR_WHY_LOCAL);
    world_end(w);
}

/* ---- shutdown ---- */

/* man shutdown, man fcntl: of the way by a descriptor, of that by a worker. */
static const int shutdown_errors[] = {EAGAIN, EBADF,  EINTR,    EINVAL,   EIO,
                                      ENOMEM, EMFILE, ENOTCONN, ENOTSOCK, EOPNOTSUPP};

/* A connection in that state, whose shutdown is in flight. */
static struct world *shutdown_begin(enum conn_state state, int32_t res) {
    cell_begin("shutdown", conn_states[state], res, 0);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(shutdown));
    connect_client(w);
    if (state == LINGERING)
        conn_enter(w, state); /* which asks for one, too */
    else
        CHECK_OK(kr_conn_shutdown(w->r, w->conn));
    await_stolen(w, KR__VERB_shutdown, slot_of(w->conn));
    if (state != LINGERING)
        conn_enter(w, state);
    test_step(w->r, "a turn with the shutdown in flight");
    CHECK_EQ(w->closes, 0u); /* however long it takes, it is waited for, and not cancelled */
    CHECK_LE(w->cancels, 1u); /* of the receive, at most */
    CHECK(stolen(w, KR__VERB_shutdown, slot_of(w->conn)));
    return w;
}

static bool by_descriptor(const struct world *w) {
    return w->r->ring.caps & KR__CAP_FD_INSTALL;
}

/* The kernel's answer that all is well: a descriptor, of another socket here, or 0. */
static void shutdown_completes(struct world *w) {
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    bool fresh = by_descriptor(w);
    complete(w, KR__VERB_shutdown, slot_of(w->conn), fresh ? ends[0] : 0, 0);
    char byte;
    if (fresh)
        CHECK_EQ(read(ends[1], &byte, 1), 0);
    else
        test_close(ends[0]);
    test_close(ends[1]);
}

/* Ours: done, this side has ended, reading goes on, and no other shutdown is made. */
TEST_EACH(shutdown_done) {
    for (int state = OPEN; state < CONN_STATES; state++) {
        struct world *w = shutdown_begin((enum conn_state)state, 0);
        shutdown_completes(w);
        if (state == JOINING) {
            check_ended(w, 0, KR_WHY_LOCAL);
            world_end(w);
            continue;
        }
        if (state == LINGERING) {
            test_step(w->r, "a turn that changes nothing");
            CHECK_EQ(w->closes, 0u);
            CHECK_SYS(shutdown(w->fd, SHUT_WR));
            check_ended(w, 0, KR_WHY_LOCAL);
            world_end(w);
            continue;
        }
        if (state == PAUSED)
            CHECK_OK(kr_conn_resume(w->r, w->conn));
        test_send(w->r, w->fd, HELLO, HELLO_SIZE);
        TEST_UNTIL(w->r, w->got == HELLO_SIZE);
        CHECK(!stolen(w, KR__VERB_shutdown, slot_of(w->conn)));
        end_conn(w);
        world_end(w);
    }
}

/* Ours: without a descriptor it is made by a worker, without a worker again. */
TEST_EACH(shutdown_goes_on, .needs = KR__CAP_FILE_TABLE) {
    for (int state = OPEN; state < JOINING; state++) {
        struct world *w = shutdown_begin((enum conn_state)state, -ECANCELED);
        if (by_descriptor(w)) {
            complete(w, KR__VERB_shutdown, slot_of(w->conn), -EMFILE, 0);
            await_stolen(w, KR__VERB_shutdown, slot_of(w->conn));
        }
        complete(w, KR__VERB_shutdown, slot_of(w->conn), -ECANCELED, 0);
        await_stolen(w, KR__VERB_shutdown, slot_of(w->conn));
        CHECK_EQ(w->closes, 0u);
        shutdown_completes(w);
        if (state == LINGERING) {
            CHECK_SYS(shutdown(w->fd, SHUT_WR));
            check_ended(w, 0, KR_WHY_LOCAL);
        } else {
            end_conn(w);
        }
        world_end(w);
    }
}

/* Ours: any other error ends the connection, since its peer would wait for the end for ever; one
 * that is ending already it does not change. */
TEST_EACH(shutdown_errors) {
    for (size_t i = 0; i < COUNT(shutdown_errors) * CONN_STATES; i++) {
        int error = -shutdown_errors[i % COUNT(shutdown_errors)];
        enum conn_state state = (enum conn_state)(i / COUNT(shutdown_errors));
        struct world *w = shutdown_begin(state, error);
        complete(w, KR__VERB_shutdown, slot_of(w->conn), error, 0);
        if (by_descriptor(w) && state != JOINING) {
            await_stolen(w, KR__VERB_shutdown, slot_of(w->conn));
            complete(w, KR__VERB_shutdown, slot_of(w->conn), error, 0);
        }
        check_send_failed(w, state == JOINING ? ENDING : state == LINGERING ? FLUSHING : SENDING,
                          error);
        world_end(w);
    }
}

/* ---- release ---- */

struct leaving {
    unsigned tells;
    struct kr_released what;
    char unread[HELLO_SIZE];
};

static void left(struct kr_reactor *r, kr_conn conn, void *user, const struct kr_released *what) {
    (void)r;
    (void)conn;
    struct leaving *l = user;
    l->tells++;
    l->what = *what;
    if (what->unread_size == HELLO_SIZE)
        memcpy(l->unread, what->unread, HELLO_SIZE);
}

/* Ours: a receive that fails does not take the bytes from under a send in flight: they go with its
 * completion. */
TEST_EACH(send_in_flight_when_a_receive_fails, .needs = KR__CAP_FD_INSTALL) {
    for (unsigned pieces = 0; pieces < 2; pieces++) {
        struct world *w = send_begin(SENDING, -ECANCELED, pieces);
        struct kr__conn *c = conn_of(w);
        struct leaving l = {0};
        CHECK_OK(kr_conn_release(w->r, w->conn, left, &l));
        kr__conn_recv_failed(w->r, c, -ECONNRESET);
        CHECK(c->broken && c->queue.head);
        w->steal = 0;
        TEST_UNTIL(w->r, l.tells == 1);
        CHECK_EQ(l.what.error, -ECONNRESET);
        CHECK(!c->queue.head);
        check_ended(w, -ECONNRESET, KR_WHY_ERROR);
        world_end(w);
    }
}

/* A paused connection that is to be released, or one with its receive in flight. */
static struct world *leaving_begin(const char *verb, uint32_t steal, int32_t res,
                                   struct leaving *l) {
    cell_begin(verb, "releasing", res, 0);
    *l = (struct leaving){0};
    struct world *w = world_begin(BY_MULTISHOT, steal);
    connect_client(w);
    return w;
}

static void check_left(struct world *w, const struct leaving *l) {
    TEST_UNTIL(w->r, l->tells == 1);
    CHECK_EQ(l->what.error, 0);
    check_ended(w, 0, KR_WHY_RELEASED);
    test_close(l->what.fd);
}

/* man io_uring_prep_fixed_fd_install, man open, and what a security module says. */
static const int export_errors[] = {EBADF,  ECANCELED, EINVAL,     EMFILE,
                                    ENFILE, ENOMEM,    EOPNOTSUPP, EPERM};

/* Ours: whatever it is that there is no descriptor for, the connection goes on, and may leave
 * another time. */
TEST_EACH(export_errors) {
    for (size_t i = 0; i < 2 * COUNT(export_errors); i++) {
        int error = -export_errors[i / 2];
        bool stolen_one = i % 2;
        struct leaving l;
        struct world *w = leaving_begin("export", stolen_one ? KR__SET(export) : 0, error, &l);
        inject_next(w, stolen_one ? 0 : KR__SET(export), error);
        CHECK_OK(kr_conn_release(w->r, w->conn, left, &l));
        if (stolen_one) {
            await_stolen(w, KR__VERB_export, slot_of(w->conn));
            CHECK_EQ(conn_of(w)->owner.inflight, 1u);
            complete(w, KR__VERB_export, slot_of(w->conn), error, 0);
        }
        TEST_UNTIL(w->r, l.tells == 1);
        CHECK_EQ(l.what.error, error);
        CHECK_EQ(l.what.fd, -1);
        check_echoes(w);
        w->steal = 0;
        l.tells = 0;
        CHECK_OK(kr_conn_release(w->r, w->conn, left, &l));
        check_left(w, &l);
        world_end(w);
    }
}

/* Ours: a descriptor that comes after the connection was closed is closed. */
TEST_EACH(export_too_late) {
    struct leaving l;
    struct world *w = leaving_begin("export", KR__SET(export), 0, &l);
    CHECK_OK(kr_conn_release(w->r, w->conn, left, &l));
    await_stolen(w, KR__VERB_export, slot_of(w->conn));
    CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    test_step(w->r, "a turn with the export in flight");
    CHECK_EQ(w->closes + l.tells, 0u);
    int before = tap_fd_count();
    /* of a plain table the descriptor is made when the request, a NOP, has completed */
    int32_t res = test_slot_cost(w->r) ? 0 : CHECK_SYS(dup(0));
    complete(w, KR__VERB_export, slot_of(w->conn), res, 0);
    CHECK_EQ(tap_fd_count(), before);
    check_ended(w, 0, KR_WHY_LOCAL);
    CHECK_EQ(l.tells, 1u);
    CHECK_EQ(l.what.error, -ECANCELED);
    world_end(w);
}

/* Ours: bytes that come while it leaves are shown as unread; an end is told of. */
TEST_EACH(recv_data_while_leaving) {
    for (unsigned i = 0; i < 3; i++) {
        struct leaving l;
        struct world *w = leaving_begin("recv", KR__SET(recv), i ? HELLO_SIZE : 0, &l);
        CHECK_OK(kr_conn_release(w->r, w->conn, left, &l));
        if (i)
            complete(w, KR__VERB_recv, slot_of(w->conn), HELLO_SIZE,
                     (i == 2 ? MORE : 0) | fill(w, HELLO, HELLO_SIZE));
        else
            complete(w, KR__VERB_recv, slot_of(w->conn), 0, 0);
        check_left(w, &l);
        CHECK_EQ(l.what.eof, i == 0);
        CHECK_EQ(l.what.unread_size, i ? (size_t)HELLO_SIZE : 0u);
        if (i)
            CHECK_MEM_EQ(l.unread, HELLO, HELLO_SIZE);
        CHECK_EQ(w->datas + w->eofs, 0u);
        world_end(w);
    }
}

/* Ours: what passes does not keep it; neither does a want of buffers. */
TEST_EACH(recv_that_passes_while_leaving) {
    static const int passing[] = {EAGAIN, ECANCELED, EINTR, ENOBUFS};
    for (size_t i = 0; i < COUNT(passing); i++) {
        struct leaving l;
        struct world *w = leaving_begin("recv", KR__SET(recv), -passing[i], &l);
        CHECK_OK(kr_conn_release(w->r, w->conn, left, &l));
        complete(w, KR__VERB_recv, slot_of(w->conn), -passing[i], 0);
        check_left(w, &l);
        world_end(w);
    }
}

/* Ours: an error ends it, and is told twice: to whom it was to be released to, and by on_close. */
TEST_EACH(recv_errors_while_leaving) {
    for (size_t i = 0; i < COUNT(recv_errors); i++) {
        struct leaving l;
        struct world *w = leaving_begin("recv", KR__SET(recv), -recv_errors[i], &l);
        CHECK_OK(kr_conn_release(w->r, w->conn, left, &l));
        complete(w, KR__VERB_recv, slot_of(w->conn), -recv_errors[i], 0);
        check_ended(w, -recv_errors[i], KR_WHY_ERROR);
        CHECK_EQ(l.tells, 1u);
        CHECK_EQ(l.what.error, -recv_errors[i]);
        world_end(w);
    }
}

/* ---- sockopt ---- */

static void tuned(struct kr_reactor *r, kr_conn conn, void *user, int error) {
    (void)r;
    (void)conn;
    int *told = user;
    *told = error;
}

/* man setsockopt, man io_uring_prep_cmd_sock. */
static const int sockopt_errors[] = {EBADF,       ECANCELED, EFAULT,     EINVAL, ENOMEM,
                                     ENOPROTOOPT, ENOTSOCK,  EOPNOTSUPP, EPERM};

/* Ours: what the kernel says of an option is told, whatever becomes of the connection meanwhile;
 * which goes on, or waits for the answer before it is closed. */
TEST_EACH(sockopt_errors, .needs = KR__CAP_FILE_TABLE) {
    for (size_t i = 0; i < 2 * COUNT(sockopt_errors); i++) {
        int error = -sockopt_errors[i / 2], told = 1;
        struct leaving unused;
        struct world *w = leaving_begin("sockopt", KR__SET(sockopt), error, &unused);
        CHECK_OK(kr_conn_sockopt(w->r, w->conn, KR_SOCKOPT_KEEP_IDLE_S, 9, tuned, &told));
        await_stolen(w, KR__VERB_sockopt, slot_of(w->conn));
        if (i % 2)
            CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
        test_step(w->r, "a turn with the option in flight");
        CHECK_EQ(told, 1);
        CHECK_EQ(w->closes, 0u);
        complete(w, KR__VERB_sockopt, slot_of(w->conn), error, 0);
        CHECK_EQ(told, error);
        if (i % 2 == 0)
            check_echoes(w);
        if (i % 2 == 0)
            end_conn(w);
        else
            check_ended(w, 0, KR_WHY_LOCAL);
        world_end(w);
    }
}

/* ---- reset and close ---- */

/* man connect; and what a socket says that its peer has reset already. */
static const int reset_results[] = {
    0,          -EACCES,     -EAFNOSUPPORT, -EAGAIN, -EALREADY, -EBADF,
    -ECANCELED, -ECONNRESET, -EINPROGRESS,  -EINTR,  -EINVAL,   -ENOMEM,
    -ENOTCONN,  -ENOTSOCK,   -EOPNOTSUPP,   -EPERM,
};

/* Ours: whatever came of the reset, the close follows, once. */
TEST_EACH(reset_results) {
    for (size_t i = 0; i < COUNT(reset_results); i++) {
        cell_begin("reset", "closing", reset_results[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, KR__SET(reset));
        connect_client(w);
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_RESET));
        await_stolen(w, KR__VERB_reset, slot_of(w->conn));
        CHECK_EQ(conn_of(w)->owner.inflight, 1u);
        complete(w, KR__VERB_reset, slot_of(w->conn), reset_results[i], 0);
        CHECK_EQ(w->closes, 0u);
        check_ended(w, 0, KR_WHY_LOCAL);
        world_end(w);
    }
}

/* man setsockopt; and what a filter (BPF) may say. */
static const int unlinger_results[] = {
    0, -EAGAIN, -EBADF, -ECANCELED, -EFAULT, -EINTR, -EINVAL, -ENOMEM, -ENOPROTOOPT, -EOPNOTSUPP,
    -EPERM,
};

/* Ours: whether or not SO_LINGER could be taken from the socket, the close follows, once. */
TEST_EACH(unlinger_results) {
    for (size_t i = 0; i < COUNT(unlinger_results); i++) {
        cell_begin("unlinger", "closing", unlinger_results[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, KR__SET(unlinger));
        connect_client(w);
        conn_of(w)->lingers = true;
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
        await_stolen(w, KR__VERB_unlinger, slot_of(w->conn));
        CHECK_EQ(conn_of(w)->owner.inflight, 1u);
        complete(w, KR__VERB_unlinger, slot_of(w->conn), unlinger_results[i], 0);
        CHECK_EQ(w->closes, 0u);
        check_ended(w, 0, KR_WHY_LOCAL);
        world_end(w);
    }
}

/* man close; -ENXIO and -EBADF: the slot was empty (io_uring/filetable.c); -EINVAL: no such
 * slot. */
static const int close_results[] = {
    0, -EAGAIN, -EBADF, -ECANCELED, -EDQUOT, -EINTR, -EINVAL, -EIO, -ENOMEM, -ENOSPC, -ENXIO,
};

/* Ours: after the completion of its close a connection is gone, and its handle stale; not a moment
 * before. */
TEST_EACH(close_results_of_connections) {
    for (size_t i = 0; i < COUNT(close_results); i++) {
        cell_begin("close", "closing", close_results[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, KR__SET(close));
        connect_client(w);
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
        await_stolen(w, KR__VERB_close, slot_of(w->conn));
        CHECK_EQ(w->closes, 0u);
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_RESET)); /* too late to be harder */
        test_step(w->r, "a turn with its close in flight");
        complete(w, KR__VERB_close, slot_of(w->conn), close_results[i], 0);
        check_ended(w, 0, KR_WHY_LOCAL);
        world_end(w);
    }
}

/* Ours: the same of a listener: its slot takes the next one. */
TEST_EACH(close_results_of_listeners) {
    for (size_t i = 0; i < COUNT(close_results); i++) {
        cell_begin("close of a listener", "closing", close_results[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        test_step(w->r, "its accept");
        w->steal = KR__SET(close);
        uint32_t slot = listener_slot(w);
        CHECK_OK(kr_listener_close(w->r, w->listener));
        await_stolen(w, KR__VERB_close, slot);
        CHECK_EQ(test_stats(w->r).listeners, 1u);
        complete(w, KR__VERB_close, slot, close_results[i], 0);
        CHECK_EQ(test_stats(w->r).listeners, 0u);
        struct kr_listen_opts opts = opts_of(BY_MULTISHOT);
        w->port = test_listen(w->r, &w->listener, &opts, &world_ops, w);
        CHECK_EQ(listener_slot(w), slot);
        world_end(w);
    }
}

/* ---- accept ---- */

/* man accept: the next client may be well. */
static const int client_errors[] = {
    EAGAIN,   ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, EINTR,
    ENETDOWN, ENETUNREACH,  ENONET,    ENOPROTOOPT,  EPROTO,
};

/* man accept: the next one fares no better for a while. */
static const int own_errors[] = {EFAULT, EIO,   EMFILE,     ENFILE, ENOBUFS,
                                 ENOMEM, ENXIO, EOPNOTSUPP, EPERM};

/* man accept: nobody will ever be accepted from that socket. */
static const int final_errors[] = {EBADF, EINVAL, ENOTSOCK};

/* What kind of request of a listener is in flight, and how it comes to be. */
static const struct accept_kind {
    const char *name;
    enum kr__verb verb;
    enum accepting accepting;
} accept_kinds[] = {
    {"accept", KR__VERB_accept, BY_MULTISHOT},
    {"accept_poll", KR__VERB_accept_poll, BY_ONES},
    {"accept_one", KR__VERB_accept_one, BY_ONES},
    {"accept_fd", KR__VERB_accept_fd, BY_FD},
};

enum listener_state { ACCEPTING, STOPPED, CLOSED, LISTENER_STATES };
static const char *const listener_states[] = {"open", "paused", "closing"};

/* The listener's request is in flight; for those that are made when a client waits, one does. */
static struct world *accept_begin(const struct accept_kind *kind, enum listener_state state,
                                  int32_t res, uint32_t flags) {
    cell_begin(kind->name, listener_states[state], res, flags);
    struct world *w = world_begin(kind->accepting, 1u << kind->verb);
    w->fd = -1;
    if (kind->verb == KR__VERB_accept_one || kind->verb == KR__VERB_accept_fd)
        w->fd = test_connect(w->port);
    await_stolen(w, kind->verb, listener_slot(w));
    if (state == STOPPED)
        CHECK_OK(kr_listener_pause(w->r, w->listener));
    else if (state == CLOSED)
        CHECK_OK(kr_listener_close(w->r, w->listener));
    return w;
}

/* A multishot that is still in flight would keep all clients to itself. */
static void accept_end(struct world *w, enum listener_state state, uint32_t flags) {
    if (state == ACCEPTING && flags & MORE)
        complete(w, KR__VERB_accept, listener_slot(w), -ECANCELED, 0);
}

/* It accepts again, what is left in flight is cancelled, and the client that waited is served, or a
 * new one. */
static void accept_goes_on(struct world *w, enum listener_state state) {
    w->steal = 0;
    if (state == STOPPED) {
        TEST_UNTIL(w->r, listener_of(w)->owner.inflight == 0);
        CHECK_OK(kr_listener_resume(w->r, w->listener));
    } else if (state == CLOSED) {
        TEST_UNTIL(w->r, test_stats(w->r).listeners == 0);
        if (w->fd >= 0)
            test_close(w->fd);
        w->fd = -1;
        struct kr_listen_opts opts = opts_of(BY_MULTISHOT);
        w->port = test_listen(w->r, &w->listener, &opts, &world_ops, w);
    }
    if (w->fd >= 0) {
        TEST_UNTIL(w->r, w->opens == 1);
        check_echoes(w);
        end_conn(w);
    }
    world_end(w);
}

static void accept_cell(const struct accept_kind *kind, enum listener_state state, int error,
                        uint32_t flags, bool backs_off) {
    struct world *w = accept_begin(kind, state, error, flags);
    struct kr__listener *l = listener_of(w);
    complete(w, kind->verb, listener_slot(w), error, flags);
    CHECK_EQ(l->backing_off, backs_off && state != CLOSED);
    CHECK_EQ(test_stats(w->r).accept_errors, error == -ECANCELED || error == -EAGAIN ? 0u : 1u);
    if (!l->backing_off)
        accept_end(w, state, flags);
    accept_goes_on(w, state);
}

static unsigned listener_ends;
static int listener_error;

static void on_listener_end(struct kr_reactor *r, kr_listener listener, void *user, int error) {
    (void)user;
    CHECK_ERR(kr_listener_close(r, listener), ESTALE);
    listener_ends++;
    listener_error = error;
}

/* The listener ends, once, and tells why; one that is being closed tells nothing. */
static void final_cell(const struct accept_kind *kind, enum listener_state state, int error,
                       uint32_t flags) {
    struct world *w = accept_begin(kind, state, error, flags);
    struct kr__listener *l = listener_of(w);
    l->opts.on_end = on_listener_end;
    listener_ends = 0;
    complete(w, kind->verb, listener_slot(w), error, flags);
    CHECK_EQ(l->state, KR__LISTENER_CLOSING);
    CHECK(!l->backing_off);
    CHECK_EQ(test_stats(w->r).accept_errors, 1u);
    if (flags & MORE)
        complete(w, kind->verb, listener_slot(w), -ECANCELED, 0);
    w->steal = 0;
    TEST_UNTIL(w->r, test_stats(w->r).listeners == 0);
    CHECK_EQ(listener_ends, state != CLOSED);
    CHECK(state == CLOSED || listener_error == error);
    accept_goes_on(w, CLOSED);
}

static void accept_cells(const struct accept_kind *kind) {
    for (int state = ACCEPTING; state < LISTENER_STATES; state++) {
        for (size_t i = 0; i < COUNT(client_errors); i++)
            accept_cell(kind, (enum listener_state)state, -client_errors[i], 0, false);
        for (size_t i = 0; i < COUNT(own_errors); i++)
            accept_cell(kind, (enum listener_state)state, -own_errors[i], 0, true);
        for (size_t i = 0; i < COUNT(final_errors); i++)
            final_cell(kind, (enum listener_state)state, -final_errors[i], 0);
        accept_cell(kind, (enum listener_state)state, -ECANCELED, 0, false);
    }
}

/* Ours: an error of a client is no reason to wait; one of this machine is, and is tried again after
 * a while; and none of them costs a slot, or a client that waits. */
TEST_EACH(accept_errors) {
    accept_cells(&accept_kinds[0]);
}

TEST_EACH(accept_poll_errors) {
    accept_cells(&accept_kinds[1]);
}

TEST_EACH(accept_one_errors) {
    accept_cells(&accept_kinds[2]);
}

TEST_EACH(accept_fd_errors) {
    accept_cells(&accept_kinds[3]);
}

/* Ours: an error that leaves the multishot in flight. */
TEST_EACH(accept_errors_with_more) {
    for (size_t i = 0; i < COUNT(client_errors); i++)
        accept_cell(&accept_kinds[0], ACCEPTING, -client_errors[i], MORE, false);
    for (size_t i = 0; i < COUNT(own_errors); i++)
        accept_cell(&accept_kinds[0], ACCEPTING, -own_errors[i], MORE, true);
    for (size_t i = 0; i < COUNT(final_errors); i++)
        final_cell(&accept_kinds[0], ACCEPTING, -final_errors[i], MORE);
}

/* Ours: some kernels choose a slot beyond the range when that is full: it is as any full table, and
 * the client is let go before the slot is used for something else. */
TEST_EACH(accept_beyond_the_range, .needs = KR__CAP_FILE_TABLE) {
    for (int i = 0; i < 2; i++) {
        struct world *w = accept_begin(&accept_kinds[0], ACCEPTING, 256, MORE);
        uint32_t slot = i ? w->r->slots.files.first + 3 : w->r->slots.made.first;
        int ends[2];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
        CHECK_OK(kr__slots_put(&w->r->slots, slot, ends[0]));
        test_close(ends[0]);
        complete(w, KR__VERB_accept, listener_slot(w), (int32_t)slot, 0);
        CHECK_EQ(w->opens, 0u);
        CHECK_EQ(test_stats(w->r).accept_errors, 1u);
        CHECK(listener_of(w)->backing_off);
        char byte;
        CHECK_EQ(read(ends[1], &byte, 1), 0); /* the table has let go of it */
        test_close(ends[1]);
        accept_goes_on(w, ACCEPTING);
    }
}

/* Ours: a listener that is drained ends when no accept of it is in flight that may have a client
 * still. */
TEST_EACH(accept_one_before_the_end_of_a_drain) {
    struct world *w = accept_begin(&accept_kinds[2], ACCEPTING, -ECANCELED, 0);
    struct kr__listener *l = listener_of(w);
    w->deaf = true;
    CHECK_OK(kr_listener_drain(w->r, w->listener, INT64_MAX));
    l->drained = true;
    for (int i = 0; i < 5; i++)
        test_step(w->r, "the listener to wait");
    CHECK_EQ(l->state, KR__LISTENER_OPEN);
    w->deaf = false;
    complete(w, KR__VERB_accept_one, listener_slot(w), -ECANCELED, 0);
    accept_goes_on(w, CLOSED);
}

static const uint32_t accept_flags[] = {MORE, 0};

/* Ours: a slot in which there is no socket after all: the connection opens, its receive meets
 * -EBADF, it ends. On a listener that is closing it is closed unannounced. The multishot goes on by
 * what F_MORE says. */
TEST_EACH(accept_of_an_empty_slot) {
    for (size_t i = 0; i < COUNT(accept_flags) * LISTENER_STATES; i++) {
        uint32_t flags = accept_flags[i % COUNT(accept_flags)];
        enum listener_state state = (enum listener_state)(i / COUNT(accept_flags));
        struct world *w = accept_begin(&accept_kinds[0], state, 200, flags);
        complete(w, KR__VERB_accept, listener_slot(w), 200, flags);
        w->steal = 0; /* the next one is real */
        CHECK_EQ(w->opens, state != CLOSED);
        CHECK_EQ(stolen(w, KR__VERB_accept, listener_slot(w)) != 0, flags != 0);
        TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
        CHECK_EQ(w->closes, w->opens);
        CHECK_EQ(w->error, w->opens ? -EBADF : 0);
        accept_end(w, state, flags);
        accept_goes_on(w, state);
    }
}

static const int poll_results[] = {POLLIN,   POLLERR, POLLHUP, POLLIN | POLLERR | POLLHUP,
                                   POLLNVAL, 0};

/* Ours: a poll that says "ready" though no client waits: the accepts made for it are taken back. */
TEST_EACH(accept_poll_that_is_wrong) {
    for (size_t i = 0; i < COUNT(poll_results) * LISTENER_STATES; i++) {
        enum listener_state state = (enum listener_state)(i / COUNT(poll_results));
        struct world *w =
            accept_begin(&accept_kinds[1], state, poll_results[i % COUNT(poll_results)], 0);
        complete(w, KR__VERB_accept_poll, listener_slot(w), poll_results[i % COUNT(poll_results)],
                 0);
        accept_goes_on(w, state);
    }
}

/* Ours: a descriptor that has no peer: it is closed, and nobody is told. */
TEST_EACH(accept_fd_of_no_connection) {
    for (int state = ACCEPTING; state < LISTENER_STATES; state++) {
        struct world *w = accept_begin(&accept_kinds[3], (enum listener_state)state, 0, 0);
        int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        complete(w, KR__VERB_accept_fd, listener_slot(w), fd, 0);
        CHECK_EQ(w->opens, 0u);
        accept_goes_on(w, (enum listener_state)state);
    }
}

/* Ours: the accept's first result, through the real queue. */
TEST_EACH(accept_errors_through_the_ring) {
    for (size_t i = 0; i < COUNT(client_errors) + COUNT(own_errors); i++) {
        bool own = i >= COUNT(client_errors);
        int error = own ? own_errors[i - COUNT(client_errors)] : client_errors[i];
        cell_begin("accept through the ring", "open", -error, 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        inject_next(w, KR__SET(accept), -error);
        TEST_UNTIL(w->r, error == EAGAIN ? w->injections : test_stats(w->r).accept_errors);
        CHECK_EQ(listener_of(w)->backing_off, own);
        CHECK_EQ(w->injections, 1u);
        world_end(w);
    }
}

/* ---- install ---- */

/* man io_uring_prep_files_update: -ENFILE when no slot is free. */
static const int install_errors[] = {EAGAIN, EBADF,  ECANCELED, EFAULT,   EINVAL,
                                     ENFILE, ENOMEM, ENXIO,     EOVERFLOW};

/* Ours: a client that cannot have a slot is let go, unannounced, and the descriptor closed; the
 * next one is served. On a listener that closes meanwhile it is let go in any case. */
TEST_EACH(install_errors) {
    for (size_t i = 0; i < COUNT(install_errors) * LISTENER_STATES; i++) {
        int error = -install_errors[i % COUNT(install_errors)];
        enum listener_state state = (enum listener_state)(i / COUNT(install_errors));
        cell_begin("install", listener_states[state], error, 0);
        struct world *w = world_begin(BY_FD, KR__SET(install));
        w->fd = test_connect(w->port);
        await_stolen(w, KR__VERB_install, listener_slot(w));
        if (state == STOPPED)
            CHECK_OK(kr_listener_pause(w->r, w->listener));
        else if (state == CLOSED)
            CHECK_OK(kr_listener_close(w->r, w->listener));
        complete(w, KR__VERB_install, listener_slot(w), error, 0);
        CHECK_EQ(w->opens, 0u);
        CHECK_EQ(test_recv_end(w->r, w->fd, NULL), 0);
        test_close(w->fd);
        w->fd = -1;
        accept_goes_on(w, state);
    }
}

/* ---- wake ---- */

static const struct {
    int32_t res;
    uint32_t flags;
} wake_rows[] = {
    {POLLIN, MORE}, {POLLIN, 0},  {POLLERR, 0}, {POLLERR, MORE}, {POLLHUP, 0},
    {0, MORE},      {0, 0},       {-EAGAIN, 0}, {-EBADF, 0},     {-ECANCELED, 0},
    {-EINTR, 0},    {-EINVAL, 0}, {-ENOMEM, 0}, {-ENOENT, 0},
};

static void *post_main(void *arg) {
    struct world *w = arg;
    CHECK_OK(kr_post(w->r, world_post, w));
    return NULL;
}

/* Another thread's post ends a wait that has no other end. */
static void check_wakes(struct world *w) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, post_main, w), 0);
    while (!w->posts)
        CHECK_OK(kr_step(w->r, -1));
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

/* Ours: the poll that wakes is armed as long as the reactor lives. */
TEST_EACH(wake_results) {
    for (size_t i = 0; i < COUNT(wake_rows); i++) {
        cell_begin("wake", "", wake_rows[i].res, wake_rows[i].flags);
        struct world *w = world_begin(BY_MULTISHOT, KR__SET(wake));
        await_stolen(w, KR__VERB_wake, KR__SLOT_SELF);
        complete(w, KR__VERB_wake, KR__SLOT_SELF, wake_rows[i].res, wake_rows[i].flags);
        CHECK_EQ(stolen(w, KR__VERB_wake, KR__SLOT_SELF) != 0, wake_rows[i].flags != 0);
        w->steal = 0;
        if (wake_rows[i].flags) /* the stolen one would be the only one */
            complete(w, KR__VERB_wake, KR__SLOT_SELF, POLLIN, 0);
        check_wakes(w);
        world_end(w);
    }
}

/* ---- nop, cancel, and what belongs to nobody ---- */

static const int nop_results[] = {0, 1, INT32_MAX, -1, -ECANCELED, INT32_MIN};

/* Ours: nothing comes of it. */
TEST_EACH(nop_results) {
    for (size_t i = 0; i < COUNT(nop_results); i++) {
        cell_begin("nop through the ring", "", nop_results[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        test_step(w->r, "the first turn");
        uint64_t cqes = test_stats(w->r).cqes;
        CHECK_OK(kr__nop(w->r, kr__nop_tag(w->r), nop_results[i]));
        TEST_UNTIL(w->r, test_stats(w->r).cqes > cqes);
        CHECK_EQ(test_stats(w->r).stale_cqes, 0u);
        world_end(w);
    }
}

/* Ours: a NOP for which the submission queue has no room is refused, and the next turn makes
 * room. */
TEST_EACH(nop_waits_for_room) {
    cell_begin("nop", "", -EAGAIN, 0);
    struct world *w = world_begin(BY_MULTISHOT, 0);
    test_step(w->r, "the first turn");
    uint64_t cqes = test_stats(w->r).cqes;
    unsigned made = 0;
    int rc;
    while ((rc = kr__nop(w->r, kr__nop_tag(w->r), 0)) == 0)
        CHECK_LE(++made, w->r->ring.sq_entries);
    CHECK_ERR(rc, EAGAIN);
    CHECK_EQ(made, w->r->ring.sq_entries);
    TEST_UNTIL(w->r, test_stats(w->r).cqes >= cqes + made);
    CHECK_OK(kr__nop(w->r, kr__nop_tag(w->r), 0));
    world_end(w);
}

static const int cancel_results[] = {0, 1, -ENOENT, -EINVAL, -EALREADY};

/* Ours: a cancel that has not reached its request, as far as its completion tells, is made again
 * while that is in flight. Cancels are swallowed meanwhile, so that the receive stays in flight. */
TEST_EACH(cancel_results) {
    for (size_t i = 0; i < COUNT(cancel_results); i++) {
        cell_begin("cancel", "", cancel_results[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, KR__SET(recv));
        connect_client(w);
        w->deaf = true;
        CHECK_OK(kr_conn_pause(w->r, w->conn));
        TEST_UNTIL(w->r, w->cancels == 1);
        struct kr__tag tag = kr__tag_unpack(stolen(w, KR__VERB_recv, slot_of(w->conn)));
        tag.op = KR__VERB_cancel;
        tag.operand = KR__VERB_recv;
        kr__loop_complete(w->r, kr__tag_pack(tag), cancel_results[i], 0);
        w->deaf = false;
        test_step(w->r, "another cancel");
        test_step(w->r, "yet another");
        CHECK_EQ(w->cancels, 2u);
        CHECK_OK(kr_conn_resume(w->r, w->conn));
        check_echoes(w);
        end_conn(w);
        world_end(w);
    }
}

/* Nothing is told, nothing changes but the count of stale completions. */
static void check_stale(struct world *w, struct kr__tag tag, int32_t res, uint32_t flags) {
    struct kr_stats before = test_stats(w->r);
    kr__loop_complete(w->r, kr__tag_pack(tag), res, flags);
    struct kr_stats after = test_stats(w->r);
    CHECK_EQ(after.stale_cqes, before.stale_cqes + 1);
    after.stale_cqes--;
    CHECK_MEM_EQ(&after, &before, sizeof after);
    CHECK_EQ(w->datas + w->eofs + w->closes, 0u);
}

/* Ours: a completion of an earlier life of the slot, of each verb, in vain. */
TEST_EACH(stale_generations) {
    for (unsigned verb = 0; verb < KR__VERB_COUNT; verb++) {
        cell_begin(kr__ops[verb].name, "of an earlier life", -ECONNRESET, 0);
        struct world *w = world_begin(BY_MULTISHOT, KR__SET(recv));
        connect_client(w);
        struct kr__tag tag = {.op = (uint8_t)verb,
                              .slot = slot_of(w->conn),
                              .generation = (uint16_t)(conn_of(w)->owner.generation - 1)};
        check_stale(w, tag, -ECONNRESET, 0);
        check_stale(w, tag, 0, 0);
        check_stale(w, tag, HELLO_SIZE, MORE);
        tag.slot = listener_slot(w);
        tag.generation = (uint16_t)(listener_of(w)->owner.generation + 1);
        check_stale(w, tag, -EMFILE, 0);
        check_echoes(w);
        end_conn(w);
        world_end(w);
    }
}

/* Ours: the buffer that such a completion carries goes back; one with a number that no buffer has
 * is let be. */
TEST_EACH(stale_generation_with_a_buffer) {
    for (int more = 0; more < 2; more++) {
        cell_begin("recv", "of an earlier life", HELLO_SIZE, BUFFER | (more ? MORE : 0));
        struct world *w = world_begin(BY_MULTISHOT, KR__SET(recv));
        connect_client(w);
        struct kr__tag tag = kr__tag_unpack(stolen(w, KR__VERB_recv, slot_of(w->conn)));
        tag.generation--;
        for (unsigned i = 0; i < 3 * w->r->bufs.count; i++) {
            check_stale(w, tag, HELLO_SIZE, fill(w, HELLO, HELLO_SIZE) | (more ? MORE : 0));
            test_step(w->r, "the buffer's return");
        }
        check_stale(w, tag, HELLO_SIZE, BUFFER | 4711u << IORING_CQE_BUFFER_SHIFT);
        check_echoes(w);
        end_conn(w);
        world_end(w);
    }
}

static const uint8_t unknown_verbs[] = {KR__VERB_COUNT, KR__VERB_COUNT + 1, 31, 32, 127, 128, 255};
_Static_assert(KR__VERB_COUNT < 31, "the others are verbs that there are not");

/* Ours: verbs that there are not, through the real queue too. */
TEST_EACH(unknown_verbs) {
    for (size_t i = 0; i < COUNT(unknown_verbs); i++) {
        cell_begin("an unknown verb", "", -1, 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        connect_client(w);
        struct kr__tag tag = {.op = unknown_verbs[i],
                              .slot = slot_of(w->conn),
                              .generation = (uint16_t)conn_of(w)->owner.generation};
        check_stale(w, tag, -1, 0);
        CHECK_OK(kr__nop(w->r, kr__tag_pack(tag), -EIO));
        TEST_UNTIL(w->r, test_stats(w->r).stale_cqes == 2);
        check_echoes(w);
        end_conn(w);
        world_end(w);
    }
}

/* Ours: slots beyond the tables. */
TEST_EACH(unknown_slots) {
    struct world *w = world_begin(BY_MULTISHOT, 0);
    const uint32_t slots[] = {w->r->conns.max + w->r->listeners.max,
                              w->r->conns.max + w->r->listeners.max + 1, 1u << 20,
                              KR__SLOT_MAX - 1};
    connect_client(w);
    for (size_t i = 0; i < COUNT(slots) * KR__VERB_COUNT; i++) {
        uint8_t verb = (uint8_t)(i / COUNT(slots));
        cell_begin(kr__ops[verb].name, "of an unknown slot", -1, 0);
        struct kr__tag tag = {.op = verb, .slot = slots[i % COUNT(slots)], .generation = 1};
        check_stale(w, tag, -1, 0);
    }
    check_echoes(w);
    end_conn(w);
    world_end(w);
}

/* ---- how many cells ---- */

enum {
    CELLS = COUNT(recv_errors) * (CONN_STATES + 2) + COUNT(recv_passing) * CONN_STATES +
            2 * CONN_STATES + COUNT(recv_sizes) * COUNT(recv_flags) * CONN_STATES +
            COUNT(eof_flags) * CONN_STATES + COUNT(recv_passing_ring) +
            COUNT(send_errors) * (SEND_STATES + 1) + COUNT(send_passing) * SEND_STATES +
            DIGITS * 2 * SEND_STATES + DIGITS + COUNT(send_errors) * SEND_STATES * 2 +
            COUNT(send_passing) * SEND_STATES * 2 + DIGITS * 4 * SEND_STATES + 4 + 2 +
            SEND_STATES * 2 + COUNT(recv_answers) + 4 + COUNT(send_answers) * SEND_STATES + 2 +
            (COUNT(shutdown_errors) + 2) * CONN_STATES - 1 +
            COUNT(connect_errors) * (CONNECT_STATES + 1) + CONNECT_STATES + 1 +
            COUNT(read_errors) * (SEND_STATES + 1) + READ_GOOD * SEND_STATES + 1 +
            COUNT(reset_results) + COUNT(unlinger_results) + 2 * COUNT(close_results) +
            (COUNT(client_errors) + COUNT(own_errors) + 1) * COUNT(accept_kinds) * LISTENER_STATES +
            2 * (COUNT(client_errors) + COUNT(own_errors)) + COUNT(accept_flags) * LISTENER_STATES +
            COUNT(poll_results) * LISTENER_STATES + LISTENER_STATES +
            COUNT(install_errors) * LISTENER_STATES + COUNT(wake_rows) + COUNT(nop_results) +
            COUNT(cancel_results) + KR__VERB_COUNT + 2 + COUNT(unknown_verbs) + 4 * KR__VERB_COUNT +
            4 + 2,
};
_Static_assert(CELLS >= 700, "the matrix has lost cells");

int main(int argc, char **argv) {
    cells_run =
        mmap(NULL, sizeof *cells_run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (cells_run == MAP_FAILED)
        return 1;
    int rc = tap_main("matrix", 244, argc, argv);
    if (*cells_run)
        printf("# %lld cells, %d of them different\n", (long long)*cells_run, CELLS);
    return rc;
}
