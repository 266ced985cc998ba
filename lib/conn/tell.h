/* The one door to the callbacks of a connection (struct kr_conn_ops).
 *
 * Each function calls one callback, if it is set. Checked builds assert that it may run: within a turn
 * or while the reactor is being freed, for a connection that its user knows, in a state in which the
 * contract allows it, and not from within another callback, which would be from an API call. Callers
 * are ready for whatever the callback does: afterwards the connection may have other callbacks, be
 * closed, or be gone. */
#ifndef KR_CONN_TELL_H
#define KR_CONN_TELL_H

#include "conn/reactor.h"

static inline void kr__tell_begins(struct kr_reactor *r, const struct kr__conn *c, bool legal) {
    kr__assert(legal && c->announced && r->in_turn && !r->telling && !kr__in_child(r));
    if (KR_CHECKED)
        r->telling = true;
}

static inline void kr__tell_ends(struct kr_reactor *r) {
    if (KR_CHECKED)
        r->telling = false;
}

#define KR__TELL(r, c, legal, callback, ...)                                                       \
    do {                                                                                           \
        if (!(c)->ops->callback)                                                                   \
            break;                                                                                 \
        kr__tell_begins(r, c, legal);                                                              \
        (c)->ops->callback(r, kr__conn_handle(c), (c)->user, ##__VA_ARGS__);                       \
        kr__tell_ends(r);                                                                          \
    } while (0)

static inline void kr__tell_open(struct kr_reactor *r, struct kr__conn *c) {
    KR__TELL(r, c, kr__conn_is_usable(c), on_open);
}

/* Returns how many of the bytes are consumed. Meanwhile the connection is the one that is shown
 * bytes. */
static inline size_t kr__tell_data(struct kr_reactor *r, struct kr__conn *c, const char *data,
                                   size_t size) {
    kr__tell_begins(r, c, kr__conn_is_open(c));
    r->shown = c;
    size_t used = c->ops->on_data(r, kr__conn_handle(c), c->user, data, size);
    r->shown = NULL;
    kr__tell_ends(r);
    return kr__min_size(used, size);
}

/* Whether it was called. */
static inline bool kr__tell_eof(struct kr_reactor *r, struct kr__conn *c) {
    bool called = c->ops->on_eof;
    KR__TELL(r, c, kr__conn_is_open(c), on_eof);
    return called;
}

static inline void kr__tell_writable(struct kr_reactor *r, struct kr__conn *c) {
    KR__TELL(r, c, kr__conn_is_open(c), on_writable);
}

static inline void kr__tell_timeout(struct kr_reactor *r, struct kr__conn *c,
                                    enum kr_deadline which) {
    KR__TELL(r, c, kr__conn_is_open(c), on_timeout, which);
}

static inline void kr__tell_fds(struct kr_reactor *r, struct kr__conn *c, int *fds, unsigned count,
                                bool truncated) {
    KR__TELL(r, c, kr__conn_is_open(c), on_fds, fds, count, truncated);
}

static inline void kr__tell_shutdown(struct kr_reactor *r, struct kr__conn *c) {
    KR__TELL(r, c, kr__conn_is_usable(c), on_shutdown);
}

static inline void kr__tell_close(struct kr_reactor *r, struct kr__conn *c, int error,
                                  enum kr_why why) {
    KR__TELL(r, c, kr__conn_is_closing(c), on_close, error, why);
}

#endif
