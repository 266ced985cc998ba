/* Connections of kr_connect, from the call until they stand. */
#ifndef KR_EXTRA_CONNECT_H
#define KR_EXTRA_CONNECT_H

#include "conn/conn.h"

#include <kreactor/connect.h>

/* Begins one, as checked `opts` say. *ret is the connection; else -errno, with nothing begun. */
int kr__connect_begin(struct kr_reactor *r, const struct kr_addr *addr,
                      const struct kr_connect_opts *opts, const struct kr_conn_ops *ops, void *user,
                      struct kr__conn **ret);

/* Begins one that stands already, at `fd`, which is the table's on success. */
int kr__connect_adopt(struct kr_reactor *r, int fd, const struct kr_conn_opts *opts,
                      const struct kr_conn_ops *ops, void *user, struct kr__conn **ret);

/* Its address, for the request: stays where it is until the connection is gone. */
static inline const struct kr_addr *kr__connect_addr(const struct kr__conn *c) {
    return &c->more->addrs[0];
}

/* Its request is being made: the time it may take counts from here. */
void kr__connect_asks(struct kr_reactor *r, struct kr__conn *c);

/* The kernel has answered: it stands (0), or never will (-errno). */
void kr__connect_answered(struct kr_reactor *r, struct kr__conn *c, int error);

#endif
