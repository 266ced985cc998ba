/* Records in, pieces out, bytes consumed. One function releases a record: send_release. Failure: memory
 * is refused, and the queue is as before. */
#include "pool/sends.h"

#include "base/poison.h"

#include <errno.h>

/* A new copy record leaves this much room at least, so that small sends of one turn share a record. */
#define COPY_ROOM_MIN (512u - sizeof(struct kr__send))

static void sendq_append(struct kr__sends *sends, struct kr__sendq *q, struct kr__send *send) {
    send->next = NULL;
    if (q->tail)
        q->tail->next = send;
    else
        q->head = send;
    q->tail = send;
    kr__count(&sends->out, 1);
}

static void send_release(struct kr__sends *sends, struct kr__send *send) {
    if (send->lent) {
        kr__buf_unref(sends->bufs, send->buf);
        kr__uncount(&sends->bufs->held, 1);
    }
    kr__uncount(&sends->out, 1);
    kr__block_put(sends->blocks, send, send->room);
}

static struct kr__send *send_new_copy(struct kr__sends *sends, size_t size) {
    size_t room;
    struct kr__send *send = kr__block_get(sends->blocks, sizeof *send + kr__max_size(size, COPY_ROOM_MIN),
                                          &room);
    if (!send)
        return NULL;
    *send = (struct kr__send){
        .data = (const char *)(send + 1),
        .spare = (uint32_t)(room - sizeof *send),
        .room = (uint32_t)room,
    };
    kr__poison(send->data, send->spare);
    return send;
}

static char *send_end(struct kr__send *send) {
    return (char *)(uintptr_t)(send->data + send->size);
}

/* The first `size` bytes of a record's spare room are to be written. */
static char *send_open(struct kr__send *send, size_t size) {
    kr__unpoison(send_end(send), size);
    return send_end(send);
}

char *kr__sendq_room(struct kr__sends *sends, const struct kr__sendq *q, size_t size,
                     struct kr__send **fresh) {
    *fresh = NULL;
    if (q->tail && q->tail->spare >= size)
        return send_open(q->tail, size);
    *fresh = send_new_copy(sends, size);
    return *fresh ? send_open(*fresh, size) : NULL;
}

void kr__sendq_seal(const struct kr__sendq *q) {
    if (q->tail && q->tail->spare)
        kr__poison(send_end(q->tail), q->tail->spare);
}

void kr__send_discard(struct kr__sends *sends, struct kr__send *fresh) {
    if (fresh)
        kr__block_put(sends->blocks, fresh, fresh->room);
}

static void grow_tail(struct kr__sendq *q, size_t size) {
    kr__assert(q->tail && q->tail->spare >= size);
    q->tail->size += (uint32_t)size;
    q->tail->spare -= (uint32_t)size;
}

void kr__sendq_commit(struct kr__sends *sends, struct kr__sendq *q, struct kr__send *fresh, size_t size) {
    if (size && fresh)
        sendq_append(sends, q, fresh);
    if (size)
        grow_tail(q, size);
    else
        kr__send_discard(sends, fresh);
    kr__sendq_seal(q);
}

static void copy_in(struct kr__sendq *q, const char *data, size_t size) {
    memcpy(send_open(q->tail, size), data, size);
    grow_tail(q, size);
}

int kr__sendq_copy(struct kr__sends *sends, struct kr__sendq *q, const struct iovec *iov, int count,
                   size_t total) {
    struct kr__send *more = NULL;
    size_t spare = q->tail ? q->tail->spare : 0;
    if (spare < total && !(more = send_new_copy(sends, total - spare)))
        return -ENOMEM;
    for (int i = 0; i < count; i++) {
        const char *data = iov[i].iov_base;
        size_t left = iov[i].iov_len;
        size_t fits = q->tail ? kr__min_size(q->tail->spare, left) : 0;
        if (fits) {
            copy_in(q, data, fits);
            left -= fits;
        }
        if (left) { /* once: `more` has room for all that follows */
            kr__assert(more);
            sendq_append(sends, q, more);
            copy_in(q, data + fits, left);
        }
    }
    return 0;
}

int kr__sendq_lend(struct kr__sends *sends, struct kr__sendq *q, const char *data, size_t size,
                   uint16_t buf) {
    size_t room;
    struct kr__send *send = kr__block_get(sends->blocks, sizeof *send, &room);
    if (!send)
        return -ENOMEM;
    *send = (struct kr__send){
        .data = data, .size = (uint32_t)size, .room = (uint32_t)room, .buf = buf, .lent = true};
    kr__buf_ref(sends->bufs, buf);
    kr__count(&sends->bufs->held, 1);
    sendq_append(sends, q, send);
    return 0;
}

int kr__sendq_pieces(const struct kr__sendq *q, struct iovec *iov, int max) {
    int count = 0;
    for (const struct kr__send *send = q->head; send && count < max; send = send->next) {
        kr__assert(send->size);
        iov[count++] = (struct iovec){(void *)(uintptr_t)send->data, send->size};
    }
    return count;
}

unsigned kr__sendq_consume(struct kr__sends *sends, struct kr__sendq *q, size_t size) {
    unsigned lent = 0;
    while (q->head) {
        struct kr__send *send = q->head;
        size_t part = kr__min_size(send->size, size);
        send->data += part;
        send->size -= (uint32_t)part;
        size -= part;
        if (send->size)
            break;
        q->head = send->next;
        if (!q->head)
            q->tail = NULL;
        lent += send->lent;
        send_release(sends, send);
    }
    kr__assert(size == 0);
    return lent;
}

void kr__sendq_drop(struct kr__sends *sends, struct kr__sendq *q) {
    while (q->head) {
        struct kr__send *send = q->head;
        q->head = send->next;
        send_release(sends, send);
    }
    q->tail = NULL;
}
