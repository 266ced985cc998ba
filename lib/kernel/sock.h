/* Socket options that connections start with. */
#ifndef KR_KERNEL_SOCK_H
#define KR_KERNEL_SOCK_H

#include <kreactor/conn.h>

/* Sets what `opts` asks for on a socket of this family, which may be one that listens: all of these are
 * inherited by what it accepts; NULL: nothing. 0, or the -errno of the first that is refused. */
int kr__sock_set(int fd, int family, const struct kr_conn_opts *opts);

/* One option, an int. */
int kr__sock_set_one(int fd, int level, int name, int value);

#endif
