/* Failure: memory is refused, to a record or to the table as it grows; the name is then not
 * there. */
#define HASH_NONFATAL_OOM 1
#include "store.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

void store_init(struct store *store, uint64_t seed) {
    *store = (struct store){.seed = seed};
}

struct store_name store_name(const struct store *store, const char *data, size_t size) {
    return (struct store_name){
        .data = data,
        .size = (unsigned)size,
        .hash = (unsigned)XXH3_64bits_withSeed(data, size, store->seed),
    };
}

struct record *store_find(struct store *store, const struct store_name *name, int64_t now_ms) {
    struct record *record;
    HASH_FIND_BYHASHVALUE(hh, store->records, name->data, name->size, name->hash, record);
    if (!record || record->expires_ms >= now_ms)
        return record;
    store->expired++;
    store_remove(store, record);
    return NULL;
}

static const struct UT_hash_bucket *bucket_of(const struct store *store,
                                              const struct store_name *name) {
    const UT_hash_table *table = store->records->hh.tbl;
    return &table->buckets[name->hash & (table->num_buckets - 1)];
}

static const struct record *record_of(const struct UT_hash_handle *hh) {
    return (const struct record *)hh; /* of which it is the first field */
}

/* What a lookup reads of a record lies on two lines of the cache. */
static void prefetch(const struct UT_hash_handle *hh) {
    __builtin_prefetch(&hh->hh_next);
    __builtin_prefetch(record_of(hh)->name);
}

/* All names take one step at a time, so that a step's memory is on its way for all of them at
 * once. */
void store_prefetch(const struct store *store, const struct store_name *names, unsigned count) {
    if (!store->records)
        return;
    for (unsigned i = 0; i < count; i++)
        __builtin_prefetch(bucket_of(store, &names[i]));
    for (unsigned i = 0; i < count; i++) {
        const struct UT_hash_handle *first = bucket_of(store, &names[i])->hh_head;
        if (first)
            prefetch(first);
    }
    for (unsigned i = 0; i < count; i++) {
        const struct UT_hash_handle *hh = bucket_of(store, &names[i])->hh_head;
        while (hh && hh->hashv != names[i].hash)
            hh = hh->hh_next;
        if (!hh)
            continue;
        prefetch(hh);
        __builtin_prefetch(record_of(hh)->value);
    }
}

struct record *store_add(struct store *store, const struct store_name *name, struct blob *value) {
    struct record *record = malloc(sizeof *record + name->size);
    if (!record) {
        blob_unref(value);
        return NULL;
    }
    *record = (struct record){.value = value, .expires_ms = STORE_NEVER};
    memcpy(record->name, name->data, name->size);
    HASH_ADD_KEYPTR_BYHASHVALUE(hh, store->records, record->name, name->size, name->hash, record);
    if (record->hh.tbl)
        return record;
    blob_unref(value);
    free(record);
    return NULL;
}

void store_expire_at(struct store *store, struct record *record, int64_t expires_ms) {
    bool was = record->expires_ms != STORE_NEVER, is = expires_ms != STORE_NEVER;
    record->expires_ms = expires_ms;
    if (is && !was) {
        CDL_APPEND(store->expiring, record);
        store->expiring_count++;
    } else if (was && !is) {
        CDL_DELETE(store->expiring, record);
        store->expiring_count--;
    }
}

void store_remove(struct store *store, struct record *record) {
    store_expire_at(store, record, STORE_NEVER);
    HASH_DEL(store->records, record);
    blob_unref(record->value);
    free(record);
}

void store_clear(struct store *store) {
    struct record *record = store->records;
    HASH_CLEAR(hh, store->records); /* the table; the records are still a list */
    while (record) {
        struct record *next = record->hh.next;
        blob_unref(record->value);
        free(record);
        record = next;
    }
    store->expiring = NULL;
    store->expiring_count = 0;
}

uint64_t store_count(const struct store *store) {
    return HASH_COUNT(store->records);
}

unsigned store_sweep(struct store *store, int64_t now_ms, unsigned most) {
    unsigned removed = 0;
    for (; most && store->expiring; most--) {
        struct record *record = store->expiring;
        if (record->expires_ms >= now_ms) {
            store->expiring = record->next;
            continue;
        }
        store_remove(store, record);
        removed++;
    }
    store->expired += removed;
    return removed;
}
