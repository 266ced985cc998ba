#include "sim/raw.h"

#include "base/poison.h"
#include "harness/tap.h"
#include "kernel/probe.h"
#include "kernel/sim/peer.h"
#include "kernel/sim/remote.h"
#include "kernel/sim/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <netinet/tcp.h>
#include <sys/utsname.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define SEEDS 40
#define REAL_RUNS 3
#define QUIET 3 /* waits in a row that bring nothing */
#define TEXTS_MAX 256
#define BUFS 8
#define BUFFER 65536 /* of a socket, each way */

/* ---- answers ---- */

static struct raw_answer *answer_of(struct raw *x, const char *name) {
    for (unsigned i = 0; i < x->answer_count; i++) {
        if (!strcmp(x->answers[i].name, name))
            return &x->answers[i];
    }
    CHECK_LT(x->answer_count, RAW_NAMES);
    struct raw_answer *a = &x->answers[x->answer_count++];
    *a = (struct raw_answer){0};
    snprintf(a->name, sizeof a->name, "%s", name);
    return a;
}

static void append(struct raw_answer *a, const char *text) {
    size_t used = strlen(a->text);
    int size = snprintf(a->text + used, sizeof a->text - used, "%s%s", used ? ", " : "", text);
    CHECK_LT(used + (size_t)size, sizeof a->text);
}

static const char *number(const struct raw_answer *a, int64_t value) {
    static char text[24];
    if (value < 0)
        return kr_errname((int)value);
    snprintf(text, sizeof text, "%lld", (long long)value);
    return value && a->any ? "+" : text;
}

static void answer_add(struct raw_answer *a, int32_t res, uint32_t flags) {
    char text[80];
    snprintf(text, sizeof text, "%s%s%s%s%s",
             flags & IORING_CQE_F_NOTIF && res ? "copied" : number(a, res),
             flags & IORING_CQE_F_BUFFER ? " BUFFER" : "", flags & IORING_CQE_F_MORE ? " MORE" : "",
             flags & IORING_CQE_F_SOCK_NONEMPTY ? " NONEMPTY" : "",
             flags & IORING_CQE_F_NOTIF ? " NOTIF" : "");
    append(a, text);
    a->count++;
    a->res = res;
    a->flags = flags;
}

void raw_note(struct raw *x, const char *name, int64_t value) {
    struct raw_answer *a = answer_of(x, name);
    append(a, number(a, value));
}

void raw_any(struct raw *x, const char *name) {
    answer_of(x, name)->any = true;
}

unsigned raw_count(struct raw *x, const char *name) {
    return answer_of(x, name)->count;
}

int32_t raw_res(struct raw *x, const char *name) {
    return answer_of(x, name)->res;
}

uint32_t raw_flags(struct raw *x, const char *name) {
    return answer_of(x, name)->flags;
}

/* ---- requests ---- */

static uint64_t user_data(struct raw *x, const char *name) {
    return (uint64_t)(answer_of(x, name) - x->answers) + 1;
}

struct io_uring_sqe *raw_ask(struct raw *x, const char *name, unsigned opcode, int slot) {
    struct io_uring_sqe *sqe = kr__ring_sqe(&x->ring);
    CHECK(sqe != NULL);
    sqe->opcode = (uint8_t)opcode;
    sqe->fd = slot;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->user_data = user_data(x, name);
    return sqe;
}

void raw_connect(struct raw *x, const char *name, int slot, uint16_t port) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_CONNECT, slot);
    sqe->addr = (uint64_t)(uintptr_t)raw_address(port);
    sqe->off = sizeof(struct sockaddr_in);
}

void raw_send(struct raw *x, const char *name, int slot, const char *text) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_SEND, slot);
    sqe->addr = (uint64_t)(uintptr_t)text;
    sqe->len = (unsigned)strlen(text);
    sqe->msg_flags = MSG_NOSIGNAL;
}

void raw_recv(struct raw *x, const char *name, int slot) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_RECV, slot);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->buf_group = RAW_GROUP;
}

void raw_close(struct raw *x, const char *name, int slot) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_CLOSE, 0);
    sqe->flags = 0;
    sqe->file_index = (unsigned)slot + 1;
}

void raw_cancel(struct raw *x, const char *name, const char *target) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_ASYNC_CANCEL, -1);
    sqe->flags = 0;
    sqe->addr = user_data(x, target);
}

/* Returns how many completions came. */
static unsigned turn(struct raw *x, unsigned wait_for, int64_t wait_ns) {
    CHECK_GT(tap_remaining_ns(), 0);
    int rc = kr__ring_enter(&x->ring, wait_for, wait_ns);
    if (rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
        CHECK_OK(rc);
    unsigned count = kr__ring_ready(&x->ring);
    for (unsigned i = 0; i < count; i++) {
        const struct io_uring_cqe *cqe = kr__ring_cqe(&x->ring, i);
        CHECK(cqe->user_data && cqe->user_data <= x->answer_count);
        answer_add(&x->answers[cqe->user_data - 1], cqe->res, cqe->flags);
    }
    kr__ring_advance(&x->ring, count);
    return count;
}

void raw_submit(struct raw *x) {
    do
        turn(x, 0, -1);
    while (kr__ring_unsubmitted(&x->ring));
}

void raw_await(struct raw *x, const char *name, unsigned count) {
    raw_submit(x);
    while (answer_of(x, name)->count < count)
        turn(x, 1, x->sim ? 300000 * MS : 100 * MS);
}

void raw_quiet(struct raw *x) {
    raw_submit(x);
    for (unsigned quiet = 0; quiet < QUIET;)
        quiet = turn(x, 1, 2 * MS) ? 0 : quiet + 1;
}

/* ---- files ---- */

static void make_nonblock(struct raw *x, int fd) {
    if (x->sim)
        kr__sim_fd_file(x->sim, fd)->nonblock = true;
    else
        CHECK_SYS(fcntl(fd, F_SETFL, O_NONBLOCK));
}

void raw_install(struct raw *x, int slot, int fd) {
    if (x->nonblock)
        make_nonblock(x, fd);
    struct io_uring_files_update update = {.offset = (unsigned)slot,
                                           .fds = (uint64_t)(uintptr_t)&fd};
    CHECK_EQ(kr__ring_register(&x->ring, IORING_REGISTER_FILES_UPDATE, &update, 1), 1);
    CHECK_OK(x->door->file.close(x->door, fd));
}

static void buffer(int fd, int which) {
    int size = BUFFER;
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, which, &size, sizeof size));
}

static int real_socket(int family) {
    int fd = CHECK_SYS(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    buffer(fd, SO_SNDBUF);
    return fd;
}

void raw_socket(struct raw *x, int slot, int family) {
    int fd = x->sim ? kr__sim_socket(x->sim, family) : real_socket(family);
    CHECK_GE(fd, 0);
    raw_install(x, slot, fd);
}

void raw_wake(struct raw *x, int slot) {
    raw_install(x, slot, CHECK_OK(x->door->file.wake_open(x->door)));
}

void raw_impatient_socket(struct raw *x, int slot) {
    if (x->sim) {
        raw_socket(x, slot, AF_INET);
        return;
    }
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), ms = 1;
    CHECK_SYS(setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms));
    raw_install(x, slot, fd);
}

static struct sockaddr_in address(uint16_t port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

const struct sockaddr_in *raw_address(uint16_t port) {
    static struct sockaddr_in addresses[4];
    static unsigned next;
    struct sockaddr_in *a = &addresses[next++ % 4];
    *a = address(port);
    return a;
}

/* A socket that is bound and, if `backlog` >= 0, listens; its port. */
static int bound(int backlog, uint16_t *port) {
    struct sockaddr_in a = address(0);
    socklen_t size = sizeof a;
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(fd, (struct sockaddr *)&a, size));
    buffer(fd, SO_RCVBUF); /* which those that it accepts inherit */
    if (backlog >= 0)
        CHECK_SYS(listen(fd, backlog));
    CHECK_SYS(getsockname(fd, (struct sockaddr *)&a, &size));
    *port = ntohs(a.sin_port);
    return fd;
}

/* Without faults as loopback, which answers at once. */
static int64_t after(const struct raw *x) {
    return x->calm ? 0 : (int64_t)kr_sim_random(x->sim, 100000);
}

void raw_server(struct raw *x) {
    if (x->sim) {
        x->port = 80;
        CHECK_OK(kr_sim_remote(x->sim, x->port, KR_SIM_ACCEPTS, after(x)));
    } else {
        x->server = bound(8, &x->port);
    }
}

/* The real one has a backlog of one, which is full: then it drops each SYN
 * (net/ipv4/tcp_input.c). */
void raw_silent_server(struct raw *x) {
    if (x->sim) {
        x->port = 80;
        CHECK_OK(kr_sim_remote(x->sim, x->port, KR_SIM_IGNORES, 50000));
        return;
    }
    x->server = bound(0, &x->port);
    struct sockaddr_in to = address(x->port);
    for (unsigned i = 0; i < 2; i++) {
        x->crowd[i] = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        CHECK(connect(x->crowd[i], (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS);
    }
}

void raw_accept(struct raw *x, struct far *far) {
    *far = (struct far){.sim = x->sim, .open = true};
    if (x->sim) {
        CHECK_OK(kr_sim_accept(x->sim, &far->peer, x->port));
        CHECK_OK(kr_sim_window(x->sim, far->peer, 2 * BUFFER, 2 * BUFFER));
        return;
    }
    far->fd = CHECK_SYS(accept4(x->server, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

void raw_join(struct raw *x, int slot, struct far *far) {
    if (!x->port)
        raw_server(x);
    raw_socket(x, slot, AF_INET);
    char name[24];
    snprintf(name, sizeof name, "join %d", slot);
    raw_connect(x, name, slot, x->port);
    raw_await(x, name, 1);
    CHECK_EQ(raw_res(x, name), 0);
    raw_accept(x, far);
}

/* TCP has no broadcast: tcp_v4_connect, net/ipv4/tcp_ipv4.c. */
const struct sockaddr_in *raw_no_way(struct raw *x) {
    static struct sockaddr_in a;
    a = address(80);
    if (x->sim)
        CHECK_OK(kr_sim_remote(x->sim, 80, KR_SIM_NO_NET, 0));
    else
        a.sin_addr.s_addr = INADDR_BROADCAST;
    return &a;
}

int raw_file(struct raw *x) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    if (x->sim)
        return CHECK_OK(kr_sim_file(x->sim, letters, 26));
    int fd = CHECK_SYS(memfd_create("letters", MFD_CLOEXEC));
    CHECK_EQ(write(fd, letters, 26), 26);
    return fd;
}

static void pair_simulated(struct raw *x, int slot, struct far *far) {
    struct kr_addr addrs[2] = {{.size = 2, .u.sa.sa_family = AF_UNIX},
                               {.size = 2, .u.sa.sa_family = AF_UNIX}};
    struct kr__sim_file *ends[2];
    kr__sim_stream_pair(x->sim, ends, addrs);
    far->peer = kr__sim_peer_new(x->sim, ends[1]);
    raw_install(x, slot, kr__sim_fd_new(x->sim, ends[0]));
}

void raw_pair(struct raw *x, int slot, struct far *far) {
    *far = (struct far){.sim = x->sim, .open = true};
    if (x->sim) {
        pair_simulated(x, slot, far);
        return;
    }
    int fds[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
    buffer(fds[0], SO_SNDBUF);
    CHECK_SYS(fcntl(fds[1], F_SETFL, O_NONBLOCK));
    far->fd = fds[1];
    raw_install(x, slot, fds[0]);
}

const struct kr_addr *raw_unix_server(struct raw *x, int backlog) {
    static struct kr_addr addr;
    char name[64];
    snprintf(name, sizeof name, "@kreactor-drift-%ld", (long)getpid());
    CHECK_OK(kr_addr_unix(&addr, name));
    if (x->sim) {
        CHECK_OK(kr_sim_remote_at(x->sim, &addr, KR_SIM_ACCEPTS, 0));
        return &addr;
    }
    x->server = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(x->server, &addr.u.sa, addr.size));
    CHECK_SYS(listen(x->server, backlog));
    return &addr;
}

/* Returns whether any was taken. */
static bool fill(struct raw *x, int slot) {
    static const char bytes[BUFFER];
    struct raw_answer *a = answer_of(x, "fill");
    bool some = false;
    a->hidden = true;
    do {
        struct io_uring_sqe *sqe = raw_ask(x, "fill", IORING_OP_SEND, slot);
        sqe->addr = (uint64_t)(uintptr_t)bytes;
        sqe->len = sizeof bytes;
        sqe->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
        raw_await(x, "fill", a->count + 1);
        CHECK(a->res > 0 || a->res == -EAGAIN);
        some |= a->res > 0;
    } while (a->res > 0);
    raw_quiet(x);
    return some;
}

/* The far end's kernel takes some meanwhile, but tells of it up to 40 ms later (TCP_DELACK_MIN,
 * include/net/tcp.h). */
void raw_fill(struct raw *x, int slot) {
    if (x->sim && !x->calm && kr_sim_random(x->sim, 2))
        return;
    while (fill(x, slot)) {
        if (!x->sim)
            usleep(60000);
    }
}

uint16_t raw_closed_port(struct raw *x) {
    if (x->sim) {
        CHECK_OK(kr_sim_remote(x->sim, 9, KR_SIM_REFUSES, after(x)));
        return 9;
    }
    uint16_t port;
    CHECK_SYS(close(bound(-1, &port)));
    return port;
}

void raw_bufs(struct raw *x, unsigned count) {
    struct io_uring_buf_ring *ring = x->buf_ring;
    if (!ring) {
        ring = x->buf_ring = x->door->process.map(x->door, 4096, KR__MAP_PLAIN);
        CHECK(ring != NULL);
        struct kr__buf_reg reg = {.ring_addr = (uint64_t)(uintptr_t)ring, .ring_entries = BUFS,
                                  .group = RAW_GROUP};
        CHECK_OK(kr__ring_register(&x->ring, IORING_REGISTER_PBUF_RING, &reg, 1));
    }
    for (unsigned i = 0; i < count; i++, x->buf_tail++) {
        struct io_uring_buf *buf = &ring->bufs[x->buf_tail % BUFS];
        buf->addr = (uint64_t)(uintptr_t)x->bufs[x->buf_tail % BUFS];
        buf->len = RAW_BUF_SIZE;
        buf->bid = (uint16_t)(x->buf_tail % BUFS);
    }
    __atomic_store_n(&ring->tail, (uint16_t)x->buf_tail, __ATOMIC_RELEASE);
}

/* ---- a run ---- */

static void open_ring(struct raw *x) {
    struct kr__ring_plan plan = {
        .sq_entries = 32,
        .cq_entries = 256,
        .defer = tap_variant()->mode == KR_TASKRUN_DEFER,
        .caps_mask = tap_variant()->caps_mask,
    };
    CHECK_OK(kr__ring_open(&x->ring, x->door, &plan));
    struct io_uring_rsrc_register table = {.nr = RAW_SLOTS, .flags = IORING_RSRC_REGISTER_SPARSE};
    CHECK_OK(kr__ring_register(&x->ring, IORING_REGISTER_FILES2, &table, sizeof table));
    struct io_uring_file_index_range range = {.off = RAW_SLOTS / 2, .len = RAW_SLOTS / 2};
    CHECK_OK(kr__ring_register(&x->ring, IORING_REGISTER_FILE_ALLOC_RANGE, &range, 0));
    CHECK_OK(kr__ring_bind(&x->ring));
}

static void close_all(struct raw *x) {
    for (unsigned i = 0; i < RAW_FARS; i++) {
        if (x->fars[i].open)
            far_end(&x->fars[i], false);
    }
    kr__ring_close(&x->ring, false);
    kr__unpoison(x->bufs, sizeof x->bufs); /* the simulated kernel poisons what it is lent */
    if (x->buf_ring)
        x->door->process.unmap(x->door, x->buf_ring, 4096);
    for (unsigned i = 0; i < 4; i++) {
        if (x->crowd[i])
            CHECK_SYS(close(x->crowd[i]));
    }
    if (x->server)
        CHECK_SYS(close(x->server));
}

struct texts {
    char all[TEXTS_MAX][256];
    unsigned count;
};

static bool texts_have(const struct texts *set, const char *text) {
    for (unsigned i = 0; i < set->count; i++) {
        if (!strcmp(set->all[i], text))
            return true;
    }
    return false;
}

static void texts_add(struct texts *set, const struct raw *x) {
    for (unsigned i = 0; i < x->answer_count; i++) {
        const struct raw_answer *a = &x->answers[i];
        if (a->hidden)
            continue;
        char text[256];
        snprintf(text, sizeof text, "%s: %s", a->name, a->text[0] ? a->text : "nothing");
        if (texts_have(set, text))
            continue;
        CHECK_LT(set->count, TEXTS_MAX);
        memcpy(set->all[set->count++], text, sizeof text);
    }
}

static void run(const struct raw_script *script, const struct kr__kernel *door, struct kr_sim *sim,
                bool calm, struct texts *into) {
    static struct raw x;
    x = (struct raw){.sim = sim, .calm = calm, .door = door};
    open_ring(&x);
    script->run(&x);
    raw_quiet(&x);
    texts_add(into, &x);
    close_all(&x);
}

/* As far as the running kernel is known. */
static void as_old_as_this(struct kr_sim *sim) {
    struct utsname name;
    unsigned major, minor;
    CHECK_SYS(uname(&name));
    if (sscanf(name.release, "%u.%u", &major, &minor) == 2)
        (void)!kr_sim_linux(sim, major, minor);
}

/* Faults that only a failing host or network brings are left off: the script would not go on. */
static void run_sim(const struct raw_script *script, struct texts *into, uint64_t seed,
                    bool faults) {
    static const enum kr_sim_fault mild[] = {
        KR_SIM_TASK_WORK, KR_SIM_OVERTAKE, KR_SIM_SHORT_SEND, KR_SIM_CANCEL_LATE, KR_SIM_LATE_FLUSH,
        KR_SIM_SPURIOUS_WAKE, KR_SIM_LATE_WORKER, KR_SIM_ZC_LATE, KR_SIM_READ_WAITS,
    };
    struct kr_sim *sim;
    CHECK_OK(kr_sim_new(&sim, seed));
    as_old_as_this(sim);
    for (unsigned i = 0; faults && i < sizeof mild / sizeof *mild; i++)
        CHECK_OK(kr_sim_fault_set(sim, mild[i], (unsigned)kr_sim_random(sim, 300)));
    run(script, &sim->door, sim, !faults, into);
    CHECK_OK(kr_sim_free(sim));
}

static unsigned lacks(const struct raw_script *script, const struct texts *in,
                      const struct texts *texts, const char *who) {
    unsigned count = 0;
    for (unsigned i = 0; i < texts->count; i++) {
        if (texts_have(in, texts->all[i]))
            continue;
        tap_note("%s: ONLY THE %s KERNEL: %s", script->name, who, texts->all[i]);
        count++;
    }
    return count;
}

static unsigned compare(const struct raw_script *script) {
    static struct texts real, calm, wild;
    real.count = calm.count = wild.count = 0;
    for (unsigned i = 0; i < (script->slow ? 1 : REAL_RUNS); i++)
        run(script, &kr__linux, NULL, false, &real);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        run_sim(script, &calm, seed, false);
        run_sim(script, &wild, seed, true);
    }
    for (unsigned i = 0; i < real.count; i++)
        tap_note("%s: %s", script->name, real.all[i]);
    CHECK_GT(real.count, 0);
    struct texts *all = &wild;
    for (unsigned i = 0; i < calm.count && all->count < TEXTS_MAX; i++)
        memcpy(all->all[all->count++], calm.all[i], sizeof calm.all[i]);
    unsigned differ = lacks(script, all, &real, "REAL");
    return differ + (script->loose ? 0 : lacks(script, &real, &calm, "SIMULATED"));
}

void raw_simulate(unsigned major, unsigned minor, void (*body)(struct raw *x)) {
    static struct texts texts;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct kr_sim *sim;
        CHECK_OK(kr_sim_new(&sim, seed));
        CHECK_OK(kr_sim_linux(sim, major, minor));
        struct raw_script script = {.name = "simulated", .run = body};
        texts.count = 0;
        run(&script, &sim->door, sim, true, &texts);
        CHECK_EQ(sim->files, 0);
        CHECK_EQ(sim->requests, 0);
        CHECK_OK(kr_sim_free(sim));
    }
}

void raw_compare(const struct raw_script *scripts, unsigned count) {
    unsigned differ = 0;
    for (unsigned i = 0; i < count; i++)
        differ += compare(&scripts[i]);
    CHECK_EQ(differ, 0);
}
