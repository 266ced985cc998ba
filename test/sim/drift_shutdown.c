/* SHUTDOWN on both kernels, and what each end of a half-closed connection then sees. */
#include "harness/tap.h"
#include "sim/raw.h"

#include <errno.h>

#define COUNT(table_) (sizeof(table_) / sizeof *(table_))

static void shut(struct raw *x, const char *name, int slot, unsigned how) {
    raw_ask(x, name, IORING_OP_SHUTDOWN, slot)->len = how;
    raw_await(x, name, 1);
}

static void writing(struct raw *x) {
    raw_bufs(x, 8);
    raw_join(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    shut(x, "shutdown", 1, SHUT_WR);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    raw_note(x, "far reads", far_read(&x->fars[0]));
    raw_send(x, "send after", 1, "hello");
    raw_await(x, "send after", 1);
    raw_note(x, "far sends", far_send(&x->fars[0], 7));
    raw_await(x, "recv", 1);
    shut(x, "again", 1, SHUT_WR);
    far_end(&x->fars[0], false);
    raw_await(x, "recv", 2);
    shut(x, "when over", 1, SHUT_WR);
}

static void reading(struct raw *x) {
    raw_bufs(x, 8);
    raw_join(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    raw_quiet(x);
    shut(x, "shutdown", 1, SHUT_RD);
    raw_await(x, "recv", 1);
    raw_note(x, "far sends", far_send(&x->fars[0], 7));
    raw_recv(x, "recv after", 1);
    raw_quiet(x);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    far_shutdown(&x->fars[0]);
    raw_recv(x, "recv at the end", 1);
    raw_await(x, "recv at the end", 1);
}

/* What has come before is read first. */
static void reading_late(struct raw *x) {
    raw_bufs(x, 8);
    raw_join(x, 1, &x->fars[0]);
    raw_note(x, "far sends", far_send(&x->fars[0], 7));
    shut(x, "shutdown", 1, SHUT_RD);
    raw_recv(x, "recv", 1);
    raw_quiet(x);
}

static void both(struct raw *x) {
    raw_bufs(x, 8);
    raw_join(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    raw_quiet(x);
    shut(x, "shutdown", 1, SHUT_RDWR);
    raw_await(x, "recv", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    raw_note(x, "far sends", far_send(&x->fars[0], 7));
    raw_note(x, "far reads", far_read(&x->fars[0]));
    shut(x, "again", 1, SHUT_RDWR);
    raw_recv(x, "recv after", 1);
    raw_await(x, "recv after", 1);
    raw_recv(x, "recv again", 1);
    raw_await(x, "recv again", 1);
}

static void both_ends(struct raw *x) {
    raw_bufs(x, 8);
    raw_join(x, 1, &x->fars[0]);
    shut(x, "shutdown", 1, SHUT_RDWR);
    shut(x, "again", 1, SHUT_RDWR);
    far_shutdown(&x->fars[0]);
    raw_quiet(x);
    shut(x, "when over", 1, SHUT_RDWR);
    raw_recv(x, "recv", 1);
    raw_await(x, "recv", 1);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
}

static void after_the_far_end(struct raw *x) {
    raw_bufs(x, 8);
    raw_join(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    far_send(&x->fars[0], 5);
    far_shutdown(&x->fars[0]);
    raw_await(x, "recv", 2);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    shut(x, "shutdown", 1, SHUT_WR);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    shut(x, "again", 1, SHUT_WR);
}

static void after_reset(struct raw *x) {
    raw_bufs(x, 8);
    raw_join(x, 1, &x->fars[0]);
    far_end(&x->fars[0], true);
    shut(x, "shutdown", 1, SHUT_WR);
    raw_recv(x, "recv", 1);
    raw_await(x, "recv", 1);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
}

/* A reset behind the end of both sides changes nothing; behind ours alone it is told. */
static void then_reset(struct raw *x) {
    raw_bufs(x, 8);
    raw_join(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    raw_quiet(x);
    shut(x, "shutdown", 1, SHUT_WR);
    far_end(&x->fars[0], true);
    raw_await(x, "recv", 1);
}

static void not_joined(struct raw *x) {
    raw_bufs(x, 8);
    raw_socket(x, 1, AF_INET);
    shut(x, "fresh", 1, SHUT_WR);
    shut(x, "fresh reading", 1, SHUT_RD);
    raw_recv(x, "recv", 1);
    raw_await(x, "recv", 1);
    raw_silent_server(x);
    raw_socket(x, 2, AF_INET);
    raw_connect(x, "connect", 2, x->port);
    raw_quiet(x);
    shut(x, "calling", 2, SHUT_WR);
    raw_await(x, "connect", 1);
    raw_connect(x, "connect anew", 2, raw_closed_port(x));
    raw_await(x, "connect anew", 1);
}

static void ill_formed(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    shut(x, "how", 1, 3);
    raw_ask(x, "off", IORING_OP_SHUTDOWN, 1)->off = 1;
    raw_wake(x, 2);
    shut(x, "no socket", 2, SHUT_WR);
    shut(x, "no file", 3, SHUT_WR);
    raw_quiet(x);
}

/* The worker looks the slot up when it begins: it is empty by then. */
static void closed_behind(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_ask(x, "shutdown", IORING_OP_SHUTDOWN, 1)->len = SHUT_WR;
    raw_close(x, "close", 1);
    raw_await(x, "shutdown", 1);
    raw_await(x, "close", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
}

/* Before its worker has begun, while it runs, or when it is done. */
static void cancelled(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_ask(x, "shutdown", IORING_OP_SHUTDOWN, 1)->len = SHUT_WR;
    raw_cancel(x, "cancel", "shutdown");
    raw_await(x, "shutdown", 1);
    raw_await(x, "cancel", 1);
}

static const struct raw_script scripts[] = {
    {.name = "writing", .run = writing},
    {.name = "reading", .run = reading},
    {.name = "reading, late", .run = reading_late},
    {.name = "both", .run = both},
    {.name = "both ends", .run = both_ends},
    {.name = "after the far end", .run = after_the_far_end},
    {.name = "after reset", .run = after_reset},
    {.name = "then reset", .run = then_reset},
    {.name = "not joined", .run = not_joined},
    {.name = "ill-formed", .run = ill_formed},
    {.name = "closed behind", .run = closed_behind, .loose = true},
    {.name = "cancelled", .run = cancelled, .loose = true},
};

/* The kernel's: what a shutdown does to both ends. */
TEST_EACH(shutdown_is_answered_alike, .deadline_s = 60) {
    raw_compare(scripts, COUNT(scripts));
}
