/* Records in, pieces out, bytes consumed. One function releases a record: kr__send_release.
 * Failure: memory is refused, and the queue is as before. No callback runs but in kr__sends_tell:
 * bytes are consumed deep inside a completion, where the user must not find the connection half
 * changed. */
#include "pool/files.h"

#include "base/mark.h"
#include "base/poison.h"

#include <errno.h>
#include <string.h>

/* A new copy record leaves this much room at least, so that small sends of one turn share a
 * record. */
#define COPY_ROOM_MIN (512u - sizeof(struct kr__send))

static void sendq_link(struct kr__sendq *q, struct kr__send *send) {
    send->next = NULL;
    if (q->tail)
        q->tail->next = send;
    else
        q->head = send;
    q->tail = send;
}

void kr__sendq_append(struct kr__sends *sends, struct kr__sendq *q, struct kr__send *send) {
    sendq_link(q, send);
    kr__count(&sends->out, 1);
}

/* NULL: the queue is empty. */
static struct kr__send *sendq_pop(struct kr__sendq *q) {
    struct kr__send *send = q->head;
    if (!send)
        return NULL;
    q->head = send->next;
    if (!q->head)
        q->tail = NULL;
    return send;
}

static struct kr__send_file *send_file(struct kr__send *send) {
    kr__assert(send->kind == KR__SEND_FILE);
    return kr__container_of(send, struct kr__send_file, send);
}

static void send_free(struct kr__sends *sends, struct kr__send *send) {
    kr__uncount(&sends->out, 1);
    kr__block_put(sends->blocks, send, send->room);
}

static void ref_release(struct kr__sends *sends, struct kr__send *send) {
    if (kr__send_as_ref(send)->release)
        sendq_link(&sends->due, send);
    else
        send_free(sends, send);
}

static void file_release(struct kr__sends *sends, struct kr__send *send) {
    send_file(send)->files->count--;
    if (send_file(send)->done)
        sendq_link(&sends->due, send);
    else
        send_free(sends, send);
}

void kr__send_release(struct kr__sends *sends, struct kr__send *send) {
    switch ((enum kr__send_kind)send->kind) {
    case KR__SEND_LENT:
        kr__buf_unref(sends->bufs, send->buf);
        kr__uncount(&sends->bufs->held, 1);
        break;
    case KR__SEND_REF:
        ref_release(sends, send);
        return;
    case KR__SEND_FILE:
        file_release(sends, send);
        return;
    case KR__SEND_CHUNK: /* its memory stays with the connection's files */
        send->size = 0;
        kr__uncount(&sends->out, 1);
        return;
    case KR__SEND_FDS:
        kr__send_disarm(sends, send);
        break;
    case KR__SEND_COPY:
        break;
    }
    send_free(sends, send);
}

static struct kr__send *send_new_copy(struct kr__sends *sends, size_t size) {
    size_t room;
    struct kr__send *send =
        kr__block_get(sends->blocks, sizeof *send + kr__max_size(size, COPY_ROOM_MIN), &room);
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

void kr__sendq_commit(struct kr__sends *sends, struct kr__sendq *q, struct kr__send *fresh,
                      size_t size) {
    if (size && fresh)
        kr__sendq_append(sends, q, fresh);
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
        kr__mark_if(copy_in_two_records, fits && left);
        if (left) { /* once: `more` has room for all that follows */
            kr__assert(more);
            kr__sendq_append(sends, q, more);
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
    *send = (struct kr__send){.data = data,
                              .size = (uint32_t)size,
                              .room = (uint32_t)room,
                              .buf = buf,
                              .kind = KR__SEND_LENT};
    kr__buf_ref(sends->bufs, buf);
    kr__count(&sends->bufs->held, 1);
    kr__sendq_append(sends, q, send);
    return 0;
}

int kr__sendq_ref(struct kr__sends *sends, struct kr__sendq *q, const void *data, size_t size,
                  kr_release_fn *release, void *arg) {
    size_t room;
    struct kr__send_ref *ref = kr__block_get(sends->blocks, sizeof *ref, &room);
    if (!ref)
        return -ENOMEM;
    *ref = (struct kr__send_ref){
        .send = {.data = data,
                 .size = (uint32_t)size,
                 .room = (uint32_t)room,
                 .kind = KR__SEND_REF},
        .release = release,
        .arg = arg,
    };
    kr__count(&sends->out, 1);
    if (size)
        sendq_link(q, &ref->send);
    else
        kr__send_release(sends, &ref->send);
    return 0;
}

void kr__sendq_add_file(struct kr__sends *sends, struct kr__sendq *q, struct kr__send_file *file) {
    kr__count(&sends->out, 1);
    if (file->left)
        sendq_link(q, &file->send);
    else
        kr__send_release(sends, &file->send);
}

void kr__sendq_add_chunk(struct kr__sends *sends, struct kr__sendq *q, struct kr__chunk *chunk) {
    struct kr__send **at = &q->head;
    while (*at != &chunk->file->send)
        at = &(*at)->next;
    chunk->send.next = *at;
    *at = &chunk->send;
    kr__count(&sends->out, 1);
}

/* A file that has all been read has its chunks in front of it, and nothing more to say. */
static const struct kr__send *piece_from(const struct kr__send *send) {
    while (send && !send->size && !kr__send_bars(send))
        send = send->next;
    return send && send->size ? send : NULL;
}

/* What the same request can send behind it. */
static const struct kr__send *send_joined(const struct kr__send *send) {
    const struct kr__send *next = piece_from(send->next);
    return next && next->kind != KR__SEND_FDS ? next : NULL;
}

/* Of records in a row, as a flight carries them. */
static unsigned large_run(const struct kr__send *send, size_t min, unsigned max) {
    unsigned count = 0;
    for (; send && count < max && kr__send_is_large(send, min); send = send->next)
        count++;
    return count;
}

unsigned kr__sendq_run(const struct kr__sendq *q, size_t min, unsigned max) {
    const struct kr__send *send = piece_from(q->head);
    unsigned count = send ? large_run(q->head, min, max) : 0;
    if (count)
        return count;
    for (; send && count < max && !kr__send_is_large(send, min); send = send_joined(send))
        count++;
    return count;
}

void kr__sendq_unlink(struct kr__sendq *q, struct kr__send *before, struct kr__send *send) {
    if (before)
        before->next = send->next;
    else
        q->head = send->next;
    if (q->tail == send)
        q->tail = before;
}

int kr__sendq_pieces(const struct kr__sendq *q, struct iovec *iov, int max) {
    int count = 0;
    for (const struct kr__send *send = piece_from(q->head); send && count < max;
         send = send_joined(send))
        iov[count++] = (struct iovec){(void *)(uintptr_t)send->data, send->size};
    return count;
}

void kr__sendq_measure(const struct kr__sendq *q, unsigned *pieces, unsigned *fd_batches) {
    *pieces = *fd_batches = 0;
    for (const struct kr__send *send = q->head; send; send = send->next) {
        (*pieces)++;
        *fd_batches += send->kind == KR__SEND_FDS;
    }
}

void kr__sendq_list(const struct kr__sendq *q, struct iovec *pieces,
                    struct kr_detached_fds *fd_batches) {
    size_t at = 0;
    for (struct kr__send *send = q->head; send; send = send->next) {
        *pieces++ = (struct iovec){(void *)(uintptr_t)send->data, send->size};
        bool gives = send->kind == KR__SEND_FDS;
        if (gives)
            *fd_batches++ = kr__send_gift(send, at);
        at += send->size;
    }
}

uint32_t kr__file_recount(struct kr__send_file *file) {
    uint64_t most = KR__FILE_COUNTS, rest = file->left;
    rest += rest < most ? file->ahead : 0;
    uint32_t before = file->counted;
    file->counted = (uint32_t)(rest < most ? rest : most);
    return before - file->counted;
}

static uint32_t chunk_sent(struct kr__send *send, size_t part) {
    struct kr__send_file *file = kr__container_of(send, struct kr__chunk, send)->file;
    file->sent += part;
    file->ahead -= (uint32_t)part;
    return kr__file_recount(file);
}

/* All its bytes are taken; the kernel may still refer to them. */
static void send_sent(struct kr__sends *sends, struct kr__send *send) {
    if (send->kind == KR__SEND_REF && kr__send_as_ref(send)->pins)
        sendq_link(kr__send_as_ref(send)->pinned, send);
    else
        kr__send_release(sends, send);
}

struct kr__sent kr__sendq_consume(struct kr__sends *sends, struct kr__sendq *q, size_t size) {
    struct kr__sent sent = {.uncounted = (uint32_t)size};
    while (q->head && !kr__send_bars(q->head)) {
        struct kr__send *send = q->head;
        size_t part = kr__min_size(send->size, size);
        send->data += part;
        send->size -= (uint32_t)part;
        size -= part;
        if (kr__unlikely(send->kind == KR__SEND_CHUNK))
            sent.uncounted -= (uint32_t)part - chunk_sent(send, part);
        kr__mark_if(sent_in_part, send->size && part);
        kr__mark_if(fds_sent_in_part, send->size && part && send->kind == KR__SEND_FDS);
        if (part && kr__unlikely(send->kind == KR__SEND_FDS))
            kr__send_disarm(sends, send);
        if (send->size)
            break;
        sent.lent += send->kind == KR__SEND_LENT;
        send_sent(sends, sendq_pop(q));
    }
    kr__assert(size == 0);
    return sent;
}

void kr__sendq_drop(struct kr__sends *sends, struct kr__sendq *q) {
    struct kr__send *send;
    while ((send = sendq_pop(q)))
        kr__send_release(sends, send);
}

uint32_t kr__sendq_give_up(struct kr__sends *sends, struct kr__sendq *q) {
    uint32_t lent = 0;
    struct kr__send *send;
    while ((send = sendq_pop(q))) {
        lent += send->kind == KR__SEND_LENT;
        send_sent(sends, send);
    }
    return lent;
}

void kr__sendq_unborrow(struct kr__sends *sends, struct kr__sendq *q) {
    struct kr__sendq stay = {NULL, NULL};
    struct kr__send *send;
    while ((send = sendq_pop(q))) {
        if (send->kind == KR__SEND_REF || send->kind == KR__SEND_FDS || send->kind == KR__SEND_FILE)
            kr__send_release(sends, send);
        else
            sendq_link(&stay, send);
    }
    *q = stay;
}

static void tell_ref(struct kr__sends *sends, struct kr_reactor *r, struct kr__send *send) {
    struct kr__send_ref ref = *kr__send_as_ref(send);
    send_free(sends, send);
    ref.release(r, ref.arg);
}

/* What was not sent when the connection ended never will be. */
static void tell_file(struct kr__sends *sends, struct kr_reactor *r, struct kr__send *send) {
    struct kr__send_file file = *send_file(send);
    bool whole = !file.left && !file.ahead;
    send_free(sends, send);
    file.done(r, file.arg, file.sent, file.error ? file.error : whole ? 0 : -ECANCELED);
}

/* A user may lend again when told, also bytes of size 0, which are due at once: so only those that
 * are due now. */
unsigned kr__sends_tell(struct kr__sends *sends, struct kr_reactor *r) {
    struct kr__sendq due = sends->due;
    sends->due = (struct kr__sendq){NULL, NULL};
    struct kr__send *send;
    unsigned told = 0;
    while ((send = sendq_pop(&due))) {
        if (send->kind == KR__SEND_REF)
            tell_ref(sends, r, send);
        else
            tell_file(sends, r, send);
        told++;
    }
    return told;
}

void kr__sends_forget(struct kr__sends *sends) {
    struct kr__send *send;
    while ((send = sendq_pop(&sends->due)))
        send_free(sends, send);
}
