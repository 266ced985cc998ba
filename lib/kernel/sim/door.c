/* The door, answered by a world: each function first lets a little time pass, in which anything may
 * happen, as at any system call. */
#include "kernel/sim/path.h"
#include "kernel/sim/remote.h"
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

#define NOFILE 20000u
#define MEMLOCK (UINT64_C(8) << 20)
#define PAGE 4096u
#define EPHEMERAL_FIRST 40000u

static struct kr_sim *entered(const struct kr__kernel *k) {
    struct kr_sim *sim = kr__sim_of(k);
    kr__sim_pass(sim);
    struct kr__link *head = &sim->rings.head;
    for (struct kr__link *link = head->next; link != head; link = link->next)
        kr__sim_ring_intrude(kr__container_of(link, struct kr__sim_ring, link));
    return sim;
}

static int door_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                          struct io_uring_params *params) {
    return kr__sim_ring_open(entered(k), ring, entries, params);
}

static int door_ring_bind(const struct kr__kernel *k, struct io_uring *ring, bool *registered) {
    entered(k);
    if (!kr__sim_ring_of(ring)->disabled)
        return -EBADFD;
    kr__sim_ring_of(ring)->disabled = false;
    *registered = true;
    return 0;
}

static void door_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                            bool child) {
    (void)k;
    (void)registered;
    (void)child; /* a forked world is a world of its own */
    kr__sim_ring_close(kr__sim_ring_of(ring));
}

static int door_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                      unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    entered(k);
    int64_t wait_ns = -1;
    if (arg && arg->timespec) {
        const struct __kernel_timespec *ts = (const void *)(uintptr_t)arg->timespec;
        wait_ns = ts->tv_sec * 1000000000 + ts->tv_nsec;
    }
    return kr__sim_ring_enter(kr__sim_ring_of(ring), submit, wait_for, flags, wait_ns);
}

static int register_files(struct kr__sim_ring *ring, const void *arg, unsigned count) {
    const struct io_uring_rsrc_register *table = arg;
    if (count != sizeof *table || table->flags != IORING_RSRC_REGISTER_SPARSE || table->data)
        return -EINVAL;
    if (table->nr > NOFILE) /* io_sqe_files_register, io_uring/rsrc.c */
        return -EMFILE;
    return kr__sim_slots_init(&ring->slots, table->nr, ring->sim->version < KR__SIM_LINUX(6, 13));
}

static int update_file(struct kr__sim_ring *ring, const void *arg, unsigned count) {
    const struct io_uring_files_update *update = arg;
    if (count != 1)
        return -EINVAL;
    int fd = *(const int *)(uintptr_t)update->fds;
    struct kr__sim_file *file = kr__sim_fd_file(ring->sim, fd);
    if (fd >= 0 && !file)
        return -EBADF;
    int rc = kr__sim_slots_put(&ring->slots, update->offset, file);
    kr__sim_ring_let_go(ring);
    return rc < 0 ? rc : 1;
}

/* io_probe, io_uring/register.c. Told is what is modelled here, which is what the library asks for;
 * and BIND, which stands for the accept that does not wait. */
static int probe(const struct kr_sim *sim, const void *arg, unsigned count) {
    struct io_uring_probe *probe = (struct io_uring_probe *)(uintptr_t)arg;
    if (count > 256)
        return -EINVAL;
    bool bind = sim->version >= KR__SIM_LINUX(6, 11);
    for (unsigned op = 0; op < count; op++) {
        bool known = kr__sim_verb_find(sim, op) || (op == KR__OP_BIND && bind);
        probe->ops[op] = (struct io_uring_probe_op){.op = (uint8_t)op,
                                                    .flags = known ? IO_URING_OP_SUPPORTED : 0};
        if (known)
            probe->last_op = (uint8_t)op;
    }
    probe->ops_len = (uint8_t)(count < 255 ? count : 255);
    return 0;
}

/* io_register_iowq_max_workers, io_uring/register.c: how many there may be for regular files, and
 * for all else; 0 leaves it as it is, and what it was is written back. Only the latter are
 * counted. */
static int bound_workers(struct kr__sim_ring *ring, const void *arg) {
    unsigned *most = (unsigned *)(uintptr_t)arg, before = ring->workers_most;
    ring->workers_most = most[1] ? most[1] : before;
    most[1] = before;
    return 0;
}

static int door_reg(const struct kr__kernel *k, struct io_uring *uring, unsigned opcode,
                    const void *arg, unsigned count) {
    entered(k);
    struct kr__sim_ring *ring = kr__sim_ring_of(uring);
    switch (opcode) {
    case IORING_REGISTER_FILES2:
        return register_files(ring, arg, count);
    case IORING_REGISTER_FILE_ALLOC_RANGE: {
        const struct io_uring_file_index_range *range = arg;
        return count ? -EINVAL : kr__sim_slots_range(&ring->slots, range->off, range->len);
    }
    case IORING_REGISTER_FILES_UPDATE:
        return update_file(ring, arg, count);
    case IORING_REGISTER_PROBE:
        return probe(ring->sim, arg, count);
    case KR__REGISTER_MEM_REGION: /* known, and not modelled: the region is nowhere */
        return ring->sim->version >= KR__SIM_LINUX(6, 13) ? -EFAULT : -EINVAL;
    case IORING_REGISTER_IOWQ_MAX_WORKERS:
        return count == 2 ? bound_workers(ring, arg) : -EINVAL;
    case IORING_REGISTER_PBUF_RING:
        return kr__sim_bufs_init(&ring->bufs, arg, count);
    default:
        return -EINVAL;
    }
}

static int64_t door_clock(const struct kr__kernel *k) {
    return entered(k)->now;
}

/* Page-aligned within a block of the host's, whose address stands right before it. */
static void *door_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    (void)how;
    entered(k);
    char *block = calloc(1, size + 2 * PAGE);
    if (!block)
        return NULL;
    char *pages = (char *)(((uintptr_t)block + 2 * PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    memcpy(pages - sizeof block, &block, sizeof block);
    return pages;
}

static void door_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    (void)k;
    (void)size;
    char *block;
    memcpy(&block, (char *)pages - sizeof block, sizeof block);
    free(block);
}

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

/* sin_port and sin6_port stand at the same place. */
static void port_set(struct kr_addr *addr, uint16_t port) {
    addr->u.in.sin_port = htons(port);
}

/* The kernel's choice, where none was made. */
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

static int door_listen(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                       struct kr_addr *bound) {
    struct kr_sim *sim = entered(k);
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

static int door_listen_fd(const struct kr__kernel *k, int fd, const struct kr__listen_plan *plan,
                          struct kr_addr *bound) {
    struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
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

static int door_path_id(const struct kr__kernel *k, const struct kr_addr *addr,
                        struct kr__path_id *ret) {
    const struct kr__sim_path *path = kr__sim_path_find(entered(k), addr);
    if (!path)
        return -ENOENT;
    *ret = (struct kr__path_id){.device = 1, .inode = path->inode};
    return 0;
}

/* There is one directory, in which all paths are. */
static int door_path_dir(const struct kr__kernel *k, const struct kr_addr *addr) {
    struct kr_sim *sim = entered(k);
    if (!kr__sim_path_find(sim, addr))
        return -ENOENT;
    return kr__sim_fd_new(sim, kr__sim_file_new(sim, KR__SIM_REGULAR));
}

static void door_path_remove(const struct kr__kernel *k, const struct kr_addr *addr,
                             const struct kr__path_id *id, int dir) {
    (void)dir;
    struct kr__sim_path *path = kr__sim_path_find(entered(k), addr);
    if (path && (!id || id->inode == path->inode))
        kr__sim_path_remove(path);
}

static int door_socket(const struct kr__kernel *k, const struct kr__socket_plan *plan) {
    struct kr_sim *sim = entered(k);
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

static int door_connect(const struct kr__kernel *k, int fd, const struct kr_addr *addr) {
    struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    if (!file)
        return -EBADF;
    return file->kind == KR__SIM_STREAM ? kr__sim_dial(file, &addr->u.sa, addr->size) : -ENOTSOCK;
}

static int door_sock_stream(const struct kr__kernel *k, int fd) {
    const struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    return !file ? -EBADF : file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

static int door_sock_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer,
                           struct kr_addr *local) {
    const struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
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

static int door_sock_set(const struct kr__kernel *k, int fd, const struct kr__sock_step *step) {
    struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    if (!file)
        return -EBADF;
    return file->kind == KR__SIM_STREAM ? kr__sim_option_set(file, step) : -ENOTSOCK;
}

static void door_sock_own(const struct kr__kernel *k, int fd, int family, bool refuse_fds) {
    struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    if (!file)
        return;
    file->resets = false;
    file->refuses = refuse_fds && family == AF_UNIX;
    if (family == AF_UNIX || file->kind != KR__SIM_STREAM)
        return;
    file->inlines = true; /* kr__sock_set_adopted, kernel/sockopt.c */
    file->stream.noted = false;
}

static bool door_refuses_fds(const struct kr__kernel *k) {
    return entered(k)->version >= KR__SIM_LINUX(6, 16);
}

static bool door_sock_ended(const struct kr__kernel *k, int fd) {
    const struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    bool stream = file && file->kind == KR__SIM_STREAM;
    return stream && file->stream.fin_out && !file->stream.error;
}

static int door_sock_unlinger(const struct kr__kernel *k, int fd) {
    struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    if (!file)
        return -EBADF;
    file->resets = false;
    return file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

static int door_sock_equip(const struct kr__kernel *k, int fd, const struct kr_conn_opts *opts) {
    const struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    (void)opts;
    return !file ? -EBADF : file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

static int door_sock_end(const struct kr__kernel *k, int fd) {
    struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    if (!file)
        return -EBADF;
    return file->kind == KR__SIM_STREAM ? (int)kr__sim_stream_shutdown(file, SHUT_WR) : -ENOTSOCK;
}

/* There are no pipes in this world. */
static int door_pipe_end(const struct kr__kernel *k, int fd) {
    return kr__sim_fd_file(entered(k), fd) ? -ENOTSUP : -EBADF;
}

static int door_pipe_quiet(const struct kr__kernel *k, bool newest) {
    (void)k;
    (void)newest;
    return -ENOSYS;
}

static int door_pipe_own(const struct kr__kernel *k, int fd, bool nameless_too) {
    (void)nameless_too;
    return door_pipe_end(k, fd);
}

static int door_dup(const struct kr__kernel *k, int fd) {
    struct kr_sim *sim = entered(k);
    struct kr__sim_file *file = kr__sim_fd_file(sim, fd);
    return file ? kr__sim_fd_new(sim, kr__sim_file_ref(file)) : -EBADF;
}

static int door_file_size(const struct kr__kernel *k, int fd, uint64_t *ret) {
    const struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    if (!file)
        return -EBADF;
    if (file->kind != KR__SIM_REGULAR)
        return -ESPIPE;
    *ret = file->regular.size;
    return 0;
}

static int door_file_read(const struct kr__kernel *k, int fd, void *to, size_t size,
                          uint64_t offset) {
    const struct kr__sim_file *file = kr__sim_fd_file(entered(k), fd);
    return file ? (int)kr__sim_file_read(file, to, size, offset) : -EBADF;
}

static int door_close(const struct kr__kernel *k, int fd) {
    return kr__sim_fd_close(entered(k), fd);
}

static int door_close_taken(const struct kr__kernel *k, int fd) {
    return k->file.close(k, fd);
}

/* A dump is for who looks at the world from outside: it leaves by the real kernel. */
static int door_write(const struct kr__kernel *k, int fd, const void *data, size_t size) {
    (void)k;
    return kr__linux.file.write(&kr__linux, fd, data, size);
}

static int door_wake_open(const struct kr__kernel *k) {
    struct kr_sim *sim = entered(k);
    return kr__sim_fd_new(sim, kr__sim_file_new(sim, KR__SIM_WAKER));
}

/* Called by whoever posts, so also in the middle of an event: no time passes. */
static int door_wake_send(const struct kr__kernel *k, int fd) {
    struct kr__sim_file *file = kr__sim_fd_file(kr__sim_of(k), fd);
    if (!file)
        return -EBADF;
    file->counter++;
    kr__sim_wake(file, POLLIN);
    return 0;
}

static bool door_reset_told(const struct kr__kernel *k) {
    return kr__sim_tells_resets(kr__sim_of(k));
}

static void door_yield(const struct kr__kernel *k) {
    entered(k);
}

static uint64_t door_limit_nofile(const struct kr__kernel *k) {
    (void)k;
    return NOFILE;
}

static uint64_t door_limit_memlock(const struct kr__kernel *k) {
    (void)k;
    return MEMLOCK;
}

static uint64_t door_limit_none(const struct kr__kernel *k) {
    (void)k;
    return UINT64_MAX;
}

static int door_sysctl_disabled(const struct kr__kernel *k) {
    (void)k;
    return 0;
}

void kr__sim_door_init(struct kr_sim *sim) {
    sim->door = (struct kr__kernel){
        .ring.open = door_ring_open,
        .ring.bind = door_ring_bind,
        .ring.close = door_ring_close,
        .ring.enter = door_enter,
        .ring.reg = door_reg,

        .socket.listen = door_listen,
        .socket.listen_fd = door_listen_fd,
        .socket.path_id = door_path_id,
        .socket.path_dir = door_path_dir,
        .socket.path_remove = door_path_remove,
        .socket.open = door_socket,
        .socket.connect = door_connect,
        .socket.is_stream = door_sock_stream,
        .socket.addrs = door_sock_addrs,
        .socket.shutdown = door_sock_end,
        .socket.was_shut_down = door_sock_ended,
        .socket.set_option = door_sock_set,
        .socket.set_accepted = door_sock_equip,
        .socket.set_adopted = door_sock_own,
        .socket.unlinger = door_sock_unlinger,
        .socket.refuses_fds = door_refuses_fds,
        .socket.tells_reset = door_reset_told,

        .file.dup = door_dup,
        .file.close = door_close,
        .file.close_received = door_close_taken,
        .file.size = door_file_size,
        .file.read = door_file_read,
        .file.write = door_write,
        .file.pipe_end = door_pipe_end,
        .file.pipe_flags = door_pipe_quiet,
        .file.pipe_reopen = door_pipe_own,
        .file.wake_open = door_wake_open,
        .file.wake_send = door_wake_send,

        .process.clock = door_clock,
        .process.yield = door_yield,
        .process.map = door_map,
        .process.unmap = door_unmap,
        .process.limit_nofile = door_limit_nofile,
        .process.limit_memlock = door_limit_memlock,
        .process.limit_as = door_limit_none,
        .process.limit_data = door_limit_none,
        .process.sysctl_disabled = door_sysctl_disabled,
    };
}
