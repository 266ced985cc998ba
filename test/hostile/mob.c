/* Many at a time: closes from both ends, a mob, and sockets that are killed from outside. */
#include "hostile/hostile.h"

/* ---- closes from both ends ---- */

/* The request's first byte is the manner in which this end closes, with an answer on its way. */
static size_t closer_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    (void)user;
    CHECK_OK(kr_conn_send(r, conn, data, size));
    char manner = *(const char *)data;
    CHECK_OK(kr_conn_close(r, conn, (enum kr_close)manner));
    return size;
}

static const struct kr_conn_ops closer_ops = {
    .on_open = guests_open, .on_data = closer_data, .on_close = guests_close};

/* Ends a peer in its manner; half ends only its own side, and reads on to the end. */
static void peer_end(struct town *t, int fd, unsigned manner) {
    static char bytes[65536];
    switch (manner) {
    case 0:
        test_close_reset(fd);
        return;
    case 1:
        test_close(fd);
        return;
    case 2:
        if (shutdown(fd, SHUT_WR) < 0) /* the other end was first, with RST */
            CHECK_EQ(errno, ENOTCONN);
        break;
    default: /* leaves it to the other end */
        break;
    }
    long n;
    while ((n = test_recv_some(fd, bytes, sizeof bytes)) >= 0) {
        if (n == 0)
            town_step(t, "the end of the stream");
    }
    CHECK(n == TEST_EOF || n == -ECONNRESET);
    test_close(fd);
}

/* Ours: whoever closes first, in whatever manner, and however many turns lie between, each
 * connection has its on_close once and leaves nothing. */
TEST_EACH(hostile_closes_from_both_ends_at_once, .deadline_s = 60) {
    struct kr_listen_opts opts = echo_opts();
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 0, 0), &opts, &closer_ops);
    unsigned count = tap_full() ? 30000 : 3000;
    for (unsigned done = 0; done < count; done += WAVE) {
        int fds[WAVE];
        for (unsigned i = 0; i < WAVE; i++) {
            fds[i] = test_connect(t.port);
            char request[3000] = {(char)tap_random_below(KR_CLOSE_RESET + 1)};
            size_t size = 1 + (size_t)tap_random_below(sizeof request);
            CHECK_EQ(test_send_some(fds[i], request, size), size);
        }
        for (unsigned i = 0; i < WAVE; i++) {
            if (tap_random_below(WAVE / 4) == 0)
                town_step(&t, "closes from both ends");
            peer_end(&t, fds[i], (unsigned)tap_random_below(4));
        }
    }
    CHECK_GE(t.others.opens, count);
    town_close(&t);
}

/* ---- a mob ---- */

#define MOB 200u

struct rioter {
    int fd; /* -1: none */
    uint64_t seed, sent, got;
};

/* An echo that now and then loses patience. */
static size_t mob_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                       size_t size) {
    size_t used = echo_data(r, conn, user, data, size);
    if (tap_random_below(100) == 0)
        CHECK_OK(kr_conn_close(r, conn, (enum kr_close)tap_random_below(KR_CLOSE_RESET + 1)));
    return used;
}

static const struct kr_conn_ops mob_ops = {
    .on_open = guests_open, .on_data = mob_data, .on_close = guests_close};

static void rioter_leaves(struct rioter *p, bool reset) {
    if (reset)
        test_close_reset(p->fd);
    else
        test_close(p->fd);
    p->fd = -1;
}

/* The other end may have gone. */
static bool rioter_lost(struct rioter *p, long n) {
    if (n >= 0)
        return false;
    CHECK(n == TEST_EOF || n == -ECONNRESET || n == -EPIPE);
    rioter_leaves(p, false);
    return true;
}

static void rioter_sends(struct rioter *p, size_t most) {
    static char bytes[65536];
    size_t size = 1 + (size_t)tap_random_below(most);
    test_pattern(bytes, size, p->seed, p->sent);
    long n = test_send_some(p->fd, bytes, size);
    if (!rioter_lost(p, n))
        p->sent += (uint64_t)n;
}

static void rioter_reads(struct rioter *p, size_t most) {
    static char bytes[65536];
    long n = test_recv_some(p->fd, bytes, 1 + (size_t)tap_random_below(most));
    if (rioter_lost(p, n))
        return;
    test_pattern_check(bytes, (size_t)n, p->seed, p->got);
    p->got += (uint64_t)n;
    CHECK_LE(p->got, p->sent);
}

static void rioter_acts(struct town *t, struct rioter *p) {
    static uint64_t seeds;
    uint64_t dice = tap_random_below(100);
    if (p->fd < 0)
        *p = (struct rioter){.fd = test_connect(t->port), .seed = 10000 + seeds++};
    else if (dice < 20)
        rioter_sends(p, 1);
    else if (dice < 40)
        rioter_sends(p, 16384);
    else if (dice < 60)
        rioter_reads(p, 1);
    else if (dice < 90)
        rioter_reads(p, 65536);
    else if (dice < 92)
        shutdown(p->fd, SHUT_WR);
    else if (dice < 94)
        shutdown(p->fd, SHUT_RD);
    else if (dice < 98)
        rioter_leaves(p, dice % 2);
}

/* Ours: two hundred peers that do whatever comes to them get no byte that is not theirs, and leave
 * nothing behind. */
TEST_EACH(hostile_mob_gets_only_its_own_bytes, .deadline_s = 60) {
    struct kr_listen_opts opts = echo_opts();
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 64, MESSAGE), &opts, &mob_ops);
    static struct rioter mob[MOB];
    for (unsigned i = 0; i < MOB; i++)
        mob[i].fd = -1;
    for (unsigned turns = tap_full() ? 15000 : 1000; turns > 0; turns--) {
        for (unsigned acts = (unsigned)tap_random_below(64); acts > 0; acts--)
            rioter_acts(&t, &mob[tap_random_below(MOB)]);
        town_step(&t, "a mob");
    }
    for (unsigned i = 0; i < MOB; i++) {
        if (mob[i].fd >= 0)
            rioter_leaves(&mob[i], i % 2);
    }
    CHECK_GE(t.others.opens, MOB);
    town_close(&t);
}

/* ---- killed from outside ---- */

/* `ss -K`: the kernel is asked to end all TCP sockets that the filter takes. What it complains of
 * goes to `complaint`; yields its status. */
static int ss_kill(const char *which, const char *filter, char *complaint, size_t size) {
    int pipe_fds[2];
    CHECK_SYS(pipe2(pipe_fds, O_CLOEXEC));
    posix_spawn_file_actions_t actions;
    CHECK_EQ(posix_spawn_file_actions_init(&actions), 0);
    CHECK_EQ(posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0), 0);
    CHECK_EQ(posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], 2), 0);
    char *argv[] = {"ss", "-K", "-n", "-H", (char *)(uintptr_t)which, (char *)(uintptr_t)filter,
                    NULL};
    pid_t pid;
    int rc = posix_spawnp(&pid, "ss", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    test_close(pipe_fds[1]);
    int status = -1;
    ssize_t got = CHECK_SYS(read(pipe_fds[0], complaint, size - 1));
    complaint[got] = 0;
    complaint[strcspn(complaint, "\n")] = 0;
    test_close(pipe_fds[0]);
    if (rc == 0)
        CHECK_SYS(waitpid(pid, &status, 0));
    return rc ? rc : status;
}

static void kill_sockets(const char *which, const char *side, uint16_t port) {
    char filter[32], complaint[200];
    snprintf(filter, sizeof filter, "%s = :%u", side, port);
    int rc = ss_kill(which, filter, complaint, sizeof complaint);
    if (rc)
        FAIL("ss -K %s: %d: %s", filter, rc, complaint);
}

/* What a victim is in when it is killed. */
enum state { SILENT_ONE, TALKING, STUFFED, FLUSHING, HALF_CLOSED, STATES };

#define VICTIMS (16u * STATES)

/* Goes on, so that a half-closed connection stays. */
static void victim_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct guests *)user)->eofs++;
}

static const struct kr_conn_ops victim_ops = {
    .on_open = guests_open, .on_data = echo_data, .on_eof = victim_eof, .on_close = guests_close};

/* Until its queue does not move any more. */
static void stuff(struct town *t, int fd) {
    static char bytes[4096];
    for (unsigned idle = 0; idle < 20; idle++) {
        if (test_send_some(fd, bytes, sizeof bytes) > 0)
            idle = 0;
        town_step(t, "a victim to be stuffed");
    }
}

/* Brings a victim into its state. */
static int victim_begin(struct town *t, enum state state) {
    unsigned opens = t->others.opens, eofs = t->others.eofs;
    int fd = connect_tight(t->port);
    TOWN_UNTIL(t, t->others.opens > opens);
    kr_conn conn = t->others.conns[opens];
    if (state == TALKING)
        CHECK_EQ(test_send_some(fd, "talk", 4), 4);
    if (state == STUFFED || state == FLUSHING)
        stuff(t, fd);
    if (state == FLUSHING)
        CHECK_OK(kr_conn_close(t->r, conn, KR_CLOSE_FLUSH));
    if (state == HALF_CLOSED) {
        CHECK_SYS(shutdown(fd, SHUT_WR));
        TOWN_UNTIL(t, t->others.eofs > eofs);
    }
    return fd;
}

/* Ours: connections that the administrator kills, at this end or at the other, whatever they are in
 * the middle of, end with an error, each once. Half closed, nothing of them is armed, and the next
 * send finds out. */
static void kill_connections(const char *side) {
    tap_need_ss_kill();
    struct kr_listen_opts opts = echo_opts();
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 0, 0), &opts, &victim_ops);
    int fds[VICTIMS];
    for (unsigned i = 0; i < VICTIMS; i++)
        fds[i] = victim_begin(&t, (enum state)(i % STATES));
    CHECK_EQ(t.others.closes, 0u);
    kill_sockets("-t", side, t.port);
    TOWN_UNTIL(&t, t.others.closes == VICTIMS - VICTIMS / STATES);
    for (unsigned i = HALF_CLOSED; i < VICTIMS; i += STATES)
        CHECK_OK(kr_conn_send(t.r, t.others.conns[i], "?", 1));
    TOWN_UNTIL(&t, t.others.closes == VICTIMS);
    CHECK_EQ(t.others.errors, VICTIMS);
    tap_note("%u told of ECONNABORTED", t.others.aborts);
    for (unsigned i = 0; i < VICTIMS; i++)
        test_close(fds[i]);
    town_close(&t);
}

TEST_EACH(hostile_connections_killed_at_this_end) {
    kill_connections("sport");
}

TEST_EACH(hostile_connections_killed_at_the_other_end) {
    kill_connections("dport");
}

static unsigned listener_ends;

static void on_listener_end(struct kr_reactor *r, kr_listener listener, void *user, int error) {
    struct town *t = kr__container_of(user, struct town, others);
    CHECK_EQ(listener.bits, t->others_listener.bits);
    CHECK_EQ(error, -EINVAL);
    listener_ends++;
    struct kr_listen_opts opts = echo_opts();
    struct kr_addr addr = test_loopback(t->port);
    CHECK_OK(kr_listen(r, &t->others_listener, &addr, &opts, &echo_ops, user));
}

/* Ours: a listener whose socket is killed ends and tells of it, once and without another try; its
 * connections live on, and another takes its port from the very callback. */
TEST_EACH(hostile_listener_killed_is_replaced) {
    tap_need_ss_kill();
    struct kr_listen_opts opts = echo_opts();
    opts.on_end = on_listener_end;
    listener_ends = 0;
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 0, 0), &opts, &echo_ops);
    int fd = test_connect(t.port);
    TOWN_UNTIL(&t, t.others.opens == 1);
    kill_sockets("-tl", "sport", t.port);
    TOWN_UNTIL(&t, listener_ends == 1);
    CHECK_EQ(test_stats(t.r).listeners, 2u);
    uint64_t tries = test_stats(t.r).accept_errors;
    CHECK_LE(tries, 16u); /* those in flight */
    good_get(&t, 1000);
    CHECK_EQ(test_stats(t.r).accept_errors, tries);
    CHECK_EQ(listener_ends, 1u);

    char got[5];
    CHECK_EQ(test_send_some(fd, "still", 5), 5);
    town_recv(&t, fd, got, 5);
    CHECK_MEM_EQ(got, "still", 5);
    int other = test_connect(t.port);
    TOWN_UNTIL(&t, t.others.opens == 2);
    test_close(fd);
    test_close(other);
    town_close(&t);
}
