/* Whatever the kernel answers: each call that the library makes, with each error that its manual
 * names, has the outcome that stands here. A row of a table is a call, an error, and what must come
 * of it.
 *
 * The reactor runs on the real kernel through a door of its own that can be told to answer one call
 * with an error, at the n-th time, so many times. An answer that is made up does nothing else,
 * except for close: Linux gives the descriptor up whatever it reports (man close).
 *
 * What must hold: a refused set-up is explained and leaves nothing; what is worth another try is
 * tried again and loses nothing; everything else is handed to the caller unaltered, and the reactor
 * can go on or be freed. */
#include "harness/server.h"

#include "kernel/probe.h"
#include "reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define COUNT(table_) (sizeof(table_) / sizeof *(table_))
#define FOR_EVER UINT32_MAX

/* ---- the door ---- */

enum call {
    CALL_NONE,
    RING_OPEN,
    RING_BIND,
    ENTER,
    ENTER_SHORT, /* takes one request of those offered, and does not wait: no error */
    REG_TABLE,
    REG_RANGE,
    REG_BUFS,
    REG_FILE,
    REG_PROBE,
    MAP,
    LISTEN,
    LISTEN_FD,
    PATH_ID,
    PATH_DIR,
    SOCKET,
    CONNECT,
    SOCK_ADDRS,
    DUP,
    FILE_SIZE,
    FILE_READ,
    SOCK_END,
    PIPE_END,
    PIPE_QUIET,
    PIPE_OWN,
    CLOSE,
    WAKE_OPEN,
    WAKE_SEND,
};

enum { OWNED_MAX = 256 };

struct door {
    struct kr__kernel kernel; /* first: the functions are given a pointer to it */
    enum call call;           /* what shall fail ... */
    int error;                /* ... with this ... */
    unsigned skip;            /* ... after so many good ones ... */
    unsigned times;           /* ... so many times */
    unsigned struck;          /* how often it did */
    int held;                 /* rings, mappings, descriptors and blocks not given back */
    bool dials;               /* the sockets whose addresses are asked are of its own making */
    bool owned[OWNED_MAX]; /* the library's descriptors, as far as the door has seen them */
    uint64_t nofile, memlock, as, data;
    bool advice; /* of mappings only those with advice fail */
    int sysctl;
    struct kr_alloc alloc;
};

static struct door *door_of(const struct kr__kernel *k) {
    return (struct door *)(uintptr_t)k;
}

/* The descriptor, if it is one, is the library's. Those that come through the ring are first seen
 * when they are asked for their addresses, or never. */
static int own(struct door *d, int fd) {
    CHECK_LT(fd, OWNED_MAX);
    if (fd >= 0 && !d->owned[fd]) {
        d->owned[fd] = true;
        d->held++;
    }
    return fd;
}

static void disown(struct door *d, int fd) {
    d->held -= d->owned[fd];
    d->owned[fd] = false;
}

/* 0, or the error with which this call is to be answered. Two threads may ask at a time. */
static int strike(const struct kr__kernel *k, enum call call) {
    struct door *d = door_of(k);
    if (d->call != call || !__atomic_load_n(&d->times, __ATOMIC_ACQUIRE))
        return 0;
    if (d->skip) {
        d->skip--;
        return 0;
    }
    if (d->times != FOR_EVER)
        __atomic_fetch_sub(&d->times, 1, __ATOMIC_ACQ_REL);
    __atomic_fetch_add(&d->struck, 1, __ATOMIC_ACQ_REL);
    return -d->error;
}

static int door_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                          struct io_uring_params *params) {
    int rc = strike(k, RING_OPEN);
    rc = rc < 0 ? rc : kr__linux.ring_open(&kr__linux, ring, entries, params);
    door_of(k)->held += rc >= 0;
    return rc;
}

static int door_ring_bind(const struct kr__kernel *k, struct io_uring *ring, bool *registered) {
    int rc = strike(k, RING_BIND);
    return rc < 0 ? rc : kr__linux.ring_bind(&kr__linux, ring, registered);
}

static void door_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                            bool child) {
    kr__linux.ring_close(&kr__linux, ring, registered, child);
    door_of(k)->held--;
}

/* Requests that close descriptors, of a plain table. */
static void see_requests(struct door *d, const struct io_uring *ring, unsigned count) {
    unsigned head = *ring->sq.khead;
    for (unsigned i = 0; i < count; i++) {
        const struct io_uring_sqe *sqe = &ring->sq.sqes[(head + i) & *ring->sq.kring_mask];
        if (sqe->opcode == IORING_OP_CLOSE && !sqe->file_index)
            disown(d, sqe->fd);
    }
}

static int door_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                      unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    int rc = strike(k, ENTER);
    if (rc < 0)
        return rc;
    bool one = submit > 1 && door_of(k)->call == ENTER_SHORT && strike(k, ENTER_SHORT) < 0;
    see_requests(door_of(k), ring, one ? 1 : submit);
    if (one)
        return kr__linux.enter(&kr__linux, ring, 1, 0, flags, NULL);
    return kr__linux.enter(&kr__linux, ring, submit, wait_for, flags, arg);
}

static enum call call_of(unsigned opcode) {
    switch (opcode) {
    case IORING_REGISTER_FILES2:
        return REG_TABLE;
    case IORING_REGISTER_FILE_ALLOC_RANGE:
        return REG_RANGE;
    case IORING_REGISTER_PBUF_RING:
        return REG_BUFS;
    case IORING_REGISTER_FILES_UPDATE:
        return REG_FILE;
    case IORING_REGISTER_PROBE:
        return REG_PROBE;
    default:
        FAIL("a registration that no row is about: %u", opcode);
    }
}

static int door_reg(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode,
                    const void *arg, unsigned count) {
    int rc = strike(k, call_of(opcode));
    return rc < 0 ? rc : kr__linux.reg(&kr__linux, ring, opcode, arg, count);
}

static void *door_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    bool fails = (how != KR__MAP_PLAIN || !door_of(k)->advice) && strike(k, MAP) < 0;
    void *pages = fails ? NULL : kr__linux.map(&kr__linux, size, how);
    door_of(k)->held += pages != NULL;
    if (fails)
        errno = door_of(k)->error;
    return pages;
}

static void door_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    kr__linux.unmap(&kr__linux, pages, size);
    door_of(k)->held--;
}

static int door_listen(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                       struct kr_addr *bound) {
    int rc = strike(k, LISTEN);
    return own(door_of(k), rc < 0 ? rc : kr__linux.listen(&kr__linux, plan, bound));
}

static int door_listen_fd(const struct kr__kernel *k, int fd, const struct kr__listen_plan *plan,
                          struct kr_addr *bound) {
    int rc = strike(k, LISTEN_FD);
    return rc < 0 ? rc : kr__linux.listen_fd(&kr__linux, fd, plan, bound);
}

static int door_path_id(const struct kr__kernel *k, const struct kr_addr *addr,
                        struct kr__path_id *ret) {
    int rc = strike(k, PATH_ID);
    return rc < 0 ? rc : kr__linux.path_id(&kr__linux, addr, ret);
}

static int door_path_dir(const struct kr__kernel *k, const struct kr_addr *addr) {
    int rc = strike(k, PATH_DIR);
    return own(door_of(k), rc < 0 ? rc : kr__linux.path_dir(&kr__linux, addr));
}

static int door_socket(const struct kr__kernel *k, const struct kr__socket_plan *plan) {
    int rc = strike(k, SOCKET);
    return own(door_of(k), rc < 0 ? rc : kr__linux.socket(&kr__linux, plan));
}

static int door_connect(const struct kr__kernel *k, int fd, const struct kr_addr *addr) {
    int rc = strike(k, CONNECT);
    return rc < 0 ? rc : kr__linux.connect(&kr__linux, fd, addr);
}

static int door_sock_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer,
                           struct kr_addr *local) {
    if (!door_of(k)->dials)
        own(door_of(k), fd);
    int rc = strike(k, SOCK_ADDRS);
    return rc < 0 ? rc : kr__linux.sock_addrs(&kr__linux, fd, peer, local);
}

static int door_pipe_end(const struct kr__kernel *k, int fd) {
    int rc = strike(k, PIPE_END);
    return rc < 0 ? rc : kr__linux.pipe_end(&kr__linux, fd);
}

static int door_pipe_quiet(const struct kr__kernel *k, bool newest) {
    int rc = strike(k, PIPE_QUIET);
    return rc < 0 ? rc : kr__linux.pipe_quiet(&kr__linux, newest);
}

static int door_pipe_own(const struct kr__kernel *k, int fd, bool nameless_too) {
    int rc = strike(k, PIPE_OWN);
    return own(door_of(k), rc < 0 ? rc : kr__linux.pipe_own(&kr__linux, fd, nameless_too));
}

static int door_dup(const struct kr__kernel *k, int fd) {
    int rc = strike(k, DUP);
    return own(door_of(k), rc < 0 ? rc : kr__linux.dup(&kr__linux, fd));
}

static int door_file_size(const struct kr__kernel *k, int fd, uint64_t *ret) {
    int rc = strike(k, FILE_SIZE);
    return rc < 0 ? rc : kr__linux.file_size(&kr__linux, fd, ret);
}

static int door_file_read(const struct kr__kernel *k, int fd, void *to, size_t size,
                          uint64_t offset) {
    int rc = strike(k, FILE_READ);
    return rc < 0 ? rc : kr__linux.file_read(&kr__linux, fd, to, size, offset);
}

/* A descriptor that comes through the ring is first seen here. */
static int door_sock_end(const struct kr__kernel *k, int fd) {
    own(door_of(k), fd);
    int rc = strike(k, SOCK_END);
    return rc < 0 ? rc : kr__linux.sock_end(&kr__linux, fd);
}

static int door_close(const struct kr__kernel *k, int fd) {
    int rc = strike(k, CLOSE);
    disown(door_of(k), fd);
    CHECK_OK(kr__linux.close(&kr__linux, fd));
    return rc;
}

static int door_wake_open(const struct kr__kernel *k) {
    int rc = strike(k, WAKE_OPEN);
    return own(door_of(k), rc < 0 ? rc : kr__linux.wake_open(&kr__linux));
}

static int door_wake_send(const struct kr__kernel *k, int fd) {
    int rc = strike(k, WAKE_SEND);
    return rc < 0 ? rc : kr__linux.wake_send(&kr__linux, fd);
}

static uint64_t door_nofile(const struct kr__kernel *k) {
    return door_of(k)->nofile;
}

static uint64_t door_memlock(const struct kr__kernel *k) {
    return door_of(k)->memlock;
}

static uint64_t door_as(const struct kr__kernel *k) {
    return door_of(k)->as;
}

static uint64_t door_data(const struct kr__kernel *k) {
    return door_of(k)->data;
}

static int door_sysctl(const struct kr__kernel *k) {
    return door_of(k)->sysctl;
}

static void *door_alloc(void *ctx, size_t size) {
    ((struct door *)ctx)->held++;
    return malloc(size);
}

static void door_free(void *ctx, void *memory, size_t size) {
    (void)size;
    ((struct door *)ctx)->held--;
    free(memory);
}

/* A door through which everything works. Static: rows follow one another in one process. */
static struct door *door_open(void) {
    static struct door door;
    door = (struct door){
        .kernel = kr__linux,
        .nofile = 1024,
        .memlock = 8 << 20,
        .as = UINT64_MAX,
        .data = UINT64_MAX,
        .sysctl = 0,
        .alloc = {.alloc = door_alloc, .free = door_free, .ctx = &door},
    };
    struct kr__kernel *k = &door.kernel;
    k->ring_open = door_ring_open;
    k->ring_bind = door_ring_bind;
    k->ring_close = door_ring_close;
    k->enter = door_enter;
    k->reg = door_reg;
    k->map = door_map;
    k->unmap = door_unmap;
    k->listen = door_listen;
    k->listen_fd = door_listen_fd;
    k->path_id = door_path_id;
    k->path_dir = door_path_dir;
    k->socket = door_socket;
    k->connect = door_connect;
    k->sock_addrs = door_sock_addrs;
    k->pipe_end = door_pipe_end;
    k->pipe_quiet = door_pipe_quiet;
    k->pipe_own = door_pipe_own;
    k->dup = door_dup;
    k->file_size = door_file_size;
    k->file_read = door_file_read;
    k->sock_end = door_sock_end;
    k->close = door_close;
    k->wake_open = door_wake_open;
    k->wake_send = door_wake_send;
    k->limit_nofile = door_nofile;
    k->limit_memlock = door_memlock;
    k->limit_as = door_as;
    k->limit_data = door_data;
    k->sysctl_disabled = door_sysctl;
    return &door;
}

static void door_fail(struct door *d, enum call call, int error, unsigned skip, unsigned times) {
    d->call = call;
    d->error = error;
    d->skip = skip;
    d->struck = 0;
    __atomic_store_n(&d->times, times, __ATOMIC_RELEASE);
}

/* What a row was about, for the line that tells of its failure. */
static const char *row_text;

static void row_show(void *unused) {
    (void)unused;
    tap_note("the row: %s", row_text);
}

static void row_begin(const char *call, int error, unsigned skip, unsigned times) {
    static char text[128];
    if (!row_text)
        tap_on_fail(row_show, NULL);
    snprintf(text, sizeof text, "%s answers %s, after %u, %u times", call, kr_errname(error), skip,
             times);
    row_text = text;
}

/* ---- a reactor behind it ---- */

static struct kr_config small_config(struct door *d) {
    struct kr_config config = test_config();
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    config.sq_entries = 16;
    config.cq_entries = 64;
    config.conn_max = 16;
    config.connect_max = 4;
    config.file_max = 4;
    config.buf_count = 8;
    config.buf_size = 512;
    config.alloc = &d->alloc;
    return config;
}

static int make(struct door *d, struct kr_reactor **ret, struct kr_failure *why) {
    struct kr_config config = small_config(d);
    return kr__reactor_new(ret, &config, why, &d->kernel, (unsigned)tap_variant()->caps_mask);
}

/* What the user of a reactor has seen. */
struct seen {
    unsigned opens, closes, posts, fires;
    kr_conn conn; /* the last */
    int error;    /* of the last close */
};

static void seen_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct seen *seen = user;
    seen->opens++;
    seen->conn = conn;
}

static void seen_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    (void)r;
    (void)conn;
    (void)why;
    struct seen *seen = user;
    seen->closes++;
    seen->error = error;
}

static void seen_post(struct kr_reactor *r, void *arg) {
    (void)r;
    struct seen *seen = arg;
    __atomic_fetch_add(&seen->posts, 1, __ATOMIC_ACQ_REL);
}

static void seen_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)r;
    (void)timer;
    ((struct seen *)user)->fires++;
}

static const struct kr_conn_ops seen_ops = {
    .on_open = seen_open,
    .on_data = test_send_back,
    .on_close = seen_close,
};

static int listen_rc(struct kr_reactor *r, bool addresses, struct seen *seen, uint16_t *port) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    opts.addresses = addresses;
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 0));
    kr_listener listener = {0};
    int rc = kr_listen(r, &listener, &addr, &opts, &seen_ops, seen);
    if (rc < 0) {
        CHECK_EQ(listener.bits, 0u);
        return rc;
    }
    CHECK_OK(kr_listener_addr(r, listener, &addr));
    *port = kr_addr_port(&addr);
    return 0;
}

static void echo_once(struct kr_reactor *r, int fd) {
    char back[5];
    test_send(r, fd, "hello", 5);
    test_recv(r, fd, back, 5);
    CHECK_MEM_EQ(back, "hello", 5);
}

/* A client is served from its first byte to its end. */
static void check_serves(struct kr_reactor *r, uint16_t port, struct seen *seen) {
    unsigned closes = seen->closes;
    int fd = test_connect(port);
    echo_once(r, fd);
    test_close(fd);
    TEST_UNTIL(r, seen->closes == closes + 1);
}

static void check_works(struct kr_reactor *r) {
    struct seen seen = {0};
    uint16_t port;
    CHECK_OK(listen_rc(r, false, &seen, &port));
    check_serves(r, port, &seen);
}

static void free_all(struct door *d, struct kr_reactor *r) {
    CHECK_OK(kr_reactor_free(r));
    CHECK_EQ(d->held, 0);
}

/* ---- making a reactor ---- */

struct answer {
    int error;
    enum kr_refusal refused;
};

/* man io_uring_setup, man mmap and man madvise (both are part of opening a ring), and what filters,
 * security modules and limits answer. */
static const struct answer setup_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP}, {EAGAIN, KR_REFUSED_OTHER},   {EBADF, KR_REFUSED_OTHER},
    {EBUSY, KR_REFUSED_OTHER},    {EFAULT, KR_REFUSED_OTHER},   {EINVAL, KR_REFUSED_KERNEL},
    {EMFILE, KR_REFUSED_NOFILE},  {ENFILE, KR_REFUSED_NOFILE},  {ENODEV, KR_REFUSED_OTHER},
    {ENOMEM, KR_REFUSED_MEMLOCK}, {ENOSYS, KR_REFUSED_SECCOMP}, {EOVERFLOW, KR_REFUSED_OTHER},
    {EPERM, KR_REFUSED_SECCOMP},
};

/* man io_uring_enter. -EBADFD is what a ring that is not enabled yet must answer, and no
 * refusal. */
static const struct answer enter_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP}, {EAGAIN, KR_REFUSED_OTHER}, {EBADF, KR_REFUSED_OTHER},
    {EBUSY, KR_REFUSED_OTHER},    {EFAULT, KR_REFUSED_OTHER}, {EINVAL, KR_REFUSED_KERNEL},
    {ENOSYS, KR_REFUSED_SECCOMP}, {ENXIO, KR_REFUSED_OTHER},  {EOPNOTSUPP, KR_REFUSED_OTHER},
    {EPERM, KR_REFUSED_SECCOMP},
};

/* man io_uring_register, of IORING_REGISTER_FILES2. */
static const struct answer table_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP},   {EBADF, KR_REFUSED_OTHER},    {EBADFD, KR_REFUSED_OTHER},
    {EBUSY, KR_REFUSED_OTHER},      {EEXIST, KR_REFUSED_OTHER},   {EFAULT, KR_REFUSED_OTHER},
    {EINTR, KR_REFUSED_OTHER},      {EINVAL, KR_REFUSED_KERNEL},  {EMFILE, KR_REFUSED_NOFILE},
    {ENOMEM, KR_REFUSED_MEMLOCK},   {ENOSYS, KR_REFUSED_SECCOMP}, {ENXIO, KR_REFUSED_OTHER},
    {EOPNOTSUPP, KR_REFUSED_OTHER}, {EPERM, KR_REFUSED_SECCOMP},
};

/* The same, of IORING_REGISTER_FILE_ALLOC_RANGE. */
static const struct answer range_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP}, {EFAULT, KR_REFUSED_OTHER}, {EINVAL, KR_REFUSED_KERNEL},
    {ENOSYS, KR_REFUSED_SECCOMP}, {ENXIO, KR_REFUSED_OTHER},  {EOVERFLOW, KR_REFUSED_OTHER},
    {EPERM, KR_REFUSED_SECCOMP},
};

/* man io_uring_register_buf_ring. */
static const struct answer bufs_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP},   {EEXIST, KR_REFUSED_OTHER},   {EFAULT, KR_REFUSED_OTHER},
    {EINVAL, KR_REFUSED_KERNEL},    {ENOMEM, KR_REFUSED_MEMLOCK}, {ENOSYS, KR_REFUSED_SECCOMP},
    {EOPNOTSUPP, KR_REFUSED_OTHER}, {EPERM, KR_REFUSED_SECCOMP},
};

/* man eventfd. Its memory is not locked, so it is memory that lacks. */
static const struct answer eventfd_answers[] = {
    {EINVAL, KR_REFUSED_KERNEL}, {EMFILE, KR_REFUSED_NOFILE}, {ENFILE, KR_REFUSED_NOFILE},
    {ENODEV, KR_REFUSED_OTHER},  {ENOMEM, KR_REFUSED_MEMORY}, {ENOSYS, KR_REFUSED_SECCOMP},
    {EPERM, KR_REFUSED_SECCOMP},
};

static void check_text(const char *text, size_t size) {
    CHECK(memchr(text, 0, size));
    CHECK_GT(strlen(text), 0u);
    CHECK_LT(strlen(text), size - 1); /* a full array would be a text cut short */
}

/* Refused, explained, nothing left; and once the kernel is willing, all is well. */
static void check_refusal(struct door *d, int error, enum kr_refusal refused, const char *tried) {
    int fds = tap_fd_count();
    struct kr_reactor *r = NULL;
    struct kr_failure why;
    memset(&why, 'x', sizeof why);
    CHECK_ERR(make(d, &r, &why), error);
    CHECK(!r);
    CHECK_EQ(d->struck, 1u);
    CHECK_EQ(why.error, -error);
    CHECK_EQ(why.refused, refused);
    check_text(why.tried, sizeof why.tried);
    check_text(why.cause, sizeof why.cause);
    check_text(why.remedy, sizeof why.remedy);
    if (!strstr(why.tried, tried))
        FAIL("tried is \"%s\", which does not say \"%s\"", why.tried, tried);
    CHECK_EQ(d->held, 0);
    CHECK_EQ(tap_fd_count(), fds);
}

static void check_refusals(enum call call, const char *tried, const struct answer *answers,
                           size_t count) {
    for (size_t i = 0; i < count; i++) {
        row_begin(tried, answers[i].error, 0, 1);
        struct door *d = door_open();
        /* Without -EINVAL for the newest flag, a second opening would be tried. */
        bool twice = call == RING_OPEN && answers[i].error == EINVAL &&
                     (tap_variant()->caps_mask & KR__CAP_NO_SQARRAY);
        door_fail(d, call, answers[i].error, 0, twice ? 2 : 1);
        if (twice)
            d->struck = UINT32_MAX; /* the first of the two makes it 0 */
        check_refusal(d, answers[i].error, answers[i].refused, tried);
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        check_works(r);
        free_all(d, r);
    }
}

/* Ours: whatever the set-up of a ring answers. */
TEST_EACH(new_when_setup_fails) {
    check_refusals(RING_OPEN, "io_uring_setup", setup_answers, COUNT(setup_answers));
}

/* Ours: the newest set-up flag is given up when the kernel does not know it, without a word. */
TEST_EACH(new_when_setup_fails_for_its_newest_flag) {
    struct door *d = door_open();
    row_begin("io_uring_setup", EINVAL, 0, 1);
    door_fail(d, RING_OPEN, EINVAL, 0, 1);
    struct kr_reactor *r;
    int rc = make(d, &r, NULL);
    if (!(tap_variant()->caps_mask & KR__CAP_NO_SQARRAY)) {
        CHECK_ERR(rc, EINVAL);
        return;
    }
    CHECK_OK(rc);
    CHECK(!(r->ring.caps & KR__CAP_NO_SQARRAY));
    check_works(r);
    free_all(d, r);
}

/* Ours: a kernel that does not tell what it can do is taken for the oldest, without a word. */
TEST_EACH(new_when_the_probe_fails) {
    struct door *d = door_open();
    row_begin("the probe", EINVAL, 0, 1);
    door_fail(d, REG_PROBE, EINVAL, 0, 1);
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    CHECK_EQ(d->struck, 1u);
    CHECK(!(r->ring.caps & KR__CAP_FD_INSTALL));
    check_works(r);
    free_all(d, r);
}

/* Ours: the system call that a filter may forbid alone. */
TEST_EACH(new_when_enter_fails) {
    check_refusals(ENTER, "io_uring_enter", enter_answers, COUNT(enter_answers));
}

TEST_EACH(new_when_the_file_table_fails, .needs = KR__CAP_FILE_TABLE) {
    check_refusals(REG_TABLE, "file table", table_answers, COUNT(table_answers));
}

TEST_EACH(new_when_its_range_fails, .needs = KR__CAP_FILE_TABLE) {
    check_refusals(REG_RANGE, "file table", range_answers, COUNT(range_answers));
}

TEST_EACH(new_when_the_buffers_fail) {
    check_refusals(REG_BUFS, "buffers", bufs_answers, COUNT(bufs_answers));
}

TEST_EACH(new_when_the_eventfd_fails) {
    check_refusals(WAKE_OPEN, "eventfd", eventfd_answers, COUNT(eventfd_answers));
}

/* The mappings of a set-up, in order, and what their failing is called. */
static const struct {
    unsigned nth;
    const char *tried;
} map_rows[] = {
    {0, "page"}, {1, "buffers"}, {2, "buffers"}, {3, "tables"}, {4, "tables"},
};

static void check_mapping(unsigned nth, const char *tried) {
    row_begin("mmap", ENOMEM, nth, 1);
    struct door *d = door_open();
    d->memlock = UINT64_MAX;
    door_fail(d, MAP, ENOMEM, nth, 1);
    check_refusal(d, ENOMEM, KR_REFUSED_MEMORY, tried);
}

/* Ours: mmap knows one error here, and it does not matter which mapping meets it. */
TEST_EACH(new_when_a_mapping_fails) {
    unsigned more = (unsigned)test_slot_cost(NULL); /* a plain table is one, the second */
    for (size_t i = 0; i < COUNT(map_rows); i++)
        check_mapping(map_rows[i].nth ? map_rows[i].nth + more : 0, map_rows[i].tried);
    if (more)
        check_mapping(1, "table of descriptors");
    struct door *d = door_open();
    door_fail(d, MAP, ENOMEM, COUNT(map_rows) + more, 1);
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    CHECK_EQ(d->struck, 0u); /* the table names them all */
    free_all(d, r);
}

/* man mmap, man madvise: what the memory of the process is refused with, under which limits, and
 * which of them is blamed. */
static const struct {
    int error;
    uint64_t as, data;
    bool advice;
    enum kr_refusal refused;
    const char *cause;
} space_rows[] = {
    {ENOMEM, 1 << 30, UINT64_MAX, false, KR_REFUSED_MEMORY, "RLIMIT_AS is 1048576 KiB"},
    {ENOMEM, UINT64_MAX, 1 << 30, false, KR_REFUSED_MEMORY, "RLIMIT_DATA is 1048576 KiB"},
    {ENOMEM, UINT64_MAX, UINT64_MAX, false, KR_REFUSED_MEMORY, "out of memory"},
    {EAGAIN, UINT64_MAX, UINT64_MAX, false, KR_REFUSED_MEMLOCK, "mlockall"},
    {EPERM, UINT64_MAX, UINT64_MAX, false, KR_REFUSED_SECCOMP, "mmap is answered"},
    {EPERM, UINT64_MAX, UINT64_MAX, true, KR_REFUSED_SECCOMP, "madvise is answered"},
    {EINVAL, UINT64_MAX, UINT64_MAX, true, KR_REFUSED_SECCOMP, "madvise is answered"},
};

/* Ours: whichever mapping meets it first, and the ring's own, which only the kernel makes. */
TEST_EACH(new_when_the_process_gets_no_memory) {
    for (size_t i = 0; i < COUNT(space_rows) * 3; i++) {
        size_t n = i % COUNT(space_rows);
        unsigned nth = space_rows[n].advice ? 0 : (unsigned)(i / COUNT(space_rows));
        row_begin("mmap for ever", space_rows[n].error, nth, FOR_EVER);
        struct door *d = door_open();
        d->as = space_rows[n].as;
        d->data = space_rows[n].data;
        d->advice = space_rows[n].advice;
        door_fail(d, MAP, space_rows[n].error, nth, FOR_EVER);
        struct kr_reactor *r;
        struct kr_failure why;
        CHECK_ERR(make(d, &r, &why), ENOMEM);
        CHECK_EQ(why.refused, space_rows[n].refused);
        CHECK(strstr(why.cause, space_rows[n].cause));
        CHECK_EQ(d->held, 0);
    }
}

/* What the limits and the sysctl say beside an error. */
static const struct {
    int error, sysctl;
    uint64_t memlock;
    enum kr_refusal refused;
} cause_rows[] = {
    {EPERM, -1, 0, KR_REFUSED_SECCOMP},         {EPERM, 0, 0, KR_REFUSED_SECCOMP},
    {EPERM, 1, 0, KR_REFUSED_SYSCTL},           {EPERM, 2, 0, KR_REFUSED_SYSCTL},
    {EACCES, 2, 0, KR_REFUSED_SECCOMP},         {ENOSYS, -1, 0, KR_REFUSED_KERNEL},
    {ENOSYS, 0, 0, KR_REFUSED_SECCOMP},         {ENOSYS, 2, 0, KR_REFUSED_SECCOMP},
    {ENOMEM, 0, 0, KR_REFUSED_MEMLOCK},         {ENOMEM, 0, 65536, KR_REFUSED_MEMLOCK},
    {ENOMEM, 0, UINT64_MAX, KR_REFUSED_MEMORY},
};

/* Ours: the same error has another cause where the machine is set up otherwise. */
TEST_EACH(new_finds_the_cause_by_the_limits) {
    for (size_t i = 0; i < COUNT(cause_rows); i++) {
        row_begin("io_uring_setup", cause_rows[i].error, 0, 1);
        struct door *d = door_open();
        d->sysctl = cause_rows[i].sysctl;
        d->memlock = cause_rows[i].memlock;
        door_fail(d, RING_OPEN, cause_rows[i].error, 0, 1);
        check_refusal(d, cause_rows[i].error, cause_rows[i].refused, "io_uring_setup");
    }
}

/* Ours: a kernel that has made a ring does have io_uring, also one before 6.6, which has no sysctl:
 * what then answers -ENOSYS is a filter. */
TEST_EACH(new_blames_a_filter_once_there_is_a_ring) {
    static const struct {
        enum call call;
        const char *tried;
    } steps[] = {{ENTER, "io_uring_enter"},
                 {REG_TABLE, "file table"},
                 {REG_RANGE, "file table"},
                 {REG_BUFS, "buffers"},
                 {WAKE_OPEN, "eventfd"}};
    bool plain = test_slot_cost(NULL); /* such a table asks the kernel for nothing */
    for (size_t i = 0; i < COUNT(steps); i++) {
        if (plain && (steps[i].call == REG_TABLE || steps[i].call == REG_RANGE))
            continue;
        row_begin(steps[i].tried, ENOSYS, 0, 1);
        struct door *d = door_open();
        d->sysctl = -1;
        door_fail(d, steps[i].call, ENOSYS, 0, 1);
        check_refusal(d, ENOSYS, KR_REFUSED_SECCOMP, steps[i].tried);
    }
}

/* What was asked for under which limit (0: nothing), and what came of it, with 4 files. */
static const struct {
    uint64_t nofile;
    unsigned conn_asked, connect_asked, conn_max, connect_max;
} limit_rows[] = {
    {0, 0, 0, 1, 0},          {4, 0, 0, 1, 0},
    {5, 0, 0, 1, 0},          {6, 0, 0, 2, 0},
    {8, 0, 0, 3, 1},          {1024, 0, 0, 701, 255},
    {6000, 0, 0, 4597, 1024}, {UINT64_MAX, 0, 0, 16384, 1024},
    {1024, 16, 0, 16, 255},   {1024, 1020, 0, 1020, 0},
    {1024, 1000, 0, 1000, 20}, {1024, 0, 1000, 10, 1000},
    {1024, 0, 1019, 1, 1019}, {1024, 7, 8, 7, 8},
};

/* Ours: the default table is as long as the limit of descriptors lets it be, less the library's own
 * files; a quarter of it is for connections that the program makes, but never such that a number of
 * the others which was asked for does not fit. Of the rest a part is left to the process. A plain
 * table that is longer than the limit all the same is refused, as a registered one is by the real
 * limit. */
TEST_EACH(new_sizes_its_table_by_the_limit) {
    tap_need_descriptors(16384 + 1024 + 4); /* the real one must allow it, too */
    for (size_t i = 0; i < COUNT(limit_rows); i++) {
        struct door *d = door_open();
        d->nofile = limit_rows[i].nofile;
        struct kr_config config = small_config(d);
        config.conn_max = limit_rows[i].conn_asked;
        config.connect_max = limit_rows[i].connect_asked;
        struct kr_reactor *r;
        int rc = kr__reactor_new(&r, &config, NULL, &d->kernel, (unsigned)tap_variant()->caps_mask);
        unsigned slots = limit_rows[i].conn_max + limit_rows[i].connect_max + config.file_max;
        if (slots > d->nofile && test_slot_cost(NULL)) {
            CHECK_ERR(rc, EMFILE);
            continue;
        }
        CHECK_OK(rc);
        CHECK_EQ(r->config.conn_max, limit_rows[i].conn_max);
        CHECK_EQ(r->config.connect_max, limit_rows[i].connect_max);
        CHECK_EQ(r->conns.accept_max, limit_rows[i].conn_max);
        CHECK_EQ(r->slots.made.free_count, limit_rows[i].connect_max);
        check_works(r);
        free_all(d, r);
    }
}

/* ---- binding and running ---- */

/* man io_uring_register, of IORING_REGISTER_ENABLE_RINGS. */
static const int bind_errors[] = {EACCES, EBADF, EBADFD, EEXIST, EINVAL, ENOMEM, ENOSYS, EPERM};

/* Ours: a ring that cannot be enabled is told of, is not bound to the thread, and may be tried
 * again. */
TEST_EACH(run_when_enabling_fails) {
    for (size_t i = 0; i < COUNT(bind_errors); i++) {
        row_begin("enabling the ring", bind_errors[i], 0, 2);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        door_fail(d, RING_BIND, bind_errors[i], 0, 2);
        CHECK_ERR(kr_step(r, 0), bind_errors[i]);
        CHECK_ERR(kr_run(r), bind_errors[i]);
        CHECK_EQ(d->struck, 2u);
        CHECK(!r->thread);
        check_works(r);
        free_all(d, r);
    }
}

/* A reactor with a client that has been served once. */
struct served {
    struct door *d;
    struct kr_reactor *r;
    struct seen seen;
    uint16_t port;
    int fd;
};

static void served_begin(struct served *s) {
    *s = (struct served){.d = door_open()};
    CHECK_OK(make(s->d, &s->r, NULL));
    CHECK_OK(listen_rc(s->r, false, &s->seen, &s->port));
    s->fd = test_connect(s->port);
    echo_once(s->r, s->fd);
}

/* Something of each kind has begun while the kernel is difficult; all of it must come to its
 * end. */
static void served_ask(struct served *s) {
    CHECK_EQ(test_send_some(s->fd, "hello", 5), 5);
    CHECK_OK(kr_timer_start(s->r, NULL, 0, 0, seen_fire, &s->seen));
    CHECK_OK(kr_post(s->r, seen_post, &s->seen));
    CHECK_OK(kr_conn_send(s->r, s->seen.conn, "+", 1));
}

static void served_get(struct served *s) {
    char back[6];
    test_recv(s->r, s->fd, back, sizeof back);
    CHECK_EQ(back[0] == '+' ? memcmp(back, "+hello", 6) : memcmp(back, "hello+", 6), 0);
    TEST_UNTIL(s->r, s->seen.fires == 1 && s->seen.posts == 1);
}

static void served_end(struct served *s) {
    check_serves(s->r, s->port, &s->seen);
    test_close(s->fd);
    TEST_UNTIL(s->r, s->seen.closes == 2);
    free_all(s->d, s->r);
}

/* man io_uring_enter: what passes by itself. -ETIME is how a wait ends. */
static const int passing_errors[] = {EINTR, EAGAIN, EBUSY, ETIME};
static const unsigned passing_times[] = {1, 3, 50};

/* Ours: a signal, a kernel short of memory, an overflown queue: the turn ends, the next one tries
 * again, nothing is lost, however often it happens. */
TEST_EACH(run_when_enter_fails_for_a_while) {
    for (size_t i = 0; i < COUNT(passing_errors) * COUNT(passing_times) * 2; i++) {
        int error = passing_errors[i % COUNT(passing_errors)];
        unsigned times = passing_times[i / COUNT(passing_errors) % COUNT(passing_times)];
        unsigned skip = (unsigned)(i / (COUNT(passing_errors) * COUNT(passing_times)));
        row_begin("io_uring_enter", error, skip, times);
        struct served s;
        served_begin(&s);
        door_fail(s.d, ENTER, error, skip, times);
        served_ask(&s);
        TEST_UNTIL(s.r, s.d->struck == times);
        served_get(&s);
        served_end(&s);
    }
}

static const int told_errors[] = {
    EACCES, EBADF,  EBADFD, EBADR,      EEXIST,     EFAULT, EINVAL,
    ENOMEM, ENOSYS, ENXIO,  EOPNOTSUPP, EOWNERDEAD, EPERM,
};

/* Ours: every other error of enter ends the run, unaltered. What had been asked for is still there,
 * so that a caller who knows better may run on. */
TEST_EACH(run_when_enter_fails) {
    for (size_t i = 0; i < COUNT(told_errors) * 2; i++) {
        int error = told_errors[i % COUNT(told_errors)];
        unsigned skip = (unsigned)(i / COUNT(told_errors));
        row_begin("io_uring_enter", error, skip, 1);
        struct served s;
        served_begin(&s);
        served_ask(&s);
        door_fail(s.d, ENTER, error, skip, 1);
        CHECK_ERR(kr_run(s.r), error);
        CHECK_EQ(s.d->struck, 1u);
        served_get(&s);
        served_end(&s);
    }
}

/* Ours: a submission that takes fewer requests than offered (man io_uring_enter): the others go
 * with the next one, in order. */
TEST_EACH(run_when_enter_takes_one_of_many) {
    enum { CLIENTS = 8 };
    struct served s;
    served_begin(&s);
    row_begin("io_uring_enter", 1, 0, 50);
    int fds[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        fds[i] = test_connect(s.port);
    TEST_UNTIL(s.r, s.seen.opens == CLIENTS + 1);
    door_fail(s.d, ENTER_SHORT, 1, 0, 50);
    while (s.d->times) {
        for (int i = 0; i < CLIENTS; i++)
            CHECK_EQ(test_send_some(fds[i], "hello", 5), 5);
        char back[5];
        for (int i = 0; i < CLIENTS; i++) {
            test_recv(s.r, fds[i], back, 5);
            CHECK_MEM_EQ(back, "hello", 5);
        }
    }
    for (int i = 0; i < CLIENTS; i++)
        test_close(fds[i]);
    TEST_UNTIL(s.r, s.seen.closes == CLIENTS);
    test_close(s.fd);
    TEST_UNTIL(s.r, s.seen.closes == CLIENTS + 1);
    free_all(s.d, s.r);
}

/* ---- freeing ---- */

/* Ours: freeing goes round until the kernel has let go, though it is difficult at first. */
TEST_EACH(free_when_enter_fails_for_a_while) {
    for (size_t i = 0; i < COUNT(passing_errors); i++) {
        row_begin("io_uring_enter", passing_errors[i], 0, 20);
        struct served s;
        served_begin(&s);
        CHECK_OK(kr_post(s.r, seen_post, &s.seen));
        door_fail(s.d, ENTER, passing_errors[i], 0, 20);
        free_all(s.d, s.r);
        CHECK_EQ(s.d->struck, 20u);
        CHECK_EQ(s.seen.closes, 1u);
        CHECK_EQ(s.seen.posts, 1u);
        CHECK_EQ(test_recv_end(NULL, s.fd, NULL), 0);
        test_close(s.fd);
    }
}

static void seen_stale_post(struct kr_reactor *r, void *arg) {
    struct seen *seen = arg;
    CHECK_EQ(seen->closes, 1u);
    CHECK_ERR(kr_conn_send(r, seen->conn, "x", 1), ESTALE);
    seen->posts++;
}

/* Ours: when the kernel does not let itself be asked any more, the reactor is freed all the same.
 * The user hears the end of each connection, exactly once, and gets back what was posted: handles
 * are stale by then. */
TEST_EACH(free_when_enter_fails_for_ever) {
    for (size_t i = 0; i < COUNT(told_errors); i++) {
        row_begin("io_uring_enter", told_errors[i], 0, FOR_EVER);
        struct served s;
        served_begin(&s);
        CHECK_OK(kr_conn_send(s.r, s.seen.conn, "never sent", 10));
        CHECK_OK(kr_post(s.r, seen_stale_post, &s.seen));
        door_fail(s.d, ENTER, told_errors[i], 0, FOR_EVER);
        free_all(s.d, s.r);
        CHECK_GE(s.d->struck, 1u);
        CHECK_EQ(s.seen.closes, 1u);
        CHECK_EQ(s.seen.posts, 1u);
        test_close(s.fd);
    }
}

/* Ours: so is a client who has been accepted and was to be given his slot just now. */
TEST_EACH(free_when_enter_fails_between_accept_and_slot) {
    struct door *d = door_open();
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    struct seen seen = {0};
    uint16_t port;
    CHECK_OK(listen_rc(r, true, &seen, &port));
    test_step(r, "the listener");
    int held = d->held;
    int fd = test_connect(port);
    TEST_UNTIL(r, d->held > held);
    door_fail(d, ENTER, EPERM, 0, FOR_EVER);
    CHECK_ERR(kr_step(r, 0), EPERM);
    free_all(d, r);
    CHECK_EQ(seen.opens, 0u);
    CHECK_EQ(test_recv_end(NULL, fd, NULL), 0);
    test_close(fd);
}

/* ---- listening ---- */

/* man socket, setsockopt, bind, listen, getsockname. */
static const int listen_errors[] = {
    EACCES, EADDRINUSE,  EADDRNOTAVAIL, EAFNOSUPPORT, EBADF,  EDOM,
    EFAULT, EINVAL,      EMFILE,        ENETDOWN,     ENFILE, ENOBUFS,
    ENOMEM, ENOPROTOOPT, ENOTSOCK,      EOPNOTSUPP,   EPERM,  EPROTONOSUPPORT,
};

/* man io_uring_register, of IORING_REGISTER_FILES_UPDATE. */
static const int file_errors[] = {
    EACCES, EAGAIN, EBADF, EBADFD,     EBUSY,     EFAULT, EINTR,
    EINVAL, ENOMEM, ENXIO, EOPNOTSUPP, EOVERFLOW, EPERM,
};

/* What puts a descriptor's file into a slot. */
static enum call table_call(void) {
    return test_slot_cost(NULL) ? DUP : REG_FILE;
}

static void check_listen_refused(enum call call, const char *name, int error) {
    row_begin(name, error, 0, 6);
    struct door *d = door_open();
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    int held = d->held;
    struct seen seen = {0};
    uint16_t port;
    door_fail(d, call, error, 0, 6); /* more often than there are file slots: none may be lost */
    for (int i = 0; i < 6; i++)
        CHECK_ERR(listen_rc(r, i % 2, &seen, &port), error);
    CHECK_EQ(test_stats(r).listeners, 0u);
    CHECK_LE(d->held, held + 2); /* the heap of deadlines, and limits kept for the next listener */
    for (int i = 0; i < 4; i++)
        check_works(r);
    CHECK_ERR(listen_rc(r, false, &seen, &port), ENOSPC);
    free_all(d, r);
}

/* Ours: an error of the socket's making is the caller's to see, and leaves neither descriptor nor
 * slot behind. */
TEST_EACH(listen_when_the_socket_fails) {
    for (size_t i = 0; i < COUNT(listen_errors); i++)
        check_listen_refused(LISTEN, "listen", listen_errors[i]);
}

TEST_EACH(listen_when_the_table_fails) {
    for (size_t i = 0; i < COUNT(file_errors); i++)
        check_listen_refused(table_call(), "the file table's update", file_errors[i]);
}

static int unix_listener(struct kr_addr *addr) {
    int fd = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    /* a name of the kernel's choice */
    CHECK_SYS(bind(fd, (struct sockaddr *)&any, sizeof any.sun_family));
    CHECK_SYS(listen(fd, 8));
    addr->size = sizeof addr->u;
    CHECK_SYS(getsockname(fd, &addr->u.sa, &addr->size));
    return fd;
}

static void check_taking_over_refused(enum call call, const char *name, int error) {
    row_begin(name, error, 0, 6);
    struct door *d = door_open();
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    int held = d->held;
    struct kr_addr addr;
    int fd = unix_listener(&addr);
    struct seen seen = {0};
    kr_listener listener = {7};
    door_fail(d, call, error, 0, 6);
    for (int i = 0; i < 6; i++)
        CHECK_ERR(kr_listen_fd(r, &listener, fd, NULL, &seen_ops, &seen), error);
    CHECK_EQ(listener.bits, 7u);
    CHECK_LE(d->held, held + 2);
    for (int i = 0; i < 4; i++)
        CHECK_OK(kr_listen_fd(r, NULL, fd, NULL, &seen_ops, &seen));
    CHECK_ERR(kr_listen_fd(r, NULL, fd, NULL, &seen_ops, &seen), ENOSPC);
    free_all(d, r);
    test_close(fd);
}

/* Ours: a socket that cannot be taken over is the caller's as before, and costs no slot. */
TEST_EACH(listen_when_taking_over_fails) {
    for (size_t i = 0; i < COUNT(listen_errors); i++)
        check_taking_over_refused(LISTEN_FD, "taking a socket over", listen_errors[i]);
    for (size_t i = 0; i < COUNT(file_errors); i++)
        check_taking_over_refused(table_call(), "the file table's update", file_errors[i]);
}

/* man lstat. */
static const int path_errors[] = {EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EOVERFLOW};

/* Ours: a listener whose file cannot be known again listens, but does not remove what it does not
 * know. */
TEST_EACH(listen_when_the_path_fails) {
    for (size_t i = 0; i < COUNT(path_errors); i++) {
        row_begin("lstat", path_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        char path[] = "/tmp/kr-door-XXXXXX";
        test_close(CHECK_SYS(mkstemp(path)));
        CHECK_SYS(unlink(path));
        struct kr_addr addr;
        CHECK_OK(kr_addr_unix(&addr, path));
        struct kr_listen_opts opts = test_listen_opts();
        opts.unix_remove = true;
        struct seen seen = {0};
        door_fail(d, PATH_ID, path_errors[i], 0, 1);
        CHECK_OK(kr_listen(r, NULL, &addr, &opts, &seen_ops, &seen));
        CHECK_EQ(d->struck, 1u);
        CHECK_OK(kr_step(r, 0));
        free_all(d, r);
        CHECK_SYS(unlink(path));
    }
}

/* man open. */
static const int dir_errors[] = {EACCES, EMFILE, ENFILE, ENOMEM};

/* Ours: a listener that could not remove its file is refused, and leaves none. */
TEST_EACH(listen_when_the_directory_fails) {
    for (size_t i = 0; i < COUNT(dir_errors); i++) {
        row_begin("open of the directory", dir_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        char path[] = "/tmp/kr-door-XXXXXX";
        test_close(CHECK_SYS(mkstemp(path)));
        CHECK_SYS(unlink(path));
        struct kr_addr addr;
        CHECK_OK(kr_addr_unix(&addr, path));
        struct kr_listen_opts opts = test_listen_opts();
        opts.unix_remove = true;
        struct seen seen = {0};
        door_fail(d, PATH_DIR, dir_errors[i], 0, 1);
        CHECK_ERR(kr_listen(r, NULL, &addr, &opts, &seen_ops, &seen), dir_errors[i]);
        CHECK_EQ(d->struck, 1u);
        CHECK_EQ(access(path, F_OK), -1);
        free_all(d, r);
    }
}

/* Ours: a reactor that never ran takes its listeners out of the table by itself; the ring's end
 * does it as well. */
TEST_EACH(free_when_the_table_fails, .needs = KR__CAP_FILE_TABLE) {
    for (size_t i = 0; i < COUNT(file_errors); i++) {
        row_begin("the file table's update", file_errors[i], 0, FOR_EVER);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        uint16_t port;
        CHECK_OK(listen_rc(r, false, &seen, &port));
        door_fail(d, REG_FILE, file_errors[i], 0, FOR_EVER);
        free_all(d, r);
        CHECK_EQ(d->struck, 1u);
    }
}

/* ---- connecting ---- */

/* man socket, setsockopt, bind. */
static const int socket_errors[] = {
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EBADF,    EFAULT, EINVAL,          EMFILE,
    ENFILE, ENOBUFS,    ENOMEM,        ENOPROTOOPT,  ENOTSOCK, EPERM,  EPROTONOSUPPORT,
};

static void check_connect_refused(enum call call, const char *name, int error) {
    row_begin(name, error, 0, 20);
    struct door *d = door_open();
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    struct seen seen = {0};
    uint16_t port;
    CHECK_OK(listen_rc(r, false, &seen, &port));
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", port));
    int held = d->held;
    kr_conn conn = {7};
    door_fail(d, call, error, 0, 20); /* more often than there are slots: none may be lost */
    for (int i = 0; i < 20; i++)
        CHECK_ERR(kr_connect(r, &conn, &addr, NULL, &seen_ops, &seen), error);
    CHECK_EQ(conn.bits, 7u);
    CHECK_EQ(test_stats(r).conns, 0u);
    CHECK_LE(d->held, held + 3); /* limits, and blocks, kept for the next one */
    for (unsigned i = 0; i < r->config.connect_max; i++)
        CHECK_OK(kr_connect(r, &conn, &addr, NULL, &seen_ops, &seen));
    CHECK_ERR(kr_connect(r, &conn, &addr, NULL, &seen_ops, &seen), ENOSPC);
    TEST_UNTIL(r, test_stats(r).connects == 4);
    free_all(d, r);
    CHECK_EQ(seen.closes, seen.opens);
}

/* Ours: an error of the socket's making is the caller's to see, and leaves neither descriptor nor
 * slot behind. */
TEST_EACH(connect_when_the_socket_fails) {
    for (size_t i = 0; i < COUNT(socket_errors); i++)
        check_connect_refused(SOCKET, "socket", socket_errors[i]);
}

TEST_EACH(connect_when_the_table_fails) {
    for (size_t i = 0; i < COUNT(file_errors); i++)
        check_connect_refused(table_call(), "the file table's update", file_errors[i]);
}

/* man connect, of a Unix socket. What passes is tried again. */
static const int knock_errors[] = {
    EACCES, EBADF,  ECONNREFUSED, EFAULT, EINVAL, EISCONN, ELOOP,      ENAMETOOLONG,
    ENOENT, ENOMEM, ENOTDIR,      EPERM,  EPIPE,  EPROTOTYPE, ETIMEDOUT,
};
static const int knock_passing[] = {EAGAIN, EINTR};

/* Ours: a Unix socket's error is told by on_close; one that passes costs a few milliseconds. */
TEST_EACH(connect_when_the_knock_fails) {
    for (size_t i = 0; i < COUNT(knock_errors) + COUNT(knock_passing); i++) {
        bool passes = i >= COUNT(knock_errors);
        int error = passes ? knock_passing[i - COUNT(knock_errors)] : knock_errors[i];
        row_begin("connect", error, 0, 3);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct kr_addr addr;
        int fd = unix_listener(&addr);
        struct seen seen = {0};
        door_fail(d, CONNECT, error, 0, passes ? 3 : 1);
        CHECK_OK(kr_connect(r, NULL, &addr, NULL, &seen_ops, &seen));
        TEST_UNTIL(r, seen.opens + seen.closes == 1);
        CHECK_EQ(seen.opens, passes);
        CHECK_EQ(d->struck, passes ? 3u : 1u);
        if (!passes)
            CHECK_EQ(seen.error, -error);
        free_all(d, r);
        CHECK_EQ(seen.closes, 1u);
        test_close(fd);
    }
}

/* ---- addresses, close, wake ---- */

/* man getpeername, getsockname. */
static const int addrs_errors[] = {EBADF, EFAULT, EINVAL, ENOBUFS, ENOMEM, ENOTCONN, ENOTSOCK};

/* Ours: a client whose address cannot be had is let go, unannounced; the next one is served. */
TEST_EACH(accept_when_the_addresses_fail) {
    for (size_t i = 0; i < COUNT(addrs_errors); i++) {
        row_begin("getpeername", addrs_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        uint16_t port;
        CHECK_OK(listen_rc(r, true, &seen, &port));
        door_fail(d, SOCK_ADDRS, addrs_errors[i], 0, 1);
        int fd = test_connect(port);
        CHECK_EQ(test_recv_end(r, fd, NULL), 0);
        test_close(fd);
        CHECK_EQ(seen.opens, 0u);
        check_serves(r, port, &seen);
        CHECK_EQ(seen.opens, 1u);
        free_all(d, r);
    }
}

/* Ours: a connection of our own whose address cannot be had stands all the same, without it. */
TEST_EACH(connect_when_the_addresses_fail) {
    for (size_t i = 0; i < COUNT(addrs_errors); i++) {
        row_begin("getsockname", addrs_errors[i], 0, 1);
        struct door *d = door_open();
        d->dials = true;
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        uint16_t port;
        CHECK_OK(listen_rc(r, false, &seen, &port));
        struct kr_addr addr;
        CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", port));
        struct kr_connect_opts opts = test_connect_opts();
        opts.local_address = true;
        door_fail(d, SOCK_ADDRS, addrs_errors[i], 0, 1);
        kr_conn conn;
        CHECK_OK(kr_connect(r, &conn, &addr, &opts, &seen_ops, &seen));
        TEST_UNTIL(r, test_stats(r).connects == 1);
        CHECK_EQ(d->struck, 1u);
        CHECK_ERR(kr_conn_local(r, conn, &addr), ENODATA);
        CHECK_OK(kr_conn_peer(r, conn, &addr));
        free_all(d, r);
    }
}

/* man fcntl, F_DUPFD_CLOEXEC. */
static const int dup_errors[] = {EBADF, EINVAL, EMFILE, ENFILE, ENOMEM, EPERM};

/* Ours: descriptors that cannot be duplicated are the caller's to know of; those that were before
 * are closed, and the connection goes on. */
TEST_EACH(send_when_duplicating_fails) {
    for (size_t i = 0; i < COUNT(dup_errors) * 3; i++) {
        int error = dup_errors[i % COUNT(dup_errors)];
        unsigned which = (unsigned)(i / COUNT(dup_errors));
        row_begin("fcntl", error, which, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        int ends[2];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
        kr_conn conn;
        CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
        CHECK_OK(kr_conn_send(r, conn, "a", 1));
        CHECK_ERR(kr_conn_send_fds(r, conn, "bc", 2, &(int){-1}, 1), EBADF); /* the block is kept */
        int held = d->held;
        door_fail(d, DUP, error, which, 1);
        CHECK_ERR(kr_conn_send_fds(r, conn, "bc", 2, (const int[]){ends[1], ends[1], ends[1]}, 3),
                  error);
        CHECK_EQ(d->held, held);
        CHECK_EQ(d->struck, 1u);
        CHECK_EQ(kr_conn_queued(r, conn), 1u);
        TEST_UNTIL(r, seen.opens == 1 && kr_conn_queued(r, conn) == 0);
        free_all(d, r);
        test_close(ends[1]);
    }
}

/* man fstat, man fcntl. */
static const int file_size_errors[] = {EBADF, EIO, ENOMEM, EOVERFLOW, EPERM, ESTALE};

/* Ours: a file that cannot be looked at is not queued, and the connection goes on. */
TEST_EACH(send_file_when_looking_fails) {
    for (size_t i = 0; i < COUNT(file_size_errors); i++) {
        row_begin("fstat", file_size_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        int ends[2], file = CHECK_SYS(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
        kr_conn conn;
        CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
        int held = d->held;
        door_fail(d, FILE_SIZE, file_size_errors[i], 0, 1);
        CHECK_ERR(kr_conn_send_file(r, conn, file, 0, 1, NULL, NULL), file_size_errors[i]);
        CHECK_EQ(d->held, held);
        CHECK_EQ(d->struck, 1u);
        CHECK_EQ(kr_conn_queued(r, conn), 0u);
        CHECK_OK(kr_conn_send_file(r, conn, file, 0, 1, NULL, NULL));
        TEST_UNTIL(r, seen.opens == 1 && kr_conn_queued(r, conn) == 0);
        free_all(d, r);
        test_close(file);
        test_close(ends[1]);
    }
}

/* man shutdown; ENOTCONN: the peer has reset. */
static const int end_errors[] = {EBADF, EINVAL, ENOTCONN, ENOTSOCK};

/* Ours: a side that cannot be ended ends the connection with the reason, and nothing is left. */
TEST_EACH(half_when_ending_fails) {
    for (size_t i = 0; i < COUNT(end_errors); i++) {
        row_begin("shutdown", end_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        if (!r->ring.plain.cells && !(r->ring.caps & KR__CAP_FD_INSTALL))
            tap_skip("needs kernel 6.8");
        struct seen seen = {0};
        int ends[2];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
        kr_conn conn;
        CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
        TEST_UNTIL(r, seen.opens == 1);
        int held = d->held;
        door_fail(d, SOCK_END, end_errors[i], 0, 1);
        CHECK_OK(kr_conn_shutdown(r, conn));
        if (end_errors[i] == ENOTCONN) { /* what the peer has said is heard first */
            TEST_UNTIL(r, d->struck);
            CHECK_EQ(seen.closes, 0u);
            CHECK_SYS(shutdown(ends[1], SHUT_WR));
        }
        TEST_UNTIL(r, seen.closes == 1);
        CHECK_EQ(seen.error, -end_errors[i]);
        CHECK_EQ(d->struck, 1u);
        CHECK_LE(d->held, held);
        free_all(d, r);
        test_close(ends[1]);
    }
}

/* man pread. */
static const int file_read_errors[] = {EIO, ENXIO, EISDIR, EAGAIN};

static void file_told(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    (void)r;
    CHECK_EQ(sent, 0u);
    *(int *)arg = error;
}

/* Ours: a file that this thread reads for want of a worker, and that has an error. */
TEST_EACH(send_file_when_reading_fails) {
    for (size_t i = 0; i < COUNT(file_read_errors); i++) {
        row_begin("pread", file_read_errors[i], 0, FOR_EVER);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        int ends[2], file = CHECK_SYS(memfd_create("door", MFD_CLOEXEC)), error = 0;
        CHECK_SYS(ftruncate(file, 1000));
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
        kr_conn conn;
        CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
        TEST_UNTIL(r, seen.opens == 1);
        door_fail(d, FILE_READ, file_read_errors[i], 0, FOR_EVER);
        test_threads_none();
        CHECK_OK(kr_conn_send_file(r, conn, file, 0, 1000, file_told, &error));
        TEST_UNTIL(r, seen.closes == 1);
        test_threads_again();
        CHECK_EQ(error, -file_read_errors[i]);
        CHECK_EQ(seen.error, error);
        CHECK_LE(1u, d->struck);
        free_all(d, r);
        test_close(file);
        test_close(ends[1]);
    }
}

/* man fstat, fcntl, pipe, and what we make of them. */
static const struct {
    enum call call;
    int error;
} pipe_answers[] = {{PIPE_END, EBADF},   {PIPE_END, EFAULT},   {PIPE_END, ENOMEM},
                    {PIPE_END, ENOTSUP}, {PIPE_QUIET, EMFILE}, {PIPE_QUIET, ENFILE},
                    {PIPE_QUIET, ENOSYS}};

/* Ours: a pipe that cannot be looked at, or not written to in peace, stays its owner's. */
TEST_EACH(adopt_when_a_pipe_fails) {
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    for (size_t i = 0; i < COUNT(pipe_answers); i++) {
        row_begin("of a pipe", pipe_answers[i].error, 0, 1);
        struct door *d = door_open();
        d->dials = true;
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        int ends[2], held = d->held;
        CHECK_SYS(pipe2(ends, O_CLOEXEC));
        kr_conn conn = {7};
        door_fail(d, pipe_answers[i].call, pipe_answers[i].error, 0, 1);
        CHECK_ERR(kr_conn_adopt(r, &conn, ends[1], NULL, &seen_ops, &seen), pipe_answers[i].error);
        CHECK_EQ(d->held, held);
        CHECK_EQ(d->struck, 1u);
        CHECK_EQ(conn.bits, 7u);
        own(d, ends[1]); /* the descriptor is the reactor's then */
        CHECK_OK(kr_conn_adopt(r, &conn, ends[1], NULL, &seen_ops, &seen));
        CHECK_OK(kr_conn_send(r, conn, "a", 1));
        TEST_UNTIL(r, seen.opens == 1 && kr_conn_queued(r, conn) == 0);
        free_all(d, r);
        test_close(ends[0]);
    }
}

/* Ours: a pipe that cannot be opened anew is used as it is. */
TEST_EACH(adopt_when_a_pipe_cannot_be_opened) {
    struct door *d = door_open();
    d->dials = true;
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    struct seen seen = {0};
    int ends[2];
    CHECK_SYS(pipe2(ends, O_CLOEXEC));
    kr_conn conn;
    door_fail(d, PIPE_OWN, EACCES, 0, 1);
    own(d, ends[0]);
    CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
    CHECK_EQ(d->struck, 1u);
    CHECK_EQ(write(ends[1], "a", 1), 1);
    test_close(ends[1]);
    TEST_UNTIL(r, seen.closes == 1);
    free_all(d, r);
}

/* man close. */
static const int close_errors[] = {EDQUOT, EINTR, EIO, ENOSPC};

/* Ours: what close reports changes nothing, as the descriptor is gone: a listener's own, an
 * accepted one's, the eventfd's at the end. */
TEST_EACH(close_fails_wherever_it_is_called) {
    for (size_t i = 0; i < COUNT(close_errors) * 3; i++) {
        int error = close_errors[i % COUNT(close_errors)];
        unsigned which = (unsigned)(i / COUNT(close_errors));
        row_begin("close", error, which, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        door_fail(d, CLOSE, error, which, 1);
        struct seen seen = {0};
        uint16_t port;
        CHECK_OK(listen_rc(r, true, &seen, &port));
        check_serves(r, port, &seen);
        free_all(d, r);
        CHECK_EQ(d->struck, 1u);
    }
}

/* man write of an eventfd. */
static const int wake_errors[] = {EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, ENOSPC, EPIPE};

/* Runs and frees the reactor, and returns what kr_run did. */
static void *run_main(void *arg) {
    int rc = kr_run(arg);
    CHECK_OK(kr_reactor_free(arg));
    return (void *)(intptr_t)rc;
}

static void await_sleep(struct kr_reactor *r) {
    while (!__atomic_load_n(&r->inbox.asleep, __ATOMIC_SEQ_CST)) {
        if (tap_remaining_ns() == 0)
            FAIL("the reactor does not sleep");
        sched_yield();
    }
}

/* Ours: a wake that could not be sent takes nothing back of what it was for, and does not keep the
 * next post or stop from waking the reactor. */
TEST_EACH(post_when_the_wake_fails) {
    for (size_t i = 0; i < COUNT(wake_errors); i++) {
        row_begin("eventfd write", wake_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        door_fail(d, WAKE_SEND, wake_errors[i], 0, 1);
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, run_main, r), 0);
        unsigned posts = 0;
        do { /* one that finds it just awake needs no wake */
            await_sleep(r);
            CHECK_OK(kr_post(r, seen_post, &seen));
            posts++;
        } while (!__atomic_load_n(&d->struck, __ATOMIC_ACQUIRE));
        CHECK_OK(kr_post(r, seen_post, &seen));
        posts++;
        while (__atomic_load_n(&seen.posts, __ATOMIC_ACQUIRE) < posts) {
            if (tap_remaining_ns() == 0)
                FAIL("a post does not wake the reactor after one that could not");
            sched_yield();
        }
        kr_stop(r);
        void *rc;
        CHECK_EQ(pthread_join(thread, &rc), 0);
        CHECK_EQ((intptr_t)rc, 0);
        CHECK_EQ(d->held, 0);
    }
}

/* ---- the real door ---- */

static int real_listen(const char *ip, uint16_t port, unsigned backlog) {
    struct kr_addr addr, bound;
    CHECK_OK(kr_addr_ip(&addr, ip, port));
    struct kr__listen_plan plan = {.addr = &addr, .backlog = backlog};
    return kr__linux.listen(&kr__linux, &plan, &bound);
}

static int real_sock_addrs(int fd) {
    struct kr_addr peer, local;
    return kr__linux.sock_addrs(&kr__linux, fd, &peer, &local);
}

/* The kernel's, and ours: linux.c hands on what the system calls answer, as a negative errno. */
TEST(linux_answers_in_negative_errnos) {
    const struct kr__kernel *k = &kr__linux;
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int file = CHECK_SYS(open("/dev/null", O_RDWR | O_CLOEXEC));
    struct io_uring ring;
    struct io_uring_params params = {0};
    CHECK_ERR(k->ring_open(k, &ring, 0, &params), EINVAL);
    params = (struct io_uring_params){.flags = UINT32_MAX};
    CHECK_ERR(k->ring_open(k, &ring, 8, &params), EINVAL);
    ring = (struct io_uring){.ring_fd = file, .enter_ring_fd = file};
    CHECK_ERR(k->enter(k, &ring, 0, 0, 0, NULL), EOPNOTSUPP);
    CHECK_ERR(k->reg(k, &ring, IORING_REGISTER_FILES_UPDATE, NULL, 0), EOPNOTSUPP);
    bool registered = false;
    CHECK_ERR(k->ring_bind(k, &ring, &registered), EOPNOTSUPP);
    CHECK(!registered);
    CHECK(!k->map(k, SIZE_MAX / 2, KR__MAP_PLAIN));
    CHECK_ERR(real_sock_addrs(-1), EBADF);
    CHECK_ERR(real_sock_addrs(file), ENOTSOCK);
    CHECK_ERR(real_sock_addrs(fd), ENOTCONN);
    CHECK_ERR(k->close(k, -1), EBADF);
    errno = EDOM;
    CHECK_ERR(k->wake_send(k, -1), EBADF);
    CHECK_EQ(errno, EDOM);
    CHECK_ERR(real_listen("192.0.2.1", 0, 8), EADDRNOTAVAIL);
    CHECK_SYS(close(file));
    CHECK_SYS(close(fd));
}

/* The kernel's: an eventfd whose counter is full refuses (man eventfd), and so no wake blocks. */
TEST(linux_wake_never_blocks) {
    const struct kr__kernel *k = &kr__linux;
    int fd = CHECK_OK(k->wake_open(k));
    CHECK_EQ(CHECK_SYS(write(fd, &(uint64_t){UINT64_MAX - 1}, 8)), 8);
    CHECK_ERR(k->wake_send(k, fd), EAGAIN);
    CHECK_OK(k->close(k, fd));
}

/* ---- the real path, under strace ---- */

struct straced {
    struct kr_reactor *r;
    unsigned fires, posts;
};

static void straced_post(struct kr_reactor *r, void *arg) {
    (void)r;
    ((struct straced *)arg)->posts++;
}

static void straced_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    struct straced *s = user;
    (void)timer;
    s->fires++;
    CHECK_OK(kr_post(r, straced_post, s));
}

/* What strace watches: a hundred messages, one at a time, beside a timer and posts. Ends with 0 if
 * each came back. */
static int straced(enum kr_taskrun taskrun) {
    alarm(15);
    struct kr_config config = test_config();
    config.taskrun = taskrun;
    struct kr_failure why;
    struct straced s = {0};
    CHECK_OK(kr_reactor_new(&s.r, &config, &why));
    struct seen seen = {0};
    uint16_t port;
    CHECK_OK(listen_rc(s.r, false, &seen, &port));
    CHECK_OK(kr_timer_start(s.r, NULL, 0, MS, straced_fire, &s));
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", port));
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(connect(fd, &addr.u.sa, addr.size));
    for (int i = 0; i < 100; i++) {
        char message[16], back[16];
        snprintf(message, sizeof message, "message %07d", i);
        CHECK_EQ(send(fd, message, sizeof message, MSG_NOSIGNAL), (ssize_t)sizeof message);
        ssize_t got;
        while ((got = recv(fd, back, sizeof back, MSG_DONTWAIT)) < 0)
            CHECK_OK(kr_step(s.r, MS));
        CHECK_EQ(got, (ssize_t)sizeof back);
        CHECK_MEM_EQ(back, message, sizeof back);
    }
    while (s.posts < 3)
        CHECK_OK(kr_step(s.r, MS));
    CHECK_SYS(close(fd));
    while (!seen.closes)
        CHECK_OK(kr_step(s.r, MS));
    CHECK_OK(kr_reactor_free(s.r));
    return 0;
}

/* How many system calls strace says it has answered itself. */
static unsigned injected(const char *path) {
    FILE *file = fopen(path, "re");
    CHECK(file);
    char line[1024];
    unsigned count = 0;
    while (fgets(line, sizeof line, file))
        count += strstr(line, "(INJECTED)") != NULL;
    fclose(file);
    return count;
}

/* Leaks are not looked for there: the checker itself needs ptrace. */
static void exec_strace(const char *inject, const char *log, const char *program) {
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    const char *mode = tap_variant()->mode == KR_TASKRUN_DEFER ? "defer" : "coop";
    execlp("strace", "strace", "-qq", "-o", log, "-e", "trace=io_uring_enter", "-e", inject, "--",
           program, "--straced", mode, (char *)NULL);
    _exit(1);
}

static void under_strace(const char *error, const char *when) {
    tap_need_program("strace");
    char inject[64], self[512], log[] = "/tmp/kreactor-door-XXXXXX";
    snprintf(inject, sizeof inject, "inject=io_uring_enter:error=%s:when=%s", error, when);
    ssize_t size = CHECK_SYS(readlink("/proc/self/exe", self, sizeof self - 1));
    self[size] = 0;
    CHECK_SYS(close(CHECK_SYS(mkstemp(log))));
    pid_t child = CHECK_SYS(fork());
    if (child == 0)
        exec_strace(inject, log, self);
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    unsigned count = injected(log);
    CHECK_SYS(unlink(log));
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    tap_note("%s: %u answers injected", inject, count);
    CHECK_GE(count, 5u);
}

/* Ours, and strace's: the kernel itself seems to answer, so that nothing of ours is in between.
 * From the third call on, since the first two are made before the ring is enabled. */
TEST_EACH(real_enter_is_interrupted) {
    under_strace("EINTR", "3+3");
}

TEST_EACH(real_enter_lacks_memory) {
    under_strace("EAGAIN", "3+3");
}

TEST_EACH(real_enter_is_busy) {
    under_strace("EBUSY", "3+3");
}

/* ---- how many rows ---- */

enum {
    ROWS = COUNT(setup_answers) + 1 + COUNT(enter_answers) + COUNT(table_answers) +
           COUNT(range_answers) + COUNT(bufs_answers) + COUNT(eventfd_answers) + COUNT(map_rows) +
           COUNT(cause_rows) + COUNT(limit_rows) + COUNT(bind_errors) +
           COUNT(passing_errors) * COUNT(passing_times) * 2 + COUNT(told_errors) * 2 + 1 +
           COUNT(passing_errors) + COUNT(told_errors) + COUNT(listen_errors) +
           COUNT(file_errors) * 2 + COUNT(addrs_errors) * 2 + COUNT(close_errors) * 3 +
           COUNT(socket_errors) + COUNT(path_errors) + COUNT(listen_errors) + COUNT(file_errors) +
           COUNT(file_errors) + COUNT(knock_errors) + COUNT(knock_passing) + COUNT(wake_errors),
};
_Static_assert(ROWS >= 200, "the table has lost rows");

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--straced") == 0)
        return straced(strcmp(argv[2], "defer") == 0 ? KR_TASKRUN_DEFER : KR_TASKRUN_COOP);
    return tap_main("door", 154, argc, argv);
}
