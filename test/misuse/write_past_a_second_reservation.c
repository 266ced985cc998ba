/* The same where the reservation lies behind bytes that are queued already. */
#include "misuse.h"

static void opened(struct kr_reactor *r, kr_conn conn) {
    void *room;
    MUST(kr_conn_send(r, conn, "before", 6));
    MUST(kr_conn_reserve(r, conn, 20, &room));
    memset(room, 'x', 20);
    touch_write((char *)room + 20);
    exit(NOT_CAUGHT);
}

int main(void) {
    begin(&(struct misuse){.opened = opened}, 0, "hello");
    for (;;)
        turn();
}
