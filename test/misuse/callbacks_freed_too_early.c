/* The table of callbacks is borrowed until the last connection has closed; this program frees it
 * before. */
#include "misuse.h"

static int opens;

static void opened(struct kr_reactor *r, kr_conn conn) {
    (void)r;
    (void)conn;
    opens++;
}

int main(void) {
    begin(&(struct misuse){.opened = opened}, 0, "hello");
    while (!opens)
        turn();
    turn();
    free(fixture.ops);
    leave();
    return NOT_CAUGHT;
}
