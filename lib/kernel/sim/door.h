/* The functions of the simulated kernel's door, a file a group of struct kr__kernel. What they do is
 * said in kernel/kernel.h. Each begins with kr__sim_entered, unless no time may pass in it. */
#ifndef KR_KERNEL_SIM_DOOR_H
#define KR_KERNEL_SIM_DOOR_H

#include "kernel/sim/world.h"

#define KR__SIM_NOFILE 20000u
#define KR__SIM_MEMLOCK (UINT64_C(8) << 20)

/* The world whose door was called. Lets a little time pass in it, in which anything may happen, as
 * at any system call. */
struct kr_sim *kr__sim_entered(const struct kr__kernel *k);

int kr__door_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                       struct io_uring_params *params);
int kr__door_ring_bind(const struct kr__kernel *k, struct io_uring *ring, bool *registered);
void kr__door_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                         bool child);
int kr__door_ring_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                        unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg);
int kr__door_ring_reg(const struct kr__kernel *k, struct io_uring *uring, unsigned opcode,
                      const void *arg, unsigned count);

int kr__door_socket_listen(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                           struct kr_addr *bound);
int kr__door_socket_listen_fd(const struct kr__kernel *k, int fd,
                              const struct kr__listen_plan *plan, struct kr_addr *bound);
int kr__door_socket_path_id(const struct kr__kernel *k, const struct kr_addr *addr,
                            struct kr__path_id *ret);
int kr__door_socket_path_dir(const struct kr__kernel *k, const struct kr_addr *addr);
void kr__door_socket_path_remove(const struct kr__kernel *k, const struct kr_addr *addr,
                                 const struct kr__path_id *id, int dir);
int kr__door_socket_open(const struct kr__kernel *k, const struct kr__socket_plan *plan);
int kr__door_socket_connect(const struct kr__kernel *k, int fd, const struct kr_addr *addr);
int kr__door_socket_is_stream(const struct kr__kernel *k, int fd);
int kr__door_socket_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer,
                          struct kr_addr *local);
int kr__door_socket_shutdown(const struct kr__kernel *k, int fd);
bool kr__door_socket_was_shut_down(const struct kr__kernel *k, int fd);
int kr__door_socket_set_option(const struct kr__kernel *k, int fd,
                               const struct kr__sock_step *step);
int kr__door_socket_set_accepted(const struct kr__kernel *k, int fd,
                                 const struct kr_conn_opts *opts);
void kr__door_socket_set_adopted(const struct kr__kernel *k, int fd, int family, bool refuse_fds);
int kr__door_socket_unlinger(const struct kr__kernel *k, int fd);
bool kr__door_socket_refuses_fds(const struct kr__kernel *k);
bool kr__door_socket_tells_reset(const struct kr__kernel *k);

int kr__door_file_dup(const struct kr__kernel *k, int fd);
int kr__door_file_close(const struct kr__kernel *k, int fd);
int kr__door_file_close_received(const struct kr__kernel *k, int fd);
int kr__door_file_size(const struct kr__kernel *k, int fd, uint64_t *ret);
int kr__door_file_read(const struct kr__kernel *k, int fd, void *to, size_t size, uint64_t offset);
int kr__door_file_write(const struct kr__kernel *k, int fd, const void *data, size_t size);
int kr__door_file_pipe_end(const struct kr__kernel *k, int fd);
int kr__door_file_pipe_flags(const struct kr__kernel *k, bool newest);
int kr__door_file_pipe_reopen(const struct kr__kernel *k, int fd, bool nameless_too);
int kr__door_file_wake_open(const struct kr__kernel *k);
int kr__door_file_wake_send(const struct kr__kernel *k, int fd);

int64_t kr__door_process_clock(const struct kr__kernel *k);
void kr__door_process_yield(const struct kr__kernel *k);
void *kr__door_process_map(const struct kr__kernel *k, size_t size, enum kr__map how);
void kr__door_process_unmap(const struct kr__kernel *k, void *pages, size_t size);
uint64_t kr__door_process_limit_nofile(const struct kr__kernel *k);
uint64_t kr__door_process_limit_memlock(const struct kr__kernel *k);
uint64_t kr__door_process_limit_none(const struct kr__kernel *k);
int kr__door_process_sysctl_disabled(const struct kr__kernel *k);

#endif
