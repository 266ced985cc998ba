/* Leases: received bytes that are needed for longer than on_data lasts.
 *
 * What on_data is shown is lent until it returns. A lease keeps a part of it: as a rule by keeping
 * the receive buffer itself, which costs no copy. Buffers are shared by all connections, so each
 * may keep an eighth of them at most, queued sends included, and all together leave an eighth for
 * receiving; what is leased beyond that is copied, never refused for want of buffers and never
 * lost.
 *
 * All functions: the reactor's thread. None runs a callback or enters the kernel. */
#ifndef KREACTOR_LEASE_H
#define KREACTOR_LEASE_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Leases `size` bytes (at least 1) at `data`, on behalf of `conn`, whose share they count against.
 * When they are a part of what this connection's on_data is being lent the buffer is kept, if the
 * shares allow it; bytes from anywhere else (also those that on_data is shown for a second time)
 * are copied, and then `data` is borrowed for the call. How many of the bytes on_data consumes is
 * another matter: it returns that as ever.
 *
 * *ret is owned by the caller, who gives it back with kr_lease_return, in any order and at any
 * time, also when the connection has long ended. A kept buffer is kept whole, however few of its
 * bytes are leased: lease long, copy short. kr_reactor_free ends all leases.
 *
 * Errors: -ENOMEM, also beyond 1,048,576 leases. */
KR_API int kr_lease_take(struct kr_reactor *r, kr_conn conn, const void *data, size_t size,
                         kr_lease *ret);

/* The leased bytes, good until kr_lease_return, and their count in *size (NULL is allowed). The
 * caller may write to them. NULL for a stale handle, with *size untouched. */
KR_API void *kr_lease_data(const struct kr_reactor *r, kr_lease lease, size_t *size);

/* Ends the lease; its bytes must not be touched any more. */
KR_API int kr_lease_return(struct kr_reactor *r, kr_lease lease);

#ifdef __cplusplus
}
#endif

#endif
