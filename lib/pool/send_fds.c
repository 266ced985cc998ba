/* Descriptors in send queues.
 *
 * Happy path: they are duplicated when they are queued, and the duplicates closed by kr__send_disarm
 * alone: when the first byte of their record is taken, or with the record. Until then each try
 * needs them, for the kernel looks them up anew (sendmsg_copy_msghdr at submit, but __scm_send at
 * each try: net/socket.c, net/core/scm.c).
 * Failure: one cannot be duplicated, or memory is refused, and the queue is as before. */
#include "pool/sends.h"

#include "base/mark.h"
#include "base/poison.h"

#include <errno.h>
#include <string.h>

static struct kr__send_fds *send_fds(struct kr__send *send) {
    kr__assert(send->kind == KR__SEND_FDS);
    return kr__container_of(send, struct kr__send_fds, send);
}

static void fds_close(const struct kr__sends *sends, const struct cmsghdr *control,
                      unsigned count) {
    const struct kr__kernel *k = sends->bufs->kernel;
    for (unsigned i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(control) + i * sizeof fd, sizeof fd);
        k->file.close(k, fd);
    }
}

void kr__send_disarm(struct kr__sends *sends, struct kr__send *send) {
    const struct cmsghdr *control = send_fds(send)->msg.msg_control;
    fds_close(sends, control, (unsigned)((control->cmsg_len - CMSG_LEN(0)) / sizeof(int)));
    send->kind = KR__SEND_COPY;
}

/* Duplicates go into the control data of a record that is nobody's yet. */
static int fds_dup(struct kr__sends *sends, struct cmsghdr *control, const int *fds,
                   unsigned count) {
    const struct kr__kernel *k = sends->bufs->kernel;
    for (unsigned i = 0; i < count; i++) {
        int fd = k->file.dup(k, fds[i]);
        kr__mark_if(fds_not_duplicated, fd < 0 && i);
        if (fd < 0) {
            fds_close(sends, control, i);
            return fd;
        }
        memcpy(CMSG_DATA(control) + i * sizeof fd, &fd, sizeof fd);
    }
    return 0;
}

int kr__sendq_fds(struct kr__sends *sends, struct kr__sendq *q, const void *data, size_t size,
                  const int *fds, unsigned count) {
    size_t before = sizeof(struct kr__send_fds) + CMSG_SPACE(count * sizeof *fds), room;
    struct kr__send_fds *f = kr__block_get(sends->blocks, before + size, &room);
    if (!f)
        return -ENOMEM;
    struct cmsghdr *control = (struct cmsghdr *)(f + 1);
    *control = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof *fds),
                                .cmsg_level = SOL_SOCKET,
                                .cmsg_type = SCM_RIGHTS};
    int rc = fds_dup(sends, control, fds, count);
    if (rc < 0) {
        kr__block_put(sends->blocks, f, room);
        return rc;
    }
    char *bytes = (char *)f + before;
    memcpy(bytes, data, size);
    *f = (struct kr__send_fds){
        .send = {.data = bytes, .size = (uint32_t)size, .spare = (uint32_t)(room - before - size),
                 .room = (uint32_t)room, .kind = KR__SEND_FDS},
        .msg = {.msg_control = control, .msg_controllen = control->cmsg_len},
    };
    kr__poison(bytes + size, f->send.spare);
    kr__sendq_append(sends, q, &f->send);
    return 0;
}

struct msghdr *kr__sendq_message(const struct kr__sendq *q) {
    struct kr__send_fds *f = send_fds(q->head);
    f->piece = (struct iovec){(void *)(uintptr_t)f->send.data, f->send.size};
    f->msg.msg_iov = &f->piece;
    f->msg.msg_iovlen = 1;
    return &f->msg;
}

struct kr_detached_fds kr__send_gift(struct kr__send *send, size_t at) {
    const struct cmsghdr *control = send_fds(send)->msg.msg_control;
    unsigned count = (unsigned)((control->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    return (struct kr_detached_fds){at, (const int *)(const void *)CMSG_DATA(control), count};
}
