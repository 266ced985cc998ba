/* Connections that wait for a receive buffer: they stand in a line, in the order in which they came.
 *
 * Happy path: a receive is refused; the connection is starved; in its turn it may try, and is served;
 * it goes to the end of the line if others wait, or leaves it.
 * Failure modes: a receive that was armed before there was a line takes a buffer (the connection
 * that tried keeps its place); the one that tries finds nothing to receive (it leaves the line with
 * its receive armed, or it would keep those behind it from a buffer); completions are read late (no
 * other connection may try until the outcome is known, or one just served would try again before one
 * whose refusal is still unread); the kernel keeps buffers without a completion (tried again after a
 * while).
 *
 * Relies on: a receive is tried, and if need be refused, while it is submitted (io_recv,
 * io_uring/net.c); what completes then is in the CQ when the enter returns, unless the CQ has
 * overflown. */
#include "conn/starve.h"

#include "conn/reactor.h"

#define RETRY_NS INT64_C(10000000)

void kr__starve_init(struct kr__starve *line) {
    *line = (struct kr__starve){.retry_at = KR__NEVER};
    kr__list_init(&line->list);
}

static struct kr__conn *conn_of(struct kr__link *link) {
    return kr__container_of(link, struct kr__conn, wait);
}

static bool is_armed(const struct kr__conn *c) {
    return c->owner.armed & KR__SET(recv);
}

/* No buffer would be left for one more. */
static bool is_short(const struct kr_reactor *r) {
    return r->starve.starved + r->starve.may_try + r->starve.passing >= kr__bufs_at_hand(&r->bufs);
}

bool kr__starve_pass(struct kr_reactor *r) {
    bool may = !is_short(r);
    kr__mark_if(passed_the_line, may);
    r->starve.passing += may;
    return may;
}

/* One that is first to be shown bytes comes in after that, and one that polls when the poll has told
 * of something. */
void kr__starve_join(struct kr_reactor *r, struct kr__conn *c) {
    if (!kr__conn_may_receive(c) || c->recv_waits || kr__link_on(&c->wait))
        return;
    kr__list_push(&r->starve.list, &c->wait);
    c->starved = true;
    c->recv_goes_on = false; /* the read deadline counts anew from the next receive */
    r->starve.starved++;
    kr__count(&r->stats.starved_waits, 1);
    kr__mark(starved);
    kr__mark_if(gave_way, is_armed(c));
    kr__conn_dirty(r, c);
}

void kr__starve_up(struct kr_reactor *r, struct kr__conn *c) {
    if ((kr__conn_wants(r, c).start & KR__SET(recv)) && !c->may_try && !kr__starve_pass(r))
        kr__starve_join(r, c);
}

void kr__starve_leave(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->starved && !c->may_try)
        return;
    if (c->starved)
        kr__conn_dirty(r, c);
    r->starve.starved -= c->starved;
    r->starve.may_try -= c->may_try;
    c->starved = c->may_try = false;
    kr__link_off(&c->wait);
}

void kr__starve_refused(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->may_try) {
        kr__starve_join(r, c);
        return;
    }
    kr__mark(tried_in_vain);
    c->may_try = false;
    r->starve.may_try--;
    c->starved = true;
    r->starve.starved++;
}

void kr__starve_served(struct kr_reactor *r, struct kr__conn *c) {
    kr__starve_leave(r, c);
    if (!kr__starve_empty(&r->starve) && (is_armed(c) || is_short(r)))
        kr__starve_join(r, c);
}

/* The first that tries, from `link` on; there must be one. */
static struct kr__conn *trying_from(struct kr__link *link) {
    while (!conn_of(link)->may_try)
        link = link->next;
    return conn_of(link);
}

static bool all_submitted(struct kr_reactor *r) {
    struct kr__link *link = r->starve.list.head.next;
    for (unsigned left = r->starve.may_try; left; left--) {
        const struct kr__conn *c = trying_from(link);
        if (!is_armed(c))
            return false;
        link = c->wait.next;
    }
    return !kr__ring_unsubmitted(&r->ring);
}

void kr__starve_mark(struct kr_reactor *r) {
    struct kr__starve *line = &r->starve;
    if (line->marked || kr__ring_overflown(&r->ring) || !all_submitted(r))
        return;
    line->mark = kr__ring_posted(&r->ring);
    line->marked = true;
}

/* Those whose try has come to nothing. A signal may have ended a receive: that one tries again. */
static void dismiss(struct kr_reactor *r) {
    struct kr__link *link = r->starve.list.head.next;
    for (unsigned left = r->starve.may_try; left; left--) {
        struct kr__conn *c = trying_from(link);
        link = c->wait.next;
        if (is_armed(c))
            kr__starve_leave(r, c);
    }
}

/* In order, but not those whose receive from before the line has not ended yet. */
static void let_try(struct kr_reactor *r) {
    struct kr__starve *line = &r->starve;
    struct kr__link *link = line->list.head.next;
    for (; link != &line->list.head && line->may_try < kr__bufs_at_hand(&r->bufs);
         link = link->next) {
        struct kr__conn *c = conn_of(link);
        kr__assert(c->starved && !c->may_try && !c->recv_waits && kr__conn_may_receive(c));
        kr__mark_if(still_under_cancel, is_armed(c));
        if (is_armed(c))
            continue;
        c->starved = false;
        line->starved--;
        c->may_try = true;
        line->may_try++;
        kr__conn_dirty(r, c);
    }
    if (link != &line->list.head)
        kr__bufs_starved(&r->bufs);
}

/* Buffers that the kernel has taken without a completion may go back to the ring without one, too:
 * after a while the next one tries whether they have. */
static void try_stuck(struct kr_reactor *r) {
    struct kr__starve *line = &r->starve;
    if (kr__likely(!r->bufs.stuck || kr__bufs_some(&r->bufs))) {
        line->retry_at = KR__NEVER;
        return;
    }
    if (line->retry_at == KR__NEVER)
        line->retry_at = kr__time_add(r->now, RETRY_NS);
    if (r->now < line->retry_at)
        return;
    kr__mark(tried_stuck_buffers);
    line->retry_at = KR__NEVER;
    kr__bufs_unstick(&r->bufs);
}

void kr__starve_move(struct kr_reactor *r) {
    struct kr__starve *line = &r->starve;
    line->passing = 0;
    try_stuck(r);
    if (line->marked && kr__ring_passed(&r->ring, line->mark)) {
        line->marked = false;
        dismiss(r);
    }
    kr__mark_if(tries_unread, line->may_try);
    if (line->may_try == 0) {
        line->marked = false;
        let_try(r);
    }
}
