/* Files, chunk by chunk. Happy path: begin takes a free chunk, came puts it into the queue,
 * consuming it there (sends.c) makes it free again. Failure: memory is refused when a file is
 * added, and nothing has changed; when it is refused for larger or more chunks, those that are
 * there go on. */
#include "pool/files.h"

#include "base/mark.h"

#include <errno.h>

uint32_t kr__file_counts(uint64_t size) {
    return size < KR__FILE_COUNTS ? (uint32_t)size : KR__FILE_COUNTS;
}

struct kr__files *kr__files_new(struct kr__blocks *blocks) {
    size_t room;
    struct kr__files *files = kr__block_get(blocks, sizeof *files, &room);
    if (files)
        *files = (struct kr__files){.count = 0};
    return files;
}

void kr__files_free(struct kr__blocks *blocks, struct kr__files *files) {
    kr__assert(!files->count);
    for (unsigned i = 0; i < KR__CHUNKS; i++) {
        if (files->chunks[i].block)
            kr__block_put(blocks, files->chunks[i].block, files->chunks[i].send.room);
    }
    kr__block_put(blocks, files, kr__block_room(sizeof *files));
}

static bool is_free(const struct kr__files *files, const struct kr__chunk *chunk) {
    return !chunk->send.size && files->reading != chunk;
}

/* How large a chunk is of use to read so many bytes. */
static size_t room_for(uint64_t expected) {
    return expected < KR__CHUNK_LEAST  ? KR__CHUNK_LEAST
           : expected < KR__CHUNK_SIZE ? (size_t)expected
                                       : KR__CHUNK_SIZE;
}

/* False when memory is refused; then it is as it was. */
static bool chunk_fit(struct kr__chunk *chunk, struct kr__blocks *blocks, uint64_t expected) {
    size_t need = room_for(expected), room;
    if (chunk->send.room >= need)
        return true;
    char *block = kr__block_get(blocks, need, &room);
    kr__mark_if(chunk_refused, !block);
    if (!block)
        return false;
    if (chunk->block)
        kr__block_put(blocks, chunk->block, chunk->send.room);
    *chunk = (struct kr__chunk){
        .send = {.data = "", .room = (uint32_t)room, .kind = KR__SEND_CHUNK},
        .block = block,
    };
    return true;
}

static bool has_memory(const struct kr__files *files) {
    return files->chunks[0].block || files->chunks[1].block;
}

static void read_later(struct kr__files *files, struct kr__send_file *file) {
    if (files->first)
        files->last->next = file;
    else
        files->first = file;
    files->last = file;
}

int kr__files_add(struct kr__files *files, struct kr__sends *sends, struct kr__sendq *q,
                  const struct kr__file_plan *plan) {
    if (!has_memory(files) && !chunk_fit(&files->chunks[0], sends->blocks, plan->expected))
        return -ENOMEM;
    size_t room;
    struct kr__send_file *file = kr__block_get(sends->blocks, sizeof *file, &room);
    if (!file)
        return -ENOMEM;
    *file = (struct kr__send_file){
        .send = {.data = "", .room = (uint32_t)room, .kind = KR__SEND_FILE},
        .done = plan->done,
        .arg = plan->arg,
        .files = files,
        .offset = plan->offset,
        .left = plan->size,
        .expected = plan->expected,
        .counted = kr__file_counts(plan->size),
        .fd = plan->fd,
    };
    files->count++;
    if (file->left)
        read_later(files, file);
    kr__sendq_add_file(sends, q, file);
    return 0;
}

static struct kr__chunk *free_chunk(const struct kr__files *files) {
    for (unsigned i = 0; i < KR__CHUNKS; i++) {
        const struct kr__chunk *chunk = &files->chunks[i];
        if (chunk->block && is_free(files, chunk))
            return (struct kr__chunk *)(uintptr_t)chunk;
    }
    return NULL;
}

bool kr__files_want(const struct kr__files *files) {
    return files->reading || (files->first && free_chunk(files));
}

/* The other chunk is for what this one leaves; without it they take turns more slowly. */
struct iovec kr__files_begin(struct kr__files *files, struct kr__blocks *blocks) {
    struct kr__send_file *file = files->first;
    struct kr__chunk *chunk = free_chunk(files);
    kr__assert(file && chunk && !files->reading);
    chunk_fit(chunk, blocks, file->expected);
    files->reading = chunk;
    chunk->file = file;
    struct kr__chunk *other = &files->chunks[chunk == &files->chunks[0]];
    if (file->expected > chunk->send.room && is_free(files, other))
        chunk_fit(other, blocks, file->expected - chunk->send.room);
    return kr__files_target(files);
}

struct iovec kr__files_target(const struct kr__files *files) {
    const struct kr__chunk *chunk = files->reading;
    uint64_t left = chunk->file->left;
    size_t size = left < chunk->send.room ? (size_t)left : chunk->send.room;
    return (struct iovec){chunk->block, size};
}

static void has_been_read(struct kr__files *files, struct kr__send_file *file) {
    kr__assert(files->first == file && !file->left);
    files->first = file->next;
}

void kr__files_came(struct kr__files *files, struct kr__sends *sends, struct kr__sendq *q,
                    size_t size) {
    struct kr__chunk *chunk = files->reading;
    struct kr__send_file *file = chunk->file;
    kr__assert(size && size <= chunk->send.room && size <= file->left);
    files->reading = NULL;
    files->waits = false;
    chunk->send.data = chunk->block;
    chunk->send.size = (uint32_t)size;
    file->offset += size;
    file->left -= file->left == KR_FILE_END ? 0 : size;
    file->expected -= size < file->expected ? size : file->expected;
    if (file->left == KR_FILE_END && size < chunk->send.room)
        file->expected = 0; /* most likely that was the last of it, and is not to wait for more */
    file->ahead += (uint32_t)size;
    kr__sendq_add_chunk(sends, q, chunk);
    if (!file->left)
        has_been_read(files, file);
}

uint32_t kr__files_met_end(struct kr__files *files, struct kr__sends *sends, struct kr__sendq *q) {
    struct kr__send_file *file = files->first;
    kr__assert(files->reading && file->left == KR_FILE_END);
    files->reading = NULL;
    file->left = 0;
    has_been_read(files, file);
    uint32_t fewer = kr__file_recount(file);
    struct kr__sent none = kr__sendq_consume(sends, q, 0);
    kr__assert(!none.uncounted);
    (void)none;
    return fewer;
}
