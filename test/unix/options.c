/* The longest path, options of accepted sockets, and an address whose process was killed. */
#include "unix/unix.h"

/* ---- the longest path ---- */

/* Fills all of sun_path; there is no closing 0. */
static struct kr_addr long_addr(const struct place *p, char path[109]) {
    struct kr_addr addr = {.size = sizeof addr.u.un, .u.un.sun_family = AF_UNIX};
    memset(path, 'q', 108);
    path[108] = 0;
    memcpy(path, p->path, strlen(p->path));
    memcpy(addr.u.un.sun_path, path, 108);
    return addr;
}

/* Ours: a path of 108 bytes is one as any other, and what kr_listener_addr and kr_conn_peer say of
 * it can be connected to. */
TEST_EACH(unix_path_of_108_bytes) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    char path[109];
    struct kr_addr addr = long_addr(&p, path), told, peer;
    struct kr_listen_opts opts = default_opts();
    opts.unix_mode = 0600;
    opts.unix_remove = opts.unix_replace = opts.addresses = true;
    struct test_server s = {0}, client = {0};
    kr_listener listener = listen_at(r, &addr, &opts, &s);
    CHECK_EQ(mode_of(path), 0600u);
    CHECK_OK(kr_listener_addr(r, listener, &told));
    CHECK_EQ(told.size, addr.size);
    CHECK_MEM_EQ(&told.u, &addr.u, addr.size);
    kr_conn conn;
    CHECK_OK(kr_connect(r, &conn, &told, NULL, &test_server_echo_eof_ops, &client));
    TEST_UNTIL(r, client.opens == 1 && s.opens == 1);
    CHECK_OK(kr_conn_peer(r, conn, &peer));
    CHECK_OK(kr_connect(r, NULL, &peer, NULL, &test_server_echo_eof_ops, &client));
    TEST_UNTIL(r, client.opens == 2 && s.opens == 2);
    CHECK_OK(kr_listener_close(r, listener));
    CHECK_EQ(access(path, F_OK), -1);
    test_reactor_free(r);
    place_end(&p);
}

/* Ours: a size beyond what the kernel takes is refused before anything is read. */
TEST_EACH(unix_address_too_large) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = default_opts();
    opts.unix_mode = 0600;
    opts.unix_remove = opts.unix_replace = true;
    struct test_server s = {0};
    char path[109];
    struct kr_addr addr = long_addr(&p, path);
    for (addr.size = sizeof addr.u.un + 1; addr.size <= sizeof addr.u + 1; addr.size++) {
        CHECK_ERR(kr_listen(r, NULL, &addr, &opts, &test_server_echo_eof_ops, &s), EINVAL);
        CHECK_ERR(kr_connect(r, NULL, &addr, NULL, &test_server_echo_eof_ops, &s), EINVAL);
    }
    CHECK_EQ(access(path, F_OK), -1);
    test_reactor_free(r);
    place_end(&p);
}

/* ---- options of accepted sockets ---- */

static int send_buf_of(int fd) {
    int size;
    socklen_t length = sizeof size;
    CHECK_SYS(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length));
    return size;
}

static void take_fd(struct kr_reactor *r, kr_conn conn, void *user,
                    const struct kr_detached *what) {
    UNUSED(r, conn);
    *(int *)user = what->fd;
}

/* Ours: buffer sizes are those that were asked for, which a Unix socket does not inherit (man
 * socket 7: twice as much is told). With or without a descriptor kept, made or inherited. */
TEST_EACH(unix_buffer_sizes_of_accepted, .needs = KR__CAP_FD_INSTALL) {
    for (int i = 0; i < 4; i++) {
        struct place p = place_begin();
        struct kr_reactor *r = test_reactor(NULL);
        struct kr_listen_opts opts = default_opts();
        opts.conn.send_buf = 20000;
        opts.conn.keep_fd = i & 1;
        struct test_server s = {0};
        kr_listener listener;
        int given = i & 2 ? socket_at(&p.addr, SOCK_STREAM, 8) : -1;
        if (given >= 0)
            CHECK_OK(kr_listen_fd(r, &listener, given, &opts, &test_server_echo_eof_ops, &s));
        else
            listener = listen_at(r, &p.addr, &opts, &s);
        int fd = test_connect_addr(&p.addr, SOCK_NONBLOCK), released = -1;
        TEST_UNTIL(r, s.opens == 1);
        CHECK_OK(kr_conn_detach(r, s.conn, take_fd, &released));
        TEST_UNTIL(r, released >= 0);
        CHECK_EQ(send_buf_of(released), 40000);
        test_close(released);
        test_close(fd);
        if (given >= 0)
            test_close(given);
        test_reactor_free(r);
        place_end(&p);
    }
}

/* ---- an address whose process was killed ---- */

enum { BY_PORT, BY_PATH, BY_NAME, WAYS };
#define RESTARTS 50

/* Listens in all ways, tells what came of it, and serves until it is killed. */
static void serve_until_killed(const struct kr_addr addrs[WAYS], int report) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = default_opts();
    opts.unix_replace = true;
    struct test_server s = {0};
    for (int i = 0; i < WAYS; i++) {
        int rc = kr_listen(r, NULL, &addrs[i], &opts, &test_server_echo_eof_ops, &s);
        CHECK_EQ(write(report, &rc, sizeof rc), (ssize_t)sizeof rc);
    }
    kr_run(r);
    tap_exit_child(1);
}

static pid_t server_start(const struct kr_addr addrs[WAYS], int rc[WAYS]) {
    int pipe_ends[2];
    CHECK_SYS(pipe2(pipe_ends, O_CLOEXEC));
    pid_t pid = CHECK_SYS(fork());
    if (pid == 0)
        serve_until_killed(addrs, pipe_ends[1]);
    test_close(pipe_ends[1]);
    for (int i = 0; i < WAYS; i++)
        CHECK_EQ(read(pipe_ends[0], &rc[i], sizeof rc[i]), (ssize_t)sizeof rc[i]);
    test_close(pipe_ends[0]);
    return pid;
}

static void server_kill(pid_t pid) {
    int status;
    CHECK_SYS(kill(pid, SIGKILL));
    CHECK_EQ(CHECK_SYS(waitpid(pid, &status, 0)), pid);
    CHECK(WIFSIGNALED(status));
}

/* A port that is free, and a name that is nobody else's. */
static void choose(struct kr_addr addrs[WAYS], const struct place *p) {
    CHECK_OK(kr_addr_ip(&addrs[BY_PORT], "127.0.0.1", 0));
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(fd, &addrs[BY_PORT].u.sa, addrs[BY_PORT].size));
    CHECK_SYS(getsockname(fd, &addrs[BY_PORT].u.sa, &addrs[BY_PORT].size));
    test_close(fd);
    addrs[BY_PATH] = p->addr;
    char name[80];
    snprintf(name, sizeof name, "@%s", p->path);
    CHECK_OK(kr_addr_unix(&addrs[BY_NAME], name));
}

/* Ours: a daemon that was killed, with clients, can be started again at once, at each of its
 * addresses, which the kernel has not yet let go of. */
TEST_EACH(listen_after_a_kill, .deadline_s = 60) {
    struct place p = place_begin();
    struct kr_addr addrs[WAYS];
    choose(addrs, &p);
    for (int i = 0; i < RESTARTS; i++) {
        int rc[WAYS], fds[WAYS];
        pid_t pid = server_start(addrs, rc);
        for (int way = 0; way < WAYS; way++) {
            CHECK_OK(rc[way]);
            int family = addrs[way].u.sa.sa_family;
            fds[way] = CHECK_SYS(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
            CHECK_SYS(connect(fds[way], &addrs[way].u.sa, addrs[way].size));
        }
        server_kill(pid);
        for (int way = 0; way < WAYS; way++)
            test_close(fds[way]);
    }
    place_end(&p);
}

static unsigned clients_of(int fd) {
    unsigned count = 0;
    for (int client; (client = accept4(fd, NULL, NULL, SOCK_CLOEXEC)) >= 0; count++)
        test_close(client);
    CHECK_EQ(errno, EAGAIN);
    return count;
}

/* Ours: at a path whose listener lives nothing is waited for: it is asked twice, and no more. */
TEST_EACH(listen_at_a_path_of_a_living_one) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    int fd = socket_at(&p.addr, SOCK_STREAM | SOCK_NONBLOCK, 64);
    struct kr_listen_opts opts = default_opts();
    opts.unix_replace = true;
    opts.in_use_ns = INT64_MAX / 2; /* would be noticed */
    struct test_server s = {0};
    CHECK_ERR(kr_listen(r, NULL, &p.addr, &opts, &test_server_echo_eof_ops, &s), EADDRINUSE);
    CHECK_EQ(clients_of(fd), 2u);
    opts.unix_replace = false;
    CHECK_ERR(kr_listen(r, NULL, &p.addr, &opts, &test_server_echo_eof_ops, &s), EADDRINUSE);
    CHECK_EQ(clients_of(fd), 0u);
    test_close(fd);
    test_reactor_free(r);
    place_end(&p);
}

/* Ours: nor once the reactor runs, nor when nobody wants it. */
TEST_EACH(listen_where_one_listens) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_addr addr = test_loopback(0);
    CHECK_OK(kr_listener_addr(r, listen_at(r, &addr, NULL, &s), &addr));
    struct kr_listen_opts opts = default_opts();
    opts.in_use_ns = -1;
    CHECK_ERR(kr_listen(r, NULL, &addr, &opts, &test_server_echo_eof_ops, &s), EADDRINUSE);
    opts.in_use_ns = INT64_MAX / 2;
    CHECK_OK(kr_step(r, 0));
    CHECK_ERR(kr_listen(r, NULL, &addr, &opts, &test_server_echo_eof_ops, &s), EADDRINUSE);
    test_reactor_free(r);
}
