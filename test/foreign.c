/* Sockets made by others, adopted or inherited with whatever had been set on them, was on its way to
 * them or lay in them: each serves, flushes, ends and is closed like one of ours, and none holds up
 * the reactor.
 *
 * How a reactor that stands still is noticed: by the case's deadline. What would hold it up is made
 * to last for hours. */
#include "foreign/foreign.h"

/* ---- this side ---- */

void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct seen *s = user;
    (void)r;
    CHECK_LT(s->opens, COUNT(s->all));
    s->conn = s->all[s->opens++] = conn;
}

size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    struct seen *s = user;
    if (s->got + size <= sizeof s->bytes)
        memcpy(s->bytes + s->got, data, size);
    s->got += size;
    if (!s->mute)
        CHECK_OK(kr_conn_send(r, conn, data, size));
    return size;
}

void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct seen *s = user;
    s->eofs++;
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct seen *s = user;
    UNUSED(r, conn, why);
    s->error = error;
    s->closes++;
}

const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_eof = on_eof, .on_close = on_close};

struct kr_conn_opts conn_opts(void) {
    struct kr_conn_opts opts = test_conn_opts();
    opts.send_cap = 64 << 20;
    return opts;
}

void adopt(struct kr_reactor *r, struct seen *s, int fd, const struct kr_conn_opts *opts) {
    CHECK_OK(kr_conn_adopt(r, &s->conn, fd, opts, &ops, s));
    TEST_UNTIL(r, s->opens == 1);
}

/* ---- the others ---- */

int set(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value) < 0 ? -errno : 0;
}

int get(int fd, int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    CHECK_SYS(getsockopt(fd, level, name, &value, &size));
    return value;
}

void set_linger(int fd, int on, int seconds) {
    const struct linger linger = {on, seconds};
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
}

static struct linger get_linger(int fd) {
    struct linger linger;
    socklen_t size = sizeof linger;
    CHECK_SYS(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size));
    return linger;
}

int listener_new(bool tcp, struct kr_addr *addr) {
    if (tcp)
        CHECK_OK(kr_addr_ip(addr, "127.0.0.1", 0));
    else
        *addr = (struct kr_addr){.u.sa.sa_family = AF_UNIX, .size = sizeof(sa_family_t)};
    int fd = CHECK_SYS(socket(addr->u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(fd, &addr->u.sa, addr->size));
    CHECK_SYS(listen(fd, 8));
    addr->size = sizeof addr->u;
    CHECK_SYS(getsockname(fd, &addr->u.sa, &addr->size));
    return fd;
}

void ends_make(int ends[2], bool tcp) {
    struct kr_addr addr;
    int listener = listener_new(tcp, &addr);
    ends[1] = test_connect_addr(&addr, 0);
    ends[0] = CHECK_SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    test_close(listener);
}

void nonblocking(int fd) {
    CHECK_SYS(fcntl(fd, F_SETFL, CHECK_SYS(fcntl(fd, F_GETFL)) | O_NONBLOCK));
}

/* ---- what each has to do ---- */

void check_echo(struct kr_reactor *r, int peer, size_t size, uint64_t seed) {
    char bytes[1000], back[1000];
    CHECK_LE(size, sizeof bytes);
    test_pattern(bytes, size, seed, 0);
    test_send(r, peer, bytes, size);
    test_recv(r, peer, back, size);
    CHECK_MEM_EQ(bytes, back, size);
}

/* A peer that is slow to read gets all that was queued, and a clean end. */
static void check_flush(struct kr_reactor *r, struct seen *s, int peer) {
    static char bytes[BULK], back[BULK];
    test_pattern(bytes, BULK, 7, 0);
    CHECK_OK(kr_conn_send(r, s->conn, bytes, BULK));
    CHECK_OK(kr_conn_close(r, s->conn, KR_CLOSE_FLUSH));
    test_recv(r, peer, back, BULK);
    test_pattern_check(back, BULK, 7, 0);
    TEST_UNTIL(r, s->closes == 1);
    CHECK_EQ(s->error, 0);
    CHECK_EQ(test_recv_end(r, peer, NULL), 0);
}

void check_serves(struct kr_reactor *r, struct seen *s, int peer) {
    nonblocking(peer);
    check_echo(r, peer, 1, 1);
    check_echo(r, peer, 1000, 2);
    check_flush(r, s, peer);
    test_close(peer);
}

/* ---- SO_LINGER ---- */

/* Bytes that the peer does not read are on their way, and the connection is closed. */
static void check_closes_at_once(struct kr_reactor *r, struct seen *s, enum kr_close how) {
    static const char bytes[1 << 20];
    CHECK_OK(kr_conn_send(r, s->conn, bytes, sizeof bytes));
    TEST_UNTIL(r, kr_conn_queued(r, s->conn) < sizeof bytes);
    CHECK_OK(kr_conn_close(r, s->conn, how));
    TEST_UNTIL(r, s->closes == 1);
}

static const struct {
    int on, seconds;
} lingers[] = {{1, HOURS}, {1, 0}};

const enum kr_close hows[] = {KR_CLOSE_LINGER, KR_CLOSE_FLUSH, KR_CLOSE_NOW, KR_CLOSE_RESET};

/* Ours: SO_LINGER that others have set on a socket neither holds the reactor up when it is closed,
 * nor resets the connection. */
TEST_EACH(linger_of_an_adopted_socket_is_taken_back) {
    for (unsigned i = 0; i < COUNT(lingers) * COUNT(hows); i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {.mute = true};
        struct kr_conn_opts opts = conn_opts();
        opts.flush_ns = 1;
        int ends[2];
        ends_make(ends, true);
        set_linger(ends[0], lingers[i % 2].on, lingers[i % 2].seconds);
        adopt(r, &s, ends[0], &opts);
        check_closes_at_once(r, &s, hows[i / 2]);
        test_close(ends[1]);
        test_reactor_end(r, (struct test_levels){0});
    }
}

/* Ours: a clean end, whatever the socket's last owner had wished. */
TEST_EACH(linger_does_not_cost_the_last_bytes) {
    for (unsigned i = 0; i < COUNT(lingers); i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {0};
        struct kr_conn_opts opts = conn_opts();
        int ends[2];
        ends_make(ends, true);
        set_linger(ends[0], lingers[i].on, lingers[i].seconds);
        adopt(r, &s, ends[0], &opts);
        check_serves(r, &s, ends[1]);
        test_reactor_end(r, (struct test_levels){0});
    }
}

/* Ours: who shares an adopted socket may set it later, and leave the last reference to us. Without
 * options of sockets in slots (kernel < 6.8) nothing can be done about it. */
TEST_EACH(linger_set_after_the_adoption, .needs = KR__CAP_FD_INSTALL) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen s = {.mute = true};
    int ends[2];
    ends_make(ends, true);
    int shared = CHECK_SYS(fcntl(ends[0], F_DUPFD_CLOEXEC, 0));
    adopt(r, &s, ends[0], NULL);
    set_linger(shared, 1, HOURS);
    test_close(shared);
    check_closes_at_once(r, &s, KR_CLOSE_NOW);
    test_close(ends[1]);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: so may who was lent the descriptor of a connection, on any kernel. */
TEST_EACH(linger_set_on_a_kept_descriptor) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen s = {.mute = true};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    opts.conn.keep_fd = true;
    int peer = test_connect(test_listen(r, NULL, &opts, &ops, &s));
    TEST_UNTIL(r, s.opens == 1);
    set_linger(CHECK_OK(kr_conn_fd(r, s.conn)), 1, HOURS);
    check_closes_at_once(r, &s, KR_CLOSE_NOW);
    test_close(peer);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Of a listener of others: clients that came while it lingered, when it was handed over, and when
 * its other owner has set it again. */
static void check_inherited(const struct kr_listen_opts *opts) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr;
    int listener = listener_new(true, &addr), peers[3];
    set_linger(listener, 1, HOURS);
    peers[0] = test_connect_addr(&addr, 0);
    struct seen s = {.mute = true};
    CHECK_OK(kr_listen_fd(r, NULL, listener, opts, &ops, &s));
    CHECK_EQ(get_linger(listener).l_onoff, 0);
    peers[1] = test_connect_addr(&addr, 0);
    set_linger(listener, 1, HOURS);
    peers[2] = test_connect_addr(&addr, 0);
    TEST_UNTIL(r, s.opens == 3);
    for (unsigned i = 0; i < 3; i++) {
        s.conn = s.all[i];
        s.closes = 0;
        check_closes_at_once(r, &s, KR_CLOSE_NOW);
    }
    for (unsigned i = 0; i < 3; i++)
        test_close(peers[i]);
    test_close(listener);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: an accepted socket has SO_LINGER from the one that listens, as that was when it came: it is
 * closed at once all the same. */
TEST_EACH(linger_of_accepted_sockets_is_taken_back) {
    for (unsigned i = 0; i < 3; i++) {
        struct kr_listen_opts opts = test_listen_opts();
        opts.backlog = 8;
        opts.addresses = i == 1;
        opts.conn.keep_fd = i == 2;
        check_inherited(&opts);
    }
}

/* Ours: one that is accepted when its listener is gone is closed as quickly. */
TEST_EACH(linger_of_one_that_nobody_serves) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr;
    int listener = listener_new(true, &addr), peers[2];
    set_linger(listener, 1, HOURS);
    struct seen s = {.mute = true};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    kr_listener handle;
    CHECK_OK(kr_listen_fd(r, &handle, listener, &opts, &ops, &s));
    set_linger(listener, 1, HOURS);
    peers[0] = test_connect_addr(&addr, 0);
    TEST_UNTIL(r, s.opens == 1);
    peers[1] = test_connect_addr(&addr, 0);
    CHECK_OK(kr_listener_close(r, handle));
    CHECK_OK(kr_conn_close(r, s.conn, KR_CLOSE_NOW));
    TEST_UNTIL(r, s.closes == 1);
    test_rest(r, (struct test_levels){0});
    test_close(peers[0]);
    test_close(peers[1]);
    test_close(listener);
    test_reactor_free(r);
}

static void on_released(struct kr_reactor *r, kr_conn conn, void *user,
                        const struct kr_detached *what) {
    struct seen *s = user;
    UNUSED(r, conn);
    CHECK_EQ(what->error, 0);
    struct linger now = get_linger(what->fd);
    if (r->ring.caps & KR__CAP_FD_INSTALL)
        CHECK(now.l_onoff && now.l_linger == 7);
    else
        CHECK(!now.l_onoff); /* before 6.8 it was taken when the client was accepted */
    set_linger(what->fd, 1, 9);
    s->fd = what->fd;
    s->released++;
}

/* Ours: one that leaves as a descriptor leaves as it came, and what its next owner sets at once
 * stays. */
TEST_EACH(linger_of_one_that_leaves_is_its_own) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr;
    int listener = listener_new(true, &addr);
    set_linger(listener, 1, 7);
    int peer = test_connect_addr(&addr, 0);
    struct seen s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    CHECK_OK(kr_listen_fd(r, NULL, listener, &opts, &ops, &s));
    TEST_UNTIL(r, s.opens == 1);
    int rc = kr_conn_detach(r, s.conn, on_released, &s);
    if (!r->ring.plain.cells && !(tap_variant()->caps_mask & KR__CAP_FD_INSTALL)) {
        CHECK_EQ(rc, -EOPNOTSUPP);
        CHECK_OK(kr_conn_close(r, s.conn, KR_CLOSE_NOW));
        TEST_UNTIL(r, s.closes == 1);
    } else {
        CHECK_OK(rc);
        TEST_UNTIL(r, s.closes == 1);
        CHECK_EQ(s.released, 1u);
        CHECK(get_linger(s.fd).l_onoff && get_linger(s.fd).l_linger == 9);
        set_linger(s.fd, 0, 0);
        test_close(s.fd);
    }
    test_close(peer);
    test_close(listener);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

TAP_MAIN(foreign, 21 * 4 + 1 + 2 * 2)
