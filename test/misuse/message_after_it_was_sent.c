/* A committed message is the library's; this program changes it when it has been sent. */
#include "misuse.h"

static char *room;
static kr_conn sender;

static void opened(struct kr_reactor *r, kr_conn conn) {
    void *memory;
    MUST(kr_conn_reserve(r, conn, 100, &memory));
    room = memory;
    memset(room, 'x', 100);
    MUST(kr_conn_commit(r, conn, 100));
    sender = conn;
}

int main(void) {
    begin(&(struct misuse){.opened = opened}, 0, "hello");
    while (!room || kr_conn_queued(fixture.r, sender))
        turn();
    touch_write(room + 50);
    return NOT_CAUGHT;
}
