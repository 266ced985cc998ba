/* Cells of accepts, by each of the ways there are, and of the descriptors made of slots. */
#include "listen/listener.h"
#include "matrix/matrix.h"

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

const unsigned accept_cell_count =
    (COUNT(client_errors) + COUNT(own_errors) + 1) * COUNT(accept_kinds) * LISTENER_STATES +
    2 * (COUNT(client_errors) + COUNT(own_errors)) + COUNT(accept_flags) * LISTENER_STATES +
    COUNT(poll_results) * LISTENER_STATES + LISTENER_STATES +
    COUNT(install_errors) * LISTENER_STATES;
