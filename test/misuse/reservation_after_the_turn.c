/* A reservation ends with the turn; this program writes to it in a later one. */
#include "misuse.h"

static char *room;

static void opened(struct kr_reactor *r, kr_conn conn) {
    void *memory;
    MUST(kr_conn_reserve(r, conn, 100, &memory));
    room = memory;
}

int main(void) {
    begin(&(struct misuse){.opened = opened}, 0, "hello");
    while (!room)
        turn();
    touch_write(room + 50);
    return NOT_CAUGHT;
}
