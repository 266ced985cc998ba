/* Socket options that connections start with. */
#ifndef KR_KERNEL_SOCK_H
#define KR_KERNEL_SOCK_H

#include "kernel/kernel.h"

#include <kreactor/conn.h>
#include <kreactor/sockopt.h>

/* Sets what `opts` asks for on a socket of this family, which may be one that listens: all of these
 * are inherited by what it accepts; NULL: nothing. 0, or the -errno of the first that is
 * refused. */
int kr__sock_set(int fd, int family, const struct kr_conn_opts *opts);

/* A socket that others have made behaves as one of ours from now on: what they may have set on it
 * that does not suit a reactor is taken back. It may be one that listens. */
void kr__sock_own(int fd, int family, bool refuse_fds);

/* A Unix socket takes descriptors (as it does from the start), or refuses them. 0, or -errno:
 * -ENOPROTOOPT on kernels before 6.16. */
int kr__sock_pass_fds(int fd, bool takes);

/* Whether this side of a connected stream has been ended (shutdown(2)); false where that is not known. */
bool kr__sock_ended(const struct kr__kernel *k, int fd);

/* SO_LINGER off. 0, or -errno. */
int kr__sock_unlinger(int fd);

/* What setting one of a living connection is. */
struct kr__sock_steps {
    bool tcp; /* only TCP knows it */
    unsigned count;
    struct kr__sock_step step[2];
};

/* -EINVAL: there is no such option, or its value is out of range. */
int kr__sock_steps(struct kr__sock_steps *ret, enum kr_sockopt which, unsigned value);

/* One option, an int. */
int kr__sock_set_one(int fd, int level, int name, int value);

#endif
