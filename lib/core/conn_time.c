/* A connection's deadlines: how long it may be without what.
 *
 * Happy path: traffic only stores a time; when the deadline comes up it is reckoned anew from those, and
 * filed again if it has moved. So a busy connection costs the heap one operation a deadline, not a byte. */
#include "core/dial.h"
#include "core/reactor.h"

/* From the real now: a turn may have been under way for long, or none is. */
void kr__conn_file(struct kr_reactor *r, struct kr__conn *c, int64_t in_ns) {
    c->touched = r->kernel->clock(r->kernel);
    kr__deadline_file(&r->timers, &c->deadline, kr__time_add(c->touched, in_ns));
}

static void conn_idled(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->ops->on_timeout) {
        kr__mark(idle_ended);
        kr__conn_end(r, c, KR_CLOSE_NOW, -ETIMEDOUT, KR_WHY_TIMEOUT);
        return;
    }
    kr__conn_file(r, c, kr__conn_opts(c)->idle_ns);
    c->ops->on_timeout(r, kr__conn_handle(c), c->user, KR_DEADLINE_IDLE);
}

/* Traffic only stores a time; the deadline is filed anew when it comes up. */
void kr__conn_due(struct kr_reactor *r, struct kr__deadline *d) {
    struct kr__conn *c = kr__container_of(d, struct kr__conn, deadline);
    if (c->calling) {
        kr__dial_due(r, c);
        return;
    }
    kr__assert(c->state == KR__CONN_OPEN || kr__conn_flushes(c));
    bool open = c->state == KR__CONN_OPEN;
    int64_t due = kr__time_add(c->touched, open ? kr__conn_opts(c)->idle_ns : kr__conn_opts(c)->flush_ns);
    kr__mark_if(deadline_moved, due > r->now);
    kr__mark_if(flush_overdue, due <= r->now && !open);
    if (due > r->now)
        kr__deadline_file(&r->timers, &c->deadline, due);
    else if (open)
        conn_idled(r, c);
    else
        kr__conn_end(r, c, KR_CLOSE_NOW, -ETIMEDOUT, KR_WHY_TIMEOUT);
}

int kr_conn_idle(struct kr_reactor *r, kr_conn conn, int64_t idle_ns) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (idle_ns < 0)
        return -EINVAL;
    if (!kr__conn_lives(c))
        return -EPIPE;
    rc = kr__profile_own(&r->profiles, &c->profile);
    if (rc < 0)
        return rc;
    c->profile->opts.idle_ns = idle_ns;
    if (c->calling) /* it begins when the connection stands */
        return 0;
    if (idle_ns)
        kr__conn_file(r, c, idle_ns);
    else
        kr__deadline_unfile(&r->timers, &c->deadline);
    return 0;
}
