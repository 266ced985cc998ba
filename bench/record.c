/* What a run of the load generator measures, and how.
 *
 * Warm-up: lasts its time, and until as many messages were compared as there are connections. The
 * window lasts its time, and until there is a message.
 *
 * Rate: messages in each millisecond of the window; the upper quartile of these is what the server
 * does while the host leaves both cores alone. The mean is printed beside it.
 *
 * Server's CPU time: the process's CPU clock (man clock_getcpuclockid). It is the sum that
 * /proc/PID/schedstat shows as its first field, but of all threads, those that ended and the
 * kernel's io_uring workers too, and up to the moment of reading; schedstat lags by up to a tick
 * while the server runs, which is 1 % of a window of 400 ms.
 *
 * And that of ksoftirqd on the server's core, if the server is pinned to one. On loopback the
 * delivery of what a server sends is softirq work. The kernel does it in the server's own time
 * until it has become too much at once, and then leaves it to that thread (kernel/softirq.c,
 * MAX_SOFTIRQ_RESTART), the sooner the more a server sends in one system call. `cpu_ns` is the sum
 * of both, `process_ns` the first alone.
 *
 * Disturbance: `held_up` is the share of the window for which server or client stood ready and had
 * to wait, because something else had their core.
 *
 * Memory: VmHWM of /proc/PID/status at the end of the window. */
#include "load.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How long no message may come back: 5 s, and a second more for each 256 MiB in flight. */
static int64_t stall_ns(const struct load_options *o) {
    uint64_t flight = (uint64_t)o->connections * o->depth * o->size;
    return (5 + (int64_t)(flight >> 28)) * 1000000000;
}

int64_t load_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static int64_t cpu_ns(clockid_t clock) {
    struct timespec ts;
    if (clock_gettime(clock, &ts) < 0)
        load_die("the server's CPU clock: %s (did it end?)", strerror(errno));
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* The one core that the server may run on; -1 if there are several. */
static int server_core(pid_t pid) {
    cpu_set_t cores;
    if (sched_getaffinity(pid, sizeof(cores), &cores) < 0 || CPU_COUNT(&cores) != 1)
        return -1;
    size_t core = 0;
    while (!CPU_ISSET(core, &cores))
        core++;
    return (int)core;
}

/* The kernel thread named `name`; -1 if it cannot be seen, as in a container. */
static pid_t kernel_thread(const char *name) {
    pid_t found = -1;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && found < 0 && (entry = readdir(proc));) {
        char path[300], comm[32] = "";
        snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
        FILE *file = entry->d_name[0] >= '1' && entry->d_name[0] <= '9' ? fopen(path, "re") : NULL;
        if (!file)
            continue;
        if (fgets(comm, sizeof(comm), file) && !strcmp(strtok(comm, "\n"), name))
            found = (pid_t)strtol(entry->d_name, NULL, 10);
        fclose(file);
    }
    if (proc)
        closedir(proc);
    return found;
}

static bool softirq_find(pid_t server, clockid_t *clock) {
    char name[32];
    snprintf(name, sizeof(name), "ksoftirqd/%d", server_core(server));
    pid_t pid = kernel_thread(name);
    return pid > 0 && clock_getcpuclockid(pid, clock) == 0;
}

/* What the process stood ready to run while its core did something else: the second field of
 * /proc/PID/schedstat. */
static int64_t waited_ns(pid_t pid) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        load_die("%s: %s", path, strerror(errno));
    int64_t ran = 0, waited = 0;
    if (fscanf(file, "%" SCNd64 " %" SCNd64, &ran, &waited) != 2)
        load_die("%s is not as expected", path);
    fclose(file);
    return waited;
}

/* Adds `sign` times what the clocks show: first -1, at the end 1. */
static void cpu_sample(struct record *r, const struct load_options *o, int sign) {
    r->waited_ns += sign * (waited_ns(o->server) + waited_ns(o->client));
    r->server_ns += sign * cpu_ns(r->server_clock);
    if (r->softirq)
        r->softirq_ns += sign * cpu_ns(r->softirq_clock);
}

static long server_memory_kib(pid_t pid, const char *field) {
    char path[64], line[256];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        load_die("%s: %s", path, strerror(errno));
    long kib = -1;
    while (kib < 0 && fgets(line, sizeof(line), file))
        if (!strncmp(line, field, strlen(field)) && line[strlen(field)] == ':')
            kib = strtol(line + strlen(field) + 1, NULL, 10);
    fclose(file);
    return kib;
}

void record_init(struct record *r, const struct load_options *o) {
    *r = (struct record){.bin_count = o->measure_ms};
    int rc = clock_getcpuclockid(o->server, &r->server_clock);
    if (rc)
        load_die("no process %d to measure: %s", (int)o->server, strerror(rc));
    r->softirq = softirq_find(o->server, &r->softirq_clock);
    r->bins = calloc(r->bin_count, sizeof(*r->bins));
    if (!r->bins)
        load_die("no memory for the record");
    r->now = load_now();
    r->last_message = r->now;
    r->start = r->now + o->warm_ms * INT64_C(1000000);
    r->end = INT64_MAX;
}

static void window_open(struct record *r, const struct load_options *o) {
    r->phase = LOAD_WINDOW;
    cpu_sample(r, o, -1);
    r->start = r->now = load_now();
    r->end = r->start + o->measure_ms * INT64_C(1000000);
}

static void window_shut(struct record *r, const struct load_options *o) {
    r->phase = LOAD_DONE;
    cpu_sample(r, o, 1);
    r->end = load_now();
}

void record_tick(struct record *r, const struct load_options *o, bool idle) {
    int64_t last = r->now;
    r->now = load_now();
    if (r->now - r->last_message > stall_ns(o))
        load_die("no message came back for %.0f s (%" PRIu64 " had before)",
                 (double)stall_ns(o) / 1e9, r->messages + r->warm_messages);
    if (r->phase == LOAD_WARM && r->now >= r->start && r->warm_messages >= o->connections)
        window_open(r, o);
    else if (r->phase == LOAD_WINDOW && r->now >= r->end && r->messages)
        window_shut(r, o);
    if (r->phase != LOAD_WINDOW)
        return;
    if (idle)
        r->idle_ns += r->now - last;
    int64_t bin = (r->now - r->start) / 1000000;
    r->bin = bin < r->bin_count ? (unsigned)bin : r->bin_count - 1;
}

static unsigned hist_index(int64_t value) {
    uint64_t v = value < 1 ? 1 : (uint64_t)value;
    unsigned top = 63u - (unsigned)__builtin_clzll(v);
    if (top < HIST_BITS)
        return (unsigned)v;
    unsigned index = (top - HIST_BITS + 1) * HIST_SUB + ((v >> (top - HIST_BITS)) & (HIST_SUB - 1));
    return index < HIST_COUNT ? index : HIST_COUNT - 1;
}

/* The middle of bucket `index`. */
static double hist_value(unsigned index) {
    if (index < HIST_SUB)
        return index;
    unsigned shift = index / HIST_SUB - 1;
    return ((double)(HIST_SUB + index % HIST_SUB) + 0.5) * (double)(UINT64_C(1) << shift);
}

static double percentile_us(const struct record *r, double share) {
    uint64_t rank = (uint64_t)((double)r->messages * share), seen = 0;
    for (unsigned i = 0; i < HIST_COUNT; i++) {
        seen += r->hist[i];
        if (seen > rank)
            return hist_value(i) / 1000;
    }
    return 0;
}

void record_message(struct record *r, int64_t latency_ns) {
    r->last_message = r->now;
    if (r->phase == LOAD_WARM)
        r->warm_messages++;
    if (r->phase != LOAD_WINDOW)
        return;
    r->messages++;
    r->bins[r->bin]++;
    r->hist[hist_index(latency_ns)]++;
}

/* The milliseconds since the last call get an even share each. */
static void bins_fill(struct record *r, uint64_t messages) {
    unsigned first = r->counted_bin, count = r->bin - first + 1;
    for (unsigned i = 0; i < count; i++)
        r->bins[first + i] += (uint32_t)(messages * (i + 1) / count - messages * i / count);
    r->counted_bin = r->bin;
}

void record_count(struct record *r, uint64_t messages) {
    if (messages)
        r->last_message = r->now;
    if (r->phase == LOAD_WARM)
        r->warm_messages += messages;
    if (r->phase != LOAD_WINDOW)
        return;
    r->messages += messages;
    bins_fill(r, messages);
}

/* The server's ksoftirqd is not something else. */
static double held_up_ns(const struct record *r) {
    int64_t ns = r->waited_ns - r->softirq_ns;
    return ns > 0 ? (double)ns : 0;
}

static int by_count(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double upper_quartile_rate(const struct record *r) {
    qsort(r->bins, r->bin_count, sizeof(*r->bins), by_count);
    return r->bins[r->bin_count * 3 / 4] * 1000.0;
}

void record_print(const struct record *r, const struct load_options *o) {
    double window = (double)(r->end - r->start), messages = (double)r->messages;
    double cpu = (double)(r->server_ns + r->softirq_ns);
    printf("{\"rate\": %.0f, \"mean_rate\": %.0f, \"cpu_ns\": %.1f, \"process_ns\": %.1f, "
           "\"p50_us\": %.2f, \"p99_us\": %.2f, \"rss_kib\": %ld, \"rss_now_kib\": %ld, "
           "\"messages\": %" PRIu64 ", \"compared\": %" PRIu64 ", \"errors\": %" PRIu64 ", "
           "\"softirq_seen\": %s, \"server_busy\": %.3f, \"client_idle\": %.3f, "
           "\"held_up\": %.3f}\n",
           upper_quartile_rate(r), messages * 1e9 / window, cpu / messages,
           (double)r->server_ns / messages, percentile_us(r, 0.50), percentile_us(r, 0.99),
           server_memory_kib(o->server, "VmHWM"), server_memory_kib(o->server, "VmRSS"),
           r->messages, r->warm_messages, r->errors, r->softirq ? "true" : "false", cpu / window,
           (double)r->idle_ns / window, held_up_ns(r) / window);
}
