/* What a reactor has done: plain counters, cheap to keep and to read. */
#ifndef KREACTOR_STATS_H
#define KREACTOR_STATS_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Counters since kr_reactor_new; those marked `now` are levels. New ones are only appended. */
struct kr_stats {
    uint64_t turns;          /* passes of the loop */
    uint64_t enters;         /* io_uring_enter calls */
    uint64_t waits;          /* of these, the ones allowed to sleep */
    uint64_t sqes;           /* requests made */
    uint64_t cqes;           /* completions handled */
    uint64_t sq_full_turns;  /* turns that wanted more requests than sq_entries */
    uint64_t cq_overflows;   /* turns that found the completion queue overflown */
    uint64_t stale_cqes;     /* completions of an earlier life of their slot */
    uint64_t accepts;        /* connections opened */
    uint64_t accept_errors;  /* accepts that failed; each backs off */
    uint64_t accept_pauses;  /* times a listener stopped for want of room */
    uint64_t closes;         /* connections closed */
    uint64_t conns;          /* now: connections not yet closed */
    uint64_t listeners;      /* now: listeners */
    uint64_t timers;         /* now: timers */
    uint64_t timer_fires;    /* timers called */
    uint64_t posts;          /* posted calls run */
    uint64_t bytes_in;       /* received */
    uint64_t bytes_out;      /* taken by the kernel */
    uint64_t bytes_copied;   /* copied into send queues */
    uint64_t bytes_kept;     /* copied because unconsumed */
    uint64_t starved_parks;  /* times a connection had to wait for a receive buffer */
    uint64_t bufs_out;       /* now: references to receive buffers that sends and leases hold */
    uint64_t sends_out;      /* now: send records in queues, or to be released */
    uint64_t blocks_out;     /* now: memory blocks in use by queues */
    uint64_t allocs;         /* calls of the allocator */
    uint64_t alloc_bytes;    /* now: bytes held from the allocator */
    uint64_t inflight;       /* now: requests the kernel owes a completion for */
    uint64_t leases;         /* now: leases */
    uint64_t bytes_leased;   /* copied because leased beyond the share */
    uint64_t bytes_forwarded; /* from one end of a pair to the other */
    uint64_t bytes_borrowed; /* queued by kr_conn_send_ref */
    uint64_t connects;       /* connections of kr_connect that stood */
    uint64_t connect_errors; /* those that ended before they did, for whatever reason */
    uint64_t timeouts;       /* deadlines of connections that passed */
    uint64_t bytes_read;     /* of files, into send queues */
    uint64_t releases;       /* connections given back as descriptors */
    uint64_t zerocopy_sends;  /* requests to send without a copy */
    /* of these, the ones that the kernel copied all the same, as far as it tells */
    uint64_t zerocopy_copied;
    /* in builds with checks: times that on_data left bytes while reading was not stopped, so that
     * only more bytes or kr_conn_resume will show them again */
    uint64_t left_unpaused;
};

/* Copies the first `size` bytes of the counters to `ret` (an older program's smaller struct gets
 * its part; a larger one's rest is zeroed). Returns 0. Each counter is whole; together they may be
 * of slightly different moments when read from another thread. Any thread; not in a forked
 * child. */
KR_API int kr_stats_read(const struct kr_reactor *r, struct kr_stats *ret, size_t size);

#ifdef __cplusplus
}
#endif

#endif
