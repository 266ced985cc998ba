/* What every server of the bench does alike: options, a listener on a loopback port of the kernel's
 * choice with TCP_NODELAY for its connections to inherit, and the line that says it is ready. */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEER_NOFILE 65536
#define PEER_READ_SIZE 65536 /* one read buffer, shared by all connections, so always warm */

static inline void peer_die(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    exit(1);
}

/* The number after `name` among the arguments, or `otherwise`. */
static inline unsigned peer_option(int argc, char **argv, const char *name, unsigned otherwise) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name))
            return (unsigned)strtoul(argv[i + 1], NULL, 10);
    return otherwise;
}

static inline bool peer_switch(int argc, char **argv, const char *name) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], name))
            return true;
    return false;
}

/* Descriptors for tens of thousands of connections, or as many as the process may have. And no
 * SIGPIPE: libuv and bufferevents write without MSG_NOSIGNAL. */
static inline void peer_init(void) {
    signal(SIGPIPE, SIG_IGN);
    struct rlimit limit = {.rlim_cur = PEER_NOFILE, .rlim_max = PEER_NOFILE};
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
        return;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        peer_die("getrlimit", errno);
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        peer_die("setrlimit", errno);
}

/* How many descriptors, or file table entries, the process may have. */
static inline unsigned peer_nofile(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        peer_die("getrlimit", errno);
    return limit.rlim_cur < PEER_NOFILE ? (unsigned)limit.rlim_cur : PEER_NOFILE;
}

/* `flags`: 0 or SOCK_NONBLOCK. */
static inline int peer_listen(int flags) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        peer_die("socket", errno);
    int one = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
        peer_die("TCP_NODELAY", errno);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        peer_die("bind", errno);
    if (listen(fd, 4096) < 0)
        peer_die("listen", errno);
    return fd;
}

static inline void peer_ready(int listener) {
    struct sockaddr_in addr;
    socklen_t size = sizeof(addr);
    if (getsockname(listener, (struct sockaddr *)&addr, &size) < 0)
        peer_die("getsockname", errno);
    printf("listening %u\n", ntohs(addr.sin_port));
    fflush(stdout);
}

#endif
