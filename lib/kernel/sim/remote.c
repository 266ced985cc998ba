/* What was said of ports and names beyond the daemon's own, and who waits there to be taken.
 *
 * Happy path: said, met by dial.c, taken as a peer. Failure: nothing was ever said. */
#include "kernel/sim/remote.h"

#include "kernel/sim/peer.h"
#include "kernel/sim/stream.h"

bool kr__sim_addr_leads(const struct kr_addr *to, const struct kr_addr *bound) {
    bool local = to->u.sa.sa_family == AF_UNIX;
    if (local != (bound->u.sa.sa_family == AF_UNIX))
        return false;
    if (local)
        return to->size == bound->size && !memcmp(&to->u, &bound->u, to->size);
    return kr_addr_port(to) == kr_addr_port(bound);
}

struct kr__sim_remote *kr__sim_remote_find(const struct kr_sim *sim, const struct kr_addr *addr) {
    const struct kr__link *head = &sim->remotes.head;
    for (struct kr__link *link = head->next; link != head; link = link->next) {
        struct kr__sim_remote *remote = kr__container_of(link, struct kr__sim_remote, link);
        if (kr__sim_addr_leads(addr, &remote->addr))
            return remote;
    }
    return NULL;
}

static bool is_good(const struct kr_addr *addr) {
    return addr && (addr->u.sa.sa_family == AF_UNIX ? addr->size > sizeof addr->u.sa.sa_family
                                                    : kr_addr_port(addr) > 0);
}

int kr_sim_remote_at(struct kr_sim *sim, const struct kr_addr *addr, enum kr_sim_answer answer,
                     int64_t after_ns) {
    if (!sim || !is_good(addr) || (unsigned)answer > KR_SIM_NO_NET || after_ns < 0)
        return -EINVAL;
    struct kr__sim_remote *remote = kr__sim_remote_find(sim, addr);
    if (!remote) {
        remote = kr__sim_alloc(sizeof *remote);
        remote->addr = *addr;
        kr__list_init(&remote->queue);
        kr__list_push(&sim->remotes, &remote->link);
    }
    remote->answer = answer;
    remote->after_ns = after_ns;
    return 0;
}

static struct kr_addr addr_of(uint16_t port) {
    struct kr_addr addr = {.size = sizeof addr.u.in, .u.in.sin_family = AF_INET};
    addr.u.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.u.in.sin_port = htons(port);
    return addr;
}

int kr_sim_remote(struct kr_sim *sim, uint16_t port, enum kr_sim_answer answer, int64_t after_ns) {
    struct kr_addr addr = addr_of(port);
    return kr_sim_remote_at(sim, &addr, answer, after_ns);
}

static struct kr__sim_file *queue_take(struct kr__list *queue) {
    struct kr__link *link = kr__list_pop(queue);
    return link ? kr__container_of(link, struct kr__sim_file, in_backlog) : NULL;
}

int kr_sim_accept_at(struct kr_sim *sim, kr_sim_peer *ret, const struct kr_addr *addr) {
    if (!sim || !ret || !is_good(addr))
        return -EINVAL;
    struct kr__sim_remote *remote = kr__sim_remote_find(sim, addr);
    if (!remote)
        return -EINVAL;
    struct kr__sim_file *stream = queue_take(&remote->queue);
    if (!stream)
        return -EAGAIN;
    *ret = kr__sim_peer_new(sim, stream);
    kr__sim_note(sim, "peer-accept", ret->bits, kr_addr_port(addr), 0);
    return 0;
}

int kr_sim_accept(struct kr_sim *sim, kr_sim_peer *ret, uint16_t port) {
    struct kr_addr addr = addr_of(port);
    return kr_sim_accept_at(sim, ret, &addr);
}

void kr__sim_remotes_end(struct kr_sim *sim) {
    struct kr__link *link;
    while ((link = kr__list_pop(&sim->remotes))) {
        struct kr__sim_remote *remote = kr__container_of(link, struct kr__sim_remote, link);
        struct kr__sim_file *stream;
        while ((stream = queue_take(&remote->queue))) {
            kr__sim_stream_reset(stream);
            kr__sim_file_unref(stream);
        }
        free(remote);
    }
}
