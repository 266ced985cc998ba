/* A hundred bytes of inline memory were asked for, in a block that has more; this program writes
 * one more. */
#include "misuse.h"

static void opened(struct kr_reactor *r, kr_conn conn) {
    char *memory = kr_conn_inline(r, conn);
    memset(memory, 'x', 100);
    touch_write(memory + 100);
    exit(NOT_CAUGHT);
}

int main(void) {
    begin(&(struct misuse){.opened = opened}, 100, "hello");
    for (;;)
        turn();
}
