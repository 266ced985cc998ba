/* Time, chance and events. Nothing here knows what a socket is.
 *
 * Happy path: an event is filed with its time; a wait jumps to it. Failure: the host has no
 * memory. */
#include "kernel/sim/world.h"

#include "kernel/sim/path.h"
#include "kernel/sim/peer.h"
#include "kernel/sim/remote.h"

#include <stdarg.h>

#define OLDEST KR__SIM_LINUX(6, 1)
#define NEWEST KR__SIM_LINUX(6, 18)
#define FIRST_FAULTS (KR_SIM_LOST + 1)
#define FIRST_NOW INT64_C(1000000000)
#define STEP_NS 1000u
#define LATE_NS 50000u
#define LEAP_NS UINT64_C(60000000000)
#define FIRST_PORT 32768u
#define WINDOW 65536u

struct kr__sim_event {
    struct kr__heap_node node;
    kr_sim_fn *fn;
    void *arg;
};

static const char *const fault_names[KR_SIM_FAULT_COUNT] = {
    [KR_SIM_SHORT_SUBMIT] = "short-submit",
    [KR_SIM_BUSY] = "busy",
    [KR_SIM_INTERRUPT] = "interrupt",
    [KR_SIM_LATE_FLUSH] = "late-flush",
    [KR_SIM_TASK_WORK] = "task-work",
    [KR_SIM_OVERTAKE] = "overtake",
    [KR_SIM_SHORT_RECV] = "short-recv",
    [KR_SIM_SHORT_SEND] = "short-send",
    [KR_SIM_RECV_END] = "recv-end",
    [KR_SIM_SPURIOUS_WAKE] = "spurious-wake",
    [KR_SIM_ACCEPT_END] = "accept-end",
    [KR_SIM_ACCEPT_ABORT] = "accept-abort",
    [KR_SIM_ACCEPT_EMFILE] = "accept-emfile",
    [KR_SIM_ACCEPT_ENFILE] = "accept-enfile",
    [KR_SIM_CANCEL_BUSY] = "cancel-busy",
    [KR_SIM_CANCEL_LATE] = "cancel-late",
    [KR_SIM_INSTALL_FAIL] = "install-fail",
    [KR_SIM_NET_TIMEOUT] = "net-timeout",
    [KR_SIM_NET_RESET] = "net-reset",
    [KR_SIM_LATE_WAIT] = "late-wait",
    [KR_SIM_CLOCK_LEAP] = "clock-leap",
    [KR_SIM_LOST] = "lost",
    [KR_SIM_CONNECT_REFUSED] = "connect-refused",
    [KR_SIM_CONNECT_IGNORED] = "connect-ignored",
    [KR_SIM_CONNECT_UNREACHABLE] = "connect-unreachable",
    [KR_SIM_LATE_WORKER] = "late-worker",
    [KR_SIM_NO_WORKER] = "no-worker",
    [KR_SIM_ZC_NO_NOTIF] = "zc-no-notif",
    [KR_SIM_ZC_NO_MEMORY] = "zc-no-memory",
    [KR_SIM_ZC_HELD] = "zc-held",
    [KR_SIM_ZC_LATE] = "zc-late",
    [KR_SIM_SCM_EMFILE] = "scm-emfile",
    [KR_SIM_READ_WAITS] = "read-waits",
    [KR_SIM_SHORT_READ] = "short-read",
    [KR_SIM_READ_ERROR] = "read-error",
    [KR_SIM_READ_CUT] = "read-cut",
    [KR_SIM_EXPORT_EMFILE] = "export-emfile",
    [KR_SIM_ERROR_QUEUE] = "error-queue",
};

void kr__sim_broken(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("kreactor_sim: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

void *kr__sim_alloc(size_t size) {
    void *memory = calloc(1, size ? size : 1);
    if (!memory)
        kr__sim_broken("no memory for the simulated world");
    return memory;
}

static void *world_get(void *ctx, size_t size) {
    (void)ctx;
    return malloc(size);
}

static void world_put(void *ctx, void *memory, size_t size) {
    (void)ctx;
    (void)size;
    free(memory);
}

int kr_sim_new(struct kr_sim **ret, uint64_t seed) {
    if (!ret)
        return -EINVAL;
    struct kr_sim *sim = calloc(1, sizeof *sim);
    if (!sim)
        return -ENOMEM;
    *sim = (struct kr_sim){
        .version = NEWEST,
        .dice = seed,
        .now = FIRST_NOW,
        .mem = {.alloc = {.alloc = world_get, .free = world_put}},
        .next_port = FIRST_PORT,
        .window = WINDOW,
        .hash = UINT64_C(0xcbf29ce484222325), /* FNV-1a's start */
    };
    kr__sim_door_init(sim);
    kr__heap_init(&sim->events, &sim->mem);
    kr__list_init(&sim->listeners);
    kr__list_init(&sim->rings);
    kr__list_init(&sim->remotes);
    kr__list_init(&sim->paths);
    kr__slab_init(&sim->peers, &sim->mem, sizeof(struct kr__sim_peer));
    *ret = sim;
    return 0;
}

int kr_sim_linux(struct kr_sim *sim, unsigned major, unsigned minor) {
    if (!sim || major > 99 || minor > 999)
        return -EINVAL;
    unsigned wanted = KR__SIM_LINUX(major, minor);
    if (wanted < OLDEST || wanted > NEWEST)
        return -EINVAL;
    if (!kr__list_empty(&sim->rings))
        return -EBUSY;
    sim->version = wanted;
    return 0;
}

static void events_drop(struct kr_sim *sim) {
    while (sim->events.count) {
        struct kr__heap_node *node = sim->events.items[0].node;
        kr__heap_remove(&sim->events, node);
        free(kr__container_of(node, struct kr__sim_event, node));
    }
    kr__heap_free(&sim->events);
}

/* As a process's are when it exits: of some it may not even know, if their completions were lost. */
static void fds_end(struct kr_sim *sim) {
    for (unsigned fd = 0; fd < sim->fd_room; fd++)
        kr__sim_fd_close(sim, (int)fd);
    free(sim->fds);
}

int kr_sim_free(struct kr_sim *sim) {
    if (!sim)
        return 0;
    if (!kr__list_empty(&sim->rings))
        return -EBUSY;
    kr__sim_peers_end(sim);
    kr__sim_remotes_end(sim);
    kr__sim_paths_end(sim);
    fds_end(sim);
    events_drop(sim);
    kr__slab_free(&sim->peers);
    free(sim);
    return 0;
}

/* splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
uint64_t kr_sim_random(struct kr_sim *sim, uint64_t bound) {
    if (!sim || !bound)
        return 0;
    uint64_t z = sim->dice += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % bound;
}

size_t kr__sim_some(struct kr_sim *sim, size_t max) {
    unsigned bits = 64u - (unsigned)__builtin_clzll(max);
    size_t least = (size_t)1 << kr_sim_random(sim, bits);
    size_t some = least + kr_sim_random(sim, least);
    return some < max ? some : max;
}

bool kr__sim_chance(struct kr_sim *sim, enum kr_sim_fault fault) {
    if (!sim->weights[fault] || kr_sim_random(sim, 1024) >= sim->weights[fault])
        return false;
    sim->hits[fault]++;
    kr__sim_note(sim, fault_names[fault], 0, 0, 0);
    return true;
}

int kr_sim_fault_set(struct kr_sim *sim, enum kr_sim_fault fault, unsigned per_1024) {
    if (!sim || (unsigned)fault >= KR_SIM_FAULT_COUNT || per_1024 > 1024)
        return -EINVAL;
    sim->weights[fault] = per_1024;
    return 0;
}

/* What ends connections, and what makes deadlines pass, is rare, or nothing else would be seen. */
static unsigned weight_most(unsigned fault) {
    switch (fault) {
    case KR_SIM_LOST:
        return 0;
    case KR_SIM_NET_TIMEOUT:
    case KR_SIM_NET_RESET:
    case KR_SIM_CLOCK_LEAP:
    case KR_SIM_READ_ERROR:
    case KR_SIM_READ_CUT:
    case KR_SIM_ERROR_QUEUE:
        return 4;
    default:
        return 256;
    }
}

static void swarm(struct kr_sim *sim, unsigned from, unsigned to) {
    for (unsigned fault = from; fault < to; fault++) {
        unsigned most = weight_most(fault);
        bool on = kr_sim_random(sim, 2) && most;
        sim->weights[fault] = on ? (unsigned)kr__sim_some(sim, most) : 0;
    }
}

/* Faults that came later are drawn apart, so that a seed that was kept for what it once broke stays
 * what it is. */
int kr_sim_fault_swarm(struct kr_sim *sim) {
    if (!sim)
        return -EINVAL;
    swarm(sim, 0, FIRST_FAULTS);
    uint64_t dice = sim->dice;
    sim->dice = ~dice;
    swarm(sim, FIRST_FAULTS, KR_SIM_FAULT_COUNT);
    sim->dice = dice;
    return 0;
}

uint64_t kr_sim_fault_hits(const struct kr_sim *sim, enum kr_sim_fault fault) {
    return sim && (unsigned)fault < KR_SIM_FAULT_COUNT ? sim->hits[fault] : 0;
}

const char *kr_sim_fault_name(enum kr_sim_fault fault) {
    return (unsigned)fault < KR_SIM_FAULT_COUNT ? fault_names[fault] : "?";
}

int64_t kr_sim_now(const struct kr_sim *sim) {
    return sim ? sim->now : 0;
}

struct kr__sim_event *kr__sim_event_new(struct kr_sim *sim, int64_t in_ns, kr_sim_fn *fn,
                                        void *arg) {
    struct kr__sim_event *event = kr__sim_alloc(sizeof *event);
    *event = (struct kr__sim_event){.node = {.place = KR__HEAP_OUT}, .fn = fn, .arg = arg};
    if (kr__heap_promise(&sim->events) < 0)
        kr__sim_broken("no memory for an event");
    kr__heap_file(&sim->events, &event->node, kr__time_add(sim->now, in_ns));
    return event;
}

void kr__sim_event_drop(struct kr_sim *sim, struct kr__sim_event *event) {
    kr__heap_remove(&sim->events, &event->node);
    kr__heap_unpromise(&sim->events);
    free(event);
}

int kr_sim_at(struct kr_sim *sim, int64_t in_ns, kr_sim_fn *fn, void *arg) {
    if (!sim || in_ns < 0 || !fn)
        return -EINVAL;
    kr__sim_event_new(sim, in_ns, fn, arg);
    return 0;
}

static void happen(struct kr_sim *sim, struct kr__heap_node *node) {
    struct kr__sim_event *event = kr__container_of(node, struct kr__sim_event, node);
    kr_sim_fn *fn = event->fn;
    void *arg = event->arg;
    kr__heap_unpromise(&sim->events);
    free(event);
    sim->starved = 0;
    sim->acting = true;
    fn(sim, arg);
    sim->acting = false;
}

void kr__sim_pass(struct kr_sim *sim) {
    if (sim->acting)
        return;
    sim->now += 1 + (int64_t)kr_sim_random(sim, STEP_NS);
    if (kr__sim_chance(sim, KR_SIM_CLOCK_LEAP))
        sim->now += (int64_t)kr_sim_random(sim, LEAP_NS);
    struct kr__heap_node *node;
    while ((node = kr__heap_pop_due(&sim->events, sim->now)))
        happen(sim, node);
}

bool kr__sim_next(struct kr_sim *sim, int64_t deadline) {
    int64_t at = kr__heap_next(&sim->events);
    if (at == KR__NEVER && deadline == KR__NEVER)
        return false;
    bool event = at <= deadline;
    int64_t to = event ? at : deadline;
    sim->now = to > sim->now ? to : sim->now;
    if (event)
        happen(sim, kr__heap_pop_due(&sim->events, sim->now));
    else if (kr__sim_chance(sim, KR_SIM_LATE_WAIT))
        sim->now += (int64_t)kr_sim_random(sim, LATE_NS);
    return true;
}

int kr_sim_advance(struct kr_sim *sim, int64_t ns) {
    if (!sim || ns < 0)
        return -EINVAL;
    if (sim->acting)
        return -EBUSY;
    int64_t until = kr__time_add(sim->now, ns);
    while (kr__heap_next(&sim->events) <= until)
        kr__sim_next(sim, until);
    sim->now = until;
    return 0;
}

/* FNV-1a over the eight bytes. */
static uint64_t mix(uint64_t hash, uint64_t word) {
    for (unsigned i = 0; i < 8; i++)
        hash = (hash ^ (word >> 8 * i & 0xff)) * UINT64_C(0x100000001b3);
    return hash;
}

void kr__sim_note(struct kr_sim *sim, const char *what, uint64_t a, uint64_t b, uint64_t c) {
    uint64_t hash = mix(sim->hash, (uint64_t)sim->now);
    for (const char *p = what; *p; p++)
        hash = (hash ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
    sim->hash = mix(mix(mix(hash, a), b), c);
    if (!sim->trace)
        return;
    char line[160];
    snprintf(line, sizeof line, "%15lld %-16s %#llx %lld %#llx", (long long)sim->now, what,
             (unsigned long long)a, (long long)b, (unsigned long long)c);
    sim->trace(sim->trace_arg, line);
}

void kr_sim_note(struct kr_sim *sim, const char *what, uint64_t a, uint64_t b) {
    if (sim && what)
        kr__sim_note(sim, what, a, b, 0);
}

uint64_t kr_sim_hash(const struct kr_sim *sim) {
    return sim ? sim->hash : 0;
}

void kr_sim_trace(struct kr_sim *sim, void (*fn)(void *arg, const char *line), void *arg) {
    if (!sim)
        return;
    sim->trace = fn;
    sim->trace_arg = arg;
}
