/* Slots and their lives: a slot's next connection neither gets nor loses anything by the one
 * before, however late the kernel is with its completions, and however early with the next
 * accept. */
#include "harness/life.h"

#include "base/handle.h"
#include "conn/reactor.h"
#include "kernel/probe.h"
#include "ring/tag.h"
#include "roof/nop.h"
#include "roof/turn.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static uint64_t tag_of(kr_conn conn, enum kr__verb verb) {
    return kr__tag_pack((struct kr__tag){
        .op = (uint8_t)verb,
        .slot = kr__handle_slot(conn.bits),
        .generation = (uint16_t)kr__handle_generation(conn.bits),
    });
}

/* Opens a connection, ends it, opens one that lives in the same slot. */
static int reopen(struct kr_reactor *r, uint16_t port) {
    house_init();
    int first = house_open_one(r, port);
    life_close(r, &house.lives[0], KR_CLOSE_NOW);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_close(first);
    int second = house_open_one(r, port);
    CHECK_EQ(kr__handle_slot(house.lives[1].conn.bits), kr__handle_slot(house.lives[0].conn.bits));
    CHECK_NE(house.lives[1].conn.bits, house.lives[0].conn.bits);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    return second;
}

/* Ours: a stale receive that carries a buffer is counted, its buffer comes back, and the slot's
 * new owner hears nothing. The completion is forged, as if the kernel had filled the first
 * published buffer. */
TEST_EACH(stale_receive_gives_its_buffer_back) {
    struct kr_config config = test_config();
    config.buf_count = 64;
    struct kr_reactor *r = test_reactor(&config);
    int fd = reopen(r, test_listen(r, NULL, NULL, &house_ops, &house));
    uint16_t id =
        r->bufs.ring->bufs[(uint16_t)(r->bufs.tail - r->bufs.published) & r->bufs.mask].bid;
    unsigned published = r->bufs.published, free_count = r->bufs.free_count;
    uint64_t inflight = test_stats(r).inflight;
    kr__loop_complete(r, tag_of(house.lives[0].conn, KR__VERB_recv), 100,
                      IORING_CQE_F_BUFFER | IORING_CQE_F_MORE |
                          (uint32_t)id << IORING_CQE_BUFFER_SHIFT);
    CHECK_EQ(test_stats(r).stale_cqes, 1u);
    CHECK_EQ(test_stats(r).inflight, inflight);
    CHECK_EQ(r->bufs.refs[id], 0);
    CHECK_EQ(r->bufs.published, published - 1);
    CHECK_EQ(r->bufs.free_count, free_count + 1);
    CHECK_EQ(house.lives[1].events[DATA], 0u);
    CHECK_EQ(house.lives[1].events[CLOSE], 0u);
    test_close(fd); /* no bytes any more: the forged buffer is now published twice */
    TEST_UNTIL(r, house.lives[1].events[END] == 1);
    test_reactor_free(r);
}

/* Ours: stale completions of every verb, good and bad results, through the real CQ: counted, and
 * the slot's new owner goes on undisturbed. */
TEST_EACH(stale_completions_reach_nobody) {
    static const enum kr__verb verbs[] = {KR__VERB_recv, KR__VERB_send, KR__VERB_close,
                                          KR__VERB_reset};
    static const int32_t results[] = {0, 5, -ECONNRESET, -ECANCELED, -ENOBUFS};
    struct kr_reactor *r = test_reactor(NULL);
    int fd = reopen(r, test_listen(r, NULL, NULL, &house_ops, &house));
    uint64_t forged = 0;
    for (size_t v = 0; v < sizeof verbs / sizeof *verbs; v++) {
        for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
            CHECK_OK(kr__nop(r, tag_of(house.lives[0].conn, verbs[v]), results[i]));
            forged++;
            TEST_UNTIL(r, test_stats(r).stale_cqes == forged);
        }
    }
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_send(r, fd, "abc", 3);
    TEST_UNTIL(r, house.lives[1].bytes == 3);
    CHECK_EQ(house.lives[1].events[CLOSE], 0u);
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: the tag's generation has 16 bits, the handle's 28: a slot lives on across the ends of
 * both. The generation is set by hand between two lives. */
TEST_EACH(generations_wrap) {
    static const uint32_t ends[] = {0xfffe, 0xffff, 0x10000, KR__GENERATION_MAX - 1,
                                    KR__GENERATION_MAX};
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    for (size_t e = 0; e < sizeof ends / sizeof *ends; e++) {
        house_init();
        int fd = house_open_one(r, port);
        uint32_t slot = kr__handle_slot(house.lives[0].conn.bits);
        test_close(fd);
        TEST_UNTIL(r, house.lives[0].events[END] == 1);
        life_close(r, &house.lives[0], KR_CLOSE_NOW);
        life_check_closed(r, 0, 0, KR_WHY_LOCAL);
        r->conns.table[slot].owner.generation = ends[e];
        house_init();
        for (unsigned i = 0; i < 3; i++) {
            fd = house_open_one(r, port);
            CHECK_EQ(kr__handle_slot(house.lives[i].conn.bits), slot);
            CHECK_NE(kr__handle_generation(house.lives[i].conn.bits), 0u);
            test_send(r, fd, "abc", 3);
            TEST_UNTIL(r, house.lives[i].bytes == 3);
            life_close(r, &house.lives[i], KR_CLOSE_NOW);
            life_check_closed(r, i, 0, KR_WHY_LOCAL);
            test_close(fd);
        }
        test_rest(r, (struct test_levels){.listeners = 1});
    }
    test_reactor_free(r);
}

static unsigned overtakings;

/* True when CQE `a` closes the very slot that CQE `b` says a client was accepted into. */
static bool closes_what_accepts(const struct io_uring_cqe *a, const struct io_uring_cqe *b) {
    struct kr__tag close = kr__tag_unpack(a->user_data), accept = kr__tag_unpack(b->user_data);
    return close.op == KR__VERB_close && b->res >= 0 && (uint32_t)b->res == close.slot &&
           (accept.op == KR__VERB_accept || accept.op == KR__VERB_accept_one);
}

/* Enters, then lets accepts overtake the CLOSE of their slot. */
static int overtaking_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                            unsigned wait_for, unsigned flags,
                            const struct kr__getevents_arg *arg) {
    int rc = kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
    unsigned mask = *ring->cq.kring_mask, head = *ring->cq.khead;
    unsigned tail = __atomic_load_n(ring->cq.ktail, __ATOMIC_ACQUIRE);
    for (unsigned i = head; i != tail; i++) {
        for (unsigned j = i + 1; (int)(tail - j) > 0; j++) {
            struct io_uring_cqe *a = &ring->cq.cqes[i & mask], *b = &ring->cq.cqes[j & mask],
                                both = *a;
            if (!closes_what_accepts(a, b))
                continue;
            *a = *b;
            *b = both;
            overtakings++;
            break;
        }
    }
    return rc;
}

static struct kr__kernel overtaking_kernel(void) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.enter = overtaking_enter;
    overtakings = 0;
    return kernel;
}

/* A client waits in the backlog of a paused listener, and the connection is paused, so that
 * nothing is in flight. Then the connection is closed and the listener resumed: one submission
 * carries CLOSE and, behind it, the accept, which takes the slot that has just become free.
 * Returns the new client. */
static int close_before_accept(struct kr_reactor *r, kr_listener listener, uint16_t port,
                               unsigned i) {
    struct life *life = &house.lives[i];
    CHECK_OK(kr_listener_pause(r, listener));
    CHECK_OK(kr_conn_pause(r, life->conn));
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 2});
    int next = test_connect(port);
    test_send(NULL, next, "abc", 3);
    life_close(r, life, i % 2 ? KR_CLOSE_NOW : KR_CLOSE_FLUSH);
    CHECK_OK(kr_listener_resume(r, listener));
    return next;
}

static void take_over(const struct kr__kernel *kernel, unsigned conn_max) {
    struct kr_config config = test_config();
    config.conn_max = conn_max;
    struct kr_reactor *r = test_reactor_on(kernel, &config);
    house_init();
    house.echo = true;
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, NULL, &house_ops, &house);
    int fd = house_open_one(r, port);
    for (unsigned i = 0; i < 100; i++) {
        int next = close_before_accept(r, listener, port, i);
        TEST_UNTIL(r, house.count == i + 2);
        CHECK_EQ(house.lives[i].events[CLOSE], 1u);
        CHECK_RECV(r, next, "abc");
        test_close(fd);
        fd = next;
    }
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    CHECK_EQ(test_stats(r).closes, 100u);
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: a slot that is free again is taken by the next client at once, by a multishot accept
 * (much room in the table) and by one-shot accepts (little room): the old life ends first, then
 * the new one opens, and works. */
TEST_EACH(close_and_multishot_accept_into_the_same_slot) {
    take_over(&kr__linux, 900);
}

TEST_EACH(close_and_one_shot_accept_into_the_same_slot) {
    take_over(&kr__linux, 2);
}

/* Ours: the same when the accept is told before the CLOSE, as the kernel may (it posts
 * completions of a multishot at once, and those of a batch at its end). The order is made by
 * changing it in the CQ. The slots of a plain table are chosen by the library, not before the CLOSE
 * is told. */
TEST_EACH(close_overtaken_by_the_next_accept, .needs = KR__CAP_FILE_TABLE) {
    struct kr__kernel kernel = overtaking_kernel();
    take_over(&kernel, 900);
    CHECK_GT(overtakings, 50u);
}

static kr_listener closed_in_on_close;

static void on_close_close_listener(struct kr_reactor *r, kr_conn conn, void *user, int error,
                                    enum kr_why why) {
    house_close(r, conn, user, error, why);
    CHECK_OK(kr_listener_close(r, closed_in_on_close));
}

static const struct kr_conn_ops listener_closing_ops = {
    .on_open = house_open, .on_data = house_data, .on_close = on_close_close_listener};

/* Ours: and when the old life's on_close closes the listener, the next client, accepted already,
 * is not announced but closed; nothing is left. */
TEST_EACH(close_overtaken_by_an_accept_of_a_closed_listener, .needs = KR__CAP_FILE_TABLE) {
    struct kr__kernel kernel = overtaking_kernel();
    struct kr_config config = test_config();
    config.conn_max = 900;
    struct kr_reactor *r = test_reactor_on(&kernel, &config);
    house_init();
    uint16_t port = test_listen(r, &closed_in_on_close, NULL, &listener_closing_ops, &house);
    int fd = house_open_one(r, port);
    int next = close_before_accept(r, closed_in_on_close, port, 0);
    TEST_UNTIL(r, house.closed == 1);
    CHECK_EQ(overtakings, 1u);
    int end = test_recv_end(r, next, NULL);
    CHECK(end == 0 || end == ECONNRESET);
    test_rest(r, (struct test_levels){.listeners = 0});
    CHECK_EQ(house.count, 1u);
    test_close(fd);
    test_close(next);
    test_reactor_free(r);
}

/* Ours: many lives in few slots, closed by either side in every manner at random; each has one
 * on_open and one on_close, and at the end nothing is left. */
TEST_EACH(many_lives_in_few_slots) {
    struct kr_config config = test_config();
    config.conn_max = 4;
    config.buf_count = 2;
    struct kr_reactor *r = test_reactor(&config);
    house_init();
    house.echo = true;
    uint16_t port = test_listen(r, NULL, NULL, &house_plain_ops, &house);
    for (unsigned i = 0; i < 500; i += 10) {
        int fds[10];
        for (unsigned k = 0; k < 10; k++) {
            fds[k] = test_connect(port);
            test_send(NULL, fds[k], "abcdefgh", 1 + (size_t)tap_random_below(8));
        }
        unsigned left = 10;
        bool gone[10] = {false};
        while (left > 0) {
            test_step(r, "all lives of a round");
            unsigned k = (unsigned)tap_random_below(10),
                     l = (unsigned)tap_random_below(house.count + 1);
            if (l < house.count && !house.lives[l].closing && !house.lives[l].events[CLOSE])
                life_close(r, &house.lives[l], (enum kr_close)tap_random_below(4));
            if (gone[k])
                continue;
            if (tap_random_below(2))
                test_close(fds[k]);
            else
                test_close_reset(fds[k]);
            gone[k] = true;
            left--;
        }
        test_rest(r, (struct test_levels){.listeners = 1});
    }
    CHECK_EQ(house.closed, house.count);
    for (unsigned i = 0; i < house.count; i++)
        CHECK_EQ(house.lives[i].events[CLOSE], 1u);
    test_reactor_free(r);
}

/* ---- the numbers in a handle ---- */

/* Ours: a handle gives back the fields it was made of, at the edges of each of them, and is one of
 * its own kind and reactor only. */
TEST(handle_keeps_its_fields_apart) {
    const uint32_t slots[] = {0, 1, KR__HANDLE_SLOTS - 1};
    const uint32_t generations[] = {1, 2, KR__GENERATION_MAX};
    const unsigned reactors[] = {1, 2, KR__REACTOR_MAX};
    for (unsigned i = 0; i < 81; i++) {
        enum kr__kind kind = i % 3 == 0 ? KR__KIND_CONN : i % 3 == 1 ? KR__KIND_LEASE : 15;
        unsigned reactor = reactors[i / 3 % 3];
        uint32_t slot = slots[i / 9 % 3], generation = generations[i / 27];
        uint64_t bits = kr__handle_pack(kind, reactor, slot, generation);
        CHECK(kr__handle_is(bits, kind, reactor));
        CHECK(!kr__handle_is(bits, kind, reactor ^ 1));
        CHECK(!kr__handle_is(bits, kind ^ 1, reactor));
        CHECK_EQ(kr__handle_slot(bits), slot);
        CHECK_EQ(kr__handle_generation(bits), generation);
    }
}

/* Ours: the life after the last one is 1 again, never 0. */
TEST(lives_wrap_past_zero) {
    struct kr__owner o;
    kr__owner_init(&o, KR__KIND_CONN, KR__REACTOR_MAX, 7);
    uint64_t first = kr__owner_handle(&o);
    o.generation = KR__GENERATION_MAX;
    kr__owner_age(&o);
    CHECK_EQ(o.generation, 1u);
    CHECK_EQ(kr__owner_handle(&o), first);
}

/* Ours: while reactors live their numbers are theirs; a number that was given back is the last to
 * be given again; and when all are taken that is an error. */
TEST(numbers_of_living_reactors_differ) {
    static bool seen[KR__REACTOR_MAX + 1];
    int first = kr__reactor_number_take();
    CHECK_GT(first, 0);
    for (unsigned i = 1; i < 3 * KR__REACTOR_MAX; i++) {
        int number = kr__reactor_number_take();
        CHECK_GT(number, 0);
        CHECK_NE(number, first);
        kr__reactor_number_put((unsigned)number);
    }
    seen[first] = true;
    for (unsigned i = 1; i < KR__REACTOR_MAX; i++) {
        int number = kr__reactor_number_take();
        CHECK_GT(number, 0);
        CHECK(!seen[number]);
        seen[number] = true;
    }
    CHECK_ERR(kr__reactor_number_take(), EUSERS);
    struct kr_reactor *r = NULL;
    struct kr_failure why;
    CHECK_ERR(kr_reactor_new(&r, NULL, &why), EUSERS);
    CHECK(strstr(why.cause, "4095"));
    kr__reactor_number_put(3);
    CHECK_EQ(kr__reactor_number_take(), 3);
}

TAP_MAIN(slot, 31)
