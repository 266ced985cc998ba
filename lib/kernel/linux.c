/* The real kernel: the table of its functions, which liburing and libc do. */
#include "kernel/linux.h"

#include "kernel/path.h"
#include "kernel/pipe.h"
#include "kernel/sockopt.h"

const struct kr__kernel kr__linux = {
    .ring.open = kr__linux_ring_open,
    .ring.bind = kr__linux_ring_bind,
    .ring.close = kr__linux_ring_close,
    .ring.enter = kr__linux_ring_enter,
    .ring.reg = kr__linux_ring_reg,

    .socket.listen = kr__linux_socket_listen,
    .socket.listen_fd = kr__linux_socket_listen_fd,
    .socket.path_id = kr__path_id,
    .socket.path_dir = kr__path_dir,
    .socket.path_remove = kr__path_remove,
    .socket.open = kr__linux_socket_open,
    .socket.connect = kr__linux_socket_connect,
    .socket.is_stream = kr__linux_socket_is_stream,
    .socket.addrs = kr__linux_socket_addrs,
    .socket.shutdown = kr__linux_socket_shutdown,
    .socket.was_shut_down = kr__linux_socket_was_shut_down,
    .socket.set_option = kr__sock_set_option,
    .socket.set_accepted = kr__sock_set_accepted,
    .socket.set_adopted = kr__sock_set_adopted,
    .socket.unlinger = kr__sock_unlinger,
    .socket.refuses_fds = kr__linux_socket_refuses_fds,
    .socket.tells_reset = kr__linux_socket_tells_reset,

    .file.dup = kr__linux_file_dup,
    .file.close = kr__linux_file_close,
    .file.close_received = kr__linux_file_close_received,
    .file.size = kr__linux_file_size,
    .file.read = kr__linux_file_read,
    .file.write = kr__linux_file_write,
    .file.pipe_end = kr__pipe_end,
    .file.pipe_flags = kr__pipe_flags,
    .file.pipe_reopen = kr__pipe_reopen,
    .file.wake_open = kr__linux_wake_open,
    .file.wake_send = kr__linux_wake_send,

    .process.clock = kr__linux_clock,
    .process.yield = kr__linux_yield,
    .process.map = kr__linux_map,
    .process.unmap = kr__linux_unmap,
    .process.limit_nofile = kr__linux_limit_nofile,
    .process.limit_memlock = kr__linux_limit_memlock,
    .process.limit_as = kr__linux_limit_as,
    .process.limit_data = kr__linux_limit_data,
    .process.sysctl_disabled = kr__linux_sysctl_disabled,
};
