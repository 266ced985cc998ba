/* Bytes that were not consumed are shown again with what follows, and then they, too, are lent
 * until on_data returns; this program looks at them afterwards. */
#include "misuse.h"

static const char *kept;

static size_t came(struct kr_reactor *r, kr_conn conn, const char *data, size_t size) {
    (void)r;
    (void)conn;
    if (size < 10)
        return 0;
    kept = data;
    return size;
}

int main(void) {
    begin(&(struct misuse){.came = came}, 0, "hello");
    turn();
    turn();
    turn();
    send_text("again");
    while (!kept)
        turn();
    touch_read(kept);
    return NOT_CAUGHT;
}
