/* The store of example/resp against the plainest model: an array of names. */
#include "harness/tap.h"

#include "resp/store.h"

#include <stdio.h>
#include <string.h>

#define NAMES 200u

struct model {
    struct store store;
    int64_t now_ms;
    bool there[NAMES];
    uint64_t value[NAMES];
    int64_t expires_ms[NAMES];
};

static struct store_name name_of(const struct model *m, unsigned index, char text[32]) {
    return store_name(&m->store, text, (size_t)sprintf(text, "name %u", index));
}

static bool is_there(const struct model *m, unsigned index) {
    return m->there[index] && m->expires_ms[index] >= m->now_ms;
}

static struct record *find(struct model *m, unsigned index) {
    char text[32];
    struct store_name name = name_of(m, index, text);
    store_prefetch(&m->store, &name, 1);
    struct record *record = store_find(&m->store, &name, m->now_ms);
    CHECK_EQ(record != NULL, is_there(m, index));
    if (record) {
        CHECK_EQ(record->value->size, sizeof m->value[index]);
        CHECK_MEM_EQ(record->value->data, &m->value[index], sizeof m->value[index]);
        CHECK_EQ(record->expires_ms, m->expires_ms[index]);
    }
    return record;
}

static void put(struct model *m, unsigned index) {
    struct record *record = find(m, index);
    m->value[index] = tap_random();
    if (!record) {
        char text[32];
        struct store_name name = name_of(m, index, text);
        struct blob *value = blob_copy((char *)&m->value[index], sizeof m->value[index]);
        record = store_add(&m->store, &name, value);
    } else {
        record->value = blob_renew(record->value, (char *)&m->value[index], sizeof m->value[index]);
        store_expire_at(&m->store, record, STORE_NEVER);
    }
    CHECK(record && record->value);
    m->there[index] = true;
    m->expires_ms[index] = STORE_NEVER;
}

static void expire(struct model *m, unsigned index) {
    struct record *record = find(m, index);
    if (!record)
        return;
    m->expires_ms[index] =
        tap_random_below(4) ? m->now_ms + (int64_t)tap_random_below(50) : STORE_NEVER;
    store_expire_at(&m->store, record, m->expires_ms[index]);
}

static void remove_one(struct model *m, unsigned index) {
    struct record *record = find(m, index);
    if (record)
        store_remove(&m->store, record);
    m->there[index] = false;
}

static void act(struct model *m) {
    unsigned index = (unsigned)tap_random_below(NAMES);
    switch (tap_random_below(9)) {
    case 0 ... 3:
        put(m, index);
        break;
    case 4 ... 5:
        expire(m, index);
        break;
    case 6:
        remove_one(m, index);
        break;
    case 7:
        m->now_ms += (int64_t)tap_random_below(5);
        break;
    default:
        store_sweep(&m->store, m->now_ms, (unsigned)tap_random_below(20));
    }
}

/* Ours: after any acts, each name is there or not, with its last value and its time. */
TEST(store_is_as_its_model) {
    static struct model m;
    store_init(&m.store, tap_random());
    m.now_ms = 1000;
    for (unsigned i = 0; i < 100000; i++)
        act(&m);
    for (unsigned i = 0; i < NAMES; i++)
        find(&m, i);
    store_clear(&m.store);
    CHECK_EQ(store_count(&m.store), 0);
    CHECK(!m.store.expiring);
    memset(m.there, 0, sizeof m.there);
    for (unsigned i = 0; i < NAMES; i++)
        find(&m, i);
}

/* Ours: a sweep looks at so many and no more, and its rounds come by all. */
TEST(sweep_is_bounded_and_complete) {
    static struct model m;
    store_init(&m.store, 1);
    for (unsigned i = 0; i < NAMES; i++) {
        put(&m, i);
        store_expire_at(&m.store, find(&m, i), i % 2 ? 5 : 1000);
    }
    m.now_ms = 6;
    CHECK_EQ(store_sweep(&m.store, m.now_ms, 10), 5);
    CHECK_EQ(store_count(&m.store), NAMES - 5);
    unsigned swept = 5;
    for (unsigned i = 0; i < NAMES / 10 - 1; i++)
        swept += store_sweep(&m.store, m.now_ms, 10);
    CHECK_EQ(swept, NAMES / 2);
    CHECK_EQ(m.store.expired, NAMES / 2);
    CHECK_EQ(m.store.expiring_count, NAMES / 2);
    CHECK_EQ(store_sweep(&m.store, m.now_ms, 1000), 0);
    store_clear(&m.store);
}

/* Ours: a blob that somebody else uses is never changed; one's own is, if it fits. */
TEST(shared_blob_is_not_changed) {
    struct blob *blob = blob_copy("hello", 5);
    struct blob *mine = blob_renew(blob, "world", 5);
    CHECK_EQ(mine, blob);
    struct blob *shared = blob_ref(mine);
    mine = blob_renew(mine, "again", 5);
    CHECK_NE(mine, shared);
    CHECK_MEM_EQ(shared->data, "world", 5);
    CHECK_MEM_EQ(mine->data, "again", 5);
    CHECK_EQ(shared->refs, 1);
    blob_unref(shared);
    static char large[4096];
    struct blob *grown = blob_renew(mine, large, sizeof large);
    CHECK_EQ(grown->size, sizeof large);
    struct blob *shrunk = blob_renew(grown, "x", 1);
    CHECK_EQ(shrunk->room, 1);
    blob_unref(shrunk);
}

TAP_MAIN(resp_store, 3)
