/* A hundred bytes are reserved and ten committed: the other ninety are no longer lent. */
#include "misuse.h"

static void opened(struct kr_reactor *r, kr_conn conn) {
    void *room;
    MUST(kr_conn_reserve(r, conn, 100, &room));
    memset(room, 'x', 10);
    MUST(kr_conn_commit(r, conn, 10));
    touch_write((char *)room + 10);
    exit(NOT_CAUGHT);
}

int main(void) {
    begin(&(struct misuse){.opened = opened}, 0, "hello");
    for (;;)
        turn();
}
