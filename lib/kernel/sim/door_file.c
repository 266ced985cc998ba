/* The files of the simulated kernel's door. */
#include "kernel/sim/door.h"
#include "kernel/sim/request.h"

int kr__door_file_dup(const struct kr__kernel *k, int fd) {
    struct kr_sim *sim = kr__sim_entered(k);
    struct kr__sim_file *file = kr__sim_fd_file(sim, fd);
    return file ? kr__sim_fd_new(sim, kr__sim_file_ref(file)) : -EBADF;
}

int kr__door_file_size(const struct kr__kernel *k, int fd, uint64_t *ret) {
    const struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    if (!file)
        return -EBADF;
    if (file->kind != KR__SIM_REGULAR)
        return -ESPIPE;
    *ret = file->regular.size;
    return 0;
}

int kr__door_file_read(const struct kr__kernel *k, int fd, void *to, size_t size, uint64_t offset) {
    const struct kr__sim_file *file = kr__sim_fd_file(kr__sim_entered(k), fd);
    return file ? (int)kr__sim_file_read(file, to, size, offset) : -EBADF;
}

int kr__door_file_close(const struct kr__kernel *k, int fd) {
    return kr__sim_fd_close(kr__sim_entered(k), fd);
}

int kr__door_file_close_received(const struct kr__kernel *k, int fd) {
    return k->file.close(k, fd);
}

/* A dump is for a reader outside this world, so it is written by the real kernel. */
int kr__door_file_write(const struct kr__kernel *k, int fd, const void *data, size_t size) {
    (void)k;
    return kr__linux.file.write(&kr__linux, fd, data, size);
}

/* This world has no pipes. */
int kr__door_file_pipe_end(const struct kr__kernel *k, int fd) {
    return kr__sim_fd_file(kr__sim_entered(k), fd) ? -ENOTSUP : -EBADF;
}

int kr__door_file_pipe_flags(const struct kr__kernel *k, bool newest) {
    (void)k;
    (void)newest;
    return -ENOSYS;
}

int kr__door_file_pipe_reopen(const struct kr__kernel *k, int fd, bool nameless_too) {
    (void)nameless_too;
    return kr__door_file_pipe_end(k, fd);
}

int kr__door_file_wake_open(const struct kr__kernel *k) {
    struct kr_sim *sim = kr__sim_entered(k);
    return kr__sim_fd_new(sim, kr__sim_file_new(sim, KR__SIM_WAKER));
}

/* A post may come in the middle of an event, so no time passes here. */
int kr__door_file_wake_send(const struct kr__kernel *k, int fd) {
    struct kr__sim_file *file = kr__sim_fd_file(kr__sim_of(k), fd);
    if (!file)
        return -EBADF;
    file->counter++;
    kr__sim_wake(file, POLLIN);
    return 0;
}
