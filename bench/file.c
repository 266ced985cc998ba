/* A file over a connection, by all the ways there are.
 *
 *   file [--size MIB] [--rounds N] [--chunk KIB] [MODE ...]
 *
 * Question: what CPU time does a MiB of a cached file cost that goes out over TCP?
 * Load: one file of the working directory's file system (64 MiB, in the page cache) over loopback
 * to a client that copies it out of its socket; sender and
 *           client have a core each. Rounds in turn, each way once a round; medians, and the spread
 *           of the middle half.
 * Yardstick: the sender's CPU time (CLOCK_PROCESS_CPUTIME_ID, which has the kernel's workers of
 * this process
 *           in it), and the time that it took. The work that loopback does for the receiver is in
 *           it as well.
 *
 * kreactor   kr_conn_send_file
 * read       READ and SEND by hand, two chunks, as kreactor does it
 * fixed      the same with READ_FIXED into registered memory
 * splice     SPLICE from the file to a pipe of 1 MiB and on to the socket, by io_uring
 * sendfile   sendfile(2), in a thread that blocks */
#include <kreactor.h>

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define ROUNDS_MAX 200
#define CHUNK_MAX ((size_t)4 << 20)

static size_t file_size = 64 * MIB, chunk_size = 65536;
static struct io_uring ring;
static char *memory; /* two chunks, registered */

static void die(const char *what) {
    perror(what);
    exit(1);
}

#define NEED(rc_) ((rc_) < 0 ? die(#rc_) : (void)0)

static int64_t clock_of(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void pin(unsigned cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        fprintf(stderr, "cannot pin to cpu %u: %s\n", cpu, strerror(errno));
}

/* ---- the ways ---- */

static void way_sendfile(int sock, int fd) {
    off_t at = 0;
    while ((size_t)at < file_size)
        NEED(sendfile(sock, fd, &at, file_size - (size_t)at));
}

struct chunk {
    char *data;
    size_t size, sent; /* size 0: free */
    bool reading;
};

enum { READ_DONE = 1, SEND_DONE = 2 };

static void reads_and_sends(int sock, int fd, bool fixed) {
    struct chunk chunks[2] = {{.data = memory}, {.data = memory + chunk_size}};
    unsigned in = 0, out = 0; /* which is read into next, which is sent next */
    size_t read = 0, sent = 0;
    bool sending = false;
    while (sent < file_size) {
        struct chunk *to = &chunks[in], *from = &chunks[out];
        if (!to->size && !to->reading && read < file_size) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            size_t part = file_size - read < chunk_size ? file_size - read : chunk_size;
            if (fixed)
                io_uring_prep_read_fixed(sqe, fd, to->data, (unsigned)part, read, 0);
            else
                io_uring_prep_read(sqe, fd, to->data, (unsigned)part, read);
            io_uring_sqe_set_data64(sqe, READ_DONE);
            to->reading = true;
        }
        if (from->size && !sending) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            io_uring_prep_send(sqe, sock, from->data + from->sent, from->size - from->sent,
                               MSG_NOSIGNAL);
            io_uring_sqe_set_data64(sqe, SEND_DONE);
            sending = true;
        }
        struct io_uring_cqe *cqe;
        NEED(io_uring_submit_and_wait(&ring, 1));
        while (io_uring_peek_cqe(&ring, &cqe) == 0) {
            if (cqe->res <= 0) {
                errno = -cqe->res;
                die("read or send");
            }
            if (cqe->user_data == READ_DONE) {
                chunks[in].reading = false;
                chunks[in].size = (size_t)cqe->res;
                chunks[in].sent = 0;
                read += (size_t)cqe->res;
                in = !in;
            } else {
                sending = false;
                sent += (size_t)cqe->res;
                chunks[out].sent += (size_t)cqe->res;
                if (chunks[out].sent == chunks[out].size) {
                    chunks[out].size = 0;
                    out = !out;
                }
            }
            io_uring_cqe_seen(&ring, cqe);
        }
    }
}

static void way_read(int sock, int fd) {
    reads_and_sends(sock, fd, false);
}

static void way_fixed(int sock, int fd) {
    reads_and_sends(sock, fd, true);
}

/* The pipe is filled while it is being emptied: two workers. */
static void way_splice(int sock, int fd) {
    int pipes[2];
    NEED(pipe2(pipes, O_CLOEXEC));
    int room = fcntl(pipes[1], F_SETPIPE_SZ, (int)MIB);
    NEED(room);
    size_t in = 0, out = 0;
    bool filling = false, emptying = false;
    while (out < file_size) {
        if (!filling && in < file_size && in - out < (size_t)room) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            size_t part = (size_t)room - (in - out);
            part = file_size - in < part ? file_size - in : part;
            io_uring_prep_splice(sqe, fd, (int64_t)in, pipes[1], -1, (unsigned)part, SPLICE_F_MOVE);
            io_uring_sqe_set_data64(sqe, READ_DONE);
            filling = true;
        }
        if (!emptying && in > out) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            io_uring_prep_splice(sqe, pipes[0], -1, sock, -1, (unsigned)(in - out), SPLICE_F_MOVE);
            io_uring_sqe_set_data64(sqe, SEND_DONE);
            emptying = true;
        }
        struct io_uring_cqe *cqe;
        NEED(io_uring_submit_and_wait(&ring, 1));
        while (io_uring_peek_cqe(&ring, &cqe) == 0) {
            if (cqe->res <= 0) {
                errno = -cqe->res;
                die("splice");
            }
            bool was_read = cqe->user_data == READ_DONE;
            *(was_read ? &in : &out) += (size_t)cqe->res;
            *(was_read ? &filling : &emptying) = false;
            io_uring_cqe_seen(&ring, cqe);
        }
    }
    close(pipes[0]);
    close(pipes[1]);
}

static struct kr_reactor *reactor;

static void file_done(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    (void)r;
    (void)arg;
    if (error || sent != file_size)
        die("kr_conn_send_file");
}

/* The client has all. */
static size_t answered(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                       size_t size) {
    (void)r;
    (void)conn;
    (void)data;
    *(bool *)user = true;
    return size;
}

static void way_kreactor(int sock, int fd) {
    static const struct kr_conn_ops ops = {.on_data = answered};
    kr_conn conn;
    bool done = false;
    int copy = dup(sock);
    NEED(copy);
    if (kr_conn_adopt(reactor, &conn, copy, NULL, &ops, &done) < 0 ||
        kr_conn_send_file(reactor, conn, fd, 0, file_size, file_done, NULL) < 0)
        die("kr_conn_send_file");
    while (!done)
        kr_step(reactor, -1);
    kr_conn_close(reactor, conn, KR_CLOSE_NOW);
    struct kr_stats stats = {.conns = 1};
    while (stats.conns) {
        kr_step(reactor, 0);
        kr_stats_read(reactor, &stats, sizeof stats);
    }
}

struct way {
    const char *name;
    void (*run)(int sock, int fd);
    double cpu[ROUNDS_MAX], wall[ROUNDS_MAX]; /* ns a MiB; MiB/s */
};

static struct way ways[] = {
    {.name = "kreactor", .run = way_kreactor}, {.name = "read", .run = way_read},
    {.name = "fixed", .run = way_fixed},       {.name = "splice", .run = way_splice},
    {.name = "sendfile", .run = way_sendfile},
};
#define WAYS (sizeof ways / sizeof *ways)

/* ---- one transfer ---- */

static void client_main(int listener_port) {
    static char bytes[256 * 1024];
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)listener_port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    pin(1);
    for (;;) {
        int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (sock < 0 || connect(sock, (struct sockaddr *)&addr, sizeof addr) < 0)
            _exit(0);
        ssize_t n;
        size_t got = 0;
        while (got < file_size && (n = recv(sock, bytes, sizeof bytes, 0)) > 0)
            got += (size_t)n;
        if (send(sock, "k", 1, MSG_NOSIGNAL) != 1)
            _exit(1);
        close(sock);
    }
}

static void measure(struct way *way, unsigned round, int listener, int fd) {
    int sock = accept(listener, NULL, NULL), on = 1;
    NEED(sock);
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int64_t cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID), wall = clock_of(CLOCK_MONOTONIC);
    way->run(sock, fd);
    char byte;
    if (way->run != way_kreactor && recv(sock, &byte, 1, 0) != 1)
        die("the client's answer");
    double mib = (double)file_size / MIB;
    way->cpu[round] = (double)(clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu) / mib;
    way->wall[round] = mib * 1e9 / (double)(clock_of(CLOCK_MONOTONIC) - wall);
    close(sock);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double quantile(double *values, unsigned count, double q) {
    qsort(values, count, sizeof *values, by_value);
    return values[(unsigned)(q * (count - 1) + 0.5)];
}

static int file_make(void) {
    int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    NEED(fd);
    char *bytes = malloc(MIB);
    for (size_t at = 0; at < file_size; at += MIB) {
        memset(bytes, (int)(at / MIB) + 1, MIB);
        if (pwrite(fd, bytes, MIB, (off_t)at) != (ssize_t)MIB)
            die("pwrite");
    }
    free(bytes);
    return fd;
}

static int listen_on(int *port) {
    struct sockaddr_in addr = {.sin_family = AF_INET};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof addr;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&addr, size) < 0 ||
        listen(listener, 8) < 0 || getsockname(listener, (struct sockaddr *)&addr, &size) < 0)
        die("listen");
    *port = ntohs(addr.sin_port);
    return listener;
}

static void set_up(void) {
    pin(0);
    memory = mmap(NULL, 2 * CHUNK_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec all = {memory, 2 * chunk_size};
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN};
    if (memory == MAP_FAILED || io_uring_queue_init_params(64, &ring, &params) < 0 ||
        io_uring_register_buffers(&ring, &all, 1) < 0 || kr_reactor_new(&reactor, NULL, NULL) < 0)
        die("the rings");
}

static bool is_wanted(const char *name, char **names, int count) {
    for (int i = 0; i < count; i++) {
        if (!strcmp(name, names[i]))
            return true;
    }
    return count == 0;
}

int main(int argc, char **argv) {
    unsigned rounds = 15;
    int at = 1;
    for (; at + 1 < argc && argv[at][0] == '-'; at += 2) {
        size_t value = strtoul(argv[at + 1], NULL, 10);
        if (!strcmp(argv[at], "--size"))
            file_size = value * MIB;
        else if (!strcmp(argv[at], "--chunk"))
            chunk_size = value * 1024;
        else if (!strcmp(argv[at], "--rounds"))
            rounds = (unsigned)value;
    }
    if (!rounds || rounds > ROUNDS_MAX || !chunk_size || chunk_size > CHUNK_MAX || !file_size)
        return 2;
    int port, listener = listen_on(&port), fd = file_make();
    pid_t client = fork();
    if (client == 0) {
        close(listener);
        client_main(port);
    }
    set_up();
    for (unsigned round = 0; round <= rounds; round++) { /* the first warms up */
        for (unsigned i = 0; i < WAYS; i++) {
            if (is_wanted(ways[i].name, argv + at, argc - at))
                measure(&ways[i], round ? round - 1 : 0, listener, fd);
        }
    }
    close(listener);
    kr_reactor_free(reactor);
    waitpid(client, NULL, 0);
    printf("%zu MiB, chunks of %zu KiB (kreactor: 64), %u rounds\n", file_size / MIB,
           chunk_size / 1024, rounds);
    printf("%-10s %24s %18s\n", "", "CPU us a MiB (quartiles)", "MiB/s (quartiles)");
    for (unsigned i = 0; i < WAYS; i++) {
        struct way *w = &ways[i];
        if (is_wanted(w->name, argv + at, argc - at))
            printf("%-10s %8.1f (%6.1f-%6.1f) %9.0f (%.0f-%.0f)\n", w->name,
                   quantile(w->cpu, rounds, 0.5) / 1e3, quantile(w->cpu, rounds, 0.25) / 1e3,
                   quantile(w->cpu, rounds, 0.75) / 1e3, quantile(w->wall, rounds, 0.5),
                   quantile(w->wall, rounds, 0.25), quantile(w->wall, rounds, 0.75));
    }
    return 0;
}
