/* A hundred bytes are reserved; this program writes one more. */
#include "misuse.h"

static void opened(struct kr_reactor *r, kr_conn conn) {
    void *room;
    MUST(kr_conn_reserve(r, conn, 100, &room));
    memset(room, 'x', 100);
    touch_write((char *)room + 100);
    exit(NOT_CAUGHT);
}

int main(void) {
    begin(&(struct misuse){.opened = opened}, 0, "hello");
    for (;;)
        turn();
}
