/* A connection's inline memory is good until on_close has returned; this program looks at it
 * afterwards. */
#include "misuse.h"

static char *memory;

static void opened(struct kr_reactor *r, kr_conn conn) {
    memory = kr_conn_inline(r, conn);
}

int main(void) {
    begin(&(struct misuse){.opened = opened}, 100, "hello");
    while (!memory)
        turn();
    memory[50] = 'x';
    leave();
    touch_read(memory + 50);
    return NOT_CAUGHT;
}
