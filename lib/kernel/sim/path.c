/* Happy path: bind makes a file of that name, by which the listener is found. Failure: it is there.
 * The file outlives the listener, and then refuses who connects; a listener whose file was removed
 * is found by nobody (unix_bind_bsd and unix_find_bsd, net/unix/af_unix.c: it is the inode that
 * counts). */
#include "kernel/sim/path.h"

#include "kernel/sim/file.h"

bool kr__sim_path_is(const struct kr_addr *addr) {
    return addr->u.sa.sa_family == AF_UNIX && addr->size > offsetof(struct sockaddr_un, sun_path) &&
           addr->u.un.sun_path[0];
}

struct kr__sim_path *kr__sim_path_find(const struct kr_sim *sim, const struct kr_addr *addr) {
    const struct kr__link *head = &sim->paths.head;
    for (struct kr__link *link = head->next; link != head; link = link->next) {
        struct kr__sim_path *path = kr__container_of(link, struct kr__sim_path, link);
        if (path->addr.size == addr->size && !memcmp(&path->addr.u, &addr->u, addr->size))
            return path;
    }
    return NULL;
}

static bool is_live(const struct kr_sim *sim, uint64_t inode) {
    const struct kr__link *head = &sim->listeners.head;
    for (const struct kr__link *link = head->next; link != head; link = link->next) {
        if (kr__container_of(link, struct kr__sim_file, listener.on_port)->listener.inode == inode)
            return true;
    }
    return false;
}

int kr__sim_path_bind(struct kr_sim *sim, const struct kr_addr *addr, bool replace,
                      uint64_t *inode) {
    struct kr__sim_path *path = kr__sim_path_find(sim, addr);
    if (path && (!replace || is_live(sim, path->inode)))
        return -EADDRINUSE;
    if (!path) {
        path = kr__sim_alloc(sizeof *path);
        path->addr = *addr;
        kr__list_push(&sim->paths, &path->link);
    }
    *inode = path->inode = ++sim->next_inode;
    return 0;
}

void kr__sim_path_remove(struct kr__sim_path *path) {
    kr__link_off(&path->link);
    free(path);
}

void kr__sim_paths_end(struct kr_sim *sim) {
    struct kr__link *link;
    while ((link = kr__list_pop(&sim->paths)))
        free(kr__container_of(link, struct kr__sim_path, link));
}
