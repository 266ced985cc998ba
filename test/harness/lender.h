/* Connections that lend: each has a stream, whose next bytes it lends, copies or reserves, and its
 * loans are counted until they come back.
 *
 * A loan's bytes are overwritten and freed when they come back: whoever still reads them, the
 * kernel included, sends what the client's pattern is not. What is checked of every loan: it comes
 * back once, inside a turn and not inside the call that lent it, and before on_close. */
#pragma once

#include "harness/server.h"

#define LENDERS_MAX 16

struct lender {
    kr_conn conn;
    uint64_t seed, queued; /* of its stream */
    unsigned lent, returned, drains, closes;
    int error;
    enum kr_why why;
    int64_t closed_at;
};

/* In the order of opening. */
extern struct lender lenders[LENDERS_MAX];
extern unsigned lender_count;

struct loan {
    struct lender *lender;
    size_t size;
    char bytes[];
};

/* on_data takes all. */
extern const struct kr_conn_ops lender_ops;
void lender_close(struct kr_reactor *r, kr_conn conn, void *lender, int error, enum kr_why why);

/* The release callback of a loan. */
void loan_end(struct kr_reactor *r, void *loan);
struct loan *loan_new(struct lender *lender, size_t size);

/* Lends, or sends a copy of, the next `size` bytes of the stream. */
int lend(struct kr_reactor *r, struct lender *lender, size_t size);
int lend_copy(struct kr_reactor *r, struct lender *lender, size_t size);

/* The client receives the stream's bytes from `from` on. */
void lender_check_stream(struct kr_reactor *r, const struct lender *lender, int fd, uint64_t from,
                         size_t size);

/* It ends for this cause, with every loan returned. */
void lender_check_over(struct kr_reactor *r, const struct lender *lender, int error,
                       enum kr_why why);
