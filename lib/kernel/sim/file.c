/* Files and descriptors. Happy path: made, referred to, let go. Failure: a descriptor that is not
 * there. */
#include "kernel/sim/file.h"

#include "kernel/sim/stream.h"

#define FIRST_FD 3u

struct kr__sim_file *kr__sim_file_new(struct kr_sim *sim, enum kr__sim_kind kind) {
    struct kr__sim_file *file = kr__sim_alloc(sizeof *file);
    file->kind = kind;
    file->refs = 1;
    file->sim = sim;
    kr__list_init(&file->waiters);
    kr__list_init(&file->listener.queue);
    kr__list_init(&file->stream.held);
    kr__list_init(&file->stream.gifts);
    file->stream.fate = -1;
    sim->files++;
    return file;
}

struct kr__sim_file *kr__sim_file_ref(struct kr__sim_file *file) {
    file->refs++;
    return file;
}

/* inet_csk_listen_stop (net/ipv4/inet_connection_sock.c): each client in the backlog is reset. */
static void listener_end(struct kr__sim_file *file) {
    kr__link_off(&file->listener.on_port);
    struct kr__link *link;
    while ((link = kr__list_pop(&file->listener.queue))) {
        struct kr__sim_file *stream = kr__container_of(link, struct kr__sim_file, in_backlog);
        kr__sim_stream_reset(stream);
        kr__sim_file_unref(stream);
    }
}

void kr__sim_file_unref(struct kr__sim_file *file) {
    if (--file->refs)
        return;
    kr__assert(kr__list_empty(&file->waiters));
    if (file->kind == KR__SIM_LISTENER)
        listener_end(file);
    else if (file->kind == KR__SIM_STREAM)
        kr__sim_stream_close(file);
    free(file->regular.bytes);
    file->sim->files--;
    free(file);
}

struct kr__sim_gift *kr__sim_gift_new(unsigned count) {
    struct kr__sim_gift *gift = kr__sim_alloc(sizeof *gift + count * sizeof *gift->files);
    gift->count = count;
    return gift;
}

void kr__sim_gift_free(struct kr__sim_gift *gift) {
    if (!gift)
        return;
    kr__link_off(&gift->link);
    for (unsigned i = 0; i < gift->count; i++) {
        if (gift->files[i])
            kr__sim_file_unref(gift->files[i]);
    }
    free(gift);
}

int kr__sim_fd_new(struct kr_sim *sim, struct kr__sim_file *file) {
    unsigned fd = FIRST_FD;
    while (fd < sim->fd_room && sim->fds[fd])
        fd++;
    if (fd >= sim->fd_room) {
        unsigned room = sim->fd_room ? sim->fd_room * 2 : 64;
        struct kr__sim_file **fds = kr__sim_alloc(room * sizeof(*fds));
        if (sim->fds)
            memcpy(fds, sim->fds, sim->fd_room * sizeof(*fds));
        free(sim->fds);
        sim->fds = fds;
        sim->fd_room = room;
    }
    sim->fds[fd] = file;
    return (int)fd;
}

struct kr__sim_file *kr__sim_fd_file(const struct kr_sim *sim, int fd) {
    return fd >= 0 && (unsigned)fd < sim->fd_room ? sim->fds[fd] : NULL;
}

int kr__sim_fd_close(struct kr_sim *sim, int fd) {
    struct kr__sim_file *file = kr__sim_fd_file(sim, fd);
    if (!file)
        return -EBADF;
    sim->fds[fd] = NULL;
    kr__sim_file_unref(file);
    return 0;
}
