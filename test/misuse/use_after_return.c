/* Received bytes are lent until on_data returns; this program looks at them afterwards. */
#include "misuse.h"

static const char *kept;

static size_t came(struct kr_reactor *r, kr_conn conn, const char *data, size_t size) {
    (void)r;
    (void)conn;
    kept = data;
    return size;
}

int main(void) {
    begin(&(struct misuse){.came = came}, 0, "hello");
    while (!kept)
        turn();
    touch_read(kept);
    return NOT_CAUGHT;
}
