/* Descriptors that come with bytes.
 *
 * Happy path: the kernel makes descriptors of this process when it completes a receive; they are
 * told of before the bytes, and are their user's. While reading is stopped they wait, as the bytes
 * do.
 * Failure modes: more come than are asked for, or the process has no room for them (MSG_CTRUNC: the
 * kernel has closed the surplus), and the user is told; nobody is there to be told, as while closing
 * or forwarding (closed); the completion is lost (they are found where they were to be put, and
 * closed).
 *
 * Those that nobody wants are taken all the same, where the kernel cannot refuse them at the sender:
 * a receive without room for them drops them in this thread, and if that was the last reference to a
 * socket with SO_LINGER and a peer that does not read, the thread stands still for as long as the
 * sender likes. Before one that was taken is closed, a time to linger is taken from it
 * (`file.close_received` of the door). The sender, should it keep the socket, loses no more than
 * that its own close waits. A kernel worker could close them without touching them, but would stand
 * still in our place, and few of them are all that there are.
 *
 * For the same reason what lies unread when such a connection is closed is received before the CLOSE
 * (extra/purge.c), which would drop it.
 *
 * Not to be had: descriptors for which the process has no room (RLIMIT_NOFILE) are dropped by the
 * kernel, here, and so are those that lie in the backlog of a listener which is closed.
 *
 * Relies on: one receive brings descriptors of one message at most, and nothing that was sent
 * behind that (unix_stream_read_generic, net/unix/af_unix.c); msg_flags is written when the receive
 * completes with 0 or more (____sys_recvmsg, net/socket.c); only as many are made as there is room
 * for (scm_detach_fds, net/core/scm.c; all observed on 6.18). msg_controllen is not to be relied
 * on: with SO_PASSCRED a first try, for which nothing had come, leaves a credential in front, and
 * only what the second has written behind it is counted (observed on 6.18; liburing #1509 is the
 * same of SCM_INQ). So the control memory is zeroed before and gone through from its front. While
 * any wait no receive is made, which would overwrite them: reading is stopped, or goes on when they
 * have been shown. */
#include "extra/descriptors.h"

#include "conn/hooks.h"
#include "conn/queue.h"
#include "conn/tell.h"
#include "kernel/probe.h"

#define BYTES_LEAST 256u

/* A Unix socket holds 554 messages at most, unless a privileged peer has a larger buffer than
 * net.core.wmem_max lets others have: 425,984 bytes of 768 and more for each (observed on 6.18). */
#define PURGES_MOST 1024u

static struct kr__fds *fds_of(const struct kr__conn *c) {
    return c->more->fds;
}

static void close_all(struct kr_reactor *r, const int *fds, size_t count) {
    for (size_t i = 0; i < count; i++)
        r->kernel->file.close_received(r->kernel, fds[i]);
}

void kr__fds_leave(struct kr_reactor *r, const struct kr__conn *c, int fd) {
    const struct kr__sock_step step = {SOL_SOCKET, KR__SO_PASSRIGHTS, 1};
    if (c->local && kr__refuses_fds(r, kr__conn_opts(c)))
        r->kernel->socket.set_option(r->kernel, fd, &step);
}

/* What its receives will need, if descriptors may come. To a socket of others they may have been sent
 * before it refused them. */
static int fds_begins(struct kr_reactor *r, struct kr__conn *c, bool foreign) {
    unsigned max = kr__conn_opts(c)->recv_fds;
    if (!c->local || (!foreign && kr__refuses_fds(r, kr__conn_opts(c))))
        return 0;
    size_t room;
    if (!kr__conn_more(r, c))
        return -ENOMEM;
    struct kr__fds *f = kr__block_get(&r->blocks, sizeof *f + BYTES_LEAST, &room);
    if (!f)
        return -ENOMEM;
    *f = (struct kr__fds){.room = room, .max = max};
    f->refused = !max || !(r->ring.caps & KR__CAP_REFUSES_FDS);
    c->more->fds = f;
    c->features |= KR__TAKES_FDS;
    c->purges = true;
    return 0;
}

static struct msghdr *fds_asks(struct kr__conn *c) {
    struct kr__fds *f = fds_of(c);
    kr__assert(!f->asked && !f->waiting);
    memset(f->control, 0, sizeof f->control);
    f->msg = (struct msghdr){.msg_control = f->control, .msg_controllen = sizeof f->control};
    f->asked = true;
    return &f->msg;
}

/* The control message there; NULL behind the last. */
static struct cmsghdr *cmsg_at(struct kr__fds *f, size_t at) {
    struct cmsghdr *cmsg = (struct cmsghdr *)(void *)(f->control + at);
    bool there = at + sizeof *cmsg <= sizeof f->control && cmsg->cmsg_len >= sizeof *cmsg;
    return there ? cmsg : NULL;
}

static void cmsg_take(struct kr_reactor *r, struct kr__fds *f, struct cmsghdr *cmsg) {
    int *fds = (int *)(void *)CMSG_DATA(cmsg);
    size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof *fds;
    if (cmsg->cmsg_type == KR__SCM_PIDFD)
        close_all(r, fds, count);
    if (cmsg->cmsg_type != SCM_RIGHTS)
        return;
    f->fds = fds;
    f->count = (unsigned)count;
}

/* Those that have come, whatever stands beside them. */
static void fds_find(struct kr_reactor *r, struct kr__fds *f) {
    /* of none, too: nobody is handed NULL */
    f->fds = (int *)(void *)CMSG_DATA((struct cmsghdr *)(void *)f->control);
    f->count = 0;
    struct cmsghdr *cmsg;
    for (size_t at = 0; (cmsg = cmsg_at(f, at)); at += CMSG_ALIGN(cmsg->cmsg_len)) {
        kr__mark_if(fds_beside_others, cmsg->cmsg_type != SCM_RIGHTS);
        if (cmsg->cmsg_level == SOL_SOCKET)
            cmsg_take(r, f, cmsg);
    }
}

/* No more than are wanted stay; whoever wants none is not told of any. */
static void fds_limit(struct kr_reactor *r, struct kr__fds *f) {
    bool surplus = f->count > f->max;
    kr__mark_if(fds_surplus, surplus);
    if (surplus)
        close_all(r, f->fds + f->max, f->count - f->max);
    f->count = surplus ? f->max : f->count;
    f->truncated = f->max && (surplus || f->msg.msg_flags & MSG_CTRUNC);
}

static void fds_close(struct kr_reactor *r, struct kr__fds *f) {
    close_all(r, f->fds, f->count);
    f->count = 0;
    f->waiting = false;
}

/* From the call on they are the user's. */
static void fds_tell(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__fds *f = fds_of(c);
    if (c->forwarding || !c->ops->on_fds) {
        kr__mark(fds_unwanted);
        fds_close(r, f);
        return;
    }
    unsigned count = f->count;
    f->count = 0;
    f->waiting = false;
    kr__tell_fds(r, c, f->fds, count, f->truncated);
}

/* Descriptors that came are told of, unless reading is stopped. */
static void fds_came(struct kr_reactor *r, struct kr__conn *c, int res) {
    struct kr__fds *f = fds_of(c);
    f->asked = false;
    if (res <= 0)
        return;
    fds_find(r, f);
    fds_limit(r, f);
    if (!f->count && !f->truncated)
        return;
    kr__mark_if(fds_truncated, f->truncated);
    kr__mark_if(fds_while_closing, !kr__conn_is_heard(c));
    if (!kr__conn_is_heard(c)) {
        fds_close(r, f);
    } else if (kr__conn_is_detaching(c) || (kr__conn_is_stopped(c) && !c->forwarding)) {
        kr__mark(fds_held_back);
        f->waiting = true;
    } else {
        fds_tell(r, c);
    }
}

struct msghdr *kr__fds_ask_purge(struct kr__conn *c) {
    struct kr__fds *f = fds_of(c);
    size_t size = f->room - offsetof(struct kr__fds, bytes);
    for (unsigned i = 0; i < KR__FDS_PIECES; i++)
        f->pieces[i] = (struct iovec){f->bytes, size};
    struct msghdr *msg = fds_asks(c);
    msg->msg_iov = f->pieces;
    msg->msg_iovlen = KR__FDS_PIECES;
    return msg;
}

void kr__fds_purged(struct kr_reactor *r, struct kr__conn *c, int res) {
    struct kr__fds *f = fds_of(c);
    f->asked = false;
    fds_find(r, f);
    kr__mark_if(fds_purged, f->count);
    fds_close(r, f);
    f->purges++;
    c->purges = res > 0 && f->purges < PURGES_MOST;
}

static void fds_shows(struct kr_reactor *r, struct kr__conn *c) {
    if (fds_of(c)->waiting)
        fds_tell(r, c);
}

void kr__fds_hand_over(struct kr__conn *c, struct kr_detached *what) {
    struct kr__fds *f = fds_of(c);
    if (!f->waiting)
        return;
    what->fds = f->fds;
    what->fds_count = f->count;
    what->fds_truncated = f->truncated;
    f->count = 0;
    f->waiting = false;
}

/* Those that wait are nobody's now. */
static void fds_closes(struct kr_reactor *r, struct kr__conn *c, int error) {
    (void)error;
    if (fds_of(c)->waiting)
        fds_close(r, fds_of(c));
}

static bool fds_hold(const struct kr__conn *c) {
    return fds_of(c)->waiting;
}

/* No receive is made while some wait. */
static uint32_t fds_want(const struct kr__conn *c, uint32_t desired) {
    return fds_of(c)->waiting ? desired & ~(uint32_t)KR__VERBS_THAT_RECEIVE : desired;
}

static void fds_drop(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__fds *f = fds_of(c);
    if (f->asked) {
        kr__mark(fds_lost);
        fds_find(r, f);
    }
    fds_close(r, f);
    kr__block_put(&r->blocks, f, f->room);
    c->more->fds = NULL;
    c->features &= (uint8_t)~KR__TAKES_FDS;
}

const struct kr__hooks kr__hooks_fds = {
    .wants = fds_want,
    .holds = fds_hold,
    .asks = fds_asks,
    .came = fds_came,
    .shows = fds_shows,
    .closes = fds_closes,
    .drop = fds_drop,
    .begins = fds_begins,
};

struct fds_with_bytes {
    const void *data;
    size_t size;
    const int *fds;
    unsigned count;
};

static int put_fds(struct kr_reactor *r, struct kr__conn *c, const void *what) {
    const struct fds_with_bytes *w = what;
    int rc = kr__sendq_fds(&r->sends, &c->queue, w->data, w->size, w->fds, w->count);
    kr__count(&r->stats.bytes_copied, rc == 0 ? w->size : 0);
    return rc;
}

int kr_conn_send_fds(struct kr_reactor *r, kr_conn conn, const void *data, size_t size,
                     const int *fds, unsigned count) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!data || !size || !fds || !count || count > KR_FDS_MAX)
        return -EINVAL;
    if (!c->local)
        return -EOPNOTSUPP;
    return kr__queue_put(r, c, size, KR__ADMIT_WHOLE, put_fds,
                         &(struct fds_with_bytes){data, size, fds, count});
}
