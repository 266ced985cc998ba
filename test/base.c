/* The small structures of lib/base, each against the plainest model that can be right. */
#include "harness/bank.h"
#include "harness/tap.h"

#include "base/heap.h"
#include "base/list.h"
#include "base/mark.h"
#include "base/mpsc.h"
#include "base/slab.h"
#include "base/util.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- memory ---- */

/* Ours: every byte got and put is counted, a refusal is not, and NULL may be put. */
TEST(mem_counts_what_is_held) {
    struct bank bank = {.left = 2};
    struct kr__mem mem = mem_of(&bank);
    char *a = kr__mem_get(&mem, 100);
    char *b = kr__mem_get_zeroed(&mem, 28);
    CHECK(a && b);
    for (int i = 0; i < 28; i++)
        CHECK_EQ(b[i], 0);
    CHECK(kr__mem_get(&mem, 7) == NULL);
    CHECK_EQ(mem.bytes, 128);
    CHECK_EQ(mem.calls, 3);
    kr__mem_put(&mem, NULL, 50);
    kr__mem_put(&mem, a, 100);
    CHECK_EQ(mem.bytes, 28);
    kr__mem_put(&mem, b, 28);
    CHECK_EQ(mem.bytes, 0);
}

/* ---- util ---- */

/* Ours: the least power of two that is not less, at each power and beside it. */
TEST(power_of_two_rounds_up) {
    CHECK_EQ(kr__power_of_two(0), 1u);
    CHECK_EQ(kr__power_of_two(1), 1u);
    CHECK_EQ(kr__power_of_two(3), 4u);
    for (unsigned bit = 1; bit < 31; bit++) {
        CHECK_EQ(kr__power_of_two(1u << bit), 1u << bit);
        CHECK_EQ(kr__power_of_two((1u << bit) + 1), 1u << (bit + 1));
    }
    CHECK_EQ(kr__power_of_two(1u << 31), 1u << 31);
}

/* Ours: time that would run over stays at its end. */
TEST(time_add_stays_at_the_end_of_time) {
    CHECK_EQ(kr__time_add(1, 2), 3);
    CHECK_EQ(kr__time_add(INT64_MAX, 0), INT64_MAX);
    CHECK_EQ(kr__time_add(INT64_MAX, 1), KR__NEVER);
    CHECK_EQ(kr__time_add(5, INT64_MAX - 5), INT64_MAX);
    CHECK_EQ(kr__time_add(6, INT64_MAX - 5), KR__NEVER);
}

/* ---- list ---- */

struct thing {
    int number;
    struct kr__link link;
};

static struct thing *thing_of(struct kr__link *link) {
    return kr__container_of(link, struct thing, link);
}

/* Ours: first in, first out, and a link taken off is on no list. */
TEST(list_keeps_order) {
    struct kr__list list;
    struct thing things[10] = {{0}};
    kr__list_init(&list);
    CHECK(kr__list_empty(&list));
    CHECK(kr__list_pop(&list) == NULL);
    for (int i = 0; i < 10; i++) {
        things[i].number = i;
        kr__list_push(&list, &things[i].link);
    }
    for (int i = 0; i < 10; i += 3)
        kr__link_off(&things[i].link);
    for (int i = 0; i < 10; i++) {
        if (i % 3 == 0) {
            CHECK(!kr__link_on(&things[i].link));
            continue;
        }
        CHECK_EQ(thing_of(kr__list_pop(&list))->number, i);
        CHECK(!kr__link_on(&things[i].link));
    }
    CHECK(kr__list_empty(&list));
}

/* Ours: taking off twice, or what was never on, does nothing. */
TEST(list_off_twice_is_harmless) {
    struct kr__list list;
    struct thing a = {.number = 1}, b = {.number = 2};
    kr__list_init(&list);
    kr__link_off(&a.link);
    kr__list_push(&list, &a.link);
    kr__list_push(&list, &b.link);
    kr__link_off(&a.link);
    kr__link_off(&a.link);
    CHECK(kr__list_pop(&list) == &b.link);
    CHECK(kr__list_empty(&list));
}

/* Ours: splicing appends in order and empties the source; all four cases of empty and full. */
TEST(list_splice_appends) {
    struct kr__list to, from;
    struct thing things[4] = {{0}, {1, {0}}, {2, {0}}, {3, {0}}};
    kr__list_init(&to);
    kr__list_init(&from);
    kr__list_splice(&to, &from);
    CHECK(kr__list_empty(&to));
    kr__list_push(&from, &things[0].link);
    kr__list_splice(&to, &from);
    CHECK(kr__list_empty(&from));
    kr__list_splice(&to, &from);
    kr__list_push(&to, &things[1].link);
    kr__list_push(&from, &things[2].link);
    kr__list_push(&from, &things[3].link);
    kr__list_splice(&to, &from);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(thing_of(kr__list_pop(&to))->number, i);
    CHECK(kr__list_empty(&to) && kr__list_empty(&from));
}

/* Ours: a mark is counted where its condition holds, and whoever counts it, a child that dies
 * too. */
TEST(marks_are_counted_over_all_processes) {
    const uint64_t *count = &kr__marks[KR__MARK_block_not_kept];
    uint64_t before = *count;
    pid_t pid = CHECK_SYS(fork());
    if (pid == 0) {
        kr__mark(block_not_kept);
        kr__mark_if(block_not_kept, before == UINT64_MAX);
        kr__mark_if(block_not_kept, before != UINT64_MAX);
        abort();
    }
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    CHECK_EQ(__atomic_load_n(count, __ATOMIC_RELAXED), before + (KR_CHECKED ? 2 : 0));
}

/* Runs `fn` in a child and checks that an assertion ended it. */
static void check_asserts(void (*fn)(void)) {
    pid_t pid = CHECK_SYS(fork());
    if (pid == 0) {
        CHECK_SYS(close(2));
        fn();
        tap_exit_child(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void push_twice(void) {
    struct kr__list list;
    struct thing a = {.number = 1};
    kr__list_init(&list);
    kr__list_push(&list, &a.link);
    kr__list_push(&list, &a.link);
}

/* Ours: a checked build ends at a link that is pushed twice. */
TEST(list_push_twice_asserts) {
    tap_need_checked();
    check_asserts(push_twice);
}

/* ---- heap ---- */

struct model_item {
    int64_t at;
    uint64_t order;
    bool filed;
};

#define NODES 300

struct heap_test {
    struct kr__mem mem;
    struct kr__heap heap;
    struct kr__heap_node nodes[NODES];
    struct model_item model[NODES];
    uint64_t order;
    uint32_t filed;
};

static void heap_test_init(struct heap_test *t, struct bank *bank) {
    *t = (struct heap_test){.mem = mem_of(bank)};
    kr__heap_init(&t->heap, &t->mem);
    for (int i = 0; i < NODES; i++) {
        t->nodes[i].place = KR__HEAP_OUT;
        CHECK_OK(kr__heap_promise(&t->heap));
    }
}

static void heap_test_file(struct heap_test *t, size_t i, int64_t at) {
    kr__heap_file(&t->heap, &t->nodes[i], at);
    t->filed += !t->model[i].filed;
    t->model[i] = (struct model_item){.at = at, .order = t->order++, .filed = true};
}

static void heap_test_remove(struct heap_test *t, size_t i) {
    kr__heap_remove(&t->heap, &t->nodes[i]);
    t->filed -= t->model[i].filed;
    t->model[i].filed = false;
}

/* The model's earliest; NODES when nothing is filed. */
static size_t model_first(const struct heap_test *t) {
    size_t first = NODES;
    for (size_t i = 0; i < NODES; i++) {
        const struct model_item *a = &t->model[i], *b = &t->model[first % NODES];
        if (a->filed &&
            (first == NODES || a->at < b->at || (a->at == b->at && a->order < b->order)))
            first = i;
    }
    return first;
}

static void heap_test_pop(struct heap_test *t, int64_t now) {
    size_t first = model_first(t);
    struct kr__heap_node *node = kr__heap_pop_due(&t->heap, now);
    if (first == NODES || t->model[first].at > now) {
        CHECK(node == NULL);
        return;
    }
    CHECK(node == &t->nodes[first]);
    CHECK(!kr__heap_filed(node));
    t->model[first].filed = false;
    t->filed--;
}

static void heap_test_check(const struct heap_test *t) {
    CHECK_EQ(t->heap.count, t->filed);
    size_t first = model_first(t);
    CHECK_EQ(kr__heap_next(&t->heap), first == NODES ? KR__NEVER : t->model[first].at);
    for (size_t i = 0; i < NODES; i++) {
        CHECK_EQ(kr__heap_filed(&t->nodes[i]), t->model[i].filed);
        if (t->model[i].filed)
            CHECK(t->heap.items[t->nodes[i].place].node == &t->nodes[i]);
    }
}

/* Ours: a million random operations do to the heap what they do to an unsorted array that is
 * searched; few different times, so that equal ones are common, and the ends of time among them. */
TEST(heap_does_as_the_model, .deadline_s = 60) {
    struct bank bank = {.left = -1};
    static struct heap_test t;
    heap_test_init(&t, &bank);
    for (uint64_t round = 0; round < 1000000; round++) {
        size_t i = (size_t)tap_random_below(NODES);
        uint64_t what = tap_random_below(100);
        if (what < 50)
            heap_test_file(&t, i, (int64_t)tap_random_below(64));
        else if (what < 52)
            heap_test_file(&t, i, what == 50 ? INT64_MIN : KR__NEVER);
        else if (what < 75)
            heap_test_remove(&t, i);
        else
            heap_test_pop(&t, (int64_t)tap_random_below(64) - 1);
        if (round % 1000 == 0)
            heap_test_check(&t);
    }
    while (t.filed > 0)
        heap_test_pop(&t, KR__NEVER);
    heap_test_check(&t);
    kr__heap_free(&t.heap);
    CHECK_EQ(t.mem.bytes, 0);
}

/* Ours: equal times leave in the order of filing, and filing anew goes to the end. */
TEST(heap_equal_times_leave_in_order) {
    struct bank bank = {.left = -1};
    static struct heap_test t;
    heap_test_init(&t, &bank);
    for (size_t i = 0; i < NODES; i++)
        heap_test_file(&t, i, 7);
    heap_test_file(&t, 0, 7);
    for (size_t i = 1; i <= NODES; i++)
        CHECK(kr__heap_pop_due(&t.heap, 7) == &t.nodes[i % NODES]);
    kr__heap_free(&t.heap);
}

/* Ours: when memory is refused, what was promised can still be filed, and nothing leaks. */
TEST(heap_refused_memory_keeps_its_promises) {
    struct bank bank = {.left = 1};
    struct kr__mem mem = mem_of(&bank);
    struct kr__heap heap;
    struct kr__heap_node nodes[256];
    kr__heap_init(&heap, &mem);
    uint32_t promised = 0;
    while (kr__heap_promise(&heap) == 0)
        CHECK_LT(++promised, 256u);
    CHECK_GT(promised, 0u);
    for (uint32_t i = 0; i < promised; i++) {
        nodes[i].place = KR__HEAP_OUT;
        kr__heap_file(&heap, &nodes[i], -(int64_t)i);
    }
    CHECK_ERR(kr__heap_promise(&heap), ENOMEM);
    for (uint32_t i = promised; i-- > 0;)
        CHECK(kr__heap_pop_due(&heap, 0) == &nodes[i]);
    bank.left = -1;
    CHECK_OK(kr__heap_promise(&heap));
    kr__heap_free(&heap);
    CHECK_EQ(mem.bytes, 0);
}

/* ---- slab ---- */

struct piece {
    struct kr__slab_head head;
    uint64_t value;
};

/* Ours: an item is found by index and generation for just its life, over many random lives. */
TEST(slab_finds_the_living_only) {
    struct bank bank = {.left = -1};
    struct kr__mem mem = mem_of(&bank);
    struct kr__slab slab;
    static struct {
        struct piece *piece;
        uint32_t index, generation;
        uint64_t value;
    } kept[1000];
    kr__slab_init(&slab, &mem, sizeof(struct piece));
    for (uint64_t round = 0; round < 200000; round++) {
        size_t i = (size_t)tap_random_below(1000);
        void *found = kr__slab_find(&slab, kept[i].index, kept[i].generation);
        CHECK(found == kept[i].piece);
        if (kept[i].piece) {
            CHECK_EQ(kept[i].piece->value, kept[i].value);
            kr__slab_put(&slab, kept[i].piece);
            kept[i].piece = NULL;
            continue;
        }
        struct piece *piece = kr__slab_get(&slab);
        CHECK(piece != NULL);
        piece->value = round;
        kept[i].piece = piece;
        kept[i].index = piece->head.index;
        kept[i].generation = piece->head.generation;
        kept[i].value = round;
        CHECK_NE(piece->head.generation, 0u);
    }
    uint32_t used = 0;
    for (size_t i = 0; i < 1000; i++)
        used += kept[i].piece != NULL;
    CHECK_EQ(slab.used, used);
    kr__slab_free(&slab);
    CHECK_EQ(mem.bytes, 0);
}

/* Ours: 0 and what lies outside the table name nothing, also in an empty slab. */
TEST(slab_refuses_strange_handles) {
    struct bank bank = {.left = -1};
    struct kr__mem mem = mem_of(&bank);
    struct kr__slab slab;
    kr__slab_init(&slab, &mem, sizeof(struct piece));
    CHECK(kr__slab_find(&slab, 0, 0) == NULL);
    CHECK(kr__slab_find(&slab, 0, 1) == NULL);
    struct piece *piece = kr__slab_get(&slab);
    uint32_t index = piece->head.index, generation = piece->head.generation;
    CHECK(kr__slab_find(&slab, index, generation) == piece);
    CHECK(kr__slab_find(&slab, index, 0) == NULL);
    CHECK(kr__slab_find(&slab, index, generation + 1) == NULL);
    CHECK(kr__slab_find(&slab, index + 1, generation) == NULL);
    CHECK(kr__slab_find(&slab, KR__SLAB_CHUNK, 1) == NULL);
    CHECK(kr__slab_find(&slab, UINT32_MAX, generation) == NULL);
    kr__slab_free(&slab);
}

/* Ours: the generation after the last is 1, never 0; the last one is set by hand. */
TEST(slab_generation_wraps_past_zero) {
    struct bank bank = {.left = -1};
    struct kr__mem mem = mem_of(&bank);
    struct kr__slab slab;
    kr__slab_init(&slab, &mem, sizeof(struct piece));
    struct piece *piece = kr__slab_get(&slab);
    piece->head.generation = KR__GENERATION_MAX;
    uint32_t index = piece->head.index;
    kr__slab_put(&slab, piece);
    CHECK(kr__slab_find(&slab, index, KR__GENERATION_MAX) == NULL);
    struct piece *again = kr__slab_get(&slab);
    CHECK(again == piece);
    CHECK_EQ(again->head.generation, 1u);
    kr__slab_free(&slab);
}

/* Ours: refused memory is NULL, changes nothing, and growing goes on when there is memory again;
 * refused at each allocation of the first 20 chunks in turn. */
TEST(slab_survives_refused_memory) {
    for (int64_t left = 0; left < 24; left++) {
        struct bank bank = {.left = left};
        struct kr__mem mem = mem_of(&bank);
        struct kr__slab slab;
        kr__slab_init(&slab, &mem, sizeof(struct piece));
        uint32_t got = 0;
        while (got < 20 * KR__SLAB_CHUNK && kr__slab_get(&slab))
            got++;
        CHECK_EQ(slab.used, got);
        bank.left = -1;
        while (got < 20 * KR__SLAB_CHUNK) {
            CHECK(kr__slab_get(&slab) != NULL);
            got++;
        }
        CHECK_EQ(slab.used, 20 * KR__SLAB_CHUNK);
        kr__slab_free(&slab);
        CHECK_EQ(mem.bytes, 0);
    }
}

/* ---- mpsc ---- */

static void mark_fn(void) {
}

static void *number(uint64_t n) {
    return (void *)(uintptr_t)n;
}

/* Ours: as many fit as there are cells, one more is refused, and all leave in order; many times
 * round. */
TEST(mpsc_is_bounded_and_ordered) {
    struct kr__mpsc_cell cells[8];
    struct kr__mpsc q;
    void (*fn)(void);
    void *arg;
    kr__mpsc_init(&q, cells, 8);
    CHECK(!kr__mpsc_ready(&q));
    uint64_t in = 0, out = 0;
    for (uint64_t round = 0; round < 1000; round++) {
        while (kr__mpsc_push(&q, mark_fn, number(in)))
            in++;
        CHECK_EQ(in - out, 8u);
        for (uint64_t n = 1 + tap_random_below(8); n > 0; n--) {
            CHECK(kr__mpsc_ready(&q));
            CHECK(kr__mpsc_pop(&q, &fn, &arg));
            CHECK(fn == mark_fn);
            CHECK_EQ((uintptr_t)arg, out++);
        }
    }
}

/* Ours: a queue of one cell works too. */
TEST(mpsc_of_one_cell) {
    struct kr__mpsc_cell cell;
    struct kr__mpsc q;
    void (*fn)(void);
    void *arg;
    kr__mpsc_init(&q, &cell, 1);
    for (uint64_t i = 0; i < 100; i++) {
        CHECK(!kr__mpsc_pop(&q, &fn, &arg));
        CHECK(kr__mpsc_push(&q, mark_fn, number(i)));
        CHECK(!kr__mpsc_push(&q, mark_fn, number(i)));
        CHECK(kr__mpsc_pop(&q, &fn, &arg));
        CHECK_EQ((uintptr_t)arg, i);
    }
}

#define PUSHERS 8
#define PUSHES 20000u

struct pusher {
    struct kr__mpsc *q;
    uint64_t id;
};

static void *pusher_main(void *arg) {
    struct pusher *pusher = arg;
    for (uint64_t i = 0; i < PUSHES;) {
        if (kr__mpsc_push(pusher->q, mark_fn, number(pusher->id << 32 | i)))
            i++;
        else
            sched_yield();
    }
    return NULL;
}

/* Ours: of 8 threads through 64 cells, each push arrives once and in its thread's order. */
TEST(mpsc_of_many_threads_loses_nothing, .deadline_s = 60) {
    static struct kr__mpsc_cell cells[64];
    static struct kr__mpsc q;
    struct pusher pushers[PUSHERS];
    pthread_t threads[PUSHERS];
    uint64_t next[PUSHERS] = {0};
    kr__mpsc_init(&q, cells, 64);
    for (uint64_t i = 0; i < PUSHERS; i++) {
        pushers[i] = (struct pusher){.q = &q, .id = i};
        CHECK_EQ(pthread_create(&threads[i], NULL, pusher_main, &pushers[i]), 0);
    }
    for (uint64_t popped = 0; popped < (uint64_t)PUSHERS * PUSHES;) {
        void (*fn)(void);
        void *arg;
        CHECK_GT(tap_remaining_ns(), 0);
        if (!kr__mpsc_pop(&q, &fn, &arg)) {
            sched_yield();
            continue;
        }
        uint64_t id = (uintptr_t)arg >> 32;
        CHECK_LT(id, PUSHERS);
        CHECK_EQ((uintptr_t)arg & UINT32_MAX, next[id]++);
        popped++;
    }
    for (int i = 0; i < PUSHERS; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK(!kr__mpsc_ready(&q));
}

static struct kr__mpsc signal_q;
static volatile uint64_t signal_pushed;

static void push_in_signal(int number_of_signal) {
    (void)number_of_signal;
    if (kr__mpsc_push(&signal_q, mark_fn, number(1ull << 32 | signal_pushed)))
        signal_pushed++;
}

/* Ours: a signal handler may push over a push that it interrupts; a timer signals every 20 us
 * while the thread itself pushes and pops without end, until 2,000 pushes came from the handler. */
TEST(mpsc_push_in_a_signal_handler) {
    static struct kr__mpsc_cell cells[16];
    kr__mpsc_init(&signal_q, cells, 16);
    struct sigaction action = {.sa_handler = push_in_signal};
    CHECK_SYS(sigaction(SIGUSR1, &action, NULL));
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec every = {{0, 20000}, {0, 20000}};
    timer_t timer;
    CHECK_SYS(timer_create(CLOCK_MONOTONIC, &event, &timer));
    CHECK_SYS(timer_settime(timer, 0, &every, NULL));
    uint64_t in = 0, next[2] = {0};
    while (signal_pushed < 2000) {
        CHECK_GT(tap_remaining_ns(), 0);
        for (int i = 0; i < 4; i++)
            in += kr__mpsc_push(&signal_q, mark_fn, number(in));
        void (*fn)(void);
        void *arg;
        while (kr__mpsc_pop(&signal_q, &fn, &arg)) {
            CHECK_EQ((uintptr_t)arg & UINT32_MAX, next[(uintptr_t)arg >> 32]);
            next[(uintptr_t)arg >> 32]++;
        }
    }
    CHECK_SYS(timer_delete(timer));
    CHECK_GT(next[0], 0u);
}

TAP_MAIN(base, 19)
