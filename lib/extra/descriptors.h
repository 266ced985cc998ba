/* Descriptors that come with the bytes of a Unix socket, wanted or not. */
#ifndef KR_EXTRA_DESCRIPTORS_H
#define KR_EXTRA_DESCRIPTORS_H

#include "conn/conn.h"

/* Room for all control data that one receive can bring: as many descriptors as go with a message,
 * or the kernel would close the surplus itself, and wait for it; and what stands in front and behind
 * if others have set options on the socket: the sender's credentials (twice: a first try leaves one,
 * too), its security label, its process, the count of bytes. */
#define KR__FDS_LABEL_MOST 256u
#define KR__FDS_CONTROL                                                                            \
    (CMSG_SPACE(KR_FDS_MAX * sizeof(int)) + 2 * CMSG_SPACE(sizeof(struct ucred)) +                 \
     CMSG_SPACE(KR__FDS_LABEL_MOST) + 2 * CMSG_SPACE(sizeof(int)))

#define KR__FDS_PIECES 8u

/* Where a receive has them put, and where they stay until their user has them. A block. */
struct kr__fds {
    size_t room; /* the block's size */
    bool asked;  /* the receive in flight has them put here */
    /* some have come, or were lost, and this is to be told when reading goes on */
    bool waiting;
    bool truncated;  /* not all have come, or more than the user wants */
    unsigned max;    /* the user wants so many with one receive, at most; 0: none at all */
    unsigned count;  /* of those that have come and are nobody's else yet */
    int *fds;        /* within `control` */
    bool refused;    /* no more are sent: what lies there can be taken to its end */
    unsigned purges; /* receives of that */
    struct msghdr msg;
    struct iovec pieces[KR__FDS_PIECES]; /* of a purge, all of them the same place, `bytes` */
    _Alignas(struct cmsghdr) char control[KR__FDS_CONTROL];
    char bytes[]; /* that nobody wants; to the end of the block */
};

/* The socket is to be another's, whom descriptors may be sent to as to any. */
void kr__fds_leave(struct kr_reactor *r, const struct kr__conn *c, int fd);

/* Those that wait are whoever's `what` is shown to. */
void kr__fds_hand_over(struct kr__conn *c, struct kr_detached *what);

/* The connection is about to be closed: the message of a receive that takes what lies unread, and
 * what becomes of its result. */
struct msghdr *kr__fds_ask_purge(struct kr__conn *c);
void kr__fds_purged(struct kr_reactor *r, struct kr__conn *c, int res);

#endif
