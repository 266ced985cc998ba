/* Receiving descriptors, also while reading is stopped. */
#include "fds/fds.h"

/* ---- receiving ---- */

/* Ours: descriptors come before the bytes that they were sent with, close-on-exec, and lead to the
 * same files. */
TEST_EACH(fds_come_before_their_bytes) {
    struct kr_reactor *r = test_reactor(NULL);
    static const unsigned counts[] = {1, 2, 3, 16, KR_FDS_MAX};
    int peer = begin(r, &one, KR_FDS_MAX), files[KR_FDS_MAX], before = tap_fd_count();
    for (unsigned i = 0; i < COUNT(counts); i++) {
        files_new(files, counts[i]);
        peer_send(peer, "hello", files, counts[i]);
        TEST_UNTIL(r, one.got == (i + 1) * 5);
        CHECK_EQ(one.gift_count, i + 1);
        CHECK_EQ(one.gifts[i].at, i * 5);
        check_came(&one, files, counts[i]);
        close_all(files, counts[i]);
        CHECK_EQ(tap_fd_count(), before);
    }
    end_of(r, &one, peer);
}

/* Ours: bytes without descriptors are told of as ever, and descriptors of two messages are not
 * mixed up. */
TEST_EACH(fds_of_two_messages_come_apart) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), files[3];
    files_new(files, 3);
    peer_send(peer, "aaaa", NULL, 0);
    peer_send(peer, "bb", files, 1);
    peer_send(peer, "cc", files + 1, 2);
    peer_send(peer, "dddd", NULL, 0);
    TEST_UNTIL(r, one.got == 12);
    CHECK_EQ(one.gift_count, 2u);
    CHECK_LE(one.gifts[0].at, 4u); /* the kernel may hand out the bytes before together with them */
    CHECK_EQ(one.gifts[1].at, 6u);
    CHECK_EQ(one.fd_count, 3u);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(file_of(one.fds[i]), file_of(files[i]));
    close_all(files, 3);
    close_all(one.fds, 3);
    end_of(r, &one, peer);
}

/* The kernel's, told by us: more than were asked for are closed, and who gets the others hears of
 * it. */
TEST_EACH(fds_beyond_what_was_asked_for_are_closed) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 2), files[5], before = tap_fd_count();
    files_new(files, 5);
    peer_send(peer, "five", files, 5);
    TEST_UNTIL(r, one.got == 4);
    CHECK_EQ(one.gift_count, 1u);
    CHECK(one.gifts[0].count == 2 && one.gifts[0].truncated);
    CHECK_EQ(tap_fd_count(), before + 5 + 2);
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(file_of(one.fds[i]), file_of(files[i]));
    peer_send(peer, "two", files + 3, 2);
    TEST_UNTIL(r, one.got == 7);
    check_came(&one, files + 3, 2);
    close_all(files, 5);
    close_all(one.fds, 2);
    CHECK_EQ(tap_fd_count(), before);
    end_of(r, &one, peer);
}

/* Ours: a connection that asks for none refuses them where the kernel knows how to, for which it
 * need not be opened yet; elsewhere they are closed, and the bytes come. */
TEST_EACH(fds_that_nobody_asked_for_are_refused_or_closed) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 0), file = file_new(), before = tap_fd_count();
    bool refuses = r->ring.caps & KR__CAP_REFUSES_FDS;
    CHECK_EQ(peer_give(peer, "hello", 5, &file, 1), refuses ? -EPERM : 5);
    peer_send(peer, "hello", NULL, 0);
    TEST_UNTIL(r, one.got == (refuses ? 5 : 10));
    CHECK_EQ(one.gift_count, 0u);
    CHECK_EQ(tap_fd_count(), before);
    test_close(file);
    end_of(r, &one, peer);
}

/* Ours: asked for, but with no callback for them. */
TEST_EACH(fds_without_a_callback_are_closed) {
    struct kr_reactor *r = test_reactor(NULL);
    int ends[2], file = file_new();
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    adopt(r, &one, ends[0], 4, &deaf_ops);
    int before = tap_fd_count();
    for (unsigned i = 1; i <= 3; i++) {
        peer_send(ends[1], "hello", &file, 1);
        TEST_UNTIL(r, one.got == 5 * i);
        CHECK_EQ(tap_fd_count(), before);
    }
    test_close(file);
    end_of(r, &one, ends[1]);
}

struct rlimit leave_room_for(unsigned more) {
    struct rlimit old;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &old));
    int next = CHECK_SYS(fcntl(0, F_DUPFD_CLOEXEC, 0));
    test_close(next);
    CHECK_EQ(next, tap_fd_count()); /* none is free below */
    struct rlimit limit = {(rlim_t)next + more, old.rlim_max};
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    return old;
}

/* The kernel's, told by us: a process at its limit loses those for which it has no room. */
TEST_EACH(fds_for_which_there_is_no_room) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), file = file_new(), files[3] = {file, file, file};
    for (unsigned room = 0; room < 4; room++) {
        int before = tap_fd_count();
        peer_send(peer, "x", files, 3);
        struct rlimit old = leave_room_for(room);
        TEST_UNTIL(r, one.got == room + 1);
        CHECK_SYS(setrlimit(RLIMIT_NOFILE, &old));
        CHECK_EQ(one.gift_count, room + 1);
        CHECK_EQ(one.gifts[room].count, room);
        CHECK_EQ(one.gifts[room].truncated, room < 3);
        CHECK_EQ(tap_fd_count(), before + (int)room);
        close_all(one.fds + one.gifts[room].first, room);
    }
    test_close(file);
    end_of(r, &one, peer);
}

/* ---- while reading is stopped ---- */

static size_t pause_one(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    (void)conn, (void)user, (void)data;
    CHECK_OK(kr_conn_pause(r, one.conn));
    return size;
}

static const struct kr_conn_ops pausing_ops = {.on_data = pause_one};

/* The far end of a connection that pauses the other one when it receives. */
static int pauser(struct kr_reactor *r) {
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    CHECK_OK(kr_conn_adopt(r, NULL, ends[0], NULL, &pausing_ops, NULL));
    return ends[1];
}

/* Linux 6.1 with DEFER tells of the last completion first: there is a pauser on either side. */
void send_then_pause(struct kr_reactor *r, int peer, int file) {
    int before = pauser(r), behind = pauser(r);
    test_settle(r);
    uint64_t received = test_stats(r).bytes_in;
    CHECK_EQ(write(before, "x", 1), 1);
    peer_send(peer, "hello", &file, 1);
    CHECK_EQ(write(behind, "x", 1), 1);
    test_settle(r);
    CHECK_EQ(test_stats(r).bytes_in, received + 7);
    CHECK_EQ(one.gift_count, 0u);
    CHECK_EQ(one.got, 0u);
    test_close(before);
    test_close(behind);
    test_settle(r);
}

/* Ours: none are told of while paused; they come with their bytes when reading goes on. The bytes fill
 * their buffer, so that the next receive would be made without a poll. */
TEST_EACH(fds_wait_while_paused) {
    struct kr_config config = test_config();
    config.buf_count = 8;
    config.buf_size = 5;
    struct kr_reactor *r = test_reactor(&config);
    int peer = begin(r, &one, 8), file = file_new();
    send_then_pause(r, peer, file);
    CHECK_OK(kr_conn_resume(r, one.conn));
    TEST_UNTIL(r, one.got == 5);
    CHECK_EQ(one.gift_count, 1u);
    CHECK_EQ(one.gifts[0].at, 0u);
    check_came(&one, &file, 1);
    peer_send(peer, "again", &file, 1);
    TEST_UNTIL(r, one.got == 10);
    check_came(&one, &file, 1);
    test_close(file);
    end_of(r, &one, peer);
}

/* Ours: those that wait are closed with the connection, in whatever manner, at on_close at the
 * latest. */
TEST_EACH(fds_that_wait_end_with_the_connection) {
    static const enum kr_close hows[] = {KR_CLOSE_LINGER, KR_CLOSE_FLUSH, KR_CLOSE_NOW,
                                         KR_CLOSE_RESET};
    for (unsigned i = 0; i < COUNT(hows); i++) {
        struct kr_reactor *r = test_reactor(NULL);
        int peer = begin(r, &one, 8), file = file_new(), before = tap_fd_count();
        send_then_pause(r, peer, file);
        CHECK_OK(kr_conn_close(r, one.conn, hows[i]));
        if (hows[i] == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(peer, SHUT_WR));
        TEST_UNTIL(r, one.closes == 1);
        CHECK_EQ((int)one.at_close, before - test_slot_cost(r));
        CHECK_EQ(one.gift_count, 0u);
        test_close(file);
        end_of(r, &one, peer);
    }
}

/* Ours: a reactor that is freed closes those that wait. */
TEST_EACH(fds_that_wait_end_with_the_reactor) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), file = file_new(), before = tap_fd_count();
    send_then_pause(r, peer, file);
    test_reactor_free(r);
    CHECK_LT(tap_fd_count(), before);
    CHECK_EQ(one.gift_count, 0u);
    test_close(file);
    test_close(peer);
}

/* Ours: who takes a connection over has those that wait, and the bytes. */
TEST_EACH(fds_that_wait_go_to_the_next_user) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), file = file_new();
    send_then_pause(r, peer, file);
    memset(&two, 0, sizeof two);
    two.opens = 1;
    CHECK_OK(kr_conn_swap(r, one.conn, &ops, &two));
    CHECK_OK(kr_conn_resume(r, one.conn));
    TEST_UNTIL(r, two.got == 5);
    check_came(&two, &file, 1);
    CHECK_EQ(one.gift_count, 0u);
    test_close(file);
    end_of(r, &two, peer);
}

/* Ours: what on_fds decides holds for the bytes that follow. */
TEST_EACH(fds_callback_may_swap_pause_and_close) {
    for (unsigned i = 0; i < 3; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        int peer = begin(r, &one, 8), file = file_new();
        one.swap_to = i == 0 ? &deaf_ops : NULL;
        one.pause_in_fds = i == 1;
        one.close_in_fds = i == 2;
        peer_send(peer, "hello", &file, 1);
        TEST_UNTIL(r, one.gift_count == 1);
        check_came(&one, &file, 1);
        test_settle(r);
        CHECK_EQ(one.got, i ? 0u : 5u);
        CHECK_EQ(one.closes, i == 2);
        if (i == 1)
            CHECK_OK(kr_conn_resume(r, one.conn));
        TEST_UNTIL(r, one.got == 5 || one.closes);
        int before = tap_fd_count();
        if (i == 0)
            peer_send(peer, "hello", &file, 1);
        TEST_UNTIL(r, one.got == 10 || i);
        CHECK_EQ(tap_fd_count(), before);
        test_close(file);
        end_of(r, &one, peer);
    }
}

/* Ours: those that come to a connection that lingers are closed as they come. */
TEST_EACH(fds_to_a_lingering_connection_are_closed) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), file = file_new(), before = tap_fd_count();
    CHECK_OK(kr_conn_close(r, one.conn, KR_CLOSE_LINGER));
    for (unsigned i = 0; i < 3; i++) {
        peer_send(peer, "hello", &file, 1);
        test_settle(r);
        CHECK_EQ(tap_fd_count(), before - (int)one.closes * test_slot_cost(r));
    }
    CHECK_EQ(one.gift_count, 0u);
    CHECK_SYS(shutdown(peer, SHUT_WR));
    TEST_UNTIL(r, one.closes == 1);
    test_close(file);
    end_of(r, &one, peer);
}

/* Ours: forwarded bytes lose their descriptors, also those that waited when forwarding began. */
TEST_EACH(fds_are_not_forwarded) {
    for (unsigned waits = 0; waits < 2; waits++) {
        struct kr_reactor *r = test_reactor(NULL);
        int peer = begin(r, &one, 8), other = begin(r, &two, 8), file = file_new();
        int before = tap_fd_count();
        if (waits)
            send_then_pause(r, peer, file);
        else
            peer_send(peer, "hello", &file, 1);
        CHECK_OK(kr_conn_forward(r, one.conn, two.conn, NULL, NULL, NULL));
        if (waits)
            CHECK_OK(kr_conn_resume(r, one.conn));
        char bytes[5];
        int fds[KR_FDS_MAX];
        unsigned count = 0;
        test_settle(r);
        CHECK_EQ(peer_take(other, bytes, 5, fds, &count), 5);
        CHECK_EQ(count, 0u);
        CHECK_EQ(tap_fd_count(), before);
        CHECK_EQ(one.gift_count, 0u);
        test_close(file);
        test_close(other);
        test_close(peer);
        TEST_UNTIL(r, one.closes == 1 && two.closes == 1);
        test_reactor_end(r, (struct test_levels){0});
    }
}
