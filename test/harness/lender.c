#include "harness/lender.h"

#include "conn/reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct lender lenders[LENDERS_MAX];
unsigned lender_count;
static bool in_call; /* a public function is being called: no callback may run */

void loan_end(struct kr_reactor *r, void *arg) {
    struct loan *loan = arg;
    CHECK(!in_call && r->in_turn);
    CHECK_EQ(loan->lender->closes, 0u);
    loan->lender->returned++;
    memset(loan->bytes, 0xdd, loan->size);
    free(loan);
}

struct loan *loan_new(struct lender *lender, size_t size) {
    struct loan *loan = malloc(sizeof *loan + size);
    CHECK(loan != NULL);
    *loan = (struct loan){.lender = lender, .size = size};
    test_pattern(loan->bytes, size, lender->seed, lender->queued);
    return loan;
}

int lend(struct kr_reactor *r, struct lender *lender, size_t size) {
    struct loan *loan = loan_new(lender, size);
    in_call = true;
    int rc = kr_conn_send_ref(r, lender->conn, loan->bytes, size, loan_end, loan);
    in_call = false;
    if (rc < 0) {
        free(loan);
        return rc;
    }
    lender->queued += size;
    lender->lent++;
    return 0;
}

int lend_copy(struct kr_reactor *r, struct lender *lender, size_t size) {
    int rc = test_queue_pattern(r, lender->conn, size, lender->seed, lender->queued);
    lender->queued += rc == 0 ? size : 0;
    return rc;
}

static void lender_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    CHECK_LT(lender_count, LENDERS_MAX);
    struct lender *lender = &lenders[lender_count++];
    *lender = (struct lender){.conn = conn, .seed = tap_random()};
    CHECK_OK(kr_conn_set_user(r, conn, lender));
}

static void lender_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct lender *)user)->drains++;
}

void lender_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct lender *lender = user;
    CHECK_EQ(lender->lent, lender->returned);
    CHECK_ERR(kr_conn_send_ref(r, conn, "x", 1, loan_end, NULL), EPIPE);
    CHECK_ERR(kr_conn_send_ref(r, conn, "", 0, loan_end, NULL), EPIPE);
    lender->closes++;
    lender->error = error;
    lender->why = why;
    lender->closed_at = tap_now_ns();
}

const struct kr_conn_ops lender_ops = {.on_open = lender_open,
                                       .on_data = test_take_all,
                                       .on_writable = lender_drain,
                                       .on_close = lender_close};

void lender_check_stream(struct kr_reactor *r, const struct lender *lender, int fd, uint64_t from,
                         size_t size) {
    test_recv_pattern(r, fd, size, lender->seed, from);
}

void lender_check_over(struct kr_reactor *r, const struct lender *lender, int error,
                       enum kr_why why) {
    TEST_UNTIL(r, lender->closes == 1);
    CHECK_EQ(lender->error, error);
    CHECK_EQ(lender->why, why);
    CHECK_EQ(lender->lent, lender->returned);
}
