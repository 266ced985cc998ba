/* An end of a connection on one host, TCP or Unix: what is sent has come at once, as far as the
 * window lets it. */
#ifndef KR_KERNEL_SIM_STREAM_H
#define KR_KERNEL_SIM_STREAM_H

#include "kernel/sim/file.h"

/* Two ends that know each other, a reference each for the caller. */
void kr__sim_stream_pair(struct kr_sim *sim, struct kr__sim_file *ends[2],
                         const struct kr_addr addrs[2]);

/* The far end of a stream that is calling, to be joined with it: the caller's reference. */
struct kr__sim_file *kr__sim_stream_far(const struct kr__sim_file *file);

/* Two ends are joined. */
void kr__sim_stream_meet(struct kr__sim_file *file, struct kr__sim_file *far);

/* As kr__sim_file_poll. */
unsigned kr__sim_stream_poll(struct kr__sim_file *file);

/* The error that is to be told, > 0, which is told by this; 0: none. */
int kr__sim_stream_error(struct kr__sim_stream *s);

/* As the system calls on a nonblocking socket: a count, 0 at the end, or -errno. */
int64_t kr__sim_stream_recv(struct kr__sim_file *file, char *data, size_t size);
int64_t kr__sim_stream_send(struct kr__sim_file *file, const char *data, size_t size);

/* The same with files (NULL: none), on a Unix stream: *gift is the caller's if something was
 * received, and the stream's once something was sent. */
int64_t kr__sim_stream_recv_files(struct kr__sim_file *file, char *data, size_t size,
                                  struct kr__sim_gift **gift);
int64_t kr__sim_stream_send_files(struct kr__sim_file *file, const char *data, size_t size,
                                  struct kr__sim_gift *gift);

/* One urgent byte (MSG_OOB). */
int64_t kr__sim_stream_urge(struct kr__sim_file *file, char byte);

/* How much of `size` bytes a receive can have that begins now: it skips an urgent byte, or ends
 * before it. */
size_t kr__sim_stream_pass(struct kr__sim_file *file, size_t size);

/* Its error queue gets something, a time stamp maybe, that nobody will read. */
void kr__sim_stream_note(struct kr__sim_file *file);

/* shutdown(2): SHUT_RD, SHUT_WR, SHUT_RDWR. -EINVAL; -ENOTCONN: it has not begun, or is over both
 * ways. */
int kr__sim_stream_shutdown(struct kr__sim_file *file, int how);

/* This end hears that it is over: ECONNRESET and so on. 0: nothing is told. */
void kr__sim_stream_die(struct kr__sim_file *file, int error);

/* connect to AF_UNSPEC: as new, and the far end hears RST. */
void kr__sim_stream_disconnect(struct kr__sim_file *file);

/* This end is dropped with RST. */
void kr__sim_stream_reset(struct kr__sim_file *file);

/* The network ends it for both, with `error`. */
void kr__sim_stream_cut(struct kr__sim_file *file, int error);

/* As the fault weights have it, the network ends it now. For whoever looks at a connection. */
void kr__sim_stream_weather(struct kr__sim_file *file);

/* What is there, or comes: the bytes themselves. Room is for as many as the far end's window lets
 * come. */
size_t kr__sim_stream_take(struct kr__sim_file *file, char *data, size_t size);
void kr__sim_stream_give(struct kr__sim_file *far, const char *data, size_t size);
size_t kr__sim_stream_room(const struct kr__sim_stream *s);

/* The same for a Unix socket (local.c). */
unsigned kr__sim_local_poll(const struct kr__sim_stream *s);
int64_t kr__sim_local_recv(struct kr__sim_file *file, char *data, size_t size,
                           struct kr__sim_gift **gift);
int64_t kr__sim_local_send(struct kr__sim_file *file, const char *data, size_t size,
                           struct kr__sim_gift *gift);
int kr__sim_local_shutdown(struct kr__sim_file *file, int how);
void kr__sim_local_close(struct kr__sim_file *file);

/* An option of the socket is set (option.c). */
int kr__sim_option_set(struct kr__sim_file *file, const struct kr__sock_step *step);

/* The last reference is gone. Only kr__sim_file_unref calls it. */
void kr__sim_stream_close(struct kr__sim_file *file);

#endif
