/* The config: defaults, what may not be, and the sizes of tables that the descriptor limit leaves
 * room for.
 *
 * Failure modes: a field that is wrong by itself, or fields that contradict each other once the
 * defaults stand in; each is named in words. Nothing has been tried yet then. */
#include "roof/config.h"

#include "base/sized.h"
#include "base/util.h"

#include <stdlib.h>

#define CONN_MAX_DEFAULT 16384u
#define CONNECT_MAX_DEFAULT 1024u
#define FILE_MAX_DEFAULT 64u
#define TABLE_MAX (1u << 20) /* of a registered file table, io_uring/rsrc.c */
#define SPARE_SHARE 16u      /* one in so many descriptors is left for the rest of the process */
#define SPARE_MAX 1024u

static void *libc_alloc(void *ctx, size_t size) {
    (void)ctx;
    return malloc(size);
}

static void libc_free(void *ctx, void *memory, size_t size) {
    (void)ctx;
    (void)size;
    free(memory);
}

static const struct kr_alloc libc_allocator = {.alloc = libc_alloc, .free = libc_free};

void kr_config_init_sized(struct kr_config *config, size_t size) {
    const struct kr_config defaults = {
        .size = sizeof defaults,
        .taskrun = KR_TASKRUN_COOP,
        .sq_entries = 512,
        .cq_entries = 4096,
        .listener_max = FILE_MAX_DEFAULT,
        .buf_count = 1024,
        .buf_size = 65536,
        .post_max = 1024,
        .turn_cqes = 1024,
        .turn_posts = 256,
        .turn_bytes = 65536,
    };
    kr__sized_give(config, size, &defaults, sizeof defaults);
}

static void or_default(unsigned *field, unsigned value) {
    if (*field == 0)
        *field = value;
}

/* How many connections the descriptor limit lets the table have beside the library's own files. */
static unsigned table_room(uint64_t limit, unsigned listener_max) {
    limit = limit < TABLE_MAX ? limit : TABLE_MAX;
    return limit > listener_max ? (unsigned)limit - listener_max : 1;
}

/* A quarter of the room, unless the other kind, where it was asked for, leaves less. */
static unsigned connect_max_default(unsigned room, unsigned conn_max) {
    unsigned left = room > conn_max ? room - conn_max : 0;
    unsigned quarter = room / 4 < left ? room / 4 : left;
    return quarter < CONNECT_MAX_DEFAULT ? quarter : CONNECT_MAX_DEFAULT;
}

/* Where each connection is a descriptor (kernel/plain.h) the rest of the process needs some, too.
 * They are left on all kernels, so that a daemon has the same limits everywhere. */
static unsigned spare_of(uint64_t limit, unsigned left) {
    uint64_t spare = limit / SPARE_SHARE < SPARE_MAX ? limit / SPARE_SHARE : SPARE_MAX;
    return spare < left / 2 ? (unsigned)spare : left / 2;
}

static unsigned conn_max_default(uint64_t limit, unsigned room, unsigned connect_max) {
    unsigned left = room > connect_max ? room - connect_max : 1;
    left -= spare_of(limit, left);
    return left < CONN_MAX_DEFAULT ? left : CONN_MAX_DEFAULT;
}

static void resolve(struct kr_config *c, const struct kr__kernel *k) {
    struct kr_config defaults;
    kr_config_init(&defaults);
    or_default(&c->sq_entries, defaults.sq_entries);
    or_default(&c->cq_entries, defaults.cq_entries);
    or_default(&c->listener_max, defaults.listener_max);
    uint64_t limit = k->process.limit_nofile(k);
    unsigned room = table_room(limit, c->listener_max);
    or_default(&c->connect_max, connect_max_default(room, c->conn_max));
    or_default(&c->conn_max, conn_max_default(limit, room, c->connect_max));
    or_default(&c->buf_count, defaults.buf_count);
    c->buf_size = c->buf_size ? c->buf_size : defaults.buf_size;
    or_default(&c->post_max, defaults.post_max);
    or_default(&c->turn_cqes, defaults.turn_cqes);
    or_default(&c->turn_posts, defaults.turn_posts);
    or_default(&c->turn_bytes, defaults.turn_bytes);
    c->alloc = c->alloc ? c->alloc : &libc_allocator;
}

/* NULL, or which field is wrong. Before resolving: 0 is the default. */
static const char *fault_of(const struct kr_config *c) {
    if (c->taskrun != KR_TASKRUN_COOP && c->taskrun != KR_TASKRUN_DEFER)
        return "taskrun is neither KR_TASKRUN_COOP nor KR_TASKRUN_DEFER";
    if ((unsigned)c->table > KR_TABLE_PLAIN)
        return "table is none of KR_TABLE_AUTO, KR_TABLE_REGISTERED and KR_TABLE_PLAIN";
    if (c->sq_entries > 32768)
        return "sq_entries is above 32768";
    if (c->cq_entries > 65536)
        return "cq_entries is above 65536";
    if (c->listener_max > 65536)
        return "listener_max is above 65536";
    if (c->buf_count > 32768 || (c->buf_count & (c->buf_count - 1)))
        return "buf_count is not a power of two up to 32768";
    if (c->buf_size > (size_t)1 << 20)
        return "buf_size is above 1 MiB";
    if (c->post_max > 65536)
        return "post_max is above 65536";
    if (c->turn_cqes > INT32_MAX || c->turn_posts > INT32_MAX || c->turn_bytes > INT32_MAX)
        return "turn_cqes, turn_posts or turn_bytes is above 2^31 - 1";
    if (c->alloc && (!c->alloc->alloc || !c->alloc->free))
        return "alloc lacks a function";
    return NULL;
}

/* After resolving. */
static const char *conflict_of(const struct kr_config *c) {
    if (kr__power_of_two(c->cq_entries) < kr__power_of_two(c->sq_entries))
        return "cq_entries is below sq_entries";
    if ((uint64_t)c->conn_max + c->connect_max + c->listener_max > TABLE_MAX)
        return "conn_max, connect_max and listener_max are together above 1048576";
    return NULL;
}

const char *kr__config_settle(struct kr_config *ret, const struct kr_config *given,
                              const struct kr__kernel *k) {
    kr_config_init(ret);
    if (given && !kr__sized_take(ret, sizeof *ret, given))
        return KR__SIZED_FAULT("kr_config");
    const char *fault = fault_of(ret);
    if (fault)
        return fault;
    resolve(ret, k);
    return conflict_of(ret);
}
