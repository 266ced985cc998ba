/* `size` bytes are lent; this program reads one more, as if they were a string. */
#include "misuse.h"

static size_t came(struct kr_reactor *r, kr_conn conn, const char *data, size_t size) {
    (void)r;
    (void)conn;
    touch_read(data + size);
    exit(NOT_CAUGHT);
}

int main(void) {
    begin(&(struct misuse){.came = came}, 0, "hello");
    for (;;)
        turn();
}
