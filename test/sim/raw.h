/* Raw requests on either kernel: does the simulated one answer each as the real one does?
 *
 * A script makes requests by name at a ring of its own and says when it has waited enough; what
 * came back is kept by name as a text: "connect: -ECONNREFUSED", "zc: 100 MORE, 0 NOTIF". The same
 * script runs on the real kernel, and on the simulated one with many seeds.
 *
 *   - What the real kernel answers and no seed does, fails: who believes the simulation would then
 *     believe something that is not so.
 *   - What a seed without faults answers and the real kernel never did, fails too, unless the
 *     script is `loose`: its outcome is a race, of which a real run shows one side only.
 *
 * Several answers of one name are one text, so their order and number count; the order among names
 * does not. */
#ifndef RAW_H
#define RAW_H

#include "kernel/kernel.h"
#include "ring/ring.h"
#include "sim/far.h"

#include <kreactor/sim.h>

#define RAW_SLOTS 16
#define RAW_FARS 8
#define RAW_NAMES 32
#define RAW_GROUP 0 /* of the buffer ring: 8 buffers */
#define RAW_BUF_SIZE 64

struct raw_answer {
    char name[24];
    char text[224];
    unsigned count;
    int32_t res;    /* the last one's */
    uint32_t flags;
    bool hidden;    /* it is compared with nothing */
    bool any;       /* a positive result is written "+": it differs from run to run */
};

struct raw {
    struct kr_sim *sim; /* NULL: the real kernel */
    bool calm;          /* the simulated one, without faults */
    const struct kr__kernel *door;
    struct kr__ring ring;
    struct far fars[RAW_FARS];
    int server; /* of raw_server, on the real kernel */
    bool nonblock; /* what is put into slots from now on is O_NONBLOCK */
    int crowd[4]; /* who fill its backlog */
    uint16_t port;
    struct raw_answer answers[RAW_NAMES];
    unsigned answer_count;
    unsigned buf_tail;
    void *buf_ring;
    char bufs[8][RAW_BUF_SIZE];
};

struct raw_script {
    const char *name;
    void (*run)(struct raw *x);
    bool loose;
    bool slow; /* it waits for the real kernel's own timers: one real run has to do */
};

/* Runs each script on both kernels and fails the case unless they agree. */
void raw_compare(const struct raw_script *scripts, unsigned count);

/* Runs it on the simulated kernel only, of that version, with x->calm. */
void raw_simulate(unsigned major, unsigned minor, void (*run)(struct raw *x));

/* ---- requests ---- */

/* The SQE of a request named `name`, of this opcode, at a slot of the file table; the rest is
 * zeros. */
struct io_uring_sqe *raw_ask(struct raw *x, const char *name, unsigned opcode, int slot);

/* The usual ones: CONNECT to loopback, SEND of the text, RECV multishot into the ring's buffers,
 * CLOSE of the slot, ASYNC_CANCEL of what has that name. What they point to must stay until it was
 * submitted. */
void raw_connect(struct raw *x, const char *name, int slot, uint16_t port);
void raw_send(struct raw *x, const char *name, int slot, const char *text);
void raw_recv(struct raw *x, const char *name, int slot);
void raw_close(struct raw *x, const char *name, int slot);
void raw_cancel(struct raw *x, const char *name, const char *target);

/* What was asked for is handed to the kernel. */
void raw_submit(struct raw *x);

/* Waits until `count` completions in all have come of that name. Submits before. */
void raw_await(struct raw *x, const char *name, unsigned count);

/* Waits until nothing more comes. */
void raw_quiet(struct raw *x);

/* Adds to the answers of `name` what was seen elsewhere. */
void raw_note(struct raw *x, const char *name, int64_t value);

/* Positive results of `name` are written "+". */
void raw_any(struct raw *x, const char *name);

/* How many completions have come of `name`. */
unsigned raw_count(struct raw *x, const char *name);

/* The last result of `name`. */
int32_t raw_res(struct raw *x, const char *name);

/* The flags of the last completion of `name`. */
uint32_t raw_flags(struct raw *x, const char *name);

/* ---- files ---- */

/* An unconnected stream socket of the family in the slot. */
void raw_socket(struct raw *x, int slot, int family);

/* One of TCP that gives a SYN up after the first second; the simulated one after its 131. */
void raw_impatient_socket(struct raw *x, int slot);

/* A descriptor in the slot (and not elsewhere: it is closed). */
void raw_install(struct raw *x, int slot, int fd);

/* A far server on loopback; x->port is its port. */
void raw_server(struct raw *x);

/* The far end of the oldest connection that the server has. */
void raw_accept(struct raw *x, struct far *far);

/* A connected TCP socket in the slot, and its far end. Makes a server if there is none. */
void raw_join(struct raw *x, int slot, struct far *far);

/* A connected Unix stream socket in the slot, and its far end. */
void raw_pair(struct raw *x, int slot, struct far *far);

/* A far Unix server with room for `backlog` and one that wait; where it is. */
const struct kr_addr *raw_unix_server(struct raw *x, int backlog);

/* A descriptor that the program has, of a file of 26 letters; ended with x->door->close. */
int raw_file(struct raw *x);

/* Sends on a connected slot until no more is taken, for now: a script that does is a loose one. */
void raw_fill(struct raw *x, int slot);

/* 127.0.0.1 and the port. Good for the next four calls. */
const struct sockaddr_in *raw_address(uint16_t port);

/* An address to which there is no way. */
const struct sockaddr_in *raw_no_way(struct raw *x);

/* A server that answers no SYN. */
void raw_silent_server(struct raw *x);

/* A wake-up in the slot: a file that is no socket. */
void raw_wake(struct raw *x, int slot);

/* A port that nobody listens at. */
uint16_t raw_closed_port(struct raw *x);

/* The buffer ring gets so many buffers of RAW_BUF_SIZE. */
void raw_bufs(struct raw *x, unsigned count);

#endif
