/* Profiles: the limits of connections, one object for all that share them.
 *
 * A listener has one, and its connections each hold a reference; whoever wants other limits for one
 * connection gets a copy of its own first. Profiles that nobody refers to are kept for reuse. */
#ifndef KR_CONN_OPTIONS_H
#define KR_CONN_OPTIONS_H

#include "base/mem.h"

#include <kreactor/conn.h>

struct kr__profile {
    struct kr__profile *next; /* while kept for reuse */
    unsigned refs;
    struct kr_conn_opts opts;
};

struct kr__profiles {
    struct kr__mem *mem;
    struct kr__profile *free;
    struct kr__profile *recent; /* the last one of kr__profile_share; a reference */
};

static inline void kr__profiles_init(struct kr__profiles *profiles, struct kr__mem *mem) {
    *profiles = (struct kr__profiles){.mem = mem};
}

void kr__profiles_free(struct kr__profiles *profiles);

/* What the program has given (NULL: the defaults), of whatever version, with each 0 that stands for a
 * default replaced. NULL, or which field is out of its range. */
const char *kr__conn_opts_settle(struct kr_conn_opts *ret, const void *given);

/* A profile with one reference; NULL when memory is refused. `opts` is copied. */
struct kr__profile *kr__profile_new(struct kr__profiles *profiles, const struct kr_conn_opts *opts);

/* A reference to one with these limits, which is the last one so asked for if they are still the
 * same. */
struct kr__profile *kr__profile_share(struct kr__profiles *profiles,
                                      const struct kr_conn_opts *opts);

static inline struct kr__profile *kr__profile_ref(struct kr__profile *p) {
    kr__assert(p->refs > 0);
    p->refs++;
    return p;
}

/* NULL is allowed. */
void kr__profile_unref(struct kr__profiles *profiles, struct kr__profile *p);

/* Makes *p one that may be changed: itself if nobody shares it, else a copy. -ENOMEM. */
int kr__profile_own(struct kr__profiles *profiles, struct kr__profile **p);

#endif
