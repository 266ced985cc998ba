/* Files: a part of one goes out over a connection, in its place among the bytes of the send queue.
 *
 * What is queued before it leaves before it, what is queued behind it leaves behind it: a head, a
 * file, and a trailer are three calls in a row. The file is read bit by bit as the peer takes it: a
 * connection with files in its queue has at most 128 KiB of them in memory, however many there are
 * and however long.
 *
 * All functions: the reactor's thread. None runs a callback; kr_conn_send_file asks the kernel what
 * `fd` is (fstat, fcntl), and enters it for nothing else. */
#ifndef KREACTOR_FILE_H
#define KREACTOR_FILE_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As a size: up to the end of the file, wherever that is when the reading gets there. */
#define KR_FILE_END UINT64_MAX

/* The file is its owner's again. `error` 0: all was taken by the kernel, `sent` bytes of the file.
 * Else the connection has ended, when `sent` of them had been: the error of reading if that was the
 * cause, otherwise -ECANCELED. What was taken is not yet what the peer has received. Called in a
 * phase of a turn of its own, on the reactor's thread; anything may be called from it that may be
 * called from a callback. */
typedef void kr_file_fn(struct kr_reactor *r, void *arg, uint64_t sent, int error);

/* Queues `size` bytes of the file `fd` from `offset` on (both at most 2^63 - 1 together), or all
 * from there to its end (KR_FILE_END). Borrows the descriptor, and the file's contents there, until
 * `done(r, arg, sent, error)`, which is called exactly once, in a later phase of this turn or in a
 * later turn, and before the connection's on_close; NULL: nobody need be told, and on_close ends
 * the loan at the latest. The descriptor's own position neither matters nor changes. One descriptor
 * may be queued many times and on many connections at once. Size 0 is done in the next such phase.
 *
 * Among the queued bytes (kr_conn_queued, the marks, the cap) a file counts as what of it is left
 * to be sent, but as 128 KiB at most; an empty queue takes one whatever the cap. So on_drain comes
 * when the files are almost through, and a peer that asks for one after the other is not read on.
 * The write and the flush deadline go on while a file is being read, and count anew from each piece
 * that has come. kr_conn_shutdown, KR_CLOSE_FLUSH, KR_CLOSE_LINGER and kr_drain wait for files as
 * for bytes. KR_CLOSE_NOW and KR_CLOSE_RESET cancel what has not begun, and wait for the read that
 * has, which no kernel interrupts: on a disk, not long.
 *
 * A read that fails ends the connection with its error and KR_WHY_FILE; so does a file that has
 * become shorter than the size that was asked for: -ENODATA. What was promised cannot be sent any
 * more, so the connection is reset, and its peer does not take a part for the whole. Memory cannot
 * run out on the way.
 *
 * Reads of files on tmpfs and overlayfs, and some that wait for a disk, are made by worker threads
 * of the kernel. Where there is no room for a thread (RLIMIT_NPROC, a pids cgroup) the reactor's
 * own thread reads the files of that connection, 64 KiB a turn, and waits for the disk as read(2)
 * does.
 *
 * What is sent is what the file has when it is read, which for a file that is being written is a
 * mixture. Bytes in front of a file that is expected to go on are sent with MSG_MORE: they may stay
 * in the kernel for up to 200 ms if the disk is slow, or if the file has lost its rest meanwhile.
 * One that holds less than it reports, as those of sysfs and procfs, is not expected to.
 *
 * Errors, with nothing taken, and `done` is not called: -EPIPE and -ENOBUFS as kr_conn_send;
 * -ENOMEM; -EBADF: not open for reading; -EISDIR; -ESPIPE: cannot be read at an offset (a pipe, a
 * socket, a terminal); -EINVAL also: opened with O_DIRECT, or to its end from an offset within 64
 * KiB of 2^63; -ENODATA: a regular file that has no
 * `size` bytes from `offset` on, now. */
KR_API int kr_conn_send_file(struct kr_reactor *r, kr_conn conn, int fd, uint64_t offset,
                             uint64_t size, kr_file_fn *done, void *arg);

#ifdef __cplusplus
}
#endif

#endif
