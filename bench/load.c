/* load: the client of the bench. One thread on raw liburing, pinned by who starts it.
 *
 *     load --port P --server PID [--connections N] [--size BYTES] [--depth N] [--warm MS]
 *          [--measure MS] [--mode echo|churn|idle|watch] [--client PID] [--sleep]
 *
 * It opens N connections, keeps `depth` messages in flight on each, and prints one JSON object:
 * what came back in the window, and what CPU time the server spent on it (see record.c). In churn
 * mode N connections at a time are opened, echo one message each, and are closed. In idle mode the
 * server's memory a connection is measured (load_idle.c). In watch mode another client, PID, makes
 * the load, and the server is asked what it has done (load_watch.c); the rest of this head is not
 * about that.
 *
 * Every stream carries a pattern that depends on the position, from an offset of its own, so lost,
 * doubled, reordered and exchanged bytes show. The warm-up compares every byte, the window the
 * edges of every piece. A mismatch, a byte too many, or seconds without a message end the run with
 * 1 and a reason.
 *
 * The load is the same for all servers. It spins: a client that slept would have each server pay,
 * in its sends, for waking it on the other core, which is no part of a server's work when its
 * clients are on other machines. It takes completions in bites of at most 64, so that a thousand
 * replies are not followed by a thousand requests in one gulp.
 *
 * Memory: one pattern for all sends and at most 4 MiB of receive buffers for all connections.
 *
 * Whether it is the bottleneck is printed: client_idle is the share of the window it had nothing to
 * do, server_busy the server's CPU time over the window. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

void load_die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

unsigned char *load_pattern(size_t size) {
    unsigned char *pattern = malloc(size + LOAD_PERIOD);
    if (!pattern)
        load_die("no memory for the pattern");
    uint32_t x = 2463534242u;
    for (size_t i = 0; i < size + LOAD_PERIOD; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        pattern[i] = i < LOAD_PERIOD ? (unsigned char)x : pattern[i - LOAD_PERIOD];
    }
    return pattern;
}

void load_verify(const struct record *r, const unsigned char *data, const unsigned char *expected,
                 size_t size) {
    bool equal;
    if (r->phase == LOAD_WARM || size <= 16)
        equal = !memcmp(data, expected, size);
    else
        equal = !memcmp(data, expected, 8) && !memcmp(data + size - 8, expected + size - 8, 8);
    if (!equal)
        load_die("MISMATCH: the echo is not what was sent (in a piece of %zu bytes)", size);
}

/* `source`: which address of 127/8 to come from; 0 leaves it to the kernel. A churn leaves its
 * ports in TIME_WAIT, and one address has but 28,000 of them. */
int load_connect(const struct load_options *o, uint32_t source) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        load_die("socket: %s", strerror(errno));
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    if (source) {
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
        if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
            load_die("bind: %s", strerror(errno));
    }
    addr.sin_port = htons(o->port);
    if (inet_pton(AF_INET, o->host, &addr.sin_addr) != 1)
        load_die("%s is no IPv4 address", o->host);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        load_die("connect: %s", strerror(errno));
    return fd;
}

static void load_bufs_init(struct load_ring *l) {
    size_t ring_size = l->buf_count * sizeof(struct io_uring_buf);
    void *ring = mmap(NULL, ring_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    l->memory = mmap(NULL, (size_t)l->buf_count * l->buf_size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED || l->memory == MAP_FAILED)
        load_die("no memory for receive buffers");
    l->bufs = ring;
    struct io_uring_buf_reg reg = {
        .ring_addr = (uint64_t)(uintptr_t)ring, .ring_entries = l->buf_count, .bgid = LOAD_GROUP};
    int rc = io_uring_register_buf_ring(&l->ring, &reg, 0);
    if (rc < 0)
        load_die("io_uring_register_buf_ring: %s", strerror(-rc));
    for (unsigned i = 0; i < l->buf_count; i++)
        load_buf_return(l, i);
    io_uring_buf_ring_advance(l->bufs, (int)l->returned);
    l->returned = 0;
}

void load_ring_init(struct load_ring *l, const struct load_options *o, unsigned buf_size,
                    unsigned buf_count) {
    *l = (struct load_ring){.buf_size = buf_size, .buf_count = buf_count};
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE |
                 IORING_SETUP_CLAMP,
        .cq_entries = o->connections * 2 < 1024 ? 1024 : o->connections * 2,
    };
    int rc = io_uring_queue_init_params(512, &l->ring, &params);
    if (rc < 0)
        load_die("io_uring_setup: %s", strerror(-rc));
    rc = io_uring_register_ring_fd(&l->ring);
    if (rc < 0)
        load_die("io_uring_register_ring_fd: %s", strerror(-rc));
    load_bufs_init(l);
}

struct io_uring_sqe *load_sqe(struct load_ring *l) {
    for (;;) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);
        if (sqe)
            return sqe;
        int rc = io_uring_submit(&l->ring);
        if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
            load_die("io_uring_submit: %s", strerror(-rc));
    }
}

void load_buf_return(struct load_ring *l, unsigned id) {
    io_uring_buf_ring_add(l->bufs, l->memory + (size_t)id * l->buf_size, l->buf_size,
                          (unsigned short)id, io_uring_buf_ring_mask(l->buf_count),
                          (int)l->returned++);
}

static bool load_pending(const struct io_uring *ring) {
    unsigned flags = IO_URING_READ_ONCE(*ring->sq.kflags);
    return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) || io_uring_sq_ready(ring);
}

bool load_enter(struct load_ring *l, const struct load_options *o) {
    if (l->returned)
        io_uring_buf_ring_advance(l->bufs, (int)l->returned);
    l->returned = 0;
    int rc = 0;
    if (o->sleep) {
        struct __kernel_timespec tick = {.tv_nsec = 1000000};
        struct io_uring_cqe *cqe;
        rc = io_uring_submit_and_wait_timeout(&l->ring, &cqe, 1, &tick, NULL);
    } else if (load_pending(&l->ring)) {
        rc = io_uring_submit_and_get_events(&l->ring);
    }
    if (rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
        load_die("io_uring_enter: %s", strerror(-rc));
    return io_uring_cq_ready(&l->ring) > 0;
}

static unsigned number(const char *text, const char *what, unsigned min, unsigned max) {
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || *end || end == text || value < min || value > max)
        load_die("%s must be %u to %u", what, min, max);
    return (unsigned)value;
}

static enum load_mode mode_read(const char *text) {
    if (!strcmp(text, "echo"))
        return LOAD_ECHO;
    if (!strcmp(text, "churn"))
        return LOAD_CHURN;
    if (!strcmp(text, "idle"))
        return LOAD_IDLE;
    if (!strcmp(text, "watch"))
        return LOAD_WATCH;
    load_die("--mode must be echo, churn, idle or watch");
}

static void option_read(struct load_options *o, int name, const char *text) {
    switch (name) {
    case 'h':
        o->host = text;
        break;
    case 'p':
        o->port = (uint16_t)number(text, "--port", 1, 65535);
        break;
    case 'P':
        o->server = (pid_t)number(text, "--server", 1, 1u << 30);
        break;
    case 'C':
        o->client = (pid_t)number(text, "--client", 1, 1u << 30);
        break;
    case 'c':
        o->connections = number(text, "--connections", 1, 1u << 20);
        break;
    case 's':
        o->size = number(text, "--size", 1, 1u << 20);
        break;
    case 'd':
        o->depth = number(text, "--depth", 1, 1024);
        break;
    case 'w':
        o->warm_ms = number(text, "--warm", 1, 60000);
        break;
    case 'm':
        o->measure_ms = number(text, "--measure", 4, 60000);
        break;
    case 'M':
        o->mode = mode_read(text);
        break;
    case 'S':
        o->sleep = true;
        break;
    default:
        load_die("usage: load --port P --server PID [options, see the head of load.c]");
    }
}

static void options_read(struct load_options *o, int argc, char **argv) {
    static const struct option names[] = {
        {"client", 1, NULL, 'C'},
        {"connections", 1, NULL, 'c'},
        {"depth", 1, NULL, 'd'},
        {"host", 1, NULL, 'h'},
        {"measure", 1, NULL, 'm'},
        {"mode", 1, NULL, 'M'},
        {"port", 1, NULL, 'p'},
        {"server", 1, NULL, 'P'},
        {"size", 1, NULL, 's'},
        {"sleep", 0, NULL, 'S'},
        {"warm", 1, NULL, 'w'},
        {0},
    };
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1)
        option_read(o, name, optarg);
    if (!o->port || !o->server)
        load_die("--port and --server are needed");
}

/* A descriptor a connection, and some. */
static void raise_nofile(unsigned connections) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        load_die("getrlimit: %s", strerror(errno));
    rlim_t need = connections + 64u;
    if (limit.rlim_cur >= need)
        return;
    limit.rlim_cur = need;
    if (limit.rlim_max < need)
        limit.rlim_max = need;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        load_die("RLIMIT_NOFILE does not allow %u connections", connections);
}

int main(int argc, char **argv) {
    struct load_options o = {.host = "127.0.0.1",
                             .client = getpid(),
                             .connections = 64,
                             .size = 64,
                             .depth = 1,
                             .warm_ms = 100,
                             .measure_ms = 400};
    options_read(&o, argc, argv);
    raise_nofile(o.connections);
    if (o.mode == LOAD_IDLE) {
        load_idle(&o);
        return 0;
    }
    static struct record r;
    if (o.mode == LOAD_CHURN)
        load_churn(&o, &r);
    else if (o.mode == LOAD_WATCH)
        load_watch(&o, &r);
    else
        load_echo(&o, &r);
    record_print(&r, &o);
    return r.errors ? 1 : 0;
}
