/* Clients. Happy path: the kernel of a listener does the handshake, the stream waits in the
 * backlog.
 * Failure: nobody listens; the backlog is full, which drops the SYN (net/ipv4/tcp_input.c). */
#include "kernel/sim/peer.h"

#include "kernel/sim/path.h"
#include "kernel/sim/remote.h"
#include "kernel/sim/request.h"
#include "kernel/sim/stream.h"

#define KIND_PEER 0x50u

struct kr__sim_peer *kr__sim_peer_find(const struct kr_sim *sim, kr_sim_peer peer) {
    if (!sim || peer.bits >> 56 != KIND_PEER)
        return NULL;
    return kr__slab_find(&sim->peers, (uint32_t)(peer.bits >> 32) & 0xffffffu, (uint32_t)peer.bits);
}

kr_sim_peer kr__sim_peer_new(struct kr_sim *sim, struct kr__sim_file *file) {
    struct kr__sim_peer *p = kr__slab_get(&sim->peers);
    if (!p)
        kr__sim_broken("no memory for a peer");
    p->file = file;
    uint64_t bits = (uint64_t)KIND_PEER << 56 | (uint64_t)p->head.index << 32 | p->head.generation;
    return (kr_sim_peer){bits};
}

static bool has_room(const struct kr__sim_listener *l) {
    return l->queued < l->backlog;
}

/* A path leads to the listener that has made its file. */
static bool is_there(const struct kr__sim_file *listener, const struct kr_addr *to,
                     const struct kr__sim_path *path) {
    return path ? listener->listener.inode == path->inode
                : kr__sim_addr_leads(to, &listener->listener.bound);
}

/* SO_REUSEPORT spreads clients over the listeners of a port by a hash of the addresses. */
int kr__sim_listener_choose(struct kr_sim *sim, const struct kr_addr *to,
                            struct kr__sim_file **ret) {
    unsigned listening = 0, open = 0;
    const struct kr__sim_path *path = kr__sim_path_find(sim, to);
    if (!path && kr__sim_path_is(to))
        return -ENOENT;
    struct kr__link *head = &sim->listeners.head;
    for (struct kr__link *link = head->next; link != head; link = link->next) {
        struct kr__sim_file *file = kr__container_of(link, struct kr__sim_file, listener.on_port);
        if (!is_there(file, to, path))
            continue;
        listening++;
        if (has_room(&file->listener) && kr_sim_random(sim, ++open) == 0)
            *ret = file;
    }
    return open ? 0 : listening ? -EAGAIN : -ECONNREFUSED;
}

/* A client has a port of its own, or as a Unix socket no name. */
static void client_name(struct kr_sim *sim, struct kr_addr *addr) {
    if (addr->u.sa.sa_family == AF_UNIX)
        *addr = (struct kr_addr){.size = sizeof addr->u.sa.sa_family, .u.sa.sa_family = AF_UNIX};
    else
        addr->u.in.sin_port = htons(++sim->next_port);
}

int kr_sim_connect_to(struct kr_sim *sim, kr_sim_peer *ret, const struct kr_addr *addr) {
    if (!sim || !ret || !addr)
        return -EINVAL;
    struct kr__sim_file *listener = NULL;
    int rc = kr__sim_listener_choose(sim, addr, &listener);
    if (rc < 0)
        return rc;
    struct kr_addr addrs[2] = {listener->listener.bound, listener->listener.bound};
    client_name(sim, &addrs[1]);
    struct kr__sim_file *ends[2];
    kr__sim_stream_pair(sim, ends, addrs);
    ends[0]->refuses = listener->refuses;
    ends[0]->inlines = listener->inlines;
    kr__list_push(&listener->listener.queue, &ends[0]->in_backlog);
    listener->listener.queued++;
    *ret = kr__sim_peer_new(sim, ends[1]);
    kr__sim_note(sim, "connect", ret->bits, kr_addr_port(addr), 0);
    kr__sim_wake(listener, KR__SIM_READABLE);
    return 0;
}

int kr_sim_connect(struct kr_sim *sim, kr_sim_peer *ret, uint16_t port) {
    struct kr_addr addr = {.size = sizeof addr.u.in, .u.in.sin_family = AF_INET};
    addr.u.in.sin_port = htons(port);
    return kr_sim_connect_to(sim, ret, &addr);
}

int kr_sim_window(struct kr_sim *sim, kr_sim_peer peer, size_t recv_size, size_t send_size) {
    struct kr__sim_peer *p = kr__sim_peer_find(sim, peer);
    if (!p)
        return -ESTALE;
    if (!recv_size || !send_size)
        return -EINVAL;
    p->file->stream.window = recv_size;
    if (!p->file->stream.other)
        return 0;
    p->file->stream.other->stream.window = send_size;
    kr__sim_wake(p->file->stream.other, KR__SIM_WRITABLE);
    return 0;
}

int64_t kr_sim_send(struct kr_sim *sim, kr_sim_peer peer, const void *data, size_t size) {
    struct kr__sim_peer *p = kr__sim_peer_find(sim, peer);
    if (!p)
        return -ESTALE;
    if (!data && size)
        return -EINVAL;
    int64_t sent = size ? kr__sim_stream_send(p->file, data, size) : 0;
    kr__sim_note(sim, "peer-send", peer.bits, (uint64_t)sent, 0);
    return sent;
}

int64_t kr_sim_urge(struct kr_sim *sim, kr_sim_peer peer, unsigned char byte) {
    struct kr__sim_peer *p = kr__sim_peer_find(sim, peer);
    if (!p)
        return -ESTALE;
    int64_t sent = kr__sim_stream_urge(p->file, (char)byte);
    kr__sim_note(sim, "peer-urge", peer.bits, (uint64_t)sent, 0);
    return sent;
}

int64_t kr_sim_recv(struct kr_sim *sim, kr_sim_peer peer, void *data, size_t size) {
    struct kr__sim_peer *p = kr__sim_peer_find(sim, peer);
    if (!p)
        return -ESTALE;
    if (!data || !size)
        return -EINVAL;
    int64_t got = kr__sim_stream_recv(p->file, data, size);
    kr__sim_note(sim, "peer-recv", peer.bits, (uint64_t)got, 0);
    return got;
}

size_t kr_sim_readable(const struct kr_sim *sim, kr_sim_peer peer) {
    const struct kr__sim_peer *p = kr__sim_peer_find(sim, peer);
    return p ? p->file->stream.size : 0;
}

int kr_sim_shutdown(struct kr_sim *sim, kr_sim_peer peer) {
    struct kr__sim_peer *p = kr__sim_peer_find(sim, peer);
    if (!p)
        return -ESTALE;
    kr__sim_note(sim, "peer-shutdown", peer.bits, 0, 0);
    (void)kr__sim_stream_shutdown(p->file, SHUT_WR);
    return 0;
}

static int peer_end(struct kr_sim *sim, kr_sim_peer peer, bool reset) {
    struct kr__sim_peer *p = kr__sim_peer_find(sim, peer);
    if (!p)
        return -ESTALE;
    kr__sim_note(sim, reset ? "peer-reset" : "peer-close", peer.bits, 0, 0);
    if (reset)
        kr__sim_stream_reset(p->file);
    kr__sim_file_unref(p->file);
    kr__slab_put(&sim->peers, p);
    return 0;
}

int kr_sim_close(struct kr_sim *sim, kr_sim_peer peer) {
    return peer_end(sim, peer, false);
}

int kr_sim_reset(struct kr_sim *sim, kr_sim_peer peer) {
    return peer_end(sim, peer, true);
}

void kr__sim_peers_end(struct kr_sim *sim) {
    for (uint32_t i = 0; i < sim->peers.chunk_count * KR__SLAB_CHUNK; i++) {
        struct kr__sim_peer *p = (struct kr__sim_peer *)(void *)kr__slab_at(&sim->peers, i);
        if (!p->head.used)
            continue;
        kr__sim_file_unref(p->file);
        kr__slab_put(&sim->peers, p);
    }
}
