/* Profiles. Failure: memory is refused, and the caller's profile is as before. */
#include "core/profile.h"

#include <errno.h>
#include <string.h>

#define CAP_MAX ((size_t)INT32_MAX)
#define INLINE_MAX ((size_t)1 << 20)

void kr_conn_opts_init(struct kr_conn_opts *opts) {
    *opts = (struct kr_conn_opts){
        .size = sizeof *opts,
        .no_delay = true,
        .send_low = (size_t)64 << 10,
        .send_high = (size_t)256 << 10,
        .send_cap = (size_t)16 << 20,
        .recv_cap = (size_t)1 << 20,
        .flush_ns = INT64_C(30000000000),
    };
}

bool kr__conn_opts_good(const struct kr_conn_opts *o) {
    bool sends =
        o->send_low <= o->send_high && o->send_high <= o->send_cap && o->send_cap <= CAP_MAX;
    bool receives = o->recv_cap >= 1 && o->recv_cap <= CAP_MAX && o->recv_fds <= KR_FDS_MAX;
    bool sockets = o->keep_idle_s <= 32767 && o->keep_every_s <= 32767 && o->keep_probes <= 127 &&
                   o->user_timeout_ms <= INT32_MAX && o->send_buf <= INT32_MAX &&
                   o->recv_buf <= INT32_MAX;
    bool times = o->idle_ns >= 0 && o->read_ns >= 0 && o->write_ns >= 0 && o->life_ns >= 0 &&
                 o->flush_ns >= 1;
    bool lends = o->zerocopy_min <= CAP_MAX;
    return o->size == sizeof *o && sends && lends && receives && sockets && times &&
           o->inline_size <= INLINE_MAX;
}

void kr__profiles_free(struct kr__profiles *profiles) {
    kr__profile_unref(profiles, profiles->recent);
    profiles->recent = NULL;
    while (profiles->free) {
        struct kr__profile *p = profiles->free;
        profiles->free = p->next;
        kr__mem_put(profiles->mem, p, sizeof *p);
    }
}

struct kr__profile *kr__profile_new(struct kr__profiles *profiles,
                                    const struct kr_conn_opts *opts) {
    struct kr__profile *p = profiles->free;
    if (p)
        profiles->free = p->next;
    else
        p = kr__mem_get(profiles->mem, sizeof *p);
    if (p)
        *p = (struct kr__profile){.refs = 1, .opts = *opts};
    return p;
}

/* Bytes between the fields may differ although the limits do not: then they are just not shared. */
struct kr__profile *kr__profile_share(struct kr__profiles *profiles,
                                      const struct kr_conn_opts *opts) {
    struct kr__profile *recent = profiles->recent;
    if (recent && memcmp(&recent->opts, opts, sizeof *opts) == 0)
        return kr__profile_ref(recent);
    struct kr__profile *p = kr__profile_new(profiles, opts);
    if (!p)
        return NULL;
    kr__profile_unref(profiles, recent);
    profiles->recent = kr__profile_ref(p);
    return p;
}

void kr__profile_unref(struct kr__profiles *profiles, struct kr__profile *p) {
    if (!p || --p->refs)
        return;
    p->next = profiles->free;
    profiles->free = p;
}

int kr__profile_own(struct kr__profiles *profiles, struct kr__profile **p) {
    if ((*p)->refs == 1)
        return 0;
    struct kr__profile *own = kr__profile_new(profiles, &(*p)->opts);
    if (!own)
        return -ENOMEM;
    (*p)->refs--;
    *p = own;
    return 0;
}
