/* Descriptors that come with bytes.
 *
 * Happy path: the kernel makes descriptors of this process when it completes a receive; they are
 * told of before the bytes, and are their user's. While reading is stopped they wait, as the bytes
 * do.
 * Failure modes: more come than are asked for, or the process has no room for them (MSG_CTRUNC: the
 * kernel has closed the surplus, and the user is told); nobody is there to be told, as while
 * closing or forwarding (closed); the completion is lost (they are found where they were to be put,
 * and closed).
 *
 * Relies on: one receive brings descriptors of one message at most, and nothing that was sent
 * behind that (unix_stream_read_generic, net/unix/af_unix.c); msg_controllen and msg_flags are
 * written when the receive completes with 0 or more (____sys_recvmsg, net/socket.c); only as many
 * are made as there is room for (scm_detach_fds, net/core/scm.c; all observed on 6.18). While any
 * wait no receive is made, which would overwrite them: reading is stopped, or goes on when they
 * have been shown. */
#include "core/fds.h"

#include "core/reactor.h"

static struct kr__fds *fds_of(const struct kr__conn *c) {
    return c->more->fds;
}

static void close_all(struct kr_reactor *r, const int *fds, size_t count) {
    for (size_t i = 0; i < count; i++)
        r->kernel->close(r->kernel, fds[i]);
}

int kr__fds_ready(struct kr_reactor *r, struct kr__conn *c) {
    unsigned max = kr__conn_opts(c)->recv_fds;
    if (!c->local || !max)
        return 0;
    size_t room;
    if (!kr__conn_more(r, c))
        return -ENOMEM;
    struct kr__fds *f = kr__block_get(&r->blocks, sizeof *f + CMSG_SPACE(max * sizeof(int)), &room);
    if (!f)
        return -ENOMEM;
    *f = (struct kr__fds){.room = room, .max = max};
    c->more->fds = f;
    c->takes_fds = true;
    return 0;
}

/* Its room is for exactly as many as are asked for. */
struct msghdr *kr__fds_ask(struct kr__conn *c) {
    struct kr__fds *f = fds_of(c);
    kr__assert(!f->asked && !f->waiting);
    memset(f->control, 0, sizeof(struct cmsghdr));
    f->msg = (struct msghdr){.msg_control = f->control,
                             .msg_controllen = CMSG_LEN(f->max * sizeof(int))};
    f->asked = true;
    return &f->msg;
}

/* Whoever adopts a socket may have asked for control data of other kinds, of which one is a
 * descriptor. */
static void fds_find(struct kr_reactor *r, struct kr__fds *f) {
    /* of none, too: nobody is handed NULL */
    f->fds = (int *)CMSG_DATA((struct cmsghdr *)f->control);
    f->count = 0;
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&f->msg); cmsg; cmsg = CMSG_NXTHDR(&f->msg, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET)
            continue;
        int *fds = (int *)CMSG_DATA(cmsg);
        size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof *fds;
        if (cmsg->cmsg_type == KR__SCM_PIDFD)
            close_all(r, fds, count);
        if (cmsg->cmsg_type != SCM_RIGHTS)
            continue;
        f->fds = fds;
        f->count = (unsigned)count;
    }
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
    c->ops->on_fds(r, kr__conn_handle(c), c->user, f->fds, count, f->truncated);
}

void kr__fds_came(struct kr_reactor *r, struct kr__conn *c, int res) {
    struct kr__fds *f = fds_of(c);
    f->asked = false;
    if (res <= 0)
        return;
    fds_find(r, f);
    f->truncated = f->msg.msg_flags & MSG_CTRUNC;
    if (!f->count && !f->truncated)
        return;
    kr__mark_if(fds_truncated, f->truncated);
    kr__mark_if(fds_while_closing, !kr__conn_keeps(c));
    if (!kr__conn_keeps(c)) {
        fds_close(r, f);
    } else if (c->state == KR__CONN_RELEASING || (kr__conn_stopped(c) && !c->forwarding)) {
        kr__mark(fds_held_back);
        f->waiting = true;
    } else {
        fds_tell(r, c);
    }
}

void kr__fds_show(struct kr_reactor *r, struct kr__conn *c) {
    if (fds_of(c)->waiting)
        fds_tell(r, c);
}

void kr__fds_hand_over(struct kr__conn *c, struct kr_released *what) {
    struct kr__fds *f = fds_of(c);
    if (!f->waiting)
        return;
    what->fds = f->fds;
    what->fds_count = f->count;
    what->fds_truncated = f->truncated;
    f->count = 0;
    f->waiting = false;
}

void kr__fds_close(struct kr_reactor *r, struct kr__conn *c) {
    if (fds_of(c)->waiting)
        fds_close(r, fds_of(c));
}

void kr__fds_drop(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__fds *f = fds_of(c);
    if (f->asked) {
        kr__mark(fds_lost);
        fds_find(r, f);
    }
    fds_close(r, f);
    kr__block_put(&r->blocks, f, f->room);
    c->more->fds = NULL;
    c->takes_fds = false;
}
