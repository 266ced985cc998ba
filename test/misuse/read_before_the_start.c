/* What lies before the lent bytes is somebody else's. In the second buffer: nothing lies before the
 * first. */
#include "misuse.h"

static int messages;

static size_t came(struct kr_reactor *r, kr_conn conn, const char *data, size_t size) {
    (void)r;
    (void)conn;
    if (++messages == 1)
        return size;
    touch_read(data - 1);
    exit(NOT_CAUGHT);
}

int main(void) {
    begin(&(struct misuse){.came = came}, 0, "hello");
    while (!messages)
        turn();
    send_text("again");
    for (;;)
        turn();
}
