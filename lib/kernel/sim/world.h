/* A world: time, chance, what happens when, and everything that lives in it.
 *
 * The reactor gets `door`, which is the first member, so each function of the door finds its world.
 * The rooms of the simulated kernel: file.h (what a descriptor leads to), stream.h (an end of a TCP
 * connection), bufs.h (the provided buffer ring), request.h (one request, and the verbs), ring.h
 * (the queues), door.c (the system calls), peer.h (clients), remote.h (who is connected to),
 * path.h. Rules of the kernel carry their source where they are followed. */
#ifndef KR_KERNEL_SIM_WORLD_H
#define KR_KERNEL_SIM_WORLD_H

#include "base/heap.h"
#include "base/list.h"
#include "base/slab.h"
#include "kernel/kernel.h"

#include <kreactor/sim.h>

struct kr__sim_event;
struct kr__sim_file;

struct kr_sim {
    struct kr__kernel door; /* first: the door's functions are handed its address */

    unsigned version; /* which it is: KR__SIM_LINUX */
    uint64_t dice;
    int64_t now;
    bool acting; /* inside an event: no other one begins */
    struct kr__mem mem;
    struct kr__heap events;

    unsigned weights[KR_SIM_FAULT_COUNT];
    uint64_t hits[KR_SIM_FAULT_COUNT];

    struct kr__sim_file **fds; /* by descriptor; NULL: free */
    unsigned fd_room;
    uint64_t files;    /* alive */
    uint64_t requests; /* alive */
    uint64_t torn;     /* requests that a ring's end has cut off */
    uint64_t starved;  /* -ENOBUFS completions since anything else has happened */
    unsigned working; /* workers that sleep in a request which was tried in vain too often */
    uint64_t punts;   /* such requests, ever */
    uint64_t accept_punts; /* of these, accepts */
    struct kr__list listeners, rings, remotes, paths;
    uint64_t next_inode;
    struct kr__slab peers;
    uint16_t next_port;
    size_t window; /* of what a listener accepts */

    uint64_t hash;
    void (*trace)(void *arg, const char *line);
    void *trace_arg;
};

#define KR__SIM_LINUX(major, minor) ((major)*1000u + (minor))

/* False for kernels whose multishot receives may keep a reset to themselves: 6.12 to 6.17 as they
 * were released; 6.1 as it is with all that was mended (kernel/reset.c). */
static inline bool kr__sim_tells_resets(const struct kr_sim *sim) {
    return sim->version < KR__SIM_LINUX(6, 12) || sim->version >= KR__SIM_LINUX(6, 18);
}

static inline struct kr_sim *kr__sim_of(const struct kr__kernel *k) {
    return (struct kr_sim *)(uintptr_t)k;
}

/* Fills the door's functions (door.c). */
void kr__sim_door_init(struct kr_sim *sim);

/* The host has no memory, or a rule of the kernel was broken: says so and ends the process. */
__attribute__((noreturn, cold, format(printf, 1, 2))) void kr__sim_broken(const char *format, ...);

/* Zeroed memory, always. Freed with free. */
void *kr__sim_alloc(size_t size);

/* True in so many of 1024 cases as the fault's weight says. */
bool kr__sim_chance(struct kr_sim *sim, enum kr_sim_fault fault);

/* A number from 1 to `max` (>= 1), small ones as likely as large ones. */
size_t kr__sim_some(struct kr_sim *sim, size_t max);

/* A little time passes, as at each system call, and what is due meanwhile happens. */
void kr__sim_pass(struct kr_sim *sim);

/* Goes on to the next event that is due until `deadline` and lets it happen, or else to the
 * deadline.
 * False: there is neither. */
bool kr__sim_next(struct kr_sim *sim, int64_t deadline);

/* As kr_sim_at, but it can be dropped, until it happens. */
struct kr__sim_event *kr__sim_event_new(struct kr_sim *sim, int64_t in_ns, kr_sim_fn *fn,
                                        void *arg);
void kr__sim_event_drop(struct kr_sim *sim, struct kr__sim_event *event);

/* Adds to hash and trace. */
void kr__sim_note(struct kr_sim *sim, const char *what, uint64_t a, uint64_t b, uint64_t c);

#endif
