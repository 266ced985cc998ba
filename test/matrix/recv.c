/* Cells of receives: their errors, sizes and ends, and what comes before them; and of connections
 * that are released. */
#include "matrix/matrix.h"

/* ---- recv ---- */

/* man recv, man io_uring_prep_recv_multishot; what a network tells later, too (man 7 tcp, man 7
 * ip). */
static const int recv_errors[] = {
    EBADF,        ECONNABORTED, ECONNREFUSED, ECONNRESET, EFAULT,      EHOSTDOWN,
    EHOSTUNREACH, EINVAL,       EIO,          ENETDOWN,   ENETUNREACH, ENOMEM,
    ENOTCONN,     ENOTSOCK,     EOPNOTSUPP,   EPIPE,      ETIMEDOUT,
};
static const int recv_passing[] = {ECANCELED, EINTR};

const char *const conn_states[] = {"open", "paused", "lingering", "joining"};

void conn_enter(struct world *w, enum conn_state state) {
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
        CHECK_EQ(conn_of(w)->starved, waits);
        CHECK_EQ(test_stats(w->r).starved_waits, waits);
        recv_goes_on(w, state);
        world_end(w);
    }
}

void check_came(struct world *w, const char *data, int size) {
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
    UNUSED(conn, data);
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
    CHECK(of_pair(&p, p.first)->starved);
    CHECK(p.w->r->starve.list.head.next == &of_pair(&p, p.second)->wait);
    TEST_UNTIL(p.w->r, kr__starve_empty(&p.w->r->starve));
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
    TEST_UNTIL(p.w->r, p.w->r->starve.may_try == 0);
    CHECK(of_pair(&p, p.first)->starved);
    CHECK_EQ(test_stats(p.w->r).starved_waits, 2u);
    test_close(p.w->fd);
    connect_client(p.w);
    CHECK_EQ(test_stats(p.w->r).starved_waits, 2u);
    CHECK_EQ(p.w->one_shots, 2u);
    CHECK(of_pair(&p, p.first)->starved);
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
    TEST_UNTIL(p.w->r, p.w->r->starve.may_try == 0);
    CHECK(of_pair(&p, p.first)->starved);
    CHECK_EQ(test_stats(p.w->r).starved_waits, 2u);
    test_close(p.w->fd);
    connect_client(p.w);
    test_step(p.w->r, "the new one wants to receive");
    CHECK_EQ(test_stats(p.w->r).starved_waits, 3u);
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
    CHECK(p.w->r->starve.list.head.next == &of_pair(&p, p.first)->wait);
    CHECK(of_pair(&p, p.second)->starved);
    TEST_UNTIL(p.w->r, kr__starve_empty(&p.w->r->starve));
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
    {POLLIN, false, false},     {POLLIN | POLLRDHUP, false, false},
    {POLLRDHUP, false, false},  {POLLHUP, false, false},
    {POLLERR, true, false},     {POLLERR | POLLIN, false, false},
    {-ENOMEM, false, true},     {-EINVAL, false, true},
    {-ECANCELED, false, false},
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

const unsigned recv_cell_count =
    COUNT(recv_errors) * (CONN_STATES + 2) + COUNT(recv_passing) * CONN_STATES + 2 * CONN_STATES +
    COUNT(recv_sizes) * COUNT(recv_flags) * CONN_STATES + COUNT(eof_flags) * CONN_STATES +
    COUNT(recv_passing_ring) + COUNT(recv_answers) + 4;

/* ---- release ---- */

static void left(struct kr_reactor *r, kr_conn conn, void *user, const struct kr_detached *what) {
    UNUSED(r, conn);
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
        CHECK_OK(kr_conn_detach(w->r, w->conn, left, &l));
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

struct world *leaving_begin(const char *verb, uint32_t steal, int32_t res, struct leaving *l) {
    cell_begin(verb, "releasing", res, 0);
    *l = (struct leaving){0};
    struct world *w = world_begin(BY_MULTISHOT, steal);
    connect_client(w);
    return w;
}

static void check_left(struct world *w, const struct leaving *l) {
    TEST_UNTIL(w->r, l->tells == 1);
    CHECK_EQ(l->what.error, 0);
    check_ended(w, 0, KR_WHY_DETACHED);
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
        CHECK_OK(kr_conn_detach(w->r, w->conn, left, &l));
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
        CHECK_OK(kr_conn_detach(w->r, w->conn, left, &l));
        check_left(w, &l);
        world_end(w);
    }
}

/* Ours: a descriptor that comes after the connection was closed is closed. */
TEST_EACH(export_too_late) {
    struct leaving l;
    struct world *w = leaving_begin("export", KR__SET(export), 0, &l);
    CHECK_OK(kr_conn_detach(w->r, w->conn, left, &l));
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
        CHECK_OK(kr_conn_detach(w->r, w->conn, left, &l));
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
        CHECK_OK(kr_conn_detach(w->r, w->conn, left, &l));
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
        CHECK_OK(kr_conn_detach(w->r, w->conn, left, &l));
        complete(w, KR__VERB_recv, slot_of(w->conn), -recv_errors[i], 0);
        check_ended(w, -recv_errors[i], KR_WHY_ERROR);
        CHECK_EQ(l.tells, 1u);
        CHECK_EQ(l.what.error, -recv_errors[i]);
        world_end(w);
    }
}
