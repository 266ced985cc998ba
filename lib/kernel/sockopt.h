/* Socket options of the real kernel. */
#ifndef KR_KERNEL_SOCKOPT_H
#define KR_KERNEL_SOCKOPT_H

#include "kernel/kernel.h"

#include <kreactor/conn.h>
#include <kreactor/sockopt.h>

/* Sets one option, an int. 0, or -errno. */
int kr__sock_set_one(int fd, int level, int name, int value);

/* Sets what `opts` asks for (NULL: nothing) on a socket of this family. The socket may listen: the
 * sockets that it accepts inherit the options, unless it is a Unix socket. 0, or the -errno of the
 * first option that is refused. */
int kr__sock_set(int fd, int family, const struct kr_conn_opts *opts);

/* Makes a Unix socket take descriptors, as it does from the start, or refuse them. 0, or -errno:
 * -ENOPROTOOPT on kernels before 6.16. */
int kr__sock_pass_fds(int fd, bool takes);

/* The functions of struct kr__door_socket that set options. The socket of kr__sock_set_adopted may
 * listen. */
int kr__sock_set_option(const struct kr__kernel *k, int fd, const struct kr__sock_step *step);
int kr__sock_set_accepted(const struct kr__kernel *k, int fd, const struct kr_conn_opts *opts);
void kr__sock_set_adopted(const struct kr__kernel *k, int fd, int family, bool refuse_fds);
int kr__sock_unlinger(const struct kr__kernel *k, int fd);

/* The system calls that set one option of an open connection. */
struct kr__sock_steps {
    bool tcp; /* only TCP knows it */
    unsigned count;
    struct kr__sock_step step[2];
};

/* -EINVAL: there is no such option, or its value is out of range. */
int kr__sock_steps(struct kr__sock_steps *ret, enum kr_sockopt which, unsigned value);

#endif
