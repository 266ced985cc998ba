/* Clients that do not wait, and errors of accept. */
#include "accept/accept.h"

/* ---- clients that do not wait, and many at once ---- */

static void gone_clients(struct kr_listen_opts opts) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, &opts, &test_server_echo_ops, &s);
    CHECK_OK(kr_listener_pause(r, listener));
    CHECK_EQ(kr_step(r, 0), 0);
    for (unsigned i = 0; i < 50; i++) {
        int fd = test_connect(port);
        if (i % 3 == 0)
            test_send(NULL, fd, "bye", 3);
        if (i % 2)
            test_close(fd);
        else
            test_close_reset(fd);
    }
    CHECK_OK(kr_listener_resume(r, listener));
    one_is_served(r, port);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* Ours: clients that have gone before they were accepted, by FIN or RST, with bytes or without,
 * cost a connection that ends, or none; who comes after them is served. */
TEST_EACH(clients_gone_before_accept) {
    struct kr_listen_opts opts = test_listen_opts();
    gone_clients(opts);
    opts.conn_max = 3;
    gone_clients(opts);
    opts.addresses = true;
    gone_clients(opts);
}

static unsigned read_number(const char *path) {
    FILE *file = fopen(path, "re");
    unsigned number = 0;
    if (!file || fscanf(file, "%u", &number) != 1)
        FAIL("%s can not be read", path);
    fclose(file);
    return number;
}

#define BURST 5000

static void burst(unsigned backlog, unsigned conn_max) {
    tap_need_descriptors(conn_max + 300); /* the table is as long, but takes none of them */
    struct kr_config config = test_config();
    config.sq_entries = config.cq_entries = 8;
    config.conn_max = conn_max;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = backlog;
    uint16_t port = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    static struct client clients[BURST];
    for (unsigned done = 0; done < BURST;) {
        unsigned batch = BURST - done < backlog ? BURST - done : backlog;
        connect_all(clients + done, batch, port);
        done += batch;
        TEST_UNTIL(r, s.opens == done);
    }
    serve_all(r, clients, BURST, false);
    CHECK_EQ(s.open, BURST);
    CHECK_GT(test_stats(r).cq_overflows, 0u);
    leave_all(clients, BURST);
    rest_without_conns(r, 1);
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.bufs_out + stats.sends_out + stats.blocks_out, 0u);
    test_reactor_free(r);
}

/* Ours: five thousand clients, as many of them at once as the backlog holds, through a CQ of 8:
 * each is served, though nearly every accept, receive and send overflows the queue. The table has
 * room for any number of them. */
TEST_EACH(burst_of_5000_through_a_tiny_cq, .deadline_s = 60) {
    unsigned most = read_number("/proc/sys/net/core/somaxconn");
    unsigned backlog = most < 4096 ? most : 4096;
    burst(backlog, 2 * backlog + BURST + 64);
}

/* Ours: the same with a table of just the size, which allows one accept for each free slot and no
 * more. */
TEST_EACH(burst_of_5000_into_a_table_of_5000, .deadline_s = 60) {
    unsigned most = read_number("/proc/sys/net/core/somaxconn");
    burst(most < 4096 ? most : 4096, BURST);
}

/* ---- errors of accept ---- */

/* The real kernel, but that the next `left` accepts are turned into NOPs with `result` on their way
 * into it: the tag stays, so that to all above the accept has failed. */
static struct {
    int result;
    unsigned left, made;
} injected;

static bool is_accept(const struct io_uring_sqe *sqe) {
    return sqe->opcode == IORING_OP_ACCEPT;
}

static int injecting_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                           unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    unsigned head = *ring->sq.khead, mask = *ring->sq.kring_mask;
    for (unsigned i = 0; i < submit; i++) {
        struct io_uring_sqe *sqe = &ring->sq.sqes[(head + i) & mask];
        if (!is_accept(sqe) || !injected.left)
            continue;
        uint64_t tag = sqe->user_data;
        memset(sqe, 0, sizeof *sqe);
        io_uring_prep_nop(sqe);
        sqe->rw_flags = KR__NOP_INJECT_RESULT;
        sqe->len = (unsigned)injected.result;
        sqe->user_data = tag;
        injected.left--;
        injected.made++;
    }
    return kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
}

static struct kr_reactor *injecting_reactor(void) {
    tap_need_kernel(6, 10); /* NOP with a result */
    static struct kr__kernel kernel;
    kernel = kr__linux;
    kernel.ring.enter = injecting_enter;
    struct kr_config config = test_config();
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    struct kr_reactor *r;
    struct kr_failure why;
    CHECK_OK(kr__reactor_new(&r, &config, &why, &kernel, (unsigned)tap_variant()->caps_mask));
    return r;
}

static void fails_then_recovers(struct kr_listen_opts opts, int error) {
    struct kr_reactor *r = injecting_reactor();
    struct test_server s = {0};
    injected.result = -error;
    injected.left = UINT32_MAX;
    injected.made = 0;
    uint16_t port = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    struct client clients[20];
    connect_all(clients, 20, port);
    TEST_UNTIL(r, injected.made >= 3);

    struct kr_stats before = test_stats(r);
    int64_t began = tap_now_ns();
    for (unsigned i = 0; i < 30; i++)
        CHECK_OK(kr_step(r, MS));
    int64_t took_ms = (tap_now_ns() - began) / MS + 1;
    struct kr_stats after = test_stats(r);
    CHECK_LE((int64_t)(after.sqes - before.sqes), 16 * took_ms);
    CHECK_LE((int64_t)(after.enters - before.enters), 16 * took_ms);
    CHECK_EQ(s.opens, 0u);
    CHECK_GE(after.accept_errors, 3u);

    injected.left = 0;
    serve_all(r, clients, 20, true);
    rest_without_conns(r, 1);
    CHECK_EQ(s.opens, 20u);
    CHECK_OK(kr_reactor_free(r));
}

static void fails_in_each_way(int error) {
    struct kr_listen_opts opts = test_listen_opts();
    fails_then_recovers(opts, error);
    opts.conn_max = 5;
    fails_then_recovers(opts, error);
    opts.addresses = true;
    fails_then_recovers(opts, error);
}

/* Ours: accepts that fail for want of descriptors or memory are made again after a while: a bounded
 * number of them a millisecond, no spin. When the want is over, all who waited are served. */
TEST_EACH(failing_accepts_back_off_emfile) {
    fails_in_each_way(EMFILE);
}

TEST_EACH(failing_accepts_back_off_enfile) {
    fails_in_each_way(ENFILE);
}

TEST_EACH(failing_accepts_back_off_enomem) {
    fails_in_each_way(ENOMEM);
}

/* Ours: however long the want has lasted, when it is over the next try is not 50 ms away. */
static void resumes_soon(struct kr_listen_opts opts, int error) {
    struct kr_reactor *r = injecting_reactor();
    struct test_server s = {0};
    injected.result = -error;
    injected.left = UINT32_MAX;
    injected.made = 0;
    uint16_t port = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    struct client clients[3];
    connect_all(clients, 3, port);
    TEST_UNTIL(r, injected.made >= 8);
    injected.left = 0;
    CHECK_LE(kr__heap_next(&r->timers.deadlines) - r->now, 40 * MS);
    serve_all(r, clients, 3, true);
    CHECK_EQ(injected.made, test_stats(r).accept_errors);
    rest_without_conns(r, 1);
    CHECK_OK(kr_reactor_free(r));
}

TEST_EACH(failing_accepts_resume_within_50_ms) {
    static const int errors[] = {EMFILE, ENFILE, ENOMEM, ENOBUFS};
    struct kr_listen_opts opts = test_listen_opts(), few = test_listen_opts();
    few.conn_max = 5;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        resumes_soon(opts, errors[i]);
        resumes_soon(few, errors[i]);
    }
}

/* Ours: a client that has gone in the backlog fails its own accept only. A hundred of them in a row
 * delay those behind them by a hundred accepts, not by a hundred waits. */
TEST_EACH(aborted_clients_delay_nobody) {
    struct kr_reactor *r = injecting_reactor();
    struct test_server s = {0};
    injected.result = -ECONNABORTED;
    injected.left = 100;
    injected.made = 0;
    uint16_t port = test_listen(r, NULL, NULL, &test_server_echo_ops, &s);
    struct client clients[20];
    connect_all(clients, 20, port);
    serve_all(r, clients, 20, true);
    CHECK_EQ(injected.left, 0u);
    CHECK_EQ(injected.made, 100u);
    CHECK_LE(test_stats(r).turns, 400u);
    rest_without_conns(r, 1);
    CHECK_OK(kr_reactor_free(r));
}

/* Ours: a listener for which memory is refused, at whichever allocation, is refused with -ENOMEM,
 * and neither a socket nor a byte stays behind. One try for each allocation, until none is left to
 * refuse. */
TEST_EACH(listen_without_memory_leaves_nothing) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    int before = tap_fd_count(), rc = -ENOMEM;
    kr_listener listener = {.bits = 7};
    uint64_t bytes = test_stats(r).alloc_bytes;
    for (int64_t n = 0; rc < 0; n++) {
        test_reactor_refuse_memory(r, n);
        rc = listen_on(r, &listener, "127.0.0.1", 0, &opts, &s);
        test_reactor_refuse_memory(r, -1);
        CHECK_EQ(tap_fd_count(), before + (rc == 0 ? test_slot_cost(r) : 0));
        if (rc == 0)
            break;
        CHECK_ERR(rc, ENOMEM);
        CHECK_EQ(listener.bits, 7u);
        CHECK_EQ(test_stats(r).listeners, 0u);
        CHECK_LE(test_stats(r).alloc_bytes, bytes + 4096); /* what grew for good, as tables do */
        CHECK_LT(n, 10);
    }
    struct kr_addr addr;
    CHECK_OK(kr_listener_addr(r, listener, &addr));
    one_is_served(r, kr_addr_port(&addr));
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

static void accept_without_memory(struct kr_listen_opts opts) {
    opts.conn.inline_size = 100000;
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    uint16_t port = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    one_is_served(r, port);
    rest_without_conns(r, 1);
    int first = test_connect(port);
    TEST_UNTIL(r, s.open == 1);

    test_reactor_refuse_memory(r, 0);
    int second = test_connect(port);
    int end = test_recv_end(r, second, NULL);
    CHECK(end == 0 || end == ECONNRESET);
    test_close(second);
    CHECK_EQ(s.opens, 2u);
    TEST_UNTIL(r, test_stats(r).conns == 1);
    test_reactor_refuse_memory(r, -1);

    one_is_served(r, port);
    CHECK_EQ(s.opens, 3u);
    test_close(first);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* Ours: a client for whom there is no memory is sent away without a callback; those before and
 * after are served. */
TEST_EACH(client_without_memory_is_sent_away) {
    accept_without_memory(test_listen_opts());
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn_max = 3;
    accept_without_memory(opts);
    opts.addresses = true;
    accept_without_memory(opts);
}

/* The lowest free descriptor becomes the limit, so that none can be opened; returns the old one. */
static rlim_t close_the_table(void) {
    int next = CHECK_SYS(dup(0));
    CHECK_SYS(close(next));
    struct rlimit limit;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    rlim_t old = limit.rlim_cur;
    limit.rlim_cur = (rlim_t)next;
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    return old;
}

static void open_the_table(rlim_t old) {
    struct rlimit limit;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = old;
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
}

/* The kernel's, and ours: with addresses an accept needs a descriptor, and at RLIMIT_NOFILE it
 * fails in earnest. The reactor waits, drops nobody, and serves all once descriptors are to be
 * had. */
TEST_EACH(real_emfile_drops_nobody) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    struct client clients[10];
    connect_all(clients, 10, test_listen(r, NULL, &opts, &test_server_echo_ops, &s));
    rlim_t old = close_the_table();
    TEST_UNTIL(r, test_stats(r).accept_errors >= 2);
    struct kr_stats before = test_stats(r);
    int64_t began = tap_now_ns();
    for (unsigned i = 0; i < 30; i++)
        CHECK_OK(kr_step(r, MS));
    int64_t took_ms = (tap_now_ns() - began) / MS + 1;
    CHECK_LE((int64_t)(test_stats(r).enters - before.enters), 16 * took_ms);
    CHECK_EQ(s.opens, 0u);
    open_the_table(old);
    serve_all(r, clients, 10, true);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* The kernel's: without addresses accepting into a registered table takes no descriptor, so that a
 * full process still accepts. */
TEST_EACH(accepts_at_a_full_descriptor_table, .needs = KR__CAP_FILE_TABLE) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct client clients[10];
    connect_all(clients, 10, test_listen(r, NULL, NULL, &test_server_echo_ops, &s));
    rlim_t old = close_the_table();
    TEST_UNTIL(r, s.opens == 10);
    CHECK_EQ(test_stats(r).accept_errors, 0u);
    open_the_table(old);
    serve_all(r, clients, 10, true);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

struct visit {
    unsigned opens, closes;
    size_t got;
    int error;
};

static void visit_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct visit *v = user;
    struct kr_addr addr;
    CHECK_ERR(kr_conn_peer(r, conn, &addr), ENODATA);
    v->opens++;
}

static size_t visit_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct visit *v = user;
    UNUSED(r, conn, data);
    v->got += size;
    return size;
}

static void visit_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    struct visit *v = user;
    UNUSED(r, conn, why);
    v->error = error;
    v->closes++;
}

/* Ours: a client that says something and resets before it is accepted is heard, with addresses as
 * without; only its own is not known any more. */
TEST_EACH(client_that_resets_before_the_accept_is_heard) {
    static const struct kr_conn_ops ops = {
        .on_open = visit_open, .on_data = visit_data, .on_close = visit_close};
    for (unsigned with = 0; with < 2; with++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct kr_listen_opts opts = test_listen_opts();
        struct visit v = {0};
        opts.addresses = with;
        opts.backlog = 64;
        int fd = test_connect(test_listen(r, NULL, &opts, &ops, &v));
        CHECK_EQ(test_send_some(fd, "heard", 5), 5);
        test_close_reset(fd);
        TEST_UNTIL(r, v.closes == 1);
        CHECK_EQ(v.opens, 1u);
        CHECK_EQ(v.got, 5u);
        CHECK_EQ(v.error, -ECONNRESET);
        rest_without_conns(r, 1);
        test_reactor_free(r);
    }
}
