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
#include "listen/listener.h"
#include "matrix/matrix.h"

/* ---- the thief ---- */

int theft_of(const struct world *w, uint64_t user_data) {
    for (unsigned i = 0; i < w->theft_count; i++) {
        if (w->thefts[i] == user_data)
            return (int)i;
    }
    return -1;
}

void drop_theft(struct world *w, int i) {
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

void inject_next(struct world *w, uint32_t verbs, int32_t result) {
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
    int rc = kr__linux.ring.enter(&kr__linux, ring, submit, count ? 0 : wait_for, flags, arg);
    for (unsigned i = 0; i < count; i++)
        complete_all(w, cancelled[i], -ECANCELED);
    return rc;
}

uint64_t stolen(const struct world *w, enum kr__verb verb, uint32_t slot) {
    for (unsigned i = 0; i < w->theft_count; i++) {
        struct kr__tag tag = kr__tag_unpack(w->thefts[i]);
        if (tag.op == verb && tag.slot == slot)
            return w->thefts[i];
    }
    return 0;
}

void complete(struct world *w, enum kr__verb verb, uint32_t slot, int32_t res, uint32_t flags) {
    uint64_t user_data = stolen(w, verb, slot);
    CHECK_NE(user_data, 0u);
    if (!(flags & MORE))
        drop_theft(w, theft_of(w, user_data));
    w->r->in_turn = true; /* as a turn would handle it */
    kr__loop_complete(w->r, user_data, res, flags);
    w->r->in_turn = false;
}

uint32_t fill(struct world *w, const void *data, size_t size) {
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

void world_open(struct kr_reactor *r, kr_conn conn, void *user) {
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

void world_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct world *)user)->eofs++;
}

void world_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn);
    struct world *w = user;
    w->closes++;
    w->error = error;
    w->why = why;
}

static void world_post(struct kr_reactor *r, void *arg) {
    (void)r;
    __atomic_fetch_add(&((struct world *)arg)->posts, 1, __ATOMIC_ACQ_REL);
}

const struct kr_conn_ops world_ops = {
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

void cell_begin(const char *verb, const char *state, int32_t res, uint32_t flags) {
    if (!cell_text[0])
        tap_on_fail(cell_show, NULL);
    snprintf(cell_text, sizeof cell_text, "%s, %s, result %d%s%s,%s%s%s", verb, state, res,
             res < 0 ? " " : "", res < 0 ? kr_errname(res) : "", flags & MORE ? " F_MORE" : "",
             flags & NONEMPTY ? " F_SOCK_NONEMPTY" : "", flags & BUFFER ? " F_BUFFER" : "");
    __atomic_fetch_add(cells_run, 1, __ATOMIC_RELAXED);
}

struct kr_listen_opts opts_of(enum accepting accepting) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    opts.addresses = accepting == BY_FD;
    opts.conn.zerocopy_min = 2; /* of loans, which few cases have */
    return opts;
}

struct world *world_begin_with(enum accepting accepting, uint32_t steal, unsigned bufs) {
    static struct world world;
    struct world *w = &world;
    *w = (struct world){.kernel = kr__linux, .steal = steal};
    w->kernel.ring.enter = thief_enter;
    struct kr_config config = test_config();
    config.sq_entries = 32;
    config.cq_entries = 128;
    config.conn_max = accepting == BY_MULTISHOT ? 256 : 8;
    config.listener_max = 4;
    config.buf_count = bufs;
    config.buf_size = 512;
    w->r = test_reactor_on(&w->kernel, &config);
    struct kr_listen_opts opts = opts_of(accepting);
    w->port = test_listen(w->r, &w->listener, &opts, &world_ops, w);
    return w;
}

struct world *world_begin(enum accepting accepting, uint32_t steal) {
    return world_begin_with(accepting, steal, 8);
}

uint32_t slot_of(kr_conn conn) {
    return kr__handle_slot(conn.bits);
}

uint32_t listener_slot(const struct world *w) {
    return kr__handle_slot(w->listener.bits);
}

struct kr__conn *conn_of(const struct world *w) {
    return &w->r->conns.table[slot_of(w->conn)];
}

struct kr__listener *listener_of(const struct world *w) {
    return &w->r->listeners->table[listener_slot(w) - w->r->listeners->first_slot];
}

void await_stolen(struct world *w, enum kr__verb verb, uint32_t slot) {
    TEST_UNTIL(w->r, stolen(w, verb, slot));
}

void connect_client(struct world *w) {
    unsigned opens = w->opens;
    w->fd = test_connect(w->port);
    TEST_UNTIL(w->r, w->opens == opens + 1);
    if (w->steal & KR__SET(recv))
        await_stolen(w, KR__VERB_recv, slot_of(w->conn));
    else
        TEST_UNTIL(w->r, conn_of(w)->owner.armed & KR__VERBS_THAT_RECEIVE);
}

void check_echoes(struct world *w) {
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

void world_end(struct world *w) {
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

void check_ended(struct world *w, int error, enum kr_why why) {
    TEST_UNTIL(w->r, w->closes == 1);
    CHECK_EQ(w->error, error);
    CHECK_EQ(w->why, why);
    CHECK_ERR(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW), ESTALE);
    test_close(w->fd);
}

void end_conn(struct world *w) {
    CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    check_ended(w, 0, KR_WHY_LOCAL);
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
    const uint32_t slots[] = {w->r->conns.max + w->r->listeners->max,
                              w->r->conns.max + w->r->listeners->max + 1, 1u << 20,
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

static const unsigned other_cell_count = COUNT(wake_rows) + COUNT(nop_results) +
                                         COUNT(cancel_results) + KR__VERB_COUNT + 2 +
                                         COUNT(unknown_verbs) + 4 * KR__VERB_COUNT + 4 + 2;

int main(int argc, char **argv) {
    const unsigned cells = recv_cell_count + send_cell_count + read_cell_count + ends_cell_count +
                           accept_cell_count + other_cell_count;
    if (cells < 700) {
        printf("Bail out! the matrix has lost cells\n");
        return 1;
    }
    cells_run =
        mmap(NULL, sizeof *cells_run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (cells_run == MAP_FAILED)
        return 1;
    int rc = tap_main("matrix", 300, argc, argv);
    if (*cells_run)
        printf("# %lld cells, %u of them different\n", (long long)*cells_run, cells);
    return rc;
}
