/* What the sending verbs have in common. */
#ifndef KR_CONN_SEND_H
#define KR_CONN_SEND_H

#include "conn/op.h"

#include <sys/socket.h>

/* Of each send to a socket: it does not wait in the kernel (conn/send_poll.c). */
#define KR__SEND_FLAGS (MSG_NOSIGNAL | MSG_DONTWAIT)

/* Fills a SEND of the first record of the queue, or a SENDMSG of the first ones, at most `count` of
 * them; when memory is short, of fewer. Returns how many. What it does not cover is to be sent at
 * once after it. */
unsigned kr__send_fill(struct kr_reactor *r, struct kr__conn *c, struct io_uring_sqe *sqe,
                       unsigned count);

/* The result of a send: so many bytes were taken. */
void kr__send_took(struct kr_reactor *r, struct kr__conn *c, size_t size);

/* The socket is full: nothing was sent, and it is sent again when there is room. */
void kr__send_met_full(struct kr_reactor *r, struct kr__conn *c);

/* The list of pieces and the open reservation end with the result of a send, whatever it is. */
void kr__send_ended(struct kr_reactor *r, struct kr__conn *c);

#endif
