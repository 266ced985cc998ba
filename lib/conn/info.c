/* What a connection knows: its user, its memory, its addresses. */
#include "conn/reactor.h"

/* One that it keeps; not one that it has for a while. */
static int fd_kept(const struct kr__conn *c) {
    bool kept = kr__conn_opts(c)->keep_fd && c->more && c->more->fd >= 0;
    return kept ? c->more->fd : -ENODATA;
}

static int addr_ask(const struct kr_reactor *r, const struct kr__conn *c, int which,
                    struct kr_addr *ret) {
    int fd = fd_kept(c);
    if (fd < 0 || c->write_only || c->read_only) /* a pipe has none */
        return -ENODATA;
    struct kr_addr addrs[2];
    int rc = r->kernel->socket.addrs(r->kernel, fd, &addrs[0], &addrs[1]);
    if (rc == 0 && !addrs[which].size)
        rc = -ENOTCONN;
    if (rc == 0)
        *ret = addrs[which];
    return rc;
}

static int conn_addr(const struct kr_reactor *r, kr_conn conn, int which, struct kr_addr *ret) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!ret)
        return -EINVAL;
    if (!c->more || !c->more->addrs || !c->more->addrs[which].size)
        return addr_ask(r, c, which, ret);
    *ret = c->more->addrs[which];
    return 0;
}

int kr_conn_fd(const struct kr_reactor *r, kr_conn conn) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    return rc < 0 ? rc : fd_kept(c);
}

int kr_conn_peer(const struct kr_reactor *r, kr_conn conn, struct kr_addr *ret) {
    return conn_addr(r, conn, 0, ret);
}

int kr_conn_local(const struct kr_reactor *r, kr_conn conn, struct kr_addr *ret) {
    return conn_addr(r, conn, 1, ret);
}

void *kr_conn_user(const struct kr_reactor *r, kr_conn conn) {
    struct kr__conn *c;
    return kr__conn_door(r, conn, &c) < 0 ? NULL : c->user;
}

int kr_conn_set_user(struct kr_reactor *r, kr_conn conn, void *user) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    c->user = user;
    return 0;
}

void *kr_conn_inline(const struct kr_reactor *r, kr_conn conn) {
    struct kr__conn *c;
    if (kr__conn_door(r, conn, &c) < 0 || !kr__conn_opts(c)->inline_size)
        return NULL;
    return c->inline_memory;
}

/* The new callbacks begin with what the old ones have left: bytes, and an end of stream, which they
 * have not been told of. */
int kr_conn_swap(struct kr_reactor *r, kr_conn conn, const struct kr_conn_ops *ops, void *user) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!kr__ops_good(ops))
        return -EINVAL;
    if (!kr__conn_is_usable(c))
        return -EPIPE;
    c->ops = ops;
    c->user = user;
    c->eof_told = c->write_only;
    kr__conn_show_later(r, c);
    return 0;
}
