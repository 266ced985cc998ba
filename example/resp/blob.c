/* Failure: memory is refused; the caller gets NULL and keeps what it had. */
#include "blob.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct blob *blob_new(size_t room) {
    struct blob *blob = room <= UINT32_MAX ? malloc(sizeof *blob + room) : NULL;
    if (blob)
        *blob = (struct blob){.refs = 1, .room = (uint32_t)room};
    return blob;
}

struct blob *blob_copy(const char *data, size_t size) {
    struct blob *blob = blob_new(size);
    if (!blob)
        return NULL;
    memcpy(blob->data, data, size);
    blob->size = (uint32_t)size;
    return blob;
}

void blob_unref(struct blob *blob) {
    if (blob && --blob->refs == 0)
        free(blob);
}

struct blob *blob_resize(struct blob *blob, size_t room) {
    assert(blob->refs == 1 && room >= blob->size);
    struct blob *moved = room <= UINT32_MAX ? realloc(blob, sizeof *blob + room) : NULL;
    if (moved)
        moved->room = (uint32_t)room;
    return moved;
}

/* Not so large that the rest of it would be a waste. */
static bool fits_well(const struct blob *blob, size_t size) {
    return size <= blob->room && blob->room <= 2 * size + 64;
}

struct blob *blob_renew(struct blob *old, const char *data, size_t size) {
    if (!old || old->refs > 1 || !fits_well(old, size)) {
        struct blob *fresh = blob_copy(data, size);
        if (fresh)
            blob_unref(old);
        return fresh;
    }
    memcpy(old->data, data, size);
    old->size = (uint32_t)size;
    return old;
}
