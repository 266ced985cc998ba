/* Descriptors of the world, for scripts that hand them about. Their functions are public:
 * kreactor/sim.h.
 *
 * Happy path: opened, sent and received by peers, compared, closed. Failure: there is no such
 * one. */
#include "kernel/sim/control.h"
#include "kernel/sim/peer.h"
#include "kernel/sim/stream.h"

int kr_sim_file(struct kr_sim *sim, const void *data, size_t size) {
    if (!sim || (!data && size))
        return -EINVAL;
    struct kr__sim_file *file = kr__sim_file_new(sim, KR__SIM_REGULAR);
    file->regular.bytes = kr__sim_alloc(size);
    file->regular.size = size;
    if (size)
        memcpy(file->regular.bytes, data, size);
    return kr__sim_fd_new(sim, file);
}

int kr_sim_fd_close(struct kr_sim *sim, int fd) {
    return sim ? kr__sim_fd_close(sim, fd) : -EINVAL;
}

bool kr_sim_fd_same(const struct kr_sim *sim, int a, int b) {
    const struct kr__sim_file *file = sim ? kr__sim_fd_file(sim, a) : NULL;
    return file && file == kr__sim_fd_file(sim, b);
}

static int gift_make(const struct kr_sim *sim, const int *fds, unsigned count,
                     struct kr__sim_gift **ret) {
    struct kr__sim_gift *gift = kr__sim_gift_new(count);
    for (unsigned i = 0; i < count; i++) {
        struct kr__sim_file *file = kr__sim_fd_file(sim, fds[i]);
        if (!file) {
            kr__sim_gift_free(gift);
            return -EBADF;
        }
        gift->files[i] = kr__sim_file_ref(file);
    }
    *ret = gift;
    return 0;
}

int64_t kr_sim_send_fds(struct kr_sim *sim, kr_sim_peer peer, const void *data, size_t size,
                        const int *fds, unsigned count) {
    struct kr__sim_peer *p = kr__sim_peer_find(sim, peer);
    if (!p)
        return -ESTALE;
    if (!data || !size || !fds || !count || count > KR_SIM_FDS_MAX || !p->file->stream.local)
        return -EINVAL;
    struct kr__sim_gift *gift;
    int64_t sent = gift_make(sim, fds, count, &gift);
    if (sent < 0)
        return sent;
    sent = kr__sim_stream_send_files(p->file, data, size, gift);
    if (sent <= 0)
        kr__sim_gift_free(gift);
    kr__sim_note(sim, "peer-send-fds", peer.bits, (uint64_t)sent, count);
    return sent;
}

/* As many as there is room for; the rest is closed. */
static unsigned install(struct kr_sim *sim, const struct kr__sim_gift *gift, int *fds,
                        unsigned room) {
    unsigned count = gift && gift->count < room ? gift->count : gift ? room : 0;
    for (unsigned i = 0; i < count; i++)
        fds[i] = kr__sim_fd_new(sim, kr__sim_file_ref(gift->files[i]));
    return count;
}

int64_t kr_sim_recv_fds(struct kr_sim *sim, kr_sim_peer peer, void *data, size_t size, int *fds,
                        unsigned room, unsigned *count) {
    struct kr__sim_peer *p = kr__sim_peer_find(sim, peer);
    if (!p)
        return -ESTALE;
    if (!data || !size || (!fds && room) || !count)
        return -EINVAL;
    struct kr__sim_gift *gift;
    int64_t got = kr__sim_stream_recv_files(p->file, data, size, &gift);
    *count = install(sim, gift, fds, room);
    kr__sim_gift_free(gift);
    kr__sim_note(sim, "peer-recv-fds", peer.bits, (uint64_t)got, *count);
    return got;
}
