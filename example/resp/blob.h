/* Blobs: bytes in memory of their own, with a count of those who use them.
 *
 * A value of the store is a blob, so that it can be sent without a copy: the reply takes a
 * reference, lends the bytes to the library, and gives the reference back when they are sent.
 * Meanwhile the store may have another value, or none. So a blob is changed only by one who has the
 * only reference. */
#ifndef RESP_BLOB_H
#define RESP_BLOB_H

#include <stddef.h>
#include <stdint.h>

struct blob {
    uint32_t refs;
    uint32_t size; /* bytes there are */
    uint32_t room; /* bytes there is memory for */
    char data[];
};

/* An empty blob with memory for `room` bytes, and one reference; NULL when memory is refused. */
struct blob *blob_new(size_t room);

/* One that holds a copy of the bytes. NULL as above. */
struct blob *blob_copy(const char *data, size_t size);

static inline struct blob *blob_ref(struct blob *blob) {
    blob->refs++;
    return blob;
}

/* NULL is allowed. */
void blob_unref(struct blob *blob);

/* Memory for `room` bytes, more or less than there was, but no less than there are bytes. Consumes
 * the caller's reference, which must be the only one, and returns the blob in its new place; NULL
 * when memory is refused, and then nothing has changed. */
struct blob *blob_resize(struct blob *blob, size_t room);

/* A blob that holds a copy of the bytes: `old`, if nobody else uses it and its memory fits them
 * well, or else a new one, and then the reference to `old` is given back. NULL when memory is
 * refused, and then nothing has changed. `old` may be NULL. `data` does not lie in `old`. */
struct blob *blob_renew(struct blob *old, const char *data, size_t size);

#endif
