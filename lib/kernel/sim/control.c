/* Happy path: descriptors become references to files at the send, and new descriptors at the
 * receive.
 * Failure: ill-formed control data; a descriptor that is not there; too little room, or none for
 * another descriptor, which MSG_CTRUNC tells, and what found none is closed (net/core/scm.c:
 * __scm_send, scm_fp_copy, scm_detach_fds). */
#include "kernel/sim/control.h"

#define SCM_MAX_FD 253u

static int files_take(const struct kr_sim *sim, const struct cmsghdr *cmsg,
                      struct kr__sim_gift **ret) {
    size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    if (count > SCM_MAX_FD || *ret)
        return -EINVAL;
    if (!count)
        return 0;
    struct kr__sim_gift *gift = *ret = kr__sim_gift_new((unsigned)count);
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof fd, sizeof fd);
        struct kr__sim_file *file = kr__sim_fd_file(sim, fd);
        if (!file)
            return -EBADF;
        gift->files[i] = kr__sim_file_ref(file);
    }
    return 0;
}

static int read_all(const struct kr_sim *sim, struct msghdr *msg, struct kr__sim_gift **ret) {
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        size_t left = (size_t)((char *)msg->msg_control + msg->msg_controllen - (char *)cmsg);
        if (cmsg->cmsg_len < CMSG_LEN(0) || cmsg->cmsg_len > left)
            return -EINVAL;
        if (cmsg->cmsg_level != SOL_SOCKET)
            continue;
        int rc = cmsg->cmsg_type == SCM_RIGHTS ? files_take(sim, cmsg, ret) : -EINVAL;
        if (rc < 0)
            return rc;
    }
    return 0;
}

int kr__sim_control_read(const struct kr_sim *sim, const void *control, size_t size,
                         struct kr__sim_gift **ret) {
    struct msghdr msg = {.msg_control = (void *)(uintptr_t)control, .msg_controllen = size};
    *ret = NULL;
    int rc = read_all(sim, &msg, ret);
    if (rc < 0) {
        kr__sim_gift_free(*ret);
        *ret = NULL;
    }
    return rc;
}

/* True: it has become the descriptor `fd`, as long as there may be one more. */
static bool file_install(struct kr_sim *sim, struct kr__sim_file *file, int *fd) {
    if (kr__sim_chance(sim, KR_SIM_SCM_EMFILE))
        return false;
    *fd = kr__sim_fd_new(sim, kr__sim_file_ref(file));
    return true;
}

size_t kr__sim_control_write(struct kr_sim *sim, struct kr__sim_gift *gift, void *control,
                             size_t room, bool *truncated) {
    *truncated = false;
    if (!gift)
        return 0;
    size_t most = room > CMSG_LEN(0) ? (room - CMSG_LEN(0)) / sizeof(int) : 0;
    size_t count = 0;
    int fds[SCM_MAX_FD];
    while (count < most && count < gift->count &&
           file_install(sim, gift->files[count], &fds[count]))
        count++;
    *truncated = count < gift->count;
    kr__sim_gift_free(gift);
    if (!count)
        return 0;
    struct cmsghdr head = {.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET,
                           .cmsg_type = SCM_RIGHTS};
    memcpy(control, &head, sizeof head);
    memcpy((char *)control + CMSG_LEN(0), fds, count * sizeof(int));
    return kr__min_size(room, CMSG_SPACE(count * sizeof(int)));
}
