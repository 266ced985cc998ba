/* Unix listeners: names, the files that paths are, and that their connections are as any others.
 *
 * Each case has a directory of its own, which must be empty but for the path when it ends. */
#include "unix/unix.h"

/* ---- places ---- */

struct place place_begin(void) {
    struct place p = {.dir = "/tmp/kr-unix-XXXXXX"};
    CHECK(mkdtemp(p.dir));
    snprintf(p.path, sizeof p.path, "%s/socket", p.dir);
    CHECK_OK(kr_addr_unix(&p.addr, p.path));
    return p;
}

bool is_there(const struct place *p) {
    struct stat st;
    return lstat(p->path, &st) == 0;
}

void place_end(const struct place *p) {
    unlink(p->path);
    CHECK_SYS(rmdir(p->dir));
}

struct kr_listen_opts default_opts(void) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    return opts;
}

kr_listener listen_at(struct kr_reactor *r, const struct kr_addr *addr,
                      const struct kr_listen_opts *opts, struct test_server *s) {
    struct kr_listen_opts defaults = default_opts();
    kr_listener listener;
    CHECK_OK(kr_listen(r, &listener, addr, opts ? opts : &defaults, &test_server_echo_eof_ops, s));
    return listener;
}

void check_serves(struct kr_reactor *r, const struct kr_addr *addr, struct test_server *s) {
    unsigned closes = s->closes;
    int fd = test_connect_addr(addr, SOCK_NONBLOCK);
    test_send(r, fd, "hello", 5);
    CHECK_RECV(r, fd, "hello");
    CHECK_SYS(shutdown(fd, SHUT_WR));
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    TEST_UNTIL(r, s->closes == closes + 1);
    test_close(fd);
}

int socket_at(const struct kr_addr *addr, int type, int backlog) {
    int fd = CHECK_SYS(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(fd, &addr->u.sa, addr->size));
    if (backlog >= 0)
        CHECK_SYS(listen(fd, backlog));
    return fd;
}

/* What a process leaves that was killed. */
static void leave_stale(const struct place *p) {
    test_close(socket_at(&p->addr, SOCK_STREAM, 8));
    CHECK(is_there(p));
}

/* ---- names ---- */

/* Ours: each kind of name listens, is told as it is, and serves; the path of one that does not say
 * so stays when it is closed, as bind(2) leaves it. */
TEST_EACH(unix_listens_at_a_path) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    kr_listener listener = listen_at(r, &p.addr, NULL, &s);
    struct kr_addr addr;
    char text[KR_ADDR_TEXT_SIZE];
    CHECK_OK(kr_listener_addr(r, listener, &addr));
    CHECK_OK(kr_addr_text(&addr, text, sizeof text));
    CHECK_STR_EQ(text + 5, p.path);
    check_serves(r, &p.addr, &s);
    check_serves(r, &addr, &s);
    CHECK_OK(kr_listener_close(r, listener));
    test_rest(r, (struct test_levels){.conns = 0});
    CHECK(is_there(&p));
    test_reactor_free(r);
    place_end(&p);
}

TEST_EACH(unix_listens_at_an_abstract_name) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_addr addr, bound;
    char name[64];
    snprintf(name, sizeof name, "@kr-unix-%d", (int)getpid());
    CHECK_OK(kr_addr_unix(&addr, name));
    kr_listener listener = listen_at(r, &addr, NULL, &s);
    CHECK_OK(kr_listener_addr(r, listener, &bound));
    CHECK_EQ(bound.size, addr.size);
    check_serves(r, &addr, &s);
    CHECK_ERR(kr_listen(r, NULL, &addr, NULL, &test_server_echo_eof_ops, &s), EADDRINUSE);
    CHECK_OK(kr_listener_close(r, listener));
    test_rest(r, (struct test_levels){.conns = 0});
    listen_at(r, &addr, NULL, &s); /* the name is free again */
    check_serves(r, &addr, &s);
    test_reactor_free(r);
}

/* The kernel's: an address of the family alone is given an abstract name (man 7 unix, autobind). */
TEST_EACH(unix_listens_at_a_name_of_the_kernels_choice) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_addr addr = {.size = sizeof addr.u.sa.sa_family, .u.sa.sa_family = AF_UNIX};
    kr_listener listener = listen_at(r, &addr, NULL, &s);
    CHECK_OK(kr_listener_addr(r, listener, &addr));
    CHECK_GT(addr.size, sizeof addr.u.sa.sa_family);
    check_serves(r, &addr, &s);
    test_reactor_free(r);
}

/* Ours: options that mean nothing here do no harm. */
TEST_EACH(unix_ignores_what_is_of_tcp) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = default_opts();
    opts.reuse_port = opts.v6_only = opts.conn.no_delay = true;
    listen_at(r, &p.addr, &opts, &s);
    check_serves(r, &p.addr, &s);
    test_reactor_free(r);
    place_end(&p);
}

/* Ours: a listener's connections know their addresses if it was asked to; most clients have no
 * name. */
TEST_EACH(unix_connections_know_their_addresses) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = default_opts();
    opts.addresses = true;
    listen_at(r, &p.addr, &opts, &s);
    int fd = test_connect_addr(&p.addr, SOCK_NONBLOCK);
    TEST_UNTIL(r, s.opens == 1);
    struct kr_addr peer, local;
    char text[KR_ADDR_TEXT_SIZE];
    CHECK_OK(kr_conn_peer(r, s.conn, &peer));
    CHECK_OK(kr_addr_text(&peer, text, sizeof text));
    CHECK_STR_EQ(text, "unix:");
    CHECK_OK(kr_conn_local(r, s.conn, &local));
    CHECK_OK(kr_addr_text(&local, text, sizeof text));
    CHECK_STR_EQ(text + 5, p.path);
    test_close(fd);
    TEST_UNTIL(r, s.closes == 1);
    test_reactor_free(r);
    place_end(&p);
}

/* ---- the moment of bind ---- */

/* What the last bind met. */
static struct {
    mode_t mode; /* of the file that it has made */
    int flags;   /* of the descriptor */
} bound;

/* In place of the C library's: afterwards it would be too late to see what others may have. */
int bind(int fd, __CONST_SOCKADDR_ARG addr, socklen_t size) {
    const struct sockaddr_un *un = addr.__sockaddr_un__;
    int rc = (int)syscall(SYS_bind, fd, un, size);
    struct stat st = {0};
    if (rc == 0 && un->sun_family == AF_UNIX && un->sun_path[0])
        CHECK_SYS(lstat(un->sun_path, &st));
    bound.mode = st.st_mode & 07777;
    bound.flags = CHECK_SYS(fcntl(fd, F_GETFD));
    return rc;
}

/* Ours: a program that another thread starts meanwhile does not inherit the listener. */
TEST_EACH(unix_listener_is_closed_on_exec) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    bound.flags = -1;
    listen_at(r, &p.addr, NULL, &s);
    CHECK_EQ(bound.flags, FD_CLOEXEC);
    bound.flags = -1;
    test_listen(r, NULL, NULL, &test_server_echo_eof_ops, &s);
    CHECK_EQ(bound.flags, FD_CLOEXEC);
    test_reactor_free(r);
    place_end(&p);
}

/* ---- the file's mode ---- */

static void check_mode(mode_t mask, unsigned asked, unsigned wanted) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = default_opts();
    opts.unix_mode = asked;
    mode_t old = umask(mask);
    listen_at(r, &p.addr, &opts, &s);
    umask(old);
    CHECK_EQ(bound.mode & ~wanted, 0u);
    struct stat st;
    CHECK_SYS(lstat(p.path, &st));
    CHECK(S_ISSOCK(st.st_mode));
    CHECK_EQ(st.st_mode & 07777, wanted);
    check_serves(r, &p.addr, &s);
    test_reactor_free(r);
    place_end(&p);
}

/* Ours: the mode is the one asked for, wider or narrower than the umask's, and at no moment more;
 * else the umask has its way. */
TEST_EACH(unix_mode_is_as_asked) {
    check_mode(0077, 0666, 0666);
    check_mode(0000, 0600, 0600);
    check_mode(0022, 0777, 0777);
    check_mode(0022, 0, 0755);
    check_mode(0077, 0, 0700);
}

/* The kernel's, on which ours rests: a socket's file begins with the mode of the socket, less the
 * umask, so that it is never more open than asked for, not even until chmod. */
TEST(unix_file_begins_with_the_mode_of_its_socket) {
    struct place p = place_begin();
    mode_t old = umask(0);
    int fd = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(fchmod(fd, 0600));
    CHECK_SYS(bind(fd, &p.addr.u.sa, p.addr.size));
    umask(old);
    struct stat st;
    CHECK_SYS(lstat(p.path, &st));
    CHECK_EQ(st.st_mode & 07777, 0600u);
    test_close(fd);
    place_end(&p);
}

mode_t mode_of(const char *path) {
    struct stat st;
    CHECK_SYS(stat(path, &st));
    return st.st_mode & 07777;
}

/* Ours: what others have put in the socket's place before it has its mode keeps the one it has,
 * and so does what a link there leads to. */
TEST(unix_mode_follows_no_link) {
    struct place p = place_begin();
    char victim[80];
    snprintf(victim, sizeof victim, "%s/victim", p.dir);
    test_close(CHECK_SYS(open(victim, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
    CHECK_SYS(symlink(victim, p.path));
    CHECK_NE(kr__path_mode(&p.addr, 0666), 0);
    CHECK_EQ(mode_of(victim), 0600u);
    CHECK_SYS(unlink(p.path));
    CHECK_SYS(link(victim, p.path));
    CHECK_ERR(kr__path_mode(&p.addr, 0666), EPERM);
    CHECK_EQ(mode_of(victim), 0600u);
    CHECK_SYS(unlink(p.path));
    test_close(socket_at(&p.addr, SOCK_STREAM, -1));
    CHECK_SYS(chmod(p.path, 0600));
    CHECK_OK(kr__path_mode(&p.addr, 0666));
    CHECK_EQ(mode_of(p.path), 0666u);
    if (geteuid() == 0) { /* a socket of another user's */
        CHECK_SYS(chown(p.path, 65534, 65534));
        CHECK_ERR(kr__path_mode(&p.addr, 0600), EPERM);
        CHECK_EQ(mode_of(p.path), 0666u);
    }
    CHECK_SYS(unlink(victim));
    CHECK_SYS(rename(p.path, victim));
    CHECK_SYS(chown(victim, geteuid(), getegid()));
    CHECK_SYS(chmod(victim, 0600));
    CHECK_SYS(symlink(victim, p.path)); /* to a socket of one's own */
    CHECK_ERR(kr__path_mode(&p.addr, 0666), EPERM);
    CHECK_EQ(mode_of(victim), 0600u);
    CHECK_SYS(unlink(victim));
    place_end(&p);
}

/* ---- a path that is taken ---- */

static void check_taken(struct kr_reactor *r, const struct place *p, bool replace) {
    struct kr_listen_opts opts = default_opts();
    opts.unix_replace = replace;
    struct test_server s = {0};
    kr_listener listener = {7};
    struct stat before, after;
    CHECK_SYS(lstat(p->path, &before));
    int fds = tap_fd_count();
    CHECK_ERR(kr_listen(r, &listener, &p->addr, &opts, &test_server_echo_eof_ops, &s), EADDRINUSE);
    CHECK_EQ(listener.bits, 7u);
    /* the asking client, if this very reactor has accepted it */
    CHECK(tap_fd_count() == fds || tap_fd_count() == fds + test_slot_cost(r));
    CHECK_SYS(lstat(p->path, &after));
    CHECK_EQ(before.st_ino, after.st_ino);
}

/* Ours: what a process left that is gone is replaced, if asked for. */
TEST_EACH(unix_replaces_a_stale_path) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    leave_stale(&p);
    check_taken(r, &p, false);
    struct kr_listen_opts opts = default_opts();
    opts.unix_replace = true;
    opts.unix_mode = 0640;
    listen_at(r, &p.addr, &opts, &s);
    struct stat st;
    CHECK_SYS(lstat(p.path, &st));
    CHECK_EQ(st.st_mode & 07777, 0640u);
    check_serves(r, &p.addr, &s);
    check_taken(r, &p, true); /* somebody listens there now: this very reactor */
    TEST_UNTIL(r, s.closes == 2); /* who only asked whether somebody does */
    test_reactor_free(r);
    place_end(&p);
}

/* Ours: and nothing else is: a listener, also one whose backlog is full; a socket of another kind;
 * a file, a directory, a symbolic link. */
TEST_EACH(unix_replaces_nothing_else) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    int fd = socket_at(&p.addr, SOCK_STREAM, 0);
    check_taken(r, &p, true); /* leaves a client in the backlog, which fills it */
    check_taken(r, &p, true);
    test_close(fd);
    CHECK_SYS(unlink(p.path));
    fd = socket_at(&p.addr, SOCK_DGRAM, -1);
    check_taken(r, &p, true);
    test_close(fd);
    CHECK_SYS(unlink(p.path));
    test_close(CHECK_SYS(open(p.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
    check_taken(r, &p, true);
    CHECK_SYS(unlink(p.path));
    CHECK_SYS(mkdir(p.path, 0700));
    check_taken(r, &p, true);
    CHECK_SYS(rmdir(p.path));
    CHECK_SYS(symlink("/nowhere", p.path));
    check_taken(r, &p, true);
    test_reactor_free(r);
    place_end(&p);
}

TAP_MAIN(unix, 104)
