/* Leases: received bytes that are needed for longer than on_data runs.
 *
 * The bytes that on_data is shown are lent until it returns. A lease keeps a part of them, usually
 * by keeping the receive buffer itself, which costs no copy. All connections share the buffers. So
 * one connection may keep an eighth of them at most, queued sends included, and all connections
 * together leave an eighth for receiving. Bytes that are leased beyond that are copied. A lease is
 * never refused for want of buffers, and no byte is lost.
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. None runs a callback or makes a system call. */
#ifndef KREACTOR_LEASE_H
#define KREACTOR_LEASE_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Leases bytes.
 *   conn  the connection whose share the bytes count against
 *   data  `size` bytes. If they are a part of the bytes that on_data of `conn` is being lent, the
 *         receive buffer is kept, if the shares allow it. Bytes from anywhere else, and bytes that
 *         on_data is shown for a second time, are copied; `data` is then borrowed for the call
 *   size  at least 1
 *   ret   *ret is owned by the caller, who releases it with kr_lease_return, in any order and at
 *         any time, also when the connection has ended
 *
 * A lease does not change how many bytes on_data consumes: on_data returns that number as always. A
 * buffer is kept whole, however few of its bytes are leased: lease many bytes, copy few.
 * kr_reactor_free ends all leases.
 *
 * Errors, with nothing leased: -EINVAL: `data` or `ret` is NULL, or `size` is 0. -ENOMEM, also
 * beyond 1,048,576 leases. */
KR_API int kr_lease_take(struct kr_reactor *r, kr_conn conn, const void *data, size_t size,
                         kr_lease *ret);

/* Returns the leased bytes, which are valid until kr_lease_return, and sets *size to their number.
 * `size` may be NULL. The caller may write to the bytes. Returns NULL for a stale handle, and
 * leaves *size untouched then. */
KR_API void *kr_lease_data(const struct kr_reactor *r, kr_lease lease, size_t *size);

/* Ends the lease. The caller must not touch its bytes any more. */
KR_API int kr_lease_return(struct kr_reactor *r, kr_lease lease);

#ifdef __cplusplus
}
#endif

#endif
