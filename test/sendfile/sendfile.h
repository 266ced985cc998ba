/* What the parts of the suite sendfile share: a sender of files, its client, and a kernel that
 * fails on demand. See test/sendfile.c. */
#pragma once

#include "harness/net.h"

#include "conn/reactor.h"
#include "pool/files.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define CHUNK ((uint64_t)KR__CHUNK_SIZE)
#define SENDERS_MAX 16
#define JOBS_MAX 4000

/* A file that was queued. */
struct job {
    struct sender *sender;
    uint64_t size; /* that will have been sent if all goes well */
    uint64_t sent;
    int error;
    unsigned told;
};

/* A connection that sends files. */
struct sender {
    kr_conn conn;
    uint64_t queued; /* of its stream */
    unsigned lent, drains, datas, closes;
    int error;
    enum kr_why why;
    struct job *next; /* to be told, in order */
};

extern struct sender senders[SENDERS_MAX];
extern unsigned sender_count;
extern struct job jobs[JOBS_MAX];
extern unsigned job_count;
extern bool in_call;
extern uint64_t seed;
void file_done(struct kr_reactor *r, void *arg, uint64_t sent, int error);

/* A file of so many bytes of the pattern; sparse, if it is long, but for its first bytes. */
int file_of(uint64_t size);

/* Queues `size` bytes of the file, which are the next of the stream; `asked` may be KR_FILE_END. */
int send_file_as(struct kr_reactor *r, struct sender *s, int fd, uint64_t size, uint64_t asked);

int send_file(struct kr_reactor *r, struct sender *s, int fd, uint64_t size);
int send_bytes(struct kr_reactor *r, struct sender *s, size_t size);
struct sender *sender_new(kr_conn conn);
size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);
void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);
extern const struct kr_conn_ops ops;

/* A reactor, a connection, its client. */
struct pair {
    struct kr_reactor *r;
    uint16_t port;
    int fd;
    struct sender *s;
};

struct pair pair_on(const struct kr__kernel *kernel, const struct kr_listen_opts *opts,
                    int recv_size);
struct pair pair_make(const struct kr_listen_opts *opts, int recv_size);

/* Reads on until so much of the stream has come, at most `most` bytes a turn. */
void read_to(struct pair *p, uint64_t *got, uint64_t to, size_t most);

void check_stream(struct pair *p);
void check_told(const struct job *job, int error);
void check_over(struct pair *p, int error, enum kr_why why);
void pair_end(struct pair *p);
