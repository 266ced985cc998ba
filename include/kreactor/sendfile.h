/* Files: a part of a file is sent over a connection, in its place among the bytes of the send
 * queue.
 *
 * Bytes that were queued before the file leave before it, and bytes queued after it leave after it:
 * a head, a file and a trailer are three calls in a row. The library reads the file piece by piece
 * as the peer takes it. A connection has at most 128 KiB of file bytes in memory, however many
 * files are in its queue and however long they are.
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. None runs a callback. kr_conn_send_file asks the kernel what `fd` is (fstat,
 * fcntl), and makes no other system call. */
#ifndef KREACTOR_SENDFILE_H
#define KREACTOR_SENDFILE_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As a size: up to the end of the file, wherever that is when the library reads there. */
#define KR_FILE_END UINT64_MAX

/* The loan of a file is over: the descriptor is the caller's again.
 *   sent   bytes of the file that the kernel has taken. The peer may not have received them yet
 *   error  0: the kernel has taken all of them. Otherwise the connection has ended: with the error
 *          of reading the file if that was the cause, else -ECANCELED
 * Called on the reactor's thread, in a phase of a turn of its own or from kr_reactor_free. Legal:
 * everything that is legal in a callback. */
typedef void kr_file_fn(struct kr_reactor *r, void *arg, uint64_t sent, int error);

/* Queues a part of a file.
 *   fd      a regular file or a block device, open for reading. Borrowed, with the contents of the
 *           file in this part, until `done`. Its file position is neither used nor changed. One
 *           descriptor may be queued many times, and on many connections at once
 *   offset  where the part begins, in bytes
 *   size    its size in bytes. offset + size <= 2^63 - 1. KR_FILE_END: to the end of the file.
 *           0: `done` is called in the next phase for that
 *   done    called exactly once as done(r, arg, sent, error), in a later phase of this turn or in a
 *           later turn, and before the connection's on_close. NULL: no callback; the loan ends with
 *           on_close at the latest
 *   arg     handed to done
 *
 * Among the queued bytes (kr_conn_queued, send_low, send_high, send_cap) a file counts with the
 * bytes of it that are left to be sent, but with 128 KiB at most. An empty queue takes a file
 * whatever send_cap is. So on_writable runs when the files are almost sent, and the library stops
 * reading from a peer that asks for one file after the other.
 *
 * The write and the flush deadline go on while a file is being read, and count anew from each piece
 * that has been read. kr_conn_shutdown, KR_CLOSE_FLUSH, KR_CLOSE_LINGER and kr_drain wait for files
 * as for bytes. KR_CLOSE_NOW and KR_CLOSE_RESET cancel reads that have not begun. They wait for a
 * read that has begun, because no kernel interrupts it; on a disk that is not long.
 *
 * A read that fails ends the connection with its error and KR_WHY_FILE. A file that has become
 * shorter than the size that was asked for ends it with -ENODATA and KR_WHY_FILE. The promised
 * bytes cannot be sent any more, so the connection is reset, and its peer does not take a part for
 * the whole. Once the file is queued, sending it cannot fail for want of memory.
 *
 * Worker threads of the kernel read files on tmpfs and overlayfs, and make some reads that wait for
 * a disk. Where there is no room for a thread (RLIMIT_NPROC, a pids cgroup), the reactor's own
 * thread reads the files of that connection, 64 KiB a turn, and waits for the disk as read(2) does.
 *
 * The bytes sent are those that the file has when it is read. From a file that is being written
 * they are a mixture. Bytes in front of a file that is expected to have more are sent with
 * MSG_MORE: they may stay in the kernel for up to 200 ms if the disk is slow, or if the file has
 * lost its rest meanwhile. A file that holds less than it reports, such as those of sysfs and
 * procfs, is not expected to have more.
 *
 * Errors, with nothing queued, and `done` is not called:
 *   -EINVAL    also: offset + size is too large; with KR_FILE_END, offset is within 64 KiB of 2^63;
 *              the file was opened with O_DIRECT
 *   -EBADF     `fd` is no descriptor, or not open for reading
 *   -EISDIR    a directory
 *   -ESPIPE    neither a regular file nor a block device: a pipe, a socket, a terminal, another
 *              character device
 *   -ENODATA   a regular file that does not have `size` bytes from `offset` on now
 *   -EPIPE, -ENOBUFS   as kr_conn_send
 *   -ENOMEM */
KR_API int kr_conn_send_file(struct kr_reactor *r, kr_conn conn, int fd, uint64_t offset,
                             uint64_t size, kr_file_fn *done, void *arg);

#ifdef __cplusplus
}
#endif

#endif
