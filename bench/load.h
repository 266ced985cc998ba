/* What the parts of the load generator share: its options, its record of a run, and how it fails.
 * */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum load_mode {
    LOAD_ECHO,  /* connections stay */
    LOAD_CHURN, /* connect, echo one message, close, and again */
    LOAD_IDLE,  /* connect, echo one message, and stay idle */
    LOAD_WATCH, /* another client makes the load; the server is asked what it has done */
};

struct load_options {
    const char *host;
    uint16_t port;
    pid_t server; /* whose CPU time and memory are measured */
    pid_t client; /* who makes the load: this process, or the one that is watched */
    unsigned connections;
    unsigned size;  /* bytes a message */
    unsigned depth; /* messages in flight a connection */
    unsigned warm_ms;
    unsigned measure_ms;
    enum load_mode mode;
    bool sleep; /* wait in the kernel instead of spinning */
};

/* Latencies of 1 ns to half an hour in buckets of under 0.8 % width: below 128 ns one bucket a
 * nanosecond, above it 128 buckets for each power of two. */
enum { HIST_BITS = 7, HIST_SUB = 1 << HIST_BITS, HIST_COUNT = (41 - HIST_BITS) * HIST_SUB };

enum load_phase { LOAD_WARM, LOAD_WINDOW, LOAD_DONE };

/* One run: a warm-up, in which every byte is compared, then the window that is measured. */
struct record {
    enum load_phase phase;
    int64_t now; /* the clock at the turn's start */
    int64_t start;
    int64_t end;
    int64_t idle_ns; /* of the window, spent with nothing to do */
    int64_t last_message;
    uint64_t messages; /* in the window */
    uint64_t warm_messages;
    uint64_t errors; /* connections lost */
    clockid_t server_clock;
    clockid_t softirq_clock; /* of ksoftirqd on the server's core; only if `softirq` */
    bool softirq;
    int64_t server_ns;  /* CPU time within the window */
    int64_t softirq_ns; /* the same of ksoftirqd */
    int64_t waited_ns;  /* ready, and without a core: server and client together */
    uint32_t *bins;     /* messages in each millisecond of the window */
    unsigned bin_count;
    unsigned bin;
    unsigned counted_bin; /* how far record_count has come */
    uint32_t hist[HIST_COUNT];
};

/* The ring that a run drives, and the provided buffers it receives into. */
struct load_ring {
    struct io_uring ring;
    struct io_uring_buf_ring *bufs;
    unsigned char *memory;
    unsigned buf_size;
    unsigned buf_count;
    unsigned returned; /* buffers added to the ring since the last publishing */
};

enum { LOAD_GROUP = 0, LOAD_PERIOD = 4093 };

/* Prints the reason to stderr and ends the process with 1. */
void load_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

int64_t load_now(void);

void record_init(struct record *, const struct load_options *);
/* Reads the clock and passes from phase to phase. `idle`: nothing happened since the last call. */
void record_tick(struct record *, const struct load_options *, bool idle);
void record_message(struct record *, int64_t latency_ns);
/* `messages` that came since the last call; when within that time is not known. */
void record_count(struct record *, uint64_t messages);
void record_print(const struct record *, const struct load_options *);

void load_ring_init(struct load_ring *, const struct load_options *, unsigned buf_size,
                    unsigned buf_count);
struct io_uring_sqe *load_sqe(struct load_ring *);
void load_buf_return(struct load_ring *, unsigned id);
/* Submits, and brings completions; false when there are none. */
bool load_enter(struct load_ring *, const struct load_options *);

/* The pattern of all streams: `size` + LOAD_PERIOD bytes, of period LOAD_PERIOD. */
unsigned char *load_pattern(size_t size);
/* Dies unless `data` is what stands at `expected`. Wholly in the warm-up; later only its edges. */
void load_verify(const struct record *, const unsigned char *data, const unsigned char *expected,
                 size_t size);
int load_connect(const struct load_options *, uint32_t source);

void load_echo(const struct load_options *, struct record *);
void load_churn(const struct load_options *, struct record *);
void load_idle(const struct load_options *);
void load_watch(const struct load_options *, struct record *);

#endif
