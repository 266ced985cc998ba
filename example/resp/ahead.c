/* A record in a large store is rarely in the processor's cache, and looking for it waits for memory
 * three times in a row: for the table's bucket, the record, and the value. Requests that are
 * pipelined can do that waiting beside one another. So their names are found first, by a glance
 * that knows only the usual form of a request and ends at anything else. */
#include "ahead.h"

#include "number.h"

#define AHEAD_MAX 16u

struct glance {
    const char *at, *end;
};

static bool skip_bulk(struct glance *g, struct glance *bulk) {
    unsigned size;
    if (!number_line(&g->at, g->end, '$', &size) || g->end - g->at < (ptrdiff_t)size + 2)
        return false;
    *bulk = (struct glance){g->at, g->at + size};
    g->at += size + 2;
    return true;
}

/* The second argument of the request. */
static bool skip_request(struct glance *g, struct glance *name) {
    unsigned count;
    struct glance bulk;
    if (!number_line(&g->at, g->end, '*', &count) || count < 2 || !skip_bulk(g, &bulk) ||
        !skip_bulk(g, name))
        return false;
    for (unsigned i = 2; i < count; i++)
        if (!skip_bulk(g, &bulk))
            return false;
    return true;
}

unsigned look_ahead(const struct store *store, const char *data, size_t size) {
    struct glance g = {data, data + size}, found[AHEAD_MAX];
    unsigned count = 0;
    while (count < AHEAD_MAX && skip_request(&g, &found[count]))
        count++;
    if (count < 2)
        return count;
    struct store_name names[AHEAD_MAX];
    for (unsigned i = 0; i < count; i++)
        names[i] = store_name(store, found[i].at, (size_t)(found[i].end - found[i].at));
    store_prefetch(store, names, count);
    return count;
}
