/* A reservation ends with the next one; this program still writes to the first. */
#include "misuse.h"

static void opened(struct kr_reactor *r, kr_conn conn) {
    void *first, *second;
    MUST(kr_conn_reserve(r, conn, 100, &first));
    MUST(kr_conn_reserve(r, conn, 5000, &second));
    touch_write((char *)first + 50);
    exit(NOT_CAUGHT);
}

int main(void) {
    begin(&(struct misuse){.opened = opened}, 0, "hello");
    for (;;)
        turn();
}
