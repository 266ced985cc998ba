/* The store: names and their values, some of which expire.
 *
 * A record that has expired is gone for all who ask, and is removed by whoever meets it: a lookup,
 * or the sweep, which goes round those that can expire, a few at a time.
 *
 * The table is uthash, hashed by XXH3 with a seed that clients cannot know. Of the tables that
 * Debian packages, looking up one of 100,000 names of 16 bytes took the least with uthash and XXH3
 * (45 ns) and htslib's khash (40 ns); GLib took 50 ns, Concurrency Kit 80 ns, uthash with its own
 * hash 90 ns, Judy 140 ns. */
#ifndef RESP_STORE_H
#define RESP_STORE_H

#include "blob.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#define STORE_NEVER INT64_MAX

struct record {
    UT_hash_handle hh; /* holds the name and its size */
    struct blob *value;
    int64_t expires_ms;         /* good until then; STORE_NEVER */
    struct record *prev, *next; /* the circle of those that expire */
    char name[];
};

struct store {
    struct record *records;
    struct record *expiring; /* the next to be looked at by the sweep is first */
    uint64_t seed;
    uint64_t expiring_count;
    uint64_t expired; /* so many since the start */
};

/* A name to look for. `data` is borrowed as long as this is used. */
struct store_name {
    const char *data;
    unsigned size;
    unsigned hash;
};

void store_init(struct store *store, uint64_t seed);

/* `size` is at most 2^32 - 1. */
struct store_name store_name(const struct store *store, const char *data, size_t size);

/* The record of that name, or NULL. It stays the store's, and is good until something is removed.
 * Whoever wants another value in it puts a blob there and gives up the old one's reference. */
struct record *store_find(struct store *store, const struct store_name *name, int64_t now_ms);

/* Asks the processor for what store_find of these names will read. Changes nothing. */
void store_prefetch(const struct store *store, const struct store_name *names, unsigned count);

/* A record of a name that is not there. Consumes the caller's reference to `value`, also on
 * failure: NULL when memory is refused. */
struct record *store_add(struct store *store, const struct store_name *name, struct blob *value);

/* Changes when a record expires. */
void store_expire_at(struct store *store, struct record *record, int64_t expires_ms);

void store_remove(struct store *store, struct record *record);
void store_clear(struct store *store);
uint64_t store_count(const struct store *store);

/* Looks at the next `most` of those that can expire, and removes the ones that have; returns how
 * many. */
unsigned store_sweep(struct store *store, int64_t now_ms, unsigned most);

#endif
