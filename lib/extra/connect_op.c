/* Connect: one request, from the slot's socket to the address that was given.
 *
 * Happy path: CONNECT completes with 0 when the connection stands; the kernel waits for that
 * itself. What comes before and after, and what else may come, is in extra/connect.c. Unix sockets make
 * no such request.
 * Failure: any error is the kernel's last word. A connection that is closed meanwhile has this
 * cancelled, which leaves the attempt to the CLOSE that follows.
 *
 * Relies on: an attempt in progress is polled for by the kernel (io_connect, io_uring/net.c), and
 * that can be cancelled; the address is copied at submit, but a full SQ may delay that, so it stays
 * where it is. */
#include "base/addr.h"
#include "base/sized.h"
#include "conn/op.h"
#include "extra/connect.h"

uint16_t kr__prep_connect(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    struct kr__conn *c = kr__owner_conn(o);
    const struct kr_addr *addr = kr__connect_addr(c);
    kr__connect_asks(r, c);
    io_uring_prep_connect(sqe, 0, &addr->u.sa, addr->size);
    return 0;
}

void kr__done_connect(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    kr__connect_answered(r, kr__owner_conn(o), how->res);
}

#define TIMEOUT_NS INT64_C(30000000000)

_Static_assert(offsetof(struct kr_connect_opts, conn) + sizeof(struct kr_conn_opts) ==
                   sizeof(struct kr_connect_opts),
               "the last field");

void kr_connect_opts_init_sized(struct kr_connect_opts *opts, size_t size, size_t conn_size) {
    const struct kr_connect_opts defaults = {.timeout_ns = TIMEOUT_NS};
    size_t head = offsetof(struct kr_connect_opts, conn);
    void *conn = kr__sized_give_head(opts, size, conn_size, &defaults, head);
    if (conn)
        kr_conn_opts_init_sized(conn, conn_size);
}

/* As kr__conn_opts_settle; `addr` may be NULL. */
static const char *opts_settle(struct kr_connect_opts *o, const struct kr_connect_opts *given,
                               const struct kr_addr *addr) {
    kr_connect_opts_init(o);
    const void *conn = NULL;
    if (given && !(conn = kr__sized_take_head(o, offsetof(struct kr_connect_opts, conn), given)))
        return KR__SIZED_FAULT("kr_connect_opts");
    o->timeout_ns = o->timeout_ns ? o->timeout_ns : TIMEOUT_NS;
    if (o->source && !kr__addr_good(o->source))
        return "source is no address of a known family";
    if (o->source && addr && o->source->u.sa.sa_family != addr->u.sa.sa_family)
        return "source is of another family than the address to connect to";
    return kr__conn_opts_settle(&o->conn, conn);
}

int kr_connect_opts_check(const struct kr_connect_opts *opts, const struct kr_addr *addr,
                          struct kr_failure *why) {
    struct kr_connect_opts settled;
    return kr__probe_options(why, "struct kr_connect_opts", opts_settle(&settled, opts, addr));
}

int kr_connect(struct kr_reactor *r, kr_conn *ret, const struct kr_addr *addr,
               const struct kr_connect_opts *opts, const struct kr_conn_ops *ops, void *user) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    struct kr_connect_opts settled;
    if (!kr__addr_good(addr) || opts_settle(&settled, opts, addr) || !kr__ops_good(ops))
        return -EINVAL;
    if (kr__connects_shut(r))
        return -ESHUTDOWN;
    struct kr__conn *c;
    rc = kr__connect_begin(r, addr, &settled, ops, user, &c);
    if (rc == 0 && ret)
        *ret = kr__conn_handle(c);
    return rc;
}

int kr_conn_adopt(struct kr_reactor *r, kr_conn *ret, int fd, const struct kr_conn_opts *opts,
                  const struct kr_conn_ops *ops, void *user) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    struct kr_conn_opts settled;
    if (kr__conn_opts_settle(&settled, opts) || !kr__ops_good(ops))
        return -EINVAL;
    if (kr__connects_shut(r))
        return -ESHUTDOWN;
    struct kr__conn *c;
    rc = kr__connect_adopt(r, fd, &settled, ops, user, &c);
    if (rc == 0 && ret)
        *ret = kr__conn_handle(c);
    return rc;
}
