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
#include "door/door.h"

/* ---- the door ---- */

static struct door *door_of(const struct kr__kernel *k) {
    return (struct door *)(uintptr_t)k;
}

int own(struct door *d, int fd) {
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
    rc = rc < 0 ? rc : kr__linux.ring.open(&kr__linux, ring, entries, params);
    door_of(k)->held += rc >= 0;
    return rc;
}

static int door_ring_bind(const struct kr__kernel *k, struct io_uring *ring, bool *registered) {
    int rc = strike(k, RING_BIND);
    return rc < 0 ? rc : kr__linux.ring.bind(&kr__linux, ring, registered);
}

static void door_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                            bool child) {
    kr__linux.ring.close(&kr__linux, ring, registered, child);
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
        return kr__linux.ring.enter(&kr__linux, ring, 1, 0, flags, NULL);
    return kr__linux.ring.enter(&kr__linux, ring, submit, wait_for, flags, arg);
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
    return rc < 0 ? rc : kr__linux.ring.reg(&kr__linux, ring, opcode, arg, count);
}

static void *door_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    bool fails = (how != KR__MAP_PLAIN || !door_of(k)->advice) && strike(k, MAP) < 0;
    void *pages = fails ? NULL : kr__linux.process.map(&kr__linux, size, how);
    door_of(k)->held += pages != NULL;
    if (fails)
        errno = door_of(k)->error;
    return pages;
}

static void door_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    kr__linux.process.unmap(&kr__linux, pages, size);
    door_of(k)->held--;
}

static int door_listen(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                       struct kr_addr *bound) {
    int rc = strike(k, LISTEN);
    return own(door_of(k), rc < 0 ? rc : kr__linux.socket.listen(&kr__linux, plan, bound));
}

static int door_listen_fd(const struct kr__kernel *k, int fd, const struct kr__listen_plan *plan,
                          struct kr_addr *bound) {
    int rc = strike(k, LISTEN_FD);
    return rc < 0 ? rc : kr__linux.socket.listen_fd(&kr__linux, fd, plan, bound);
}

static int door_path_id(const struct kr__kernel *k, const struct kr_addr *addr,
                        struct kr__path_id *ret) {
    int rc = strike(k, PATH_ID);
    return rc < 0 ? rc : kr__linux.socket.path_id(&kr__linux, addr, ret);
}

static int door_path_dir(const struct kr__kernel *k, const struct kr_addr *addr) {
    int rc = strike(k, PATH_DIR);
    return own(door_of(k), rc < 0 ? rc : kr__linux.socket.path_dir(&kr__linux, addr));
}

static int door_socket(const struct kr__kernel *k, const struct kr__socket_plan *plan) {
    int rc = strike(k, SOCKET);
    return own(door_of(k), rc < 0 ? rc : kr__linux.socket.open(&kr__linux, plan));
}

static int door_connect(const struct kr__kernel *k, int fd, const struct kr_addr *addr) {
    int rc = strike(k, CONNECT);
    return rc < 0 ? rc : kr__linux.socket.connect(&kr__linux, fd, addr);
}

static int door_sock_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer,
                           struct kr_addr *local) {
    if (!door_of(k)->dials)
        own(door_of(k), fd);
    int rc = strike(k, SOCK_ADDRS);
    return rc < 0 ? rc : kr__linux.socket.addrs(&kr__linux, fd, peer, local);
}

static int door_pipe_end(const struct kr__kernel *k, int fd) {
    int rc = strike(k, PIPE_END);
    return rc < 0 ? rc : kr__linux.file.pipe_end(&kr__linux, fd);
}

static int door_pipe_quiet(const struct kr__kernel *k, bool newest) {
    int rc = strike(k, PIPE_QUIET);
    return rc < 0 ? rc : kr__linux.file.pipe_flags(&kr__linux, newest);
}

static int door_pipe_own(const struct kr__kernel *k, int fd, bool nameless_too) {
    int rc = strike(k, PIPE_OWN);
    return own(door_of(k), rc < 0 ? rc : kr__linux.file.pipe_reopen(&kr__linux, fd, nameless_too));
}

static int door_dup(const struct kr__kernel *k, int fd) {
    int rc = strike(k, DUP);
    return own(door_of(k), rc < 0 ? rc : kr__linux.file.dup(&kr__linux, fd));
}

static int door_file_size(const struct kr__kernel *k, int fd, uint64_t *ret) {
    int rc = strike(k, FILE_SIZE);
    return rc < 0 ? rc : kr__linux.file.size(&kr__linux, fd, ret);
}

static int door_file_read(const struct kr__kernel *k, int fd, void *to, size_t size,
                          uint64_t offset) {
    int rc = strike(k, FILE_READ);
    return rc < 0 ? rc : kr__linux.file.read(&kr__linux, fd, to, size, offset);
}

/* A descriptor that comes through the ring is first seen here. */
static int door_sock_end(const struct kr__kernel *k, int fd) {
    own(door_of(k), fd);
    int rc = strike(k, SOCK_END);
    return rc < 0 ? rc : kr__linux.socket.shutdown(&kr__linux, fd);
}

static int door_close(const struct kr__kernel *k, int fd) {
    int rc = strike(k, CLOSE);
    disown(door_of(k), fd);
    CHECK_OK(kr__linux.file.close(&kr__linux, fd));
    return rc;
}

static int door_wake_open(const struct kr__kernel *k) {
    int rc = strike(k, WAKE_OPEN);
    return own(door_of(k), rc < 0 ? rc : kr__linux.file.wake_open(&kr__linux));
}

static int door_wake_send(const struct kr__kernel *k, int fd) {
    int rc = strike(k, WAKE_SEND);
    return rc < 0 ? rc : kr__linux.file.wake_send(&kr__linux, fd);
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

struct door *door_open(void) {
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
    k->ring.open = door_ring_open;
    k->ring.bind = door_ring_bind;
    k->ring.close = door_ring_close;
    k->ring.enter = door_enter;
    k->ring.reg = door_reg;
    k->process.map = door_map;
    k->process.unmap = door_unmap;
    k->socket.listen = door_listen;
    k->socket.listen_fd = door_listen_fd;
    k->socket.path_id = door_path_id;
    k->socket.path_dir = door_path_dir;
    k->socket.open = door_socket;
    k->socket.connect = door_connect;
    k->socket.addrs = door_sock_addrs;
    k->file.pipe_end = door_pipe_end;
    k->file.pipe_flags = door_pipe_quiet;
    k->file.pipe_reopen = door_pipe_own;
    k->file.dup = door_dup;
    k->file.size = door_file_size;
    k->file.read = door_file_read;
    k->socket.shutdown = door_sock_end;
    k->file.close = door_close;
    k->file.wake_open = door_wake_open;
    k->file.wake_send = door_wake_send;
    k->process.limit_nofile = door_nofile;
    k->process.limit_memlock = door_memlock;
    k->process.limit_as = door_as;
    k->process.limit_data = door_data;
    k->process.sysctl_disabled = door_sysctl;
    return &door;
}

void door_fail(struct door *d, enum call call, int error, unsigned skip, unsigned times) {
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

void row_begin(const char *call, int error, unsigned skip, unsigned times) {
    static char text[128];
    if (!row_text)
        tap_on_fail(row_show, NULL);
    snprintf(text, sizeof text, "%s answers %s, after %u, %u times", call, kr_errname(error), skip,
             times);
    row_text = text;
}

/* ---- a reactor behind it ---- */

struct kr_config small_config(struct door *d) {
    struct kr_config config = test_config();
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    config.sq_entries = 16;
    config.cq_entries = 64;
    config.conn_max = 16;
    config.connect_max = 4;
    config.listener_max = 4;
    config.buf_count = 8;
    config.buf_size = 512;
    config.alloc = &d->alloc;
    return config;
}

int make(struct door *d, struct kr_reactor **ret, struct kr_failure *why) {
    struct kr_config config = small_config(d);
    return kr__reactor_new(ret, &config, why, &d->kernel, (unsigned)tap_variant()->caps_mask);
}

static void seen_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct seen *seen = user;
    seen->opens++;
    seen->conn = conn;
}

static void seen_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn, why);
    struct seen *seen = user;
    seen->closes++;
    seen->error = error;
}

void seen_post(struct kr_reactor *r, void *arg) {
    (void)r;
    struct seen *seen = arg;
    __atomic_fetch_add(&seen->posts, 1, __ATOMIC_ACQ_REL);
}

void seen_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    UNUSED(r, timer);
    ((struct seen *)user)->fires++;
}

const struct kr_conn_ops seen_ops = {
    .on_open = seen_open,
    .on_data = test_send_back,
    .on_close = seen_close,
};

int listen_rc(struct kr_reactor *r, bool addresses, struct seen *seen, uint16_t *port) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    opts.addresses = addresses;
    struct kr_addr addr = test_loopback(0);
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

void echo_once(struct kr_reactor *r, int fd) {
    test_send(r, fd, "hello", 5);
    CHECK_RECV(r, fd, "hello");
}

void check_serves(struct kr_reactor *r, uint16_t port, struct seen *seen) {
    unsigned closes = seen->closes;
    int fd = test_connect(port);
    echo_once(r, fd);
    test_close(fd);
    TEST_UNTIL(r, seen->closes == closes + 1);
}

void check_works(struct kr_reactor *r) {
    struct seen seen = {0};
    uint16_t port;
    CHECK_OK(listen_rc(r, false, &seen, &port));
    check_serves(r, port, &seen);
}

void free_all(struct door *d, struct kr_reactor *r) {
    CHECK_OK(kr_reactor_free(r));
    CHECK_EQ(d->held, 0);
}

/* ---- how many rows ---- */

int main(int argc, char **argv) {
    if (reactor_row_count + socket_row_count < 200) {
        printf("Bail out! the table has lost rows\n");
        return 1;
    }
    if (argc == 3 && strcmp(argv[1], "--straced") == 0)
        return straced(strcmp(argv[2], "defer") == 0 ? KR_TASKRUN_DEFER : KR_TASKRUN_COOP);
    return tap_main("door", 164, argc, argv);
}
