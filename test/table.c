/* The file table, of both kinds: registered with the kernel, and plain descriptors. What is closed
 * is let go at once, slots are used again, and descriptors come back. The other suites run on a
 * registered table in the variants of this kernel, and on a plain one in those of 6.1. */
#include "harness/life.h"

#include "conn/reactor.h"
#include "kernel/probe.h"
#include "roof/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct kr_reactor *reactor_with(enum kr_table table, unsigned conn_max) {
    struct kr_config config = test_config();
    config.table = table;
    config.conn_max = conn_max;
    config.connect_max = 4;
    config.listener_max = 4;
    config.buf_count = 16;
    config.buf_size = 4096;
    struct kr_reactor *r = test_reactor(&config);
    CHECK_EQ(kr_reactor_table(r), table);
    return r;
}

/* Whether the registered table of the running kernel, whatever the variant, lets go of files. */
static bool registered_works(void) {
    struct kr_config config = test_config();
    struct kr_reactor *r;
    CHECK_OK(kr__reactor_new(&r, &config, NULL, &kr__linux, KR__CAPS_ALL));
    bool works = kr_reactor_table(r) == KR_TABLE_REGISTERED;
    CHECK_OK(kr_reactor_free(r));
    return works;
}

/* Runs it with each kind of table that this kernel has; descriptors are as they were then. */
static void each_table(void (*run)(enum kr_table)) {
    int before = tap_fd_count();
    run(KR_TABLE_PLAIN);
    CHECK_EQ(tap_fd_count(), before);
    if (!registered_works())
        return;
    run(KR_TABLE_REGISTERED);
    CHECK_EQ(tap_fd_count(), before);
}

/* How many descriptors of the process a slot of this table is. */
static int cost(enum kr_table table) {
    return table == KR_TABLE_PLAIN;
}

/* ---- what is closed is let go ---- */

static void end_is_seen(enum kr_table table) {
    static const enum kr_close ways[] = {KR_CLOSE_FLUSH, KR_CLOSE_NOW, KR_CLOSE_RESET};
    house_init();
    struct kr_reactor *r = reactor_with(table, 512);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int idle = house_open_one(r, port);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    for (unsigned i = 0; i < 3; i++) {
        int fd = house_open_one(r, port);
        life_close(r, &house.lives[i + 1], ways[i]);
        CHECK_EQ(test_recv_end(r, fd, NULL), ways[i] == KR_CLOSE_RESET ? ECONNRESET : 0);
        life_check_closed(r, i + 1, 0, KR_WHY_LOCAL);
        test_close(fd);
    }
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(idle);
    test_reactor_free(r);
}

/* Ours: the peer of a closed connection sees its end, while an older receive and the listener's
 * accept are armed. The registered table of kernels before 6.13 keeps it from that. */
TEST_EACH(closed_connection_is_let_go_at_once) {
    each_table(end_is_seen);
}

static void port_is_free(enum kr_table table) {
    house_init();
    struct kr_reactor *r = reactor_with(table, 512);
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, NULL, &house_ops, &house);
    int idle = house_open_one(r, port);
    CHECK_OK(kr_listener_close(r, listener));
    test_rest(r, (struct test_levels){.conns = 1});

    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_EQ(connect(fd, (struct sockaddr *)&to, sizeof to), -1);
    CHECK_EQ(errno, ECONNREFUSED);
    test_close(fd);

    struct kr_addr addr = test_loopback(port);
    CHECK_OK(kr_listen(r, NULL, &addr, NULL, &house_ops, &house));
    test_close(house_open_one(r, port));
    test_close(idle);
    test_reactor_free(r);
}

/* Ours: a listener that is gone accepts nobody any more, and its port may be listened at again,
 * while connections that it has accepted live on. */
TEST_EACH(closed_listener_frees_its_port) {
    each_table(port_is_free);
}

/* ---- slots ---- */

static void slots_come_back(enum kr_table table) {
    house_init();
    struct kr_reactor *r = reactor_with(table, 3);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int idle = house_open_one(r, port);
    int fds = tap_fd_count();
    for (unsigned i = 1; i <= 100; i++) {
        int fd = house_open_one(r, port);
        CHECK_LT(kr__handle_slot(house.lives[i].conn.bits), 3u);
        if (i % 2)
            life_close(r, &house.lives[i], KR_CLOSE_NOW);
        else
            test_close(fd);
        TEST_UNTIL(r, house.lives[i].events[CLOSE] || house.lives[i].events[END]);
        if (house.lives[i].events[END])
            life_close(r, &house.lives[i], KR_CLOSE_NOW);
        TEST_UNTIL(r, house.lives[i].events[CLOSE] == 1);
        if (i % 2)
            test_close(fd);
    }
    CHECK_EQ(tap_fd_count(), fds);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(idle);
    test_reactor_free(r);
}

/* Ours: slots of connections that have gone, closed by either side, are used again: many more come
 * than there are slots. */
TEST_EACH(slots_are_used_again) {
    each_table(slots_come_back);
}

static void nobody_is_dropped(enum kr_table table) {
    house_init();
    struct kr_reactor *r = reactor_with(table, 2);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int first = house_open_one(r, port), second = house_open_one(r, port);
    int third = test_connect(port);
    test_send(r, third, "abc", 3);
    test_rest(r, (struct test_levels){.conns = 2, .listeners = 1, .paused = 1});
    CHECK_EQ(house.count, 2u);
    life_close(r, &house.lives[0], KR_CLOSE_NOW);
    TEST_UNTIL(r, house.count == 3 && house.lives[2].bytes == 3);
    test_close(first);
    test_close(second);
    test_close(third);
    test_reactor_free(r);
}

/* Ours: a client that finds the table full waits in the backlog until a slot is free. */
TEST_EACH(full_table_makes_clients_wait) {
    each_table(nobody_is_dropped);
}

/* Ours: should an accept bring a client for whom there is no slot, which the library's count of
 * them is to prevent, its descriptor is closed and the listener tries again later. The slots are
 * taken away by hand. */
TEST_EACH(accepted_without_a_slot_is_closed) {
    house_init();
    struct kr_reactor *r = reactor_with(KR_TABLE_PLAIN, 64);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    test_rest(r, (struct test_levels){.listeners = 1});
    int fds = tap_fd_count();
    while (kr__slots_take(&r->slots.accepted) >= 0) {}
    int fd = test_connect(port);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    test_close(fd);
    TEST_UNTIL(r, test_stats(r).accept_errors == 1);
    CHECK_EQ(tap_fd_count(), fds);
    for (uint32_t slot = 0; slot < 64; slot++)
        kr__slots_recycle(&r->slots, slot);
    test_close(house_open_one(r, port));
    test_reactor_free(r);
}

/* ---- descriptors ---- */

static void descriptors_are_counted(enum kr_table table) {
    house_init();
    int before = tap_fd_count();
    struct kr_reactor *r = reactor_with(table, 64);
    CHECK_EQ(tap_fd_count(), before + 2); /* the ring and the eventfd */
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    CHECK_EQ(tap_fd_count(), before + 2 + cost(table));
    int fd = house_open_one(r, port);
    CHECK_EQ(tap_fd_count(), before + 3 + 2 * cost(table));
    for (uint32_t slot = 0; table == KR_TABLE_PLAIN && slot < 64 + 4 + 4; slot++) {
        int own = kr__slots_fd(&r->slots, slot);
        CHECK(own < 0 || CHECK_SYS(fcntl(own, F_GETFD)) == FD_CLOEXEC);
    }
    life_close(r, &house.lives[0], KR_CLOSE_NOW);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    CHECK_EQ(tap_fd_count(), before + 3 + cost(table));
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: a plain table has a descriptor for each listener and connection, close-on-exec; a registered
 * one has none. */
TEST_EACH(descriptors_of_slots) {
    each_table(descriptors_are_counted);
}

static void kept_beside_the_slot(enum kr_table table) {
    house_init();
    struct kr_reactor *r = reactor_with(table, 64);
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = opts.conn.keep_fd = true;
    uint16_t port = test_listen(r, NULL, &opts, &house_ops, &house);
    int fds = tap_fd_count();
    int fd = house_open_one(r, port);
    CHECK_EQ(tap_fd_count(), fds + 2 + cost(table));

    kr_conn conn = house.lives[0].conn;
    int kept = CHECK_OK(kr_conn_fd(r, conn));
    CHECK_NE(kept, kr__slots_fd(&r->slots, kr__handle_slot(conn.bits)));
    struct kr_addr peer, own = {.size = sizeof own.u};
    CHECK_OK(kr_conn_peer(r, conn, &peer));
    CHECK_SYS(getsockname(fd, &own.u.sa, &own.size));
    CHECK_EQ(kr_addr_port(&peer), kr_addr_port(&own));

    life_close(r, &house.lives[0], KR_CLOSE_NOW);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_close(fd);
    CHECK_EQ(tap_fd_count(), fds);
    test_reactor_free(r);
}

/* Ours: a connection that keeps its descriptor, and whose addresses are asked for, has one beside
 * that of its slot; both are closed with it. */
TEST_EACH(kept_descriptor_is_another_one) {
    each_table(kept_beside_the_slot);
}

static void connect_and_adopt(enum kr_table table) {
    house_init();
    house.echo = true;
    struct kr_reactor *r = reactor_with(table, 64);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int fds = tap_fd_count();

    struct house *server = &house;
    struct kr_addr addr = test_loopback(port);
    kr_conn made;
    CHECK_OK(kr_connect(r, &made, &addr, NULL, &(struct kr_conn_ops){.on_data = house_keep_all},
                        &server->lives[9]));
    server->lives[9] = (struct life){.conn = made, .events[OPEN] = 1};
    CHECK_OK(kr_conn_send(r, made, "abc", 3));
    TEST_UNTIL(r, server->lives[9].events[DATA] > 0);
    CHECK_OK(kr_conn_close(r, made, KR_CLOSE_NOW));
    TEST_UNTIL(r, house.lives[0].events[END] == 1);
    life_close(r, &house.lives[0], KR_CLOSE_NOW);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    CHECK_EQ(tap_fd_count(), fds);

    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    CHECK_OK(kr_conn_adopt(r, NULL, ends[0], NULL, &house_ops, &house));
    TEST_UNTIL(r, house.count == 2);
    CHECK_EQ(tap_fd_count(), fds + 1 + cost(table));
    test_send(r, ends[1], "hello", 5);
    CHECK_RECV(r, ends[1], "hello");
    life_close(r, &house.lives[1], KR_CLOSE_NOW);
    CHECK_EQ(test_recv_end(r, ends[1], NULL), 0);
    life_check_closed(r, 1, 0, KR_WHY_LOCAL);
    test_close(ends[1]);
    CHECK_EQ(tap_fd_count(), fds);
    test_reactor_free(r);
}

/* Ours: connections that are made and adopted live in either table, and their descriptors come
 * back. */
TEST_EACH(made_and_adopted_connections) {
    each_table(connect_and_adopt);
}

static void released(struct kr_reactor *r, kr_conn conn, void *user,
                     const struct kr_detached *what) {
    UNUSED(r, conn);
    CHECK_EQ(what->error, 0);
    *(int *)user = what->fd;
}

/* Ours: a connection leaves a plain table with a descriptor of its own, on any kernel and without
 * one that was kept; the peer notices nothing. */
TEST_EACH(released_from_a_plain_table) {
    house_init();
    struct kr_reactor *r = reactor_with(KR_TABLE_PLAIN, 64);
    int fd = house_open_one(r, test_listen(r, NULL, NULL, &house_ops, &house));
    int fds = tap_fd_count(), gone = -1;
    CHECK_OK(kr_conn_detach(r, house.lives[0].conn, released, &gone));
    house.lives[0].closing = true;
    TEST_UNTIL(r, house.lives[0].events[CLOSE] == 1);
    CHECK_EQ(house.lives[0].why, KR_WHY_DETACHED);
    CHECK_EQ(tap_fd_count(), fds);
    CHECK_EQ(CHECK_SYS(fcntl(gone, F_GETFD)), FD_CLOEXEC);
    CHECK_EQ(write(gone, "hello", 5), 5);
    char back[5];
    test_recv(r, fd, back, 5);
    test_close(gone);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    test_close(fd);
    test_reactor_free(r);
}

static void answered(struct kr_reactor *r, kr_conn conn, void *user, int error) {
    UNUSED(r, conn);
    CHECK_EQ(error, 0);
    ++*(unsigned *)user;
}

/* Ours: options of connections in a plain table are set in the call, on any kernel; the answer
 * comes in a turn, as ever. */
TEST_EACH(options_in_a_plain_table) {
    house_init();
    struct kr_reactor *r = reactor_with(KR_TABLE_PLAIN, 64);
    int fd = house_open_one(r, test_listen(r, NULL, NULL, &house_ops, &house));
    kr_conn conn = house.lives[0].conn;
    unsigned answers = 0;
    CHECK_OK(kr_conn_sockopt(r, conn, KR_SOCKOPT_USER_TIMEOUT_MS, 4321, answered, &answers));
    unsigned value = 0;
    socklen_t size = sizeof value;
    CHECK_SYS(getsockopt(kr__slots_fd(&r->slots, kr__handle_slot(conn.bits)), IPPROTO_TCP,
                         TCP_USER_TIMEOUT, &value, &size));
    CHECK_EQ(value, 4321u);
    CHECK_EQ(answers, 0u);
    TEST_UNTIL(r, answers == 1);
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: what only newer kernels can do with slots of a registered table is refused on older ones,
 * and nothing happens. */
TEST(registered_table_of_an_old_kernel_refuses) {
    house_init();
    struct kr_config config = test_config();
    config.table = KR_TABLE_REGISTERED;
    struct kr_reactor *r;
    CHECK_OK(kr__reactor_new(&r, &config, NULL, &kr__linux, KR__CAPS_6_1));
    int fd = house_open_one(r, test_listen(r, NULL, NULL, &house_ops, &house));
    kr_conn conn = house.lives[0].conn;
    CHECK_ERR(kr_conn_detach(r, conn, released, NULL), EOPNOTSUPP);
    CHECK_ERR(kr_conn_sockopt(r, conn, KR_SOCKOPT_NO_DELAY, 1, answered, NULL), EOPNOTSUPP);
    test_send(r, fd, "abc", 3);
    TEST_UNTIL(r, house.lives[0].bytes == 3);
    test_close(fd);
    CHECK_OK(kr_reactor_free(r));
}

/* ---- limits ---- */

static void limit_descriptors(unsigned count) {
    struct rlimit limit;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = count;
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
}

/* Ours: with a plain table clients for whom there is no descriptor wait in the backlog, and are
 * served when there is one again. */
TEST_EACH(spent_descriptors_make_clients_wait) {
    house_init();
    struct kr_reactor *r = reactor_with(KR_TABLE_PLAIN, 64);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int first = house_open_one(r, port);
    int second = test_connect(port);
    struct rlimit was;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &was));
    limit_descriptors((unsigned)tap_fd_count());
    uint64_t errors = test_stats(r).accept_errors;
    TEST_UNTIL(r, house.count == 2 || test_stats(r).accept_errors > errors);
    CHECK_EQ(house.count, 1u);
    life_close(r, &house.lives[0], KR_CLOSE_NOW);
    TEST_UNTIL(r, house.count == 2);
    test_send(r, second, "abc", 3);
    TEST_UNTIL(r, house.lives[1].bytes == 3);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &was));
    test_close(first);
    test_close(second);
    test_reactor_free(r);
}

/* Ours: a table that is longer than the soft limit is refused, of either kind, and the words name
 * both numbers. */
TEST_EACH(table_longer_than_the_limit_is_refused) {
    limit_descriptors(100);
    for (enum kr_table table = KR_TABLE_REGISTERED; table <= KR_TABLE_PLAIN; table++) {
        struct kr_config config = test_config();
        config.table = table;
        config.conn_max = 60;
        config.connect_max = 37;
        config.listener_max = 4;
        struct kr_reactor *r;
        struct kr_failure why;
        CHECK_ERR(test_reactor_try(&r, &config, &why), EMFILE);
        CHECK_EQ(why.refused, KR_REFUSED_NOFILE);
        CHECK(strstr(why.cause, "101") && strstr(why.cause, "100"));
        config.connect_max = 36;
        CHECK_OK(test_reactor_try(&r, &config, &why));
        test_reactor_free(r);
    }
}

/* Ours: the defaults leave a part of the limit to the rest of the process. */
TEST_EACH(defaults_leave_descriptors) {
    static const struct {
        unsigned limit, conn_max, connect_max;
    } rows[] = {
        {1024, 656, 240},
        {256, 128, 48},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        limit_descriptors(rows[i].limit);
        struct kr_reactor *r = test_reactor(NULL);
        CHECK_EQ(r->config.conn_max, rows[i].conn_max);
        CHECK_EQ(r->config.connect_max, rows[i].connect_max);
        test_reactor_free(r);
    }
    limit_descriptors(64); /* as many slots are the library's own */
    struct kr_reactor *r;
    CHECK_ERR(test_reactor_try(&r, NULL, NULL), EMFILE);
}

/* ---- which table it is ---- */

/* A kernel that tells of no feature of 6.14 and later, and answers to the question for 6.13. */
struct old {
    struct kr__kernel kernel;
    int answer;
    unsigned asked;
};

static int old_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                    struct io_uring_params *params) {
    (void)k;
    int rc = kr__linux.ring.open(&kr__linux, ring, entries, params);
    params->features &= KR__FEAT_RW_ATTR - 1;
    return rc;
}

static int old_reg(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode,
                   const void *arg, unsigned count) {
    struct old *old = kr__container_of(k, struct old, kernel);
    if (opcode != KR__REGISTER_MEM_REGION)
        return kr__linux.ring.reg(&kr__linux, ring, opcode, arg, count);
    old->asked++;
    return old->answer;
}

static enum kr_table table_of(int answer, unsigned caps, unsigned *asked) {
    static struct old old;
    old = (struct old){.kernel = kr__linux, .answer = answer};
    old.kernel.ring.open = old_open;
    old.kernel.ring.reg = old_reg;
    struct kr_config config = test_config();
    struct kr_reactor *r;
    CHECK_OK(kr__reactor_new(&r, &config, NULL, &old.kernel, caps));
    enum kr_table table = kr_reactor_table(r);
    CHECK_OK(kr_reactor_free(r));
    *asked = old.asked;
    return table;
}

/* Ours: a kernel that does not tell of 6.14 is asked whether it is 6.13; who is older, or answers
 * strangely, has the plain table. */
TEST(old_kernels_have_a_plain_table) {
    unsigned asked;
    CHECK_EQ(table_of(-EINVAL, KR__CAPS_ALL, &asked), KR_TABLE_PLAIN);
    CHECK_EQ(asked, 1u);
    CHECK_EQ(table_of(-EPERM, KR__CAPS_ALL, &asked), KR_TABLE_PLAIN);
    CHECK_EQ(table_of(-EFAULT, KR__CAPS_ALL, &asked), KR_TABLE_REGISTERED);
    CHECK_EQ(asked, 1u);
    CHECK_EQ(table_of(-EFAULT, KR__CAPS_6_1, &asked), KR_TABLE_PLAIN);
}

/* The kernel's: asked so, it says that it lets go of files, if it does. The case of an older one is
 * in the emulated kernels. */
TEST(kernel_answers_the_question) {
    struct kr_reactor *r = test_reactor(NULL);
    bool lets_go = r->ring.caps & KR__CAP_FILE_TABLE;
    CHECK_EQ(kr__probe_table(&kr__linux, &r->ring.uring), lets_go ? KR__CAP_FILE_TABLE : 0u);
    CHECK_EQ(kr_reactor_table(r), lets_go ? KR_TABLE_REGISTERED : KR_TABLE_PLAIN);
    CHECK_EQ(kr_reactor_table(NULL), KR_TABLE_AUTO);
    test_reactor_free(r);
}

/* Ours: a value that is none is refused in words. */
TEST(unknown_table_is_refused) {
    struct kr_config config = test_config();
    config.table = (enum kr_table)3;
    struct kr_reactor *r;
    struct kr_failure why;
    CHECK_ERR(test_reactor_try(&r, &config, &why), EINVAL);
    CHECK_EQ(why.refused, KR_REFUSED_CONFIG);
    CHECK(strstr(why.cause, "table"));
}

/* ---- requests that the kernel does not take ---- */

/* Takes one request an enter, and from some time on none. */
static int sparing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                         unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    (void)k;
    return kr__linux.ring.enter(&kr__linux, ring, submit ? 1 : 0, submit > 1 ? 0 : wait_for, flags,
                                arg);
}

static int refusing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                          unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    (void)k;
    return submit ? -ENOMEM : kr__linux.ring.enter(&kr__linux, ring, 0, wait_for, flags, arg);
}

static struct kr_reactor *reactor_behind(struct kr__kernel *kernel) {
    struct kr_config config = test_config();
    config.table = KR_TABLE_PLAIN;
    *kernel = kr__linux;
    return test_reactor_on(kernel, &config);
}

/* Ours: requests that a short submit has left in the queue are translated once, and go to the
 * sockets they were made for. */
TEST_EACH(short_submits_are_translated_once) {
    house_init();
    house.echo = true;
    struct kr__kernel kernel;
    struct kr_reactor *r = reactor_behind(&kernel);
    kernel.ring.enter = sparing_enter;
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int fds[8];
    for (unsigned i = 0; i < 8; i++)
        fds[i] = test_connect(port);
    TEST_UNTIL(r, house.count == 8);
    for (unsigned i = 0; i < 8; i++)
        test_send(r, fds[i], "abc", 3);
    for (unsigned i = 0; i < 8; i++) {
        char back[3];
        test_recv(r, fds[i], back, 3);
        life_close(r, &house.lives[i], KR_CLOSE_NOW);
    }
    for (unsigned i = 0; i < 8; i++) {
        CHECK_EQ(test_recv_end(r, fds[i], NULL), 0);
        test_close(fds[i]);
    }
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: a descriptor whose CLOSE was translated, and which the kernel never took, is closed when
 * the reactor is given up. */
TEST_EACH(unsubmitted_close_leaves_no_descriptor) {
    house_init();
    struct kr__kernel kernel;
    struct kr_reactor *r = reactor_behind(&kernel);
    int fd = house_open_one(r, test_listen(r, NULL, NULL, &house_ops, &house));
    /* without a receive in flight its CLOSE is made in the very next turn */
    CHECK_OK(kr_conn_pause(r, house.lives[0].conn));
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    life_close(r, &house.lives[0], KR_CLOSE_NOW);
    kernel.ring.enter = refusing_enter;
    CHECK_ERR(kr_step(r, 0), ENOMEM);
    test_reactor_free(r);
    CHECK_EQ(test_recv_end(NULL, fd, NULL), 0);
    test_close(fd);
}

/* ---- a forked child ---- */

static void child_lets_go(enum kr_table table) {
    house_init();
    struct kr_reactor *r = reactor_with(table, 64);
    int fd = house_open_one(r, test_listen(r, NULL, NULL, &house_ops, &house));
    int ready[2], over[2];
    CHECK_SYS(pipe2(ready, O_CLOEXEC));
    CHECK_SYS(pipe2(over, O_CLOEXEC));
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        close(over[1]);
        int before = tap_fd_count();
        bool good = kr_reactor_free(r) == 0;
        good &= before - tap_fd_count() == 2 + 2 * cost(table);
        char byte = good;
        good &= write(ready[1], &byte, 1) == 1 && read(over[0], &byte, 1) == 0;
        tap_exit_child(!good);
    }
    char good = 0;
    CHECK_EQ(read(ready[0], &good, 1), 1);
    CHECK(good);
    test_send(r, fd, "abc", 3);
    TEST_UNTIL(r, house.lives[0].bytes == 3);
    life_close(r, &house.lives[0], KR_CLOSE_NOW);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0); /* while the child lives */
    test_close(over[1]);
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    test_close(over[0]);
    test_close(ready[0]);
    test_close(ready[1]);
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: kr_reactor_free in a forked child closes the child's copies, and the parent goes on: its
 * peers see the ends of their connections while the child lives. */
TEST_EACH(forked_child_lets_go_of_its_copies) {
    each_table(child_lets_go);
}

TAP_MAIN(table, 68)
