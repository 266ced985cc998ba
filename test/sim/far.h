/* The far end of a connection, on either kernel: a socket of this very process, or a peer of the
 * simulated world. What it does is the same on both, and of the ring's own thread: with
 * COOP_TASKRUN each of its system calls is a moment at which the kernel may post completions, so it
 * is one for the simulated kernel, too. */
#ifndef FAR_H
#define FAR_H

#include <kreactor/sim.h>

struct far {
    struct kr_sim *sim; /* NULL: the real kernel */
    int fd;
    kr_sim_peer peer;
    bool open;
};

/* Connects to a listener on loopback. */
void far_connect(struct far *far, struct kr_sim *sim, uint16_t port);

/* Sends what goes at once, at most 64 KiB; a count or -errno. */
int far_send(struct far *far, size_t size);

/* Sends one urgent byte; 1 or -errno. */
int far_urge(struct far *far);

/* Whether a Unix far end's bytes have been received, or skipped, all of them. */
bool far_is_read(struct far *far);

/* Reads what is there; how much that was, or if that was nothing, -errno or 0 for the end. */
int64_t far_read(struct far *far);

/* The same for at most 64 KiB of it. */
int64_t far_read_once(struct far *far);

/* Of Unix far ends: sends, and receives, bytes with so many descriptors. The receive has room for
 * `room` of them and closes them; *count is how many came. */
int far_send_fds(struct far *far, size_t size, unsigned count);
int64_t far_recv_fds(struct far *far, size_t size, unsigned room, unsigned *count);

void far_shutdown(struct far *far);
void far_end(struct far *far, bool reset);

#endif
