/* Leases.
 *
 * Happy path: take adds a reference to the buffer that on_data is being lent, return drops it.
 * Failure modes: the connection, or all of them, keep too many buffers (the bytes are copied);
 * memory is refused (-ENOMEM, nothing has changed). */
#include "extra/lease.h"

#include "conn/reactor.h"

#include <string.h>

static struct kr__lease *lease_find(const struct kr_reactor *r, kr_lease lease) {
    if (!kr__handle_is(lease.bits, KR__KIND_LEASE, r->number))
        return NULL;
    return kr__slab_find(&r->leases->slab, kr__handle_slot(lease.bits),
                         kr__handle_generation(lease.bits));
}

static void lease_hold(struct kr_reactor *r, struct kr__lease *l, struct kr__conn *c,
                       const void *data) {
    l->data = (char *)(uintptr_t)data;
    l->buf = r->lent.buf;
    kr__buf_ref(&r->bufs, l->buf);
    kr__count(&r->bufs.held, 1);
    c->held++;
}

static int lease_copy(struct kr_reactor *r, struct kr__lease *l, const void *data) {
    char *block = kr__block_get(&r->blocks, l->size, &l->room);
    if (!block)
        return -ENOMEM;
    l->data = memcpy(block, data, l->size);
    kr__count(&r->stats.bytes_leased, l->size);
    kr__mark(lease_copied);
    return 0;
}

int kr_lease_take(struct kr_reactor *r, kr_conn conn, const void *data, size_t size,
                  kr_lease *ret) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!data || !size || !ret)
        return -EINVAL;
    struct kr__lease *l = kr__slab_get(&r->leases->slab);
    if (!l)
        return -ENOMEM;
    *l = (struct kr__lease){.head = l->head, .size = size, .conn = conn};
    if (kr__lent_has(r, c, data, size) && kr__may_hold(r, c))
        lease_hold(r, l, c, data);
    else
        rc = lease_copy(r, l, data);
    if (rc < 0) {
        kr__slab_put(&r->leases->slab, l);
        return rc;
    }
    kr__count(&r->stats.leases, 1);
    *ret =
        (kr_lease){kr__handle_pack(KR__KIND_LEASE, r->number, l->head.index, l->head.generation)};
    return 0;
}

void *kr_lease_data(const struct kr_reactor *r, kr_lease lease, size_t *size) {
    const struct kr__lease *l = kr__guard(r) < 0 ? NULL : lease_find(r, lease);
    if (!l)
        return NULL;
    if (size)
        *size = l->size;
    return l->data;
}

static void lease_end(struct kr_reactor *r, struct kr__lease *l) {
    struct kr__conn *c = kr__conn_find(r, l->conn);
    if (l->room) {
        kr__block_put(&r->blocks, l->data, l->room);
    } else {
        kr__buf_unref(&r->bufs, l->buf);
        kr__uncount(&r->bufs.held, 1);
        if (c)
            c->held--;
    }
    kr__slab_put(&r->leases->slab, l);
    kr__uncount(&r->stats.leases, 1);
}

int kr_lease_return(struct kr_reactor *r, kr_lease lease) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    struct kr__lease *l = lease_find(r, lease);
    if (!l)
        return -ESTALE;
    lease_end(r, l);
    return 0;
}

void kr__leases_free(struct kr__leases *leases, struct kr_reactor *r) {
    uint32_t all = leases->slab.chunk_count * KR__SLAB_CHUNK;
    for (uint32_t i = 0; i < all; i++) {
        struct kr__slab_head *head = kr__slab_at(&leases->slab, i);
        if (head->used)
            lease_end(r, (struct kr__lease *)head);
    }
    kr__slab_free(&leases->slab);
}
