/* No misuse: it keeps to every rule that the others break, and must reach its end. Without it, a
 * fixture that is itself caught would look like success. */
#include "misuse.h"

static size_t total;

static void opened(struct kr_reactor *r, kr_conn conn) {
    char *memory = kr_conn_inline(r, conn);
    memset(memory, 'x', 100);
    void *room;
    MUST(kr_conn_reserve(r, conn, 100, &room));
    memset(room, 'x', 100);
    MUST(kr_conn_commit(r, conn, 10));
    MUST(kr_conn_reserve(r, conn, 77, &room));
    memset(room, 'x', 77);
    MUST(kr_conn_commit(r, conn, 77));
    MUST(kr_conn_reserve(r, conn, 5000, &room));
    memset(room, 'x', 5000);
}

static size_t came(struct kr_reactor *r, kr_conn conn, const char *data, size_t size) {
    for (size_t i = 0; i < size; i++)
        touch_read(data + i);
    if (size < 10)
        return 0;
    MUST(kr_conn_send(r, conn, data, size));
    total += size;
    return size;
}

static void closed(struct kr_reactor *r, kr_conn conn) {
    char *memory = kr_conn_inline(r, conn);
    touch_write(memory + 99);
}

int main(void) {
    begin(&(struct misuse){opened, came, closed}, 100, "hello");
    turn();
    turn();
    send_text("again");
    while (total < 10)
        turn();
    leave();
    MUST(kr_reactor_free(fixture.r));
    free(fixture.ops);
    return 0;
}
