/* A record in a large store is rarely in the processor's cache, and looking for it waits for memory three
 * times in a row: for the table's bucket, the record, and the value. Requests that are pipelined can do
 * that waiting beside one another. So their names are found first, by a glance that knows only the usual
 * form of a request and ends at anything else. */
#include "ahead.h"

#include <string.h>

#define AHEAD_MAX 16u

struct glance {
    const char *at, *end;
};

/* "*3\r\n", "$16\r\n": a number of up to three digits behind `mark`. Negative: something else. */
static int count_at(struct glance *g, char mark) {
    const char *at = g->at;
    if (g->end - at < 6 || *at++ != mark)
        return -1;
    int number = 0;
    for (int digits = 0; digits < 3 && *at >= '0' && *at <= '9'; digits++)
        number = number * 10 + (*at++ - '0');
    if (*at != '\r')
        return -1;
    g->at = at + 2;
    return number;
}

static bool skip_bulk(struct glance *g, struct glance *bulk) {
    int size = count_at(g, '$');
    if (size < 0 || g->end - g->at < size + 2)
        return false;
    *bulk = (struct glance){g->at, g->at + size};
    g->at += size + 2;
    return true;
}

/* The second argument of the request. */
static bool skip_request(struct glance *g, struct glance *name) {
    int count = count_at(g, '*');
    struct glance bulk;
    if (count < 2 || !skip_bulk(g, &bulk) || !skip_bulk(g, name))
        return false;
    for (int i = 2; i < count; i++)
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
