/* The door of the simulated kernel: the table of its functions. */
#include "kernel/sim/door.h"

void kr__sim_door_init(struct kr_sim *sim) {
    sim->door = (struct kr__kernel){
        .ring.open = kr__door_ring_open,
        .ring.bind = kr__door_ring_bind,
        .ring.close = kr__door_ring_close,
        .ring.enter = kr__door_ring_enter,
        .ring.reg = kr__door_ring_reg,

        .socket.listen = kr__door_socket_listen,
        .socket.listen_fd = kr__door_socket_listen_fd,
        .socket.path_id = kr__door_socket_path_id,
        .socket.path_dir = kr__door_socket_path_dir,
        .socket.path_remove = kr__door_socket_path_remove,
        .socket.open = kr__door_socket_open,
        .socket.connect = kr__door_socket_connect,
        .socket.is_stream = kr__door_socket_is_stream,
        .socket.addrs = kr__door_socket_addrs,
        .socket.shutdown = kr__door_socket_shutdown,
        .socket.was_shut_down = kr__door_socket_was_shut_down,
        .socket.set_option = kr__door_socket_set_option,
        .socket.set_accepted = kr__door_socket_set_accepted,
        .socket.set_adopted = kr__door_socket_set_adopted,
        .socket.unlinger = kr__door_socket_unlinger,
        .socket.refuses_fds = kr__door_socket_refuses_fds,
        .socket.tells_reset = kr__door_socket_tells_reset,

        .file.dup = kr__door_file_dup,
        .file.close = kr__door_file_close,
        .file.close_received = kr__door_file_close_received,
        .file.size = kr__door_file_size,
        .file.read = kr__door_file_read,
        .file.write = kr__door_file_write,
        .file.pipe_end = kr__door_file_pipe_end,
        .file.pipe_flags = kr__door_file_pipe_flags,
        .file.pipe_reopen = kr__door_file_pipe_reopen,
        .file.wake_open = kr__door_file_wake_open,
        .file.wake_send = kr__door_file_wake_send,

        .process.clock = kr__door_process_clock,
        .process.yield = kr__door_process_yield,
        .process.map = kr__door_process_map,
        .process.unmap = kr__door_process_unmap,
        .process.limit_nofile = kr__door_process_limit_nofile,
        .process.limit_memlock = kr__door_process_limit_memlock,
        .process.limit_as = kr__door_process_limit_none,
        .process.limit_data = kr__door_process_limit_none,
        .process.sysctl_disabled = kr__door_process_sysctl_disabled,
    };
}
