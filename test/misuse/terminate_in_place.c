/* A 0 written behind the lent bytes, to make a string of them. */
#include "misuse.h"

static size_t came(struct kr_reactor *r, kr_conn conn, const char *data, size_t size) {
    (void)r;
    (void)conn;
    touch_write((char *)(uintptr_t)data + size);
    exit(NOT_CAUGHT);
}

int main(void) {
    begin(&(struct misuse){.came = came}, 0, "hello");
    for (;;)
        turn();
}
