/* Cells of sends, also by zero-copy, whose notifications come when they like. */
#include "matrix/matrix.h"

/* ---- send ---- */

/* man send, and what a network tells later. */
static const int send_errors[] = {
    EACCES,   EBADF,    ECONNRESET, EDESTADDRREQ, EFAULT,      EHOSTUNREACH, EINVAL,
    EIO,      EISCONN,  EMSGSIZE,   ENETDOWN,     ENETUNREACH, ENOBUFS,      ENOMEM,
    ENOTCONN, ENOTSOCK, EOPNOTSUPP, EPIPE,        ETIMEDOUT,
};
static const int send_passing[] = {ECANCELED, EINTR, 0};

const char *const send_states[] = {"open", "lingering", "draining", "joining"};
const char digits[] = "0123456789";

struct world *send_begin(enum send_state state, int32_t res, bool pieces) {
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
    if (state == LINGER_FLUSHING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_LINGER));
    else if (state == FLUSHING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_FLUSH));
    else if (state == ENDING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    return w;
}

void check_send_failed(struct world *w, enum send_state state, int error) {
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
    if (state != LINGER_FLUSHING)
        TEST_UNTIL(w->r, w->closes == 1);
    char back[DIGITS];
    size_t want = state == ENDING ? 0 : DIGITS - taken;
    test_recv(w->r, w->fd, back, want);
    CHECK_MEM_EQ(back, digits + taken, want);
    CHECK_EQ(test_recv_end(w->r, w->fd, NULL), 0);
    if (state == LINGER_FLUSHING)
        CHECK_EQ(w->closes, 0u);
    if (state == LINGER_FLUSHING)
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
    POLLOUT, POLLOUT | POLLRDHUP, POLLOUT | POLLERR, POLLERR,
    POLLHUP, POLLHUP | POLLRDHUP, -ENOMEM,           -EINVAL,
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
    if (state == LINGER_FLUSHING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_LINGER));
    else if (state == FLUSHING)
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
        check_ended(w, state == ENDING ? 0 : -EBADR, state == ENDING ? KR_WHY_LOCAL : KR_WHY_ERROR);
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
    return kr__linux.process.clock(&kr__linux) + leap;
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
        w->kernel.process.clock = leaping_clock;
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

const unsigned send_cell_count = COUNT(send_errors) * (SEND_STATES + 1) +
                                 COUNT(send_passing) * SEND_STATES + DIGITS * 2 * SEND_STATES +
                                 DIGITS + COUNT(send_errors) * SEND_STATES * 2 +
                                 COUNT(send_passing) * SEND_STATES * 2 + DIGITS * 4 * SEND_STATES +
                                 4 + 2 + SEND_STATES * 2 + COUNT(send_answers) * SEND_STATES + 2;
