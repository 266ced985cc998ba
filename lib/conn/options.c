/* Profiles. Failure: memory is refused, and the caller's profile is as before. */
#include "conn/options.h"

#include "base/sized.h"
#include "kernel/probe.h"

#include <errno.h>
#include <string.h>

#define CAP_MAX ((size_t)INT32_MAX)
#define INLINE_MAX ((size_t)1 << 20)

#define SEND_LOW ((size_t)64 << 10)
#define SEND_HIGH ((size_t)256 << 10)
#define SEND_CAP ((size_t)16 << 20)
#define RECV_CAP ((size_t)1 << 20)
#define FLUSH_NS INT64_C(30000000000)

void kr_conn_opts_init_sized(struct kr_conn_opts *opts, size_t size) {
    const struct kr_conn_opts defaults = {.size = sizeof defaults, .no_delay = true};
    kr__sized_give(opts, size, &defaults, sizeof defaults);
}

static size_t or_default(size_t value, size_t fallback) {
    return value ? value : fallback;
}

/* Marks that were not given make room for those that were. */
static void settle(struct kr_conn_opts *o) {
    size_t most = kr__max_size(o->send_high, o->send_low);
    o->send_cap = or_default(o->send_cap, kr__max_size(SEND_CAP, most));
    size_t high = kr__max_size(SEND_HIGH, o->send_low);
    o->send_high = or_default(o->send_high, kr__min_size(high, o->send_cap));
    o->send_low = or_default(o->send_low, kr__min_size(SEND_LOW, o->send_high / 4));
    o->recv_cap = or_default(o->recv_cap, RECV_CAP);
    o->flush_ns = o->flush_ns ? o->flush_ns : FLUSH_NS;
}

static const char *fault_of_queues(const struct kr_conn_opts *o) {
    if (o->send_cap > CAP_MAX)
        return "send_cap is above 2^31 - 1";
    if (o->send_high > o->send_cap)
        return "send_high is above send_cap";
    if (o->send_low > o->send_high)
        return "send_low is above send_high";
    if (o->zerocopy_min > CAP_MAX)
        return "zerocopy_min is above 2^31 - 1";
    if (o->recv_cap > CAP_MAX)
        return "recv_cap is above 2^31 - 1";
    if (o->recv_fds > KR_FDS_MAX)
        return "recv_fds is above KR_FDS_MAX";
    return o->inline_size > INLINE_MAX ? "inline_size is above 1 MiB" : NULL;
}

static const char *fault_of_socket(const struct kr_conn_opts *o) {
    if (o->keep_idle_s > 32767)
        return "keep_idle_s is above 32767";
    if (o->keep_every_s > 32767)
        return "keep_every_s is above 32767";
    if (o->keep_probes > 127)
        return "keep_probes is above 127";
    if (o->user_timeout_ms > INT32_MAX)
        return "user_timeout_ms is above 2^31 - 1";
    if (o->send_buf > INT32_MAX || o->recv_buf > INT32_MAX)
        return "send_buf or recv_buf is above 2^31 - 1";
    return NULL;
}

static const char *fault_of_times(const struct kr_conn_opts *o) {
    if (o->idle_ns < 0 || o->read_ns < 0 || o->write_ns < 0 || o->life_ns < 0)
        return "idle_ns, read_ns, write_ns or life_ns is negative";
    return o->flush_ns < 0 ? "flush_ns is negative" : NULL;
}

const char *kr__conn_opts_settle(struct kr_conn_opts *ret, const void *given) {
    kr_conn_opts_init(ret);
    if (given && !kr__sized_take(ret, sizeof *ret, given))
        return KR__SIZED_FAULT("kr_conn_opts");
    settle(ret);
    const char *fault = fault_of_queues(ret);
    fault = fault ? fault : fault_of_socket(ret);
    return fault ? fault : fault_of_times(ret);
}

int kr_conn_opts_check(const struct kr_conn_opts *opts, struct kr_failure *why) {
    struct kr_conn_opts settled;
    return kr__probe_options(why, "struct kr_conn_opts", kr__conn_opts_settle(&settled, opts));
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
