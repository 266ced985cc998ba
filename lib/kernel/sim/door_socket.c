/* The sockets of the simulated kernel's door. */
#include "kernel/sim/door.h"
#include "kernel/sim/path.h"
#include "kernel/sim/remote.h"
#include "kernel/sim/stream.h"

#define EPHEMERAL_FIRST 40000u

static bool is_taken(const struct kr_sim *sim, const struct kr_addr *addr, bool reuse_port) {
    const struct kr__link *head = &sim->listeners.head;
    for (const struct kr__link *link = head->next; link != head; link = link->next) {
        const struct kr__sim_file *file =
            kr__container_of(link, struct kr__sim_file, listener.on_port);
        bool shared = reuse_port && file->listener.reuse_port;
        if (kr__sim_addr_leads(addr, &file->listener.bound) && !shared)
            return true;
    }
    return false;
}

/* sin_port and sin6_port have the same offset. */
static void port_set(struct kr_addr *addr, uint16_t port) {
    addr->u.in.sin_port = htons(port);
}

/* Port 0: the kernel chooses one. */
static void port_choose(const struct kr_sim *sim, struct kr_addr *addr) {
    if (addr->u.sa.sa_family == AF_UNIX || kr_addr_port(addr))
        return;
    for (unsigned port = EPHEMERAL_FIRST; port == EPHEMERAL_FIRST || is_taken(sim, addr, false);
         port++)
        port_set(addr, (uint16_t)port);
}

static int name_take(struct kr_sim *sim, const struct kr__listen_plan *plan, struct kr_addr *addr,
                     uint64_t *inode) {
    if (kr__sim_path_is(addr))
        return kr__sim_path_bind(sim, addr, plan->replace, inode);
    port_choose(sim, addr);
    return is_taken(sim, addr, plan->reuse_port) ? -EADDRINUSE : 0;
}

int kr__door_socket_listen(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                           struct kr_addr *bound) {
    struct kr_sim *sim = kr__sim_entered(k);
    struct kr_addr addr = *plan->addr;
    uint64_t inode = 0;
    int rc = name_take(sim, plan, &addr, &inode);
    if (rc < 0)
        return rc;
    struct kr__sim_file *file = kr__sim_file_new(sim, KR__SIM_LISTENER);
    file->listener.bound = *bound = addr;
    file->listener.backlog = plan->backlog;
    file->listener.reuse_port = plan->reuse_port;
    file->listener.inode = inode;
    file->refuses = plan->refuse_fds;
    file->inlines = addr.u.sa.sa_family != AF_UNIX; /* kr__sock_set, kernel/sockopt.c */
    kr__list_push(&sim->listeners, &file->listener.on_port);
    return kr__sim_fd_new(sim, file);
}

int kr__door_socket_listen_fd(const struct kr__kernel *k, int fd,
                              const struct kr__listen_plan *plan, struct kr_addr *bound) {
    struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    if (!file)
        return -EBADF;
    if (file->kind != KR__SIM_LISTENER)
        return file->kind == KR__SIM_STREAM ? -EINVAL : -ENOTSOCK;
    file->listener.backlog = plan->backlog;
    file->refuses = plan->refuse_fds;
    file->inlines = file->listener.bound.u.sa.sa_family != AF_UNIX; /* kr__sock_set_adopted */
    *bound = file->listener.bound;
    return 0;
}

int kr__door_socket_path_id(const struct kr__kernel *k, const struct kr_addr *addr,
                            struct kr__path_id *ret) {
    const struct kr__sim_path *path = kr__sim_path_find(kr__sim_entered(k), addr);
    if (!path)
        return -ENOENT;
    *ret = (struct kr__path_id){.device = 1, .inode = path->inode};
    return 0;
}

/* This world has one directory, and all paths are in it. */
int kr__door_socket_path_dir(const struct kr__kernel *k, const struct kr_addr *addr) {
    struct kr_sim *sim = kr__sim_entered(k);
    if (!kr__sim_path_find(sim, addr))
        return -ENOENT;
    return kr__sim_fd_new(sim, kr__sim_file_new(sim, KR__SIM_REGULAR));
}

void kr__door_socket_path_remove(const struct kr__kernel *k, const struct kr_addr *addr,
                                 const struct kr__path_id *id, int dir) {
    (void)dir;
    struct kr__sim_path *path = kr__sim_path_find(kr__sim_entered(k), addr);
    if (path && (!id || id->inode == path->inode))
        kr__sim_path_remove(path);
}

int kr__door_socket_open(const struct kr__kernel *k, const struct kr__socket_plan *plan) {
    struct kr_sim *sim = kr__sim_entered(k);
    int fd = kr__sim_socket(sim, plan->family);
    struct kr__sim_file *file = kr__sim_fd_file(sim, fd);
    if (!file)
        return fd;
    if (plan->source)
        file->stream.here = *plan->source;
    file->refuses = plan->refuse_fds;
    file->inlines = plan->family != AF_UNIX; /* kr__sock_set, kernel/sockopt.c */
    return fd;
}

int kr__door_socket_connect(const struct kr__kernel *k, int fd, const struct kr_addr *addr) {
    struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    if (!file)
        return -EBADF;
    return file->kind == KR__SIM_STREAM ? kr__sim_dial(file, &addr->u.sa, addr->size) : -ENOTSOCK;
}

int kr__door_socket_is_stream(const struct kr__kernel *k, int fd) {
    const struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    return !file ? -EBADF : file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

int kr__door_socket_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer,
                          struct kr_addr *local) {
    const struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    if (!file)
        return -EBADF;
    bool joined = file->kind == KR__SIM_STREAM && file->stream.phase == KR__SIM_JOINED;
    if (!joined || (file->stream.dead && !file->stream.size)) /* man getpeername */
        return -ENOTCONN;
    *peer = file->stream.there;
    *local = file->stream.here;
    if (file->stream.dead)
        *peer = (struct kr_addr){.u.sa.sa_family = local->u.sa.sa_family};
    return 0;
}

int kr__door_socket_set_option(const struct kr__kernel *k, int fd,
                               const struct kr__sock_step *step) {
    struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    if (!file)
        return -EBADF;
    return file->kind == KR__SIM_STREAM ? kr__sim_option_set(file, step) : -ENOTSOCK;
}

void kr__door_socket_set_adopted(const struct kr__kernel *k, int fd, int family, bool refuse_fds) {
    struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    if (!file)
        return;
    file->resets = false;
    file->refuses = refuse_fds && family == AF_UNIX;
    if (family == AF_UNIX || file->kind != KR__SIM_STREAM)
        return;
    file->inlines = true; /* kr__sock_set_adopted, kernel/sockopt.c */
    file->stream.noted = false;
}

bool kr__door_socket_refuses_fds(const struct kr__kernel *k) {
    return kr__sim_entered(k)->version >= KR__SIM_LINUX(6, 16);
}

bool kr__door_socket_was_shut_down(const struct kr__kernel *k, int fd) {
    const struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    bool stream = file && file->kind == KR__SIM_STREAM;
    return stream && file->stream.fin_out && !file->stream.error;
}

int kr__door_socket_unlinger(const struct kr__kernel *k, int fd) {
    struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    if (!file)
        return -EBADF;
    file->resets = false;
    return file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

int kr__door_socket_set_accepted(const struct kr__kernel *k, int fd,
                                 const struct kr_conn_opts *opts) {
    const struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    (void)opts;
    return !file ? -EBADF : file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

int kr__door_socket_shutdown(const struct kr__kernel *k, int fd) {
    struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    if (!file)
        return -EBADF;
    return file->kind == KR__SIM_STREAM ? (int)kr__sim_stream_shutdown(file, SHUT_WR) : -ENOTSOCK;
}

bool kr__door_socket_tells_reset(const struct kr__kernel *k) {
    return kr__sim_tells_resets(kr__sim_of(k));
}
