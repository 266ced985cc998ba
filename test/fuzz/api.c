/* Every public function, in any order, with arguments in and out of range, from callbacks and
 * between turns, on a reactor in the simulated world. The input chooses all.
 *
 * Handles are forged, altered, of another kind, stale, or good. Pointers that may not be NULL are
 * NULL now and then, but no pointer is wild: that is not refusable. The calls whose contract
 * forbids the moment, not the argument (another thread, after the end), are not made.
 *
 * Checked: nothing crashes, no audit or assertion fires, each on_open has one on_close, each posted
 * call runs once, every level comes to 0, and all memory is back. */
#include "fuzz/fuzz.h"
#include "fuzz/lost.h"

#include "conn/reactor.h"
#include "kernel/sim/world.h"

#include <kreactor.h>
#include <kreactor/sim.h>

#include <errno.h>
#include <string.h>

#define MS INT64_C(1000000)
#define PORT 7
#define HANDLES_MAX 96u
#define POSTS_MAX 4096u
#define ACTS_MAX 8192u /* and what is left of the input is not looked at */
#define INLINE_SIZE 48u
#define REST_NS (INT64_C(3600000) * MS)

/* Handles of one kind that were ever given out. */
struct handles {
    uint64_t bits[HANDLES_MAX];
    unsigned count;
};

struct world {
    struct tape tape;
    struct kr_sim *sim;
    struct kr_reactor *r;
    struct kr_alloc alloc;
    size_t held;
    unsigned refuse; /* every so-many-th allocation; 0: none */
    unsigned asked;
    struct handles conns, listeners, timers, peers;
    unsigned acts, open, posts_made, posts_ran, loans;
    bool in_callback, ending, lost;
};

static void act_some(struct world *w);

static unsigned char bytes[65536]; /* what is sent, and received into */
static const unsigned char constants[65536]; /* what is lent */

/* ---- choices ---- */

static unsigned below(struct world *w, unsigned bound) {
    return tape_below(&w->tape, bound);
}

static bool rarely(struct world *w) {
    return below(w, 32) == 31;
}

static size_t any_size(struct world *w) {
    static const size_t edges[] = {
        0,     1,     2,        63,             64,        4095,     4096,         65535,
        65536, 1 << 20, (1 << 20) + 1, INT32_MAX, 1ul << 31, SIZE_MAX / 2, SIZE_MAX - 1, SIZE_MAX,
    };
    unsigned choice = below(w, 32);
    return choice < 16 ? edges[choice] : below(w, 65536);
}

/* Time to come: nothing, some, never, or none that there is. Sums stay far from the end of time. */
static int64_t any_time(struct world *w) {
    static const int64_t edges[] = {0,         1,  MS,        1000 * MS,
                                    INT64_MAX, -1, INT64_MIN, INT64_C(1) << 40};
    unsigned choice = below(w, 16);
    return choice < 8 ? edges[choice] : (int64_t)tape_number(&w->tape, 3) * 100;
}

static int64_t short_time(struct world *w) {
    return (int64_t)tape_number(&w->tape, 2) * 100;
}

static unsigned any_number(struct world *w) {
    static const unsigned edges[] = {0,  1,    2,    3,     4,     7,        8,         64,
                                     65, 1024, 4096, 65535, 65536, 1u << 20, INT32_MAX, UINT32_MAX};
    return edges[below(w, 16)];
}

static struct kr_reactor *any_reactor(struct world *w) {
    return rarely(w) ? NULL : w->r;
}

static struct kr_sim *any_sim(struct world *w) {
    return rarely(w) ? NULL : w->sim;
}

static void keep(struct handles *h, uint64_t bits) {
    MUST(bits != 0);
    if (h->count < HANDLES_MAX)
        h->bits[h->count++] = bits;
}

static bool is_full(const struct handles *h) {
    return h->count == HANDLES_MAX;
}

static uint64_t kept(struct world *w, const struct handles *h) {
    return h->count ? h->bits[h->count - 1 - below(w, HANDLES_MAX) % h->count] : 0;
}

static uint64_t any_handle(struct world *w, const struct handles *h) {
    const struct handles *all[] = {&w->conns, &w->listeners, &w->timers, &w->peers};
    switch (below(w, 24)) {
    case 23:
        return 0;
    case 22:
        return tape_number(&w->tape, 8);
    case 21:
        return kept(w, h) ^ UINT64_C(1) << below(w, 64);
    case 20:
        return kept(w, all[below(w, 4)]);
    default:
        return kept(w, h);
    }
}

static kr_conn any_conn(struct world *w) {
    return (kr_conn){any_handle(w, &w->conns)};
}

static kr_listener any_listener(struct world *w) {
    return (kr_listener){any_handle(w, &w->listeners)};
}

static kr_timer any_timer(struct world *w) {
    return (kr_timer){any_handle(w, &w->timers)};
}

static kr_sim_peer any_peer(struct world *w) {
    return (kr_sim_peer){any_handle(w, &w->peers)};
}

/* ---- memory ---- */

static void *memory_get(void *ctx, size_t size) {
    struct world *w = ctx;
    if (w->refuse && ++w->asked % w->refuse == 0)
        return NULL;
    void *memory = malloc(size);
    w->held += memory ? size : 0;
    return memory;
}

static void memory_put(void *ctx, void *memory, size_t size) {
    struct world *w = ctx;
    MUST(w->held >= size);
    w->held -= size;
    free(memory);
}

/* ---- callbacks ---- */

/* Room for a connection that cannot be remembered is not made: it is closed as it opens. */
static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct world *w = user;
    w->open++;
    if (is_full(&w->conns) || w->ending)
        MUST(kr_conn_close(r, conn, KR_CLOSE_NOW) == 0);
    keep(&w->conns, conn.bits);
    act_some(w);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct world *w = user;
    if (w->ending)
        return size;
    size_t take = any_size(w);
    if (below(w, 2))
        (void)kr_conn_send(r, conn, data, size);
    act_some(w);
    return take;
}

static void on_event(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    (void)conn;
    act_some(user);
}

static void on_timeout(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which) {
    MUST(which == KR_DEADLINE_IDLE || which == KR_DEADLINE_READ || which == KR_DEADLINE_LIFE);
    on_event(r, conn, user);
}

static void on_fds(struct kr_reactor *r, kr_conn conn, void *user, const int *fds, unsigned count,
                   bool truncated) {
    struct world *w = user;
    MUST(count || truncated);
    for (unsigned i = 0; i < count; i++)
        MUST(kr_sim_fd_close(w->sim, fds[i]) == 0);
    on_event(r, conn, user);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct world *w = user;
    MUST(error <= 0 && why <= KR_WHY_REACTOR);
    MUST(w->open > 0);
    act_some(w);
    MUST(kr_conn_user(r, conn) == w);
    w->open--;
}

static const struct kr_conn_ops full_ops = {
    .on_open = on_open,
    .on_data = on_data,
    .on_eof = on_event,
    .on_writable = on_event,
    .on_timeout = on_timeout,
    .on_shutdown = on_event,
    .on_fds = on_fds,
    .on_close = on_close,
};

/* Those whose absence has a meaning are absent. */
static const struct kr_conn_ops few_ops = {
    .on_open = on_open,
    .on_data = on_data,
    .on_close = on_close,
};

static const struct kr_conn_ops no_ops = {.on_open = on_open, .on_close = on_close};

static void on_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    struct world *w = user;
    if (w->ending)
        MUST(kr_timer_stop(r, timer) == 0);
    act_some(w);
}

static void on_post(struct kr_reactor *r, void *arg) {
    (void)r;
    struct world *w = arg;
    w->posts_ran++;
    act_some(w);
}

/* ---- the public functions ---- */

static void act_send(struct world *w) {
    size_t size = any_size(w);
    /* no wild reads */
    size_t most = size > sizeof bytes && size < SIZE_MAX / 2 ? sizeof bytes : size;
    (void)kr_conn_send(any_reactor(w), any_conn(w), rarely(w) ? NULL : bytes, most);
}

static void act_sendv(struct world *w) {
    struct iovec iov[4];
    for (unsigned i = 0; i < 4; i++)
        iov[i] = (struct iovec){.iov_base = bytes, .iov_len = below(w, 65536) / 8};
    if (rarely(w))
        iov[1].iov_len = iov[2].iov_len = SIZE_MAX / 2 + 1;
    static const int counts[] = {0, 1, 2, 3, 4, -1, -1025, INT32_MIN};
    (void)kr_conn_sendv(any_reactor(w), any_conn(w), rarely(w) ? NULL : iov, counts[below(w, 8)]);
}

static void loan_end(struct kr_reactor *r, void *arg) {
    (void)r;
    struct world *w = arg;
    MUST(w->loans > 0);
    w->loans--;
    act_some(w);
}

static void act_send_ref(struct world *w) {
    size_t size = any_size(w);
    size_t most = size > sizeof constants && size < SIZE_MAX / 2 ? sizeof constants : size;
    bool tell = !rarely(w);
    int rc = kr_conn_send_ref(any_reactor(w), any_conn(w), rarely(w) ? NULL : constants, most,
                              tell ? loan_end : NULL, w);
    w->loans += rc == 0 && tell;
}

struct shipment {
    struct world *w;
    int fd;
};

static void file_end(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    struct shipment *shipment = arg;
    struct world *w = shipment->w;
    MUST(error <= 0 && sent <= sizeof constants);
    (void)kr_sim_fd_close(w->sim, shipment->fd);
    free(shipment);
    loan_end(r, w);
}

static void act_send_file(struct world *w) {
    struct shipment *shipment = malloc(sizeof *shipment);
    MUST(shipment);
    *shipment = (struct shipment){w, kr_sim_file(w->sim, constants, below(w, sizeof constants + 1))};
    int fd = rarely(w) ? (int)below(w, 16) - 1 : shipment->fd;
    uint64_t offset = rarely(w) ? any_number(w) : below(w, 64);
    uint64_t size = rarely(w)   ? any_number(w)
                    : rarely(w) ? KR_FILE_END
                                : below(w, sizeof constants);
    int rc = kr_conn_send_file(any_reactor(w), any_conn(w), fd, offset, size, file_end, shipment);
    w->loans += rc == 0;
    if (rc < 0) {
        (void)kr_sim_fd_close(w->sim, shipment->fd);
        free(shipment);
    }
}

static void act_send_fds(struct world *w) {
    int fds[4];
    for (unsigned i = 0; i < 4; i++)
        fds[i] = (int)below(w, 16) - 1;
    unsigned count = rarely(w) ? any_number(w) : below(w, 5);
    size_t size = below(w, sizeof constants + 1);
    if (count > 4 && count <= KR_FDS_MAX)
        count = 4;
    (void)kr_conn_send_fds(any_reactor(w), any_conn(w), rarely(w) ? NULL : constants, size,
                           rarely(w) ? NULL : fds, count);
}

static void act_reserve(struct world *w) {
    void *room;
    size_t size = any_size(w);
    if (kr_conn_reserve(any_reactor(w), any_conn(w), size, rarely(w) ? NULL : &room) == 0)
        memset(room, 'r', size);
}

static void act_commit(struct world *w) {
    (void)kr_conn_commit(any_reactor(w), any_conn(w), any_size(w));
}

static void act_reserve_commit(struct world *w) {
    kr_conn conn = any_conn(w);
    void *room;
    size_t size = 1 + below(w, 65536);
    if (kr_conn_reserve(w->r, conn, size, &room) < 0)
        return;
    memset(room, 'c', size);
    (void)kr_conn_commit(w->r, conn, below(w, 65536));
}

static void act_queued(struct world *w) {
    (void)kr_conn_queued(any_reactor(w), any_conn(w));
}

static void act_pause(struct world *w) {
    (void)kr_conn_pause(any_reactor(w), any_conn(w));
}

static void act_resume(struct world *w) {
    (void)kr_conn_resume(any_reactor(w), any_conn(w));
}

static void act_half(struct world *w) {
    (void)kr_conn_shutdown(any_reactor(w), any_conn(w));
}

static void on_drained(struct kr_reactor *r, void *user, unsigned cut_off) {
    struct world *w = user;
    (void)cut_off;
    MUST(r == w->r && w->open == 0);
    act_some(w);
}

static void act_drain(struct world *w) {
    (void)kr_drain(any_reactor(w), any_time(w), rarely(w) ? NULL : on_drained, w);
}

static void act_close(struct world *w) {
    (void)kr_conn_close(any_reactor(w), any_conn(w), (enum kr_close)below(w, 5));
}

static void act_addresses(struct world *w) {
    struct kr_addr addr;
    (void)kr_conn_peer(any_reactor(w), any_conn(w), rarely(w) ? NULL : &addr);
    (void)kr_conn_local(any_reactor(w), any_conn(w), rarely(w) ? NULL : &addr);
    (void)kr_listener_addr(any_reactor(w), any_listener(w), rarely(w) ? NULL : &addr);
}

static void act_user(struct world *w) {
    kr_conn conn = any_conn(w);
    if (kr_conn_set_user(any_reactor(w), conn, w) == 0)
        MUST(kr_conn_user(w->r, conn) == w);
}

static void act_inline(struct world *w) {
    void *memory = kr_conn_inline(any_reactor(w), any_conn(w));
    if (memory)
        memset(memory, 'i', INLINE_SIZE);
}

static void act_deadline(struct world *w) {
    (void)kr_conn_deadline(any_reactor(w), any_conn(w), (enum kr_deadline)below(w, 6), any_time(w));
}

/* Mostly good; now and then a field is not. */
static void any_opts(struct world *w, struct kr_listen_opts *opts) {
    kr_listen_opts_init(opts);
    opts->conn.inline_size = below(w, 2) ? INLINE_SIZE : 0;
    opts->addresses = below(w, 4) == 0;
    opts->reuse_port = below(w, 4) != 0;
    opts->conn_max = below(w, 4) ? 0 : below(w, 16);
    opts->conn.send_low = below(w, 1024);
    opts->conn.send_high = opts->conn.send_low + below(w, 4096);
    opts->conn.send_cap = opts->conn.send_high + below(w, 65536);
    opts->conn.zerocopy_min = below(w, 4) ? 0 : below(w, 4096);
    opts->conn.recv_cap = 1 + below(w, 65536);
    opts->conn.recv_fds = below(w, 4);
    opts->conn.idle_ns = below(w, 4) ? 0 : short_time(w);
    opts->conn.read_ns = below(w, 8) ? 0 : short_time(w);
    opts->conn.write_ns = below(w, 8) ? 0 : short_time(w);
    opts->conn.life_ns = below(w, 8) ? 0 : short_time(w);
    opts->conn.flush_ns = 1 + short_time(w);
    switch (below(w, 24)) {
    case 0:
        opts->size = any_size(w) < sizeof *opts ? 0 : SIZE_MAX;
        break;
    case 1:
        opts->backlog = any_number(w);
        break;
    case 2:
        opts->conn.send_high = any_size(w);
        break;
    case 3:
        opts->conn.send_cap = any_size(w);
        break;
    case 4:
        opts->conn.recv_cap = any_size(w);
        break;
    case 5:
        opts->conn.idle_ns = any_time(w);
        break;
    case 6:
        opts->conn.flush_ns = any_time(w);
        break;
    case 7:
        opts->conn.inline_size = (size_t)1 << 20 | 1;
        break;
    default:
        break;
    }
}

static void any_addr(struct world *w, struct kr_addr *addr) {
    static const char *const ips[] = {"127.0.0.1", "0.0.0.0", "::1", "::"};
    MUST(kr_addr_ip(addr, ips[below(w, 4)], (uint16_t)(below(w, 4) ? PORT : below(w, 65536))) == 0);
    if (rarely(w))
        addr->size = below(w, sizeof addr->u + 1);
    if (rarely(w))
        addr->u.sa.sa_family = (sa_family_t)below(w, 65536);
}

static void act_listen(struct world *w) {
    if (is_full(&w->listeners) || w->ending)
        return;
    struct kr_listen_opts opts;
    struct kr_addr addr;
    any_opts(w, &opts);
    any_addr(w, &addr);
    const struct kr_conn_ops *tables[] = {&full_ops, &full_ops, &full_ops, &few_ops};
    const struct kr_conn_ops *ops = rarely(w) ? NULL : rarely(w) ? &no_ops : tables[below(w, 4)];
    kr_listener listener;
    const struct kr_listen_opts *how = rarely(w) ? NULL : &opts;
    /* the descriptors of this world are few: sometimes it is a listener's */
    bool given = rarely(w);
    if (given && kr_listen_fd(any_reactor(w), &listener, (int)below(w, 16), how, ops, w) < 0)
        return;
    if (!given && kr_listen(any_reactor(w), &listener, rarely(w) ? NULL : &addr, how, ops, w) < 0)
        return;
    MUST(ops && ops->on_data);
    keep(&w->listeners, listener.bits);
}

static void act_listener(struct world *w) {
    kr_listener listener = any_listener(w);
    switch (below(w, 5)) {
    case 0:
        (void)kr_listener_pause(any_reactor(w), listener);
        break;
    case 1:
    case 2:
        (void)kr_listener_resume(any_reactor(w), listener);
        break;
    case 3:
        (void)kr_listener_drain(any_reactor(w), listener, any_time(w));
        break;
    default:
        (void)kr_listener_close(any_reactor(w), listener);
    }
}

static void act_timer_start(struct world *w) {
    if (is_full(&w->timers) || w->ending)
        return;
    int64_t in_ns = any_time(w), every_ns = below(w, 2) ? any_time(w) : 0;
    kr_timer_fn *fn = rarely(w) ? NULL : on_timer;
    if (in_ns == 0 && below(w, 4) == 0) {
        (void)kr_timer_start(any_reactor(w), NULL, 0, 0, fn, w);
        return;
    }
    kr_timer timer;
    if (kr_timer_start(any_reactor(w), &timer, in_ns, every_ns, fn, w) == 0)
        keep(&w->timers, timer.bits);
}

static void act_timer(struct world *w) {
    kr_timer timer = any_timer(w);
    if (below(w, 2))
        (void)kr_timer_stop(any_reactor(w), timer);
    else if (!w->ending)
        (void)kr_timer_restart(any_reactor(w), timer, any_time(w), any_time(w));
}

static void act_post(struct world *w) {
    if (w->posts_made < POSTS_MAX && kr_post(any_reactor(w), rarely(w) ? NULL : on_post, w) == 0)
        w->posts_made++;
}

static void act_stop(struct world *w) {
    kr_stop(w->r);
}

static void act_stats(struct world *w) {
    struct kr_stats room[2];
    (void)kr_stats_read(any_reactor(w), rarely(w) ? NULL : room, below(w, sizeof room + 1));
    MUST(kr_now(w->r) > 0);
    (void)kr_now(any_reactor(w));
}

static void act_dump(struct world *w) {
    (void)kr_dump(any_reactor(w), (int)below(w, 2) - 1);
}

static void act_addr(struct world *w) {
    char text[64];
    for (unsigned i = 0; i < sizeof text; i++)
        text[i] = (char)tape_byte(&w->tape);
    text[below(w, sizeof text)] = 0;
    text[sizeof text - 1] = 0;
    struct kr_addr addr;
    if (kr_addr_ip(rarely(w) ? NULL : &addr, rarely(w) ? NULL : text, (uint16_t)below(w, 65536)) <
        0)
        any_addr(w, &addr);
    (void)kr_addr_port(&addr);
    struct kr_addr other = addr;
    char room[KR_ADDR_TEXT_SIZE];
    if (kr_addr_parse(&other, text) < 0 && kr_addr_unix(&other, text) < 0)
        MUST(memcmp(&other, &addr, sizeof addr) == 0);
    else
        MUST(kr_addr_text(&other, room, sizeof room) > 0);
    int size = kr_addr_text(&addr, text, below(w, sizeof text + 1));
    MUST(size < (int)sizeof text && (size < 0 || text[size] == 0));
}

static void act_names(struct world *w) {
    MUST(kr_errname((int)(uint32_t)tape_number(&w->tape, 4)));
    MUST(kr_whyname((enum kr_why)(uint32_t)tape_number(&w->tape, 4)));
    MUST(kr_sim_fault_name((enum kr_sim_fault)(uint32_t)tape_number(&w->tape, 4)));
    MUST(kr_version() == KR_VERSION);
}

/* A second reactor beside the first, of any config; the real kernel is asked for none. */
static void act_reactor(struct world *w) {
    struct kr_config config;
    kr_config_init(&config);
    config.sq_entries = config.cq_entries = any_number(w) % 8192;
    config.conn_max = any_number(w);
    config.listener_max = any_number(w);
    config.buf_count = any_number(w);
    config.buf_size = any_size(w);
    if (config.buf_count > 64 && config.buf_count <= 32768)
        config.buf_size %= 65536; /* the world really takes the memory */
    config.post_max = any_number(w);
    config.turn_cqes = any_number(w);
    config.turn_posts = any_number(w);
    config.turn_bytes = any_number(w);
    config.connect_max = any_number(w);
    config.taskrun = (enum kr_taskrun)below(w, 3);
    config.alloc = &w->alloc;
    if (rarely(w))
        config.size = any_size(w);
    struct kr_reactor *other;
    if (kr_sim_reactor(any_sim(w), rarely(w) ? NULL : &other, rarely(w) ? NULL : &config) == 0)
        MUST(kr_reactor_free(other) == 0);
    config.size = 0;
    struct kr_failure why;
    MUST(kr_reactor_new(&other, &config, rarely(w) ? NULL : &why) == -EINVAL);
    MUST(kr_reactor_new(NULL, NULL, NULL) == -EINVAL);
    MUST(kr_reactor_free(NULL) == 0);
}

static void act_refuse(struct world *w) {
    w->refuse = w->ending ? 0 : below(w, 8);
}

/* ---- the world's functions ---- */

static void act_connect(struct world *w) {
    kr_sim_peer peer;
    if (is_full(&w->peers) || w->ending)
        return;
    uint16_t port = (uint16_t)(below(w, 8) ? PORT : below(w, 65536));
    if (kr_sim_connect(any_sim(w), rarely(w) ? NULL : &peer, port) == 0)
        keep(&w->peers, peer.bits);
}

static void act_peer_send(struct world *w) {
    if (rarely(w))
        (void)kr_sim_urge(any_sim(w), any_peer(w), bytes[0]);
    (void)kr_sim_send(any_sim(w), any_peer(w), rarely(w) ? NULL : bytes, below(w, sizeof bytes));
}

static void act_peer_recv(struct world *w) {
    static unsigned char room[sizeof bytes];
    (void)kr_sim_recv(any_sim(w), any_peer(w), rarely(w) ? NULL : room, below(w, sizeof bytes));
    (void)kr_sim_readable(any_sim(w), any_peer(w));
}

static void act_peer_end(struct world *w) {
    kr_sim_peer peer = any_peer(w);
    switch (below(w, 4)) {
    case 0:
        (void)kr_sim_close(any_sim(w), peer);
        break;
    case 1:
        (void)kr_sim_reset(any_sim(w), peer);
        break;
    default:
        (void)kr_sim_shutdown(any_sim(w), peer);
    }
}

static void act_window(struct world *w) {
    (void)kr_sim_window(any_sim(w), any_peer(w), below(w, 65536), below(w, 65536));
}

static void act_fault(struct world *w) {
    if (w->ending)
        return;
    enum kr_sim_fault fault = (enum kr_sim_fault)below(w, KR_SIM_FAULT_COUNT + 1);
    unsigned weight = 8 * below(w, 256);
    (void)kr_sim_fault_set(any_sim(w), fault, weight > 900 && weight <= 1024 ? 900 : weight);
    (void)kr_sim_fault_hits(any_sim(w), fault);
    if (rarely(w))
        (void)kr_sim_fault_swarm(any_sim(w));
}

static void event(struct kr_sim *sim, void *arg) {
    struct world *w = arg;
    static void (*const acts[])(struct world *w) = {
        act_connect, act_peer_send, act_peer_recv, act_peer_end, act_window, act_post, act_stop,
    };
    MUST(kr_sim_advance(sim, 1) == -EBUSY);
    acts[below(w, sizeof acts / sizeof *acts)](w);
}

static void act_at(struct world *w) {
    if (!w->ending)
        (void)kr_sim_at(any_sim(w), rarely(w) ? -1 : short_time(w), rarely(w) ? NULL : event, w);
}

static void act_replay(struct world *w) {
    kr_sim_note(w->sim, "fuzz", kr_sim_hash(w->sim), (uint64_t)kr_sim_now(w->sim));
    kr_sim_trace(w->sim, NULL, NULL);
    (void)kr_sim_random(w->sim, 1 + below(w, 256));
    MUST(kr_sim_free(w->sim) == -EBUSY);
    MUST(kr_sim_free(NULL) == 0);
    MUST(kr_sim_new(NULL, 0) == -EINVAL);
}

/* ---- turns, which callbacks are refused ---- */

static void ran(struct world *w, int rc) {
    w->in_callback = false;
    w->lost |= rc == -EBADR && kr_sim_fault_hits(w->sim, KR_SIM_LOST);
    MUST(rc >= 0 || rc == -EDEADLK || w->lost);
}

static void act_turn(struct world *w) {
    if (w->in_callback) {
        MUST(kr_step(w->r, short_time(w)) == -EBUSY);
        return;
    }
    int64_t wait_ns = short_time(w);
    w->in_callback = true;
    ran(w, kr_step(w->r, wait_ns));
}

static void act_run(struct world *w) {
    if (w->in_callback) {
        MUST(kr_run(w->r) == -EBUSY);
        MUST(kr_reactor_free(w->r) == -EBUSY);
        return;
    }
    kr_stop(w->r);
    w->in_callback = true;
    ran(w, kr_run(w->r));
}

static void act_until(struct world *w) {
    if (w->in_callback)
        return;
    int64_t max_ns = rarely(w) ? -1 : short_time(w) / 64;
    if (max_ns < 0) {
        MUST(kr_sim_run_until(w->sim, w->r, NULL, NULL, max_ns) == -EINVAL);
        return;
    }
    w->in_callback = true;
    ran(w, kr_sim_run_until(w->sim, w->r, NULL, NULL, max_ns));
}

static void act_advance(struct world *w) {
    if (!w->in_callback)
        (void)kr_sim_advance(any_sim(w), rarely(w) ? -1 : short_time(w));
}

/* ---- the tape ---- */

static void (*const acts[])(struct world *w) = {
    /* often */
    act_turn,
    act_turn,
    act_turn,
    act_turn,
    act_connect,
    act_connect,
    act_peer_send,
    act_peer_send,
    act_peer_recv,
    act_peer_recv,
    act_listen,
    act_send,
    /* each once */
    act_sendv,
    act_reserve,
    act_commit,
    act_reserve_commit,
    act_queued,
    act_pause,
    act_resume,
    act_close,
    act_addresses,
    act_user,
    act_inline,
    act_deadline,
    act_listener,
    act_timer_start,
    act_timer,
    act_post,
    act_stop,
    act_stats,
    act_dump,
    act_addr,
    act_names,
    act_reactor,
    act_refuse,
    act_peer_end,
    act_window,
    act_fault,
    act_at,
    act_replay,
    act_run,
    act_until,
    act_advance,
    act_send_ref,
    act_half,
    act_drain,
    act_send_fds,
    act_send_file,
};

static void act(struct world *w) {
    if (w->acts < ACTS_MAX && !w->lost) {
        w->acts++;
        acts[below(w, sizeof acts / sizeof *acts)](w);
    }
}

static void act_some(struct world *w) {
    if (w->ending)
        return;
    bool was = w->in_callback;
    w->in_callback = true;
    for (unsigned i = below(w, 4); i > 0 && w->tape.left; i--)
        act(w);
    w->in_callback = was;
}

/* What kr_dump writes is read whole and goes nowhere, but for what is told of a failure. */
static int door_write(const struct kr__kernel *k, int fd, const void *data, size_t size) {
    (void)k;
    char copy[65536];
    MUST(size > 0 && size <= sizeof copy);
    memcpy(copy, data, size);
    if (fd == 2)
        fwrite(copy, 1, size, stderr);
    return fd < 0 ? -EBADF : (int)size;
}

static void start(struct world *w) {
    MUST(kr_sim_new(&w->sim, tape_byte(&w->tape)) == 0);
    w->sim->door.file.write = door_write;
    w->alloc = (struct kr_alloc){.alloc = memory_get, .free = memory_put, .ctx = w};
    struct kr_config config;
    kr_config_init(&config);
    config.taskrun = below(w, 2) ? KR_TASKRUN_DEFER : KR_TASKRUN_COOP;
    config.sq_entries = config.cq_entries = 1u << below(w, 6);
    config.conn_max = 1 + below(w, 32);
    config.listener_max = 1 + below(w, 4);
    config.buf_count = 1u << below(w, 5);
    config.buf_size = 1 + below(w, 8192);
    config.post_max = 1 + below(w, 8);
    config.alloc = &w->alloc;
    MUST(kr_sim_reactor(w->sim, &w->r, &config) == 0);
    struct kr_listen_opts opts;
    any_opts(w, &opts);
    struct kr_addr addr;
    MUST(kr_addr_ip(&addr, "127.0.0.1", PORT) == 0);
    kr_listener listener;
    if (kr_listen(w->r, &listener, &addr, &opts, &full_ops, w) == 0)
        keep(&w->listeners, listener.bits);
}

/* Slots keep their inline memory for the next connection: these blocks are out at rest. */
static unsigned inline_blocks(const struct kr_reactor *r) {
    unsigned count = 0;
    for (const struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));)
        count += c->inline_memory != NULL;
    return count;
}

static bool at_rest(void *arg) {
    struct world *w = arg;
    struct kr_stats now;
    MUST(kr_stats_read(w->r, &now, sizeof now) == 0);
    return !now.conns && !now.listeners && !now.timers && !now.bufs_out && !now.sends_out &&
           now.blocks_out == inline_blocks(w->r) && w->posts_ran == w->posts_made;
}

static void end_all(struct world *w) {
    for (unsigned fault = 0; fault < KR_SIM_FAULT_COUNT; fault++)
        MUST(kr_sim_fault_set(w->sim, (enum kr_sim_fault)fault, 0) == 0);
    for (unsigned i = 0; i < w->timers.count; i++)
        (void)kr_timer_stop(w->r, (kr_timer){w->timers.bits[i]});
    for (unsigned i = 0; i < w->listeners.count; i++)
        (void)kr_listener_close(w->r, (kr_listener){w->listeners.bits[i]});
    for (unsigned i = 0; i < w->conns.count; i++)
        (void)kr_conn_close(w->r, (kr_conn){w->conns.bits[i]}, KR_CLOSE_NOW);
}

static void come_to_rest(struct world *w) {
    w->ending = true;
    w->refuse = 0;
    end_all(w);
    if (w->lost)
        return;
    int rc = kr_sim_run_until(w->sim, w->r, at_rest, w, REST_NS);
    w->lost = rc == -EBADR && kr_sim_fault_hits(w->sim, KR_SIM_LOST);
    if (rc < 0 && !w->lost) {
        struct kr_stats now;
        MUST(kr_stats_read(w->r, &now, sizeof now) == 0);
        fprintf(stderr, "no rest: %s, posts %u of %u, timers %llu, sends %llu, blocks %llu\n",
                kr_errname(rc), w->posts_ran, w->posts_made, (unsigned long long)now.timers,
                (unsigned long long)now.sends_out, (unsigned long long)now.blocks_out);
        MUST(kr_dump(w->r, 2) == 0);
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct world w = {.tape = {data, size}};
    start(&w);
    while (w.tape.left && w.acts < ACTS_MAX && !w.lost)
        act(&w);
    come_to_rest(&w);
    MUST(kr_reactor_free(w.r) == 0);
    MUST(w.held == 0 && w.open == 0 && w.posts_ran == w.posts_made && w.loans == 0);
    MUST(w.sim->requests == 0);
    close_what_was_lost(w.sim);
    MUST(kr_sim_free(w.sim) == 0);
    return 0;
}
