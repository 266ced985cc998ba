/* Showing: received bytes, and the end of the stream, on their way to the user.
 *
 * Happy path: the receive buffer itself is lent to on_data, which consumes all. What on_data leaves
 * is copied to the connection's kept bytes, one block, and shown again with what follows. While reading
 * is stopped what comes is kept; when it goes on, the kept bytes are shown in the next turn, and the end
 * of the stream after them. The bytes of an end of a pair go to the other end instead
 * (extra/forward.c).
 * Failure modes: kept bytes outgrow recv_cap (the connection ends with -EMSGSIZE); no memory to keep
 * them (it ends with -ENOMEM, since they could not be shown again). */
#include "conn/show.h"

#include "conn/hooks.h"
#include "conn/op.h"
#include "conn/tell.h"

#define KEPT_SMALL 4096u /* bytes of a block that is not worth a smaller one */

void kr__conn_show_later(struct kr_reactor *r, struct kr__conn *c) {
    bool something = c->kept_size || kr__conn_owes_eof(c);
    if (!kr__conn_is_open(c) || !something || kr__conn_is_stopped(c))
        return;
    kr__starve_leave(r, c);
    if (!kr__link_on(&c->wait))
        kr__list_push(&r->showing, &c->wait);
}

void kr__conn_hold(struct kr_reactor *r, struct kr__conn *c) {
    c->recv_goes_on = false; /* the read deadline counts anew from the next receive */
    kr__starve_leave(r, c);
    kr__link_off(&c->wait);
}

/* How large a block to ask for. Beyond the size classes a block is as large as asked for: one that
 * grows takes half as much again, or each receive would move all that came before it. */
static size_t kept_room(const struct kr__conn *c, size_t need) {
    return c->kept && need > KR__BLOCK_CLASS_MOST ? need + need / 2 : need;
}

/* Makes room for `size` more kept bytes, by closing the gap in front or in a larger block. */
static int kept_ready(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    size_t need = c->kept_size + size, room;
    if (c->kept && c->kept_at + need <= c->kept_room)
        return 0;
    if (c->kept && need <= c->kept_room / 2) {
        kr__mark(kept_closed_up);
        memmove(c->kept, c->kept + c->kept_at, c->kept_size);
        c->kept_at = 0;
        return 0;
    }
    if (need > UINT32_MAX / 2)
        return -ENOMEM;
    char *kept = kr__block_get(&r->blocks, kept_room(c, need), &room);
    if (!kept)
        return -ENOMEM;
    if (c->kept) {
        kr__mark(kept_grown);
        memcpy(kept, c->kept + c->kept_at, c->kept_size);
        kr__block_put(&r->blocks, c->kept, c->kept_room);
    }
    c->kept = kept;
    c->kept_room = (uint32_t)room;
    c->kept_at = 0;
    return 0;
}

/* Keeps bytes; a refusal of memory ends the connection, since they could not be shown again. */
static void keep(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size) {
    if (kept_ready(r, c, size) < 0) {
        kr__mark(kept_refused);
        kr__conn_end(r, c, KR_CLOSE_NOW, -ENOMEM, KR_WHY_LIMIT);
        return;
    }
    memcpy(c->kept + c->kept_at + c->kept_size, data, size);
    c->kept_size += (uint32_t)size;
    kr__count(&r->stats.bytes_kept, size);
}

/* While reading is stopped the cap waits: the bytes had arrived before the peer could be told. */
static void check_cap(struct kr_reactor *r, struct kr__conn *c) {
    if (!kr__conn_is_open(c) || c->kept_size <= kr__conn_opts(c)->recv_cap ||
        kr__conn_is_stopped(c))
        return;
    kr__mark(kept_too_much);
    kr__conn_end(r, c, KR_CLOSE_NOW, -EMSGSIZE, KR_WHY_LIMIT);
}

/* True if nothing but more bytes will show what on_data has left: it has neither paused the
 * connection, nor closed it, nor given it to somebody else. */
static bool stays_behind(const struct kr__conn *c, const struct kr_conn_ops *ops,
                         const void *user) {
    bool same = c->ops == ops && c->user == user && !c->forwarding;
    return kr__conn_is_open(c) && same && !kr__conn_is_stopped(c);
}

/* To its user, or to the other end. A user may have it forwarded from within on_data: then the rest
 * is. */
static size_t show(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size) {
    size_t used = 0;
    if (kr__likely(!c->forwarding)) {
        const struct kr_conn_ops *ops = c->ops;
        const void *user = c->user;
        used = kr__tell_data(r, c, data, size);
        if (KR_CHECKED && used < size && stays_behind(c, ops, user))
            kr__count(&r->stats.left_unpaused, 1);
    }
    if (kr__unlikely(c->forwarding && !c->paused && used < size))
        KR__EACH_HOOK (r, c, data)
            return used + row->data(r, c, data + used, size - used);
    return used;
}

/* A block of which little is used any more is changed for a smaller one: each byte is moved for
 * three at least that were consumed. Without memory it stays. */
static void kept_fit(struct kr_reactor *r, struct kr__conn *c) {
    size_t room;
    if (c->kept_room <= KEPT_SMALL || c->kept_size > c->kept_room / 4)
        return;
    char *kept = kr__block_get(&r->blocks, c->kept_size, &room);
    if (!kept)
        return;
    kr__mark(kept_shrunk);
    memcpy(kept, c->kept + c->kept_at, c->kept_size);
    kr__block_put(&r->blocks, c->kept, c->kept_room);
    c->kept = kept;
    c->kept_at = 0;
    c->kept_room = (uint32_t)room;
}

static void show_kept(struct kr_reactor *r, struct kr__conn *c) {
    size_t size = c->kept_size;
    size_t used = show(r, c, c->kept + c->kept_at, size);
    c->kept_at += (uint32_t)used;
    c->kept_size -= (uint32_t)used;
    if (c->kept_size == 0) {
        kr__block_put(&r->blocks, c->kept, c->kept_room);
        c->kept = NULL;
    } else {
        kept_fit(r, c);
    }
    check_cap(r, c);
}

/* Lends the receive buffer itself, so that a send of these bytes need not copy them. */
static void show_buffer(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size,
                        uint16_t buf) {
    const struct kr_conn_ops *ops = c->ops;
    const void *user = c->user;
    r->lent = (struct kr__lent){c, data, size, buf};
    size_t used = show(r, c, data, size);
    r->lent.conn = NULL;
    if (kr__likely(used >= size) || !kr__conn_is_heard(c))
        return;
    keep(r, c, data + used, size - used);
    check_cap(r, c);
    if (kr__unlikely(c->ops != ops || c->user != user)) /* whoever took over begins with the rest */
        kr__conn_show_later(r, c);
}

void kr__show_received(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size,
                       uint16_t buf) {
    kr__mark_if(received_while_closing, !kr__conn_is_open(c));
    kr__mark_if(detach_keeps, kr__conn_is_detaching(c));
    if (!kr__conn_is_open(c)) {
        if (kr__unlikely(kr__conn_is_detaching(c)))
            keep(r, c, data, size);
        return;
    }
    kr__time_reach(&c->idle_from, r->now);
    kr__time_reach(&c->read_from, r->now);
    /* while the other end is full, what has come is passed on all the same */
    bool flows = !kr__conn_is_stopped(c) || (c->forwarding && !c->paused);
    if (kr__likely(!c->kept_size && flows)) {
        show_buffer(r, c, data, size, buf);
        return;
    }
    keep(r, c, data, size);
    if (!kr__conn_is_stopped(c) && kr__conn_is_open(c))
        show_kept(r, c);
}

static void tell_eof(struct kr_reactor *r, struct kr__conn *c) {
    if (c->forwarding)
        KR__EACH_HOOK (r, c, eof) {
            row->eof(r, c);
            return;
        }
    c->eof_told = true;
    if (kr__tell_eof(r, c))
        return;
    kr__conn_end(r, c, KR_CLOSE_FLUSH, 0, KR_WHY_PEER);
    kr__mark_if(eof_behind_unconsumed, c->kept_size);
    if (c->kept_size && !c->broken)
        c->error = -ENODATA;
}

/* The end of the stream comes after all bytes: not before those that are held back. */
void kr__show_end(struct kr_reactor *r, struct kr__conn *c) {
    c->eof = true;
    c->no_eof = c->broken && c->error != -EPIPE;
    kr__starve_leave(r, c);
    kr__mark_if(eof_held_back, kr__conn_is_open(c) && kr__conn_is_stopped(c));
    kr__conn_settle(r, c); /* one that lingers has waited for that, whatever F_MORE says */
    bool may = kr__conn_is_open(c) && !kr__conn_is_stopped(c) && !kr__link_on(&c->wait);
    if (may && kr__conn_owes_eof(c))
        tell_eof(r, c);
    if (kr__unlikely(c->broken))
        kr__conn_broken_step(r, c);
}

/* What waited while reading was stopped: kept bytes, then the end of the stream. The turn's own
 * phase. */
void kr__show_kept(struct kr_reactor *r, struct kr__conn *c) {
    kr__assert(kr__conn_is_open(c) && !kr__conn_is_stopped(c));
    KR__EACH_HOOK (r, c, shows) {
        row->shows(r, c);
        kr__conn_dirty(r, c); /* which has waited for that */
    }
    if (c->kept_size && kr__conn_is_open(c) && !kr__conn_is_stopped(c))
        show_kept(r, c);
    if (kr__conn_is_open(c) && kr__conn_owes_eof(c) && !kr__conn_is_stopped(c))
        tell_eof(r, c);
    if (kr__unlikely(c->broken))
        kr__conn_broken_step(r, c);
}

static int set_paused(struct kr_reactor *r, kr_conn conn, bool paused) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!kr__conn_is_usable(c))
        return -EPIPE;
    if (c->paused && !paused && kr__conn_opts(c)->read_ns)
        kr__conn_count(r, c, KR_DEADLINE_READ); /* the receive may have been in flight all along */
    c->paused = paused;
    if (paused)
        kr__conn_hold(r, c);
    else if (r->shown != c) /* what a running on_data leaves it does not want now */
        kr__conn_show_later(r, c);
    kr__conn_dirty(r, c);
    return 0;
}

int kr_conn_pause(struct kr_reactor *r, kr_conn conn) {
    return set_paused(r, conn, true);
}

int kr_conn_resume(struct kr_reactor *r, kr_conn conn) {
    return set_paused(r, conn, false);
}
