/* The functions of the real kernel's table, a file a group: ring.c, socket.c, file.c, process.c. What
 * they do is said in kernel.h. */
#ifndef KR_KERNEL_LINUX_H
#define KR_KERNEL_LINUX_H

#include "kernel/kernel.h"

int kr__linux_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                        struct io_uring_params *params);
int kr__linux_ring_bind(const struct kr__kernel *k, struct io_uring *ring, bool *registered);
void kr__linux_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                          bool child);
int kr__linux_ring_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                         unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg);
int kr__linux_ring_reg(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode,
                       const void *arg, unsigned count);

int kr__linux_socket_listen(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                            struct kr_addr *bound);
int kr__linux_socket_listen_fd(const struct kr__kernel *k, int fd,
                               const struct kr__listen_plan *plan, struct kr_addr *bound);
int kr__linux_socket_open(const struct kr__kernel *k, const struct kr__socket_plan *plan);
int kr__linux_socket_connect(const struct kr__kernel *k, int fd, const struct kr_addr *addr);
int kr__linux_socket_is_stream(const struct kr__kernel *k, int fd);
int kr__linux_socket_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer,
                           struct kr_addr *local);
int kr__linux_socket_shutdown(const struct kr__kernel *k, int fd);
bool kr__linux_socket_was_shut_down(const struct kr__kernel *k, int fd);
bool kr__linux_socket_refuses_fds(const struct kr__kernel *k);
bool kr__linux_socket_tells_reset(const struct kr__kernel *k);

int kr__linux_file_dup(const struct kr__kernel *k, int fd);
int kr__linux_file_close(const struct kr__kernel *k, int fd);
int kr__linux_file_close_received(const struct kr__kernel *k, int fd);
int kr__linux_file_size(const struct kr__kernel *k, int fd, uint64_t *ret);
int kr__linux_file_read(const struct kr__kernel *k, int fd, void *to, size_t size, uint64_t offset);
int kr__linux_file_write(const struct kr__kernel *k, int fd, const void *data, size_t size);
int kr__linux_wake_open(const struct kr__kernel *k);
int kr__linux_wake_send(const struct kr__kernel *k, int fd);

int64_t kr__linux_clock(const struct kr__kernel *k);
void kr__linux_yield(const struct kr__kernel *k);
void *kr__linux_map(const struct kr__kernel *k, size_t size, enum kr__map how);
void kr__linux_unmap(const struct kr__kernel *k, void *pages, size_t size);
uint64_t kr__linux_limit_nofile(const struct kr__kernel *k);
uint64_t kr__linux_limit_memlock(const struct kr__kernel *k);
uint64_t kr__linux_limit_as(const struct kr__kernel *k);
uint64_t kr__linux_limit_data(const struct kr__kernel *k);
int kr__linux_sysctl_disabled(const struct kr__kernel *k);

#endif
