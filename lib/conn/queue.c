/* The send queue of a connection: back-pressure, and memory that is reserved in it.
 *
 * Happy path: bytes enter (conn/queue.h) and leave with a send (conn/send.c). Above send_high the
 * connection is blocked: it is not read, so that its peer is slowed down. At send_low it is read
 * again, and on_writable runs.
 * Failure modes: the queue would rise above send_cap (the caller is refused and loses nothing);
 * the connection is broken (conn/error.c), and its queue is dropped. */
#include "conn/queue.h"

#include "conn/hooks.h"
#include "conn/tell.h"
#include "pool/files.h"

void kr__queue_block(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(blocked);
    c->blocked = true;
    KR__EACH_HOOK (r, c, full)
        row->full(r, c);
    if (kr__conn_is_stopped(c))
        kr__conn_hold(r, c);
}

void kr__queue_unblock(struct kr_reactor *r, struct kr__conn *c) {
    c->blocked = false;
    bool others = false;
    KR__EACH_HOOK (r, c, drained)
        others |= row->drained(r, c);
    if (!others)
        kr__tell_writable(r, c);
    kr__conn_show_later(r, c);
}

void kr__queue_grew(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    if (kr__unlikely(kr__conn_opts(c)->write_ns) && !c->queued)
        kr__conn_count(r, c, KR_DEADLINE_WRITE);
    c->queued += (uint32_t)size;
    if (c->queued > kr__conn_opts(c)->send_high)
        kr__queue_block(r, c);
    kr__conn_dirty(r, c);
}

int kr__queue_refuses(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    (void)size;
    kr__mark(send_refused);
    if (c->queued)
        kr__queue_block(r, c);
    return -ENOBUFS;
}

void kr__conn_files_check(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__files *files = c->more->files;
    if (files->count)
        return;
    kr__assert(!files->reading);
    c->files = false;
    c->more->files = NULL;
    kr__files_free(&r->blocks, files);
}

void kr__queue_drop(struct kr_reactor *r, struct kr__conn *c) {
    if (c->owner.armed & (KR__VERBS_THAT_SEND | KR__SET(read)))
        return;
    c->held = (uint16_t)(c->held - kr__sendq_give_up(&r->sends, &c->queue));
    if (c->files)
        kr__conn_files_check(r, c);
}

int kr_conn_reserve(struct kr_reactor *r, kr_conn conn, size_t size, void **ret) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!ret || size < 1 || size > (size_t)1 << 20)
        return -EINVAL;
    rc = kr__queue_admit(r, c, size, KR__ADMIT_WHOLE);
    if (rc < 0)
        return rc;
    kr__reservation_drop(r); /* of any connection: there is one a reactor */
    struct kr__send *fresh;
    char *room = kr__sendq_room(&r->sends, &c->queue, size, &fresh);
    if (!room)
        return -ENOMEM;
    r->reservation = (struct kr__reservation){c, size, fresh};
    *ret = room;
    return 0;
}

static int put_reserved(struct kr_reactor *r, struct kr__conn *c, const void *what) {
    const size_t *size = what;
    if (r->reservation.conn != c || *size > r->reservation.size)
        return -EINVAL;
    kr__sendq_commit(&r->sends, &c->queue, r->reservation.fresh, *size);
    r->reservation = (struct kr__reservation){0};
    kr__count(&r->stats.bytes_copied, *size);
    return 0;
}

int kr_conn_commit(struct kr_reactor *r, kr_conn conn, size_t size) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    return rc < 0 ? rc : kr__queue_put(r, c, size, KR__ADMIT_RESERVED, put_reserved, &size);
}

size_t kr_conn_queued(const struct kr_reactor *r, kr_conn conn) {
    if (kr__guard(r) < 0)
        return 0;
    const struct kr__conn *c = kr__conn_find(r, conn);
    return c ? c->queued : 0;
}
