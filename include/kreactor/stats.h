/* Statistics: plain counters of a reactor's work, cheap to keep and to read. */
#ifndef KREACTOR_STATS_H
#define KREACTOR_STATS_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Counters since kr_reactor_new. A counter marked `now` is a current level. New counters are only
 * appended. */
struct kr_stats {
    uint64_t turns;          /* passes of the loop */
    uint64_t enters;         /* io_uring_enter calls */
    uint64_t waits;          /* of these, the calls that were allowed to sleep */
    uint64_t sqes;           /* requests made */
    uint64_t cqes;           /* completions handled */
    uint64_t sq_full_turns;  /* turns that needed more requests than sq_entries */
    uint64_t cq_overflows;   /* turns that found the completion queue overflown */
    uint64_t stale_cqes;     /* completions of an earlier life of their slot */
    uint64_t accepts;        /* accepted connections that were opened */
    uint64_t accept_errors;  /* accepts that failed, or whose connection found no memory */
    uint64_t accept_pauses;  /* times that a listener stopped for want of room in the table */
    uint64_t closes;         /* connections closed: on_close was due */
    uint64_t conns;          /* now: connections not yet closed */
    uint64_t listeners;      /* now: listeners */
    uint64_t timers;         /* now: timers */
    uint64_t timer_fires;    /* timers fired */
    uint64_t posts;          /* posted calls and notices run */
    uint64_t bytes_in;       /* bytes received */
    uint64_t bytes_out;      /* bytes taken by the kernel */
    uint64_t bytes_copied;   /* bytes copied into send queues */
    uint64_t bytes_kept;     /* bytes copied because they were not shown yet, or not consumed */
    /* Times that a connection had to wait for a receive buffer. The kernel is given as many of the
     * buf_count buffers as were in use at a time lately, so that they stay in the cache, and more
     * when connections have waited. So this rises when a burst begins; only where it keeps rising
     * is buf_count too small. */
    uint64_t starved_waits;
    uint64_t bufs_out;       /* now: references to receive buffers that sends and leases hold */
    uint64_t sends_out;      /* now: send records in queues, or about to be released */
    /* now: memory blocks in use: by queues, kept bytes, and for what few connections have; and the
     * inline memory of each slot, which the slot keeps for its next connection */
    uint64_t blocks_out;
    uint64_t allocs;         /* calls of the allocator */
    uint64_t alloc_bytes;    /* now: bytes held from the allocator */
    uint64_t inflight;       /* now: requests in flight, for which the kernel owes a completion */
    uint64_t leases;         /* now: leases */
    uint64_t bytes_leased;   /* bytes copied because the lease exceeded the share, or could not keep
                              * the buffer */
    uint64_t bytes_forwarded; /* bytes forwarded from one end of a pair to the other */
    uint64_t bytes_borrowed; /* bytes queued by kr_conn_send_ref */
    uint64_t connects;       /* connections of kr_connect and kr_conn_adopt that were established */
    uint64_t connect_errors; /* such connections that ended before that, for whatever reason */
    uint64_t timeouts;       /* deadlines of connections that passed */
    uint64_t bytes_read;     /* bytes of files, read into send queues */
    uint64_t detaches;       /* connections given back as descriptors */
    uint64_t zerocopy_sends;  /* requests to send without a copy */
    /* of these, the requests whose bytes the kernel copied all the same, as far as it reports
     * that */
    uint64_t zerocopy_copied;
    /* in builds with checks: times that on_data left bytes while reading was not stopped, so that
     * only more bytes or kr_conn_resume will show them again */
    uint64_t left_unpaused;
};

/* Copies the counters to `ret`. `size` is the program's own sizeof(struct kr_stats). A program with
 * older headers has a smaller struct and gets the first `size` bytes; in a larger struct the rest
 * is zeroed. Returns 0. Each counter is read as a whole. Read from another thread, different
 * counters may be of slightly different moments. Any thread.
 *
 * Errors, with nothing written: -EINVAL: `r` or `ret` is NULL. -ECHILD: this is a forked child. */
KR_API int kr_stats_read(const struct kr_reactor *r, struct kr_stats *ret, size_t size);

#ifdef __cplusplus
}
#endif

#endif
