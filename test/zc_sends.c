/* Flights against the plainest model: each loan knows how many bytes of it were taken, and which
 * zc_sends that carried it have not ended. */
#include "harness/bank.h"
#include "harness/tap.h"

#include "pool/zc_sends.h"

#include <stdlib.h>
#include <string.h>

#define LOANS_MAX 4000u
#define FLIGHTS_MAX 200u

static struct bank bank = {.left = -1};

struct loan {
    size_t size, taken;
    unsigned zc_sends; /* that carry it and have not ended */
    bool told;
};

struct flight {
    uint16_t number;
    unsigned first, count; /* of the loans */
    bool resulted;
};

struct flights_test {
    struct kr__mem mem;
    struct kr__blocks blocks;
    struct kr__sends sends;
    struct kr__sendq q;
    struct kr__zc_sends zc_sends;
    struct loan loans[LOANS_MAX];
    unsigned lent, front; /* loans made; the first that is not all taken */
    struct flight aloft[FLIGHTS_MAX];
    unsigned aloft_count;
};

static struct flights_test t;

static void test_init(uint16_t last) {
    t = (struct flights_test){.mem = mem_of(&bank)};
    kr__blocks_init(&t.blocks, &t.mem);
    t.sends = (struct kr__sends){.blocks = &t.blocks};
    t.zc_sends.last = last;
}

static void loan_told(struct kr_reactor *r, void *arg) {
    (void)r;
    struct loan *loan = arg;
    CHECK(!loan->told);
    loan->told = true;
}

static void lend(void) {
    struct loan *loan = &t.loans[t.lent++];
    loan->size = 1 + (size_t)tap_random_below(10);
    CHECK_OK(kr__sendq_ref(&t.sends, &t.q, "0123456789", loan->size, loan_told, loan));
}

/* All that may be told is told, nothing else is. */
static void check_told(void) {
    kr__sends_tell(&t.sends, NULL);
    for (unsigned i = 0; i < t.lent; i++) {
        const struct loan *loan = &t.loans[i];
        CHECK_EQ(loan->told, loan->taken == loan->size && !loan->zc_sends);
    }
    CHECK_EQ(t.zc_sends.count, t.aloft_count);
}

static void start(void) {
    unsigned queued = t.lent - t.front;
    unsigned count = 1 + (unsigned)tap_random_below(queued < 6 ? queued : 6);
    struct flight *f = &t.aloft[t.aloft_count++];
    uint16_t number = kr__zc_send_start(&t.zc_sends, &t.q, count);
    while (t.front + count < t.lent && t.loans[t.front + count].zc_sends)
        count++; /* what has flown in vain is taken for carried */
    *f = (struct flight){number, t.front, count, false};
    for (unsigned i = 0; i < count; i++)
        t.loans[t.front + i].zc_sends++;
}

static size_t take(size_t size) {
    struct loan *loan = &t.loans[t.front];
    size_t left = loan->size - loan->taken, part = size < left ? size : left;
    loan->taken += part;
    t.front += loan->taken == loan->size;
    return part;
}

/* The last flight, which alone may have none: of all lengths, nothing too. */
static void result(void) {
    struct flight *f = &t.aloft[t.aloft_count - 1];
    size_t carried = 0;
    for (unsigned i = f->first; i < f->first + f->count; i++)
        carried += t.loans[i].size - t.loans[i].taken;
    size_t size = tap_random_below(3) ? (size_t)tap_random_below(carried + 1) : carried;
    kr__sendq_consume(&t.sends, &t.q, size);
    for (size_t done = 0; done < size;)
        done += take(size - done);
    f->resulted = true;
}

/* Some bytes by copying, so that a loan may be sent in both ways. */
static void copy(void) {
    size_t size = 1 + (size_t)tap_random_below(t.loans[t.front].size - t.loans[t.front].taken);
    kr__sendq_consume(&t.sends, &t.q, size);
    take(size);
}

static void end(unsigned i) {
    struct flight f = t.aloft[i];
    for (unsigned k = f.first; k < f.first + f.count; k++)
        t.loans[k].zc_sends--;
    kr__zc_send_end(&t.zc_sends, &t.sends, &t.q, f.number);
    t.aloft_count--;
    for (; i < t.aloft_count; i++)
        t.aloft[i] = t.aloft[i + 1];
}

static bool is_parked(void) {
    return t.aloft_count && !t.aloft[t.aloft_count - 1].resulted;
}

static void random_step(bool in_order) {
    switch (tap_random_below(6)) {
    case 0:
    case 1:
        if (t.lent < LOANS_MAX)
            lend();
        break;
    case 2:
    case 3:
        if (is_parked())
            result();
        else if (t.front < t.lent && t.aloft_count < FLIGHTS_MAX)
            tap_random_below(8) ? start() : copy();
        break;
    default: /* a result comes before its notification, and those of failures at once */
        if (t.aloft_count > is_parked())
            end(in_order ? 0 : (unsigned)tap_random_below(t.aloft_count - is_parked()));
    }
    check_told();
}

static void fly(bool in_order) {
    for (int round = 0; round < 12; round++) {
        test_init((uint16_t)(65500 + tap_random_below(100))); /* past the end of the numbers */
        for (unsigned steps = 0; steps < 2500; steps++)
            random_step(in_order);
        while (t.aloft_count) {
            if (is_parked())
                result();
            end(0);
        }
        check_told();
        CHECK(!t.zc_sends.pinned.head);
        kr__sendq_drop(&t.sends, &t.q);
        kr__sends_forget(&t.sends);
        CHECK_EQ(t.sends.out, 0u);
        kr__blocks_free(&t.blocks);
        CHECK_EQ(t.mem.bytes, 0u);
    }
}

/* Ours: a loan comes back when all of it is taken and each flight that carried a part of it has
 * ended, and not before; short results, failed zc_sends, copies between them. */
TEST(flights_give_back_what_has_landed) {
    fly(true);
}

/* Ours: the same when they end in any order, as after a reset. */
TEST(flights_may_land_in_any_order) {
    fly(false);
}

/* Ours: whoever gives up releases pinned records too. */
TEST(flights_given_up_release_all) {
    test_init(0);
    for (unsigned i = 0; i < 10; i++)
        lend();
    start();
    result();
    kr__sendq_unborrow(&t.sends, &t.q);
    kr__sendq_unborrow(&t.sends, &t.zc_sends.pinned);
    CHECK_EQ(kr__sends_tell(&t.sends, NULL), 10u);
    CHECK(!t.zc_sends.pinned.head && !t.q.head);
    CHECK_EQ(t.sends.out, 0u);
    kr__blocks_free(&t.blocks);
}

/* Ours: a loan whose zc_sends go on and on, some always under way, comes back however many they are.
 * Numbers of zc_sends that are half of 2^16 apart would not be comparable: there must be a break
 * before that. */
TEST(flights_of_one_large_loan) {
    static char bytes[100000];
    struct loan loan = {0};
    test_init(65000);
    CHECK_OK(kr__sendq_ref(&t.sends, &t.q, bytes, sizeof bytes, loan_told, &loan));
    uint16_t aloft[3];
    unsigned count = 0, breaks = 0;
    for (size_t left = sizeof bytes; left > 0; left--) {
        if (count == 3 || !kr__zc_sends_room(&t.zc_sends, &t.q)) {
            kr__zc_send_end(&t.zc_sends, &t.sends, &t.q, aloft[0]);
            memmove(aloft, aloft + 1, --count * sizeof *aloft);
        }
        if (kr__zc_sends_room(&t.zc_sends, &t.q))
            aloft[count++] = kr__zc_send_start(&t.zc_sends, &t.q, 1);
        else
            breaks++;
        kr__sendq_consume(&t.sends, &t.q, 1);
    }
    CHECK_GE(breaks, (unsigned)sizeof bytes / 32768);
    for (unsigned i = 0; i < count; i++) {
        kr__sends_tell(&t.sends, NULL);
        CHECK(!loan.told);
        kr__zc_send_end(&t.zc_sends, &t.sends, &t.q, aloft[i]);
    }
    CHECK_EQ(kr__sends_tell(&t.sends, NULL), 1u);
    CHECK(loan.told && !t.zc_sends.count);
    kr__blocks_free(&t.blocks);
}

TAP_MAIN(zc_sends, 4)
