/* A reactor is consumed by kr_reactor_free; this program posts to it. */
#include "misuse.h"

static void nothing(struct kr_reactor *r, void *arg) {
    (void)r;
    (void)arg;
}

int main(void) {
    begin(&(struct misuse){0}, 0, "hello");
    turn();
    MUST(kr_reactor_free(fixture.r));
    return kr_post(fixture.r, nothing, NULL) < 0 ? NOT_CAUGHT : NOT_CAUGHT + 1;
}
