/* Cells of what begins and ends a connection: connect, shutdown, options, reset, close. */
#include "matrix/matrix.h"

/* ---- connect ---- */

/* man connect, and what a network tells instead of an answer. */
static const int connect_errors[] = {
    EACCES,      EADDRINUSE,   EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN,      EALREADY,  EBADF,
    ECANCELED,   ECONNABORTED, ECONNREFUSED,  ECONNRESET,   EFAULT,      EHOSTDOWN, EHOSTUNREACH,
    EINPROGRESS, EINTR,        EINVAL,        EISCONN,      ENETUNREACH, ENOBUFS,   ENOMEM,
    ENOTSOCK,    EPERM,        EPROTOTYPE,    ETIMEDOUT,
};

static const char *const connect_states[] = {"opening", "lingering", "draining", "joining"};

/* A connection of our own in that state, whose CONNECT is in flight. */
static struct world *connect_begin(enum connect_state state, int32_t res) {
    cell_begin("connect", connect_states[state], res, 0);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(connect));
    struct kr_addr addr = test_loopback(w->port);
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
        struct kr_addr addr = test_loopback(w->port);
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
    CHECK_EQ(w->closes, 0u);  /* however long it takes, it is waited for, and not cancelled */
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
        check_send_failed(w,
                          state == JOINING     ? ENDING
                          : state == LINGERING ? LINGER_FLUSHING
                                               : SENDING,
                          error);
        world_end(w);
    }
}

/* ---- sockopt ---- */

static void tuned(struct kr_reactor *r, kr_conn conn, void *user, int error) {
    UNUSED(r, conn);
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
    0,       -EAGAIN, -EBADF,       -ECANCELED,  -EFAULT, -EINTR,
    -EINVAL, -ENOMEM, -ENOPROTOOPT, -EOPNOTSUPP, -EPERM,
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

const unsigned ends_cell_count =
    (COUNT(shutdown_errors) + 2) * CONN_STATES - 1 + COUNT(connect_errors) * (CONNECT_STATES + 1) +
    CONNECT_STATES + 1 + COUNT(reset_results) + COUNT(unlinger_results) + 2 * COUNT(close_results);
