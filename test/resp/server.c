/* The server of example/resp in a simulated world: under every cut and fault, with peers that do
 * not read, with time that jumps, without memory. */
#include "harness/tap.h"

#include "resp/parse.h"
#include "resp/server.h"

#include <kreactor/sim.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND INT64_C(1000000000)
#define PORT 6379

struct world {
    struct kr_sim *sim;
    struct kr_reactor *r;
    struct server server;
    kr_sim_peer peer;
    size_t wanted; /* bytes that shall be readable */
};

static int64_t grants; /* allocations still granted to the reactor; -1: all */

static void *bank_alloc(void *ctx, size_t size) {
    (void)ctx;
    if (grants == 0)
        return NULL;
    grants -= grants > 0;
    return malloc(size);
}

static void bank_free(void *ctx, void *memory, size_t size) {
    (void)ctx;
    (void)size;
    free(memory);
}

static void begin(struct world *w, uint64_t seed) {
    static const struct kr_alloc bank = {.alloc = bank_alloc, .free = bank_free};
    grants = -1;
    *w = (struct world){0};
    struct kr_config config;
    kr_config_init(&config);
    config.alloc = &bank;
    CHECK_OK(kr_sim_new(&w->sim, seed));
    CHECK_OK(kr_sim_reactor(w->sim, &w->r, &config));
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", PORT));
    CHECK_OK(server_start(&w->server, w->r, &addr, &addr, seed));
    CHECK_OK(kr_sim_connect(w->sim, &w->peer, PORT));
}

static void end(struct world *w) {
    CHECK_OK(kr_reactor_free(w->r));
    CHECK_EQ(w->server.clients, 0);
    server_end(&w->server);
    CHECK_OK(kr_sim_free(w->sim));
}

static bool is_answered(void *arg) {
    struct world *w = arg;
    return kr_sim_readable(w->sim, w->peer) >= w->wanted;
}

static bool is_over(void *arg) {
    struct world *w = arg;
    return w->server.connections > 0 && w->server.clients == 0;
}

static void until(struct world *w, bool (*done)(void *arg)) {
    CHECK_OK(kr_sim_run_until(w->sim, w->r, done, w, 100 * SECOND));
}

static void pass(struct world *w, int64_t ns) {
    int rc = kr_sim_run_until(w->sim, w->r, NULL, NULL, ns);
    CHECK(rc == 0 || rc == -ETIMEDOUT || rc == -EDEADLK);
}

/* All of it, however little goes at a time. */
static void say(struct world *w, const char *data, size_t size) {
    while (size) {
        int64_t sent = kr_sim_send(w->sim, w->peer, data, size);
        if (sent == -EAGAIN) {
            pass(w, SECOND / 1000);
            continue;
        }
        CHECK_GT(sent, 0);
        data += sent;
        size -= (size_t)sent;
    }
}

static void hear(struct world *w, const char *answer, size_t size) {
    while (size) {
        char got[4096];
        w->wanted = 1;
        until(w, is_answered);
        int64_t count = kr_sim_recv(w->sim, w->peer, got, size < sizeof got ? size : sizeof got);
        CHECK_GT(count, 0);
        CHECK_MEM_EQ(got, answer, (size_t)count);
        answer += count;
        size -= (size_t)count;
    }
}

#define ASK(w_, question_, answer_)                                                                \
    do {                                                                                           \
        say(w_, question_, sizeof(question_) - 1);                                                 \
        hear(w_, answer_, sizeof(answer_) - 1);                                                    \
    } while (0)

static const char question[] = "PING\r\n"
                               "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\n41\r\n"
                               "*2\r\n$4\r\nINCR\r\n$1\r\na\r\n"
                               "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
                               "*5\r\n$4\r\nMSET\r\n$1\r\nb\r\n$1\r\n1\r\n$1\r\nc\r\n$0\r\n\r\n"
                               "*5\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n"
                               "DEL a b c d\r\n"
                               "EXISTS a\r\n"
                               "NONSENSE\r\n"
                               "ECHO end\r\n";
static const char answer[] = "+PONG\r\n+OK\r\n:42\r\n$2\r\n42\r\n+OK\r\n"
                             "*4\r\n$2\r\n42\r\n$1\r\n1\r\n$0\r\n\r\n$-1\r\n:3\r\n:0\r\n"
                             "-ERR unknown command 'NONSENSE', with args beginning with: \r\n"
                             "$3\r\nend\r\n";

/* Ours: each offset, one after the other on one connection. The first part has been read before the
 * second is sent. */
TEST(answers_are_the_same_wherever_a_stream_is_cut) {
    static struct world w;
    begin(&w, 1);
    for (size_t cut = 0; cut < sizeof question; cut++) {
        say(&w, question, cut);
        pass(&w, SECOND / 100);
        say(&w, question + cut, sizeof question - 1 - cut);
        hear(&w, answer, sizeof answer - 1);
    }
    end(&w);
}

/* Ours: on many seeds, with everything a kernel may cut short. */
TEST(answers_are_the_same_in_any_schedule, .deadline_s = 120) {
    static struct world w;
    for (uint64_t seed = 1; seed <= (tap_full() ? 5000 : 500); seed++) {
        begin(&w, seed);
        kr_sim_fault_set(w.sim, KR_SIM_SHORT_RECV, 512);
        kr_sim_fault_set(w.sim, KR_SIM_SHORT_SEND, 512);
        kr_sim_fault_set(w.sim, KR_SIM_RECV_END, 256);
        kr_sim_fault_set(w.sim, KR_SIM_TASK_WORK, 256);
        kr_sim_fault_set(w.sim, KR_SIM_SHORT_SUBMIT, 256);
        for (unsigned i = 0; i < 3; i++) {
            say(&w, question, sizeof question - 1);
            hear(&w, answer, sizeof answer - 1);
        }
        end(&w);
    }
}

static size_t set_request(char *request, const char *value, size_t size) {
    size_t head = (size_t)sprintf(request, "*3\r\n$3\r\nSET\r\n$1\r\nv\r\n$%zu\r\n", size);
    memcpy(request + head, value, size);
    memcpy(request + head + size, "\r\n", 2);
    return head + size + 2;
}

static size_t bulk_reply(char *reply, const char *value, size_t size) {
    size_t head = (size_t)sprintf(reply, "$%zu\r\n", size);
    memcpy(reply + head, value, size);
    memcpy(reply + head + size, "\r\n", 2);
    return head + size + 2;
}

/* Ours: at each limit that a size may cross: copied in, referred to, gathered. */
TEST(values_of_any_size_come_back, .deadline_s = 60) {
    static const size_t sizes[] = {0, 1, 400, 4095, 4096, 4097, 65536, 300000, 3000000};
    static char value[3000000], text[3000100];
    for (size_t i = 0; i < sizeof value; i++)
        value[i] = (char)tap_random();
    static struct world w;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        begin(&w, 1 + i);
        kr_sim_fault_set(w.sim, KR_SIM_SHORT_RECV, 256);
        kr_sim_fault_set(w.sim, KR_SIM_SHORT_SEND, 256);
        say(&w, text, set_request(text, value, sizes[i]));
        hear(&w, "+OK\r\n", 5);
        for (unsigned again = 0; again < 3; again++) {
            say(&w, "GET v\r\n", 7);
            hear(&w, text, bulk_reply(text, value, sizes[i]));
        }
        end(&w);
    }
}

/* Ours: what is on its way to a slow reader is what the value was when it was asked for. */
TEST(value_on_its_way_outlives_its_record) {
    static char value[200000], text[200100];
    memset(value, 'v', sizeof value);
    static struct world w;
    begin(&w, 1);
    CHECK_OK(kr_sim_window(w.sim, w.peer, 1000, 65536));
    say(&w, text, set_request(text, value, sizeof value));
    hear(&w, "+OK\r\n", 5);
    say(&w, "GET v\r\nSET v x\r\nGET v\r\nFLUSHALL\r\n", 34);
    pass(&w, SECOND);
    CHECK_EQ(store_count(&w.server.store), 0);
    hear(&w, text, bulk_reply(text, value, sizeof value));
    hear(&w, "+OK\r\n$1\r\nx\r\n+OK\r\n", 17);
    end(&w);
}

/* Ours: a peer that asks and does not read is not asked what else it wants; its answers are not
 * piled up, and none is lost. */
TEST(peer_that_does_not_read_is_held_back) {
    enum { COUNT = 4000, SIZE = 2000 };
    static char value[SIZE], text[SIZE + 100], asks[COUNT * 7 + 1];
    memset(value, 'v', sizeof value);
    for (unsigned i = 0; i < COUNT; i++)
        memcpy(asks + 7 * i, "GET v\r\n", 7);
    static struct world w;
    begin(&w, 1);
    CHECK_OK(kr_sim_window(w.sim, w.peer, 4096, 4 << 20));
    say(&w, text, set_request(text, value, SIZE));
    hear(&w, "+OK\r\n", 5);
    say(&w, asks, COUNT * 7);
    pass(&w, 10 * SECOND);
    CHECK_LT(w.server.commands, 300);
    struct kr_stats stats;
    CHECK_OK(kr_stats_read(w.r, &stats, sizeof stats));
    CHECK_LT(stats.alloc_bytes, 4u << 20);
    size_t size = bulk_reply(text, value, SIZE);
    for (unsigned i = 0; i < COUNT; i++)
        hear(&w, text, size);
    CHECK_EQ(w.server.commands, COUNT + 1);
    end(&w);
}

/* Ours: to the second, as Redis rounds it, and gone when it is over. */
TEST(records_expire_in_time) {
    static struct world w;
    begin(&w, 1);
    ASK(&w,
        "SET a 1 EX 10\r\nSET b 1\r\nEXPIRE b 20\r\nEXPIRE none 20\r\nSET c 1 PX 400\r\nSET d 1\r\n",
        "+OK\r\n+OK\r\n:1\r\n:0\r\n+OK\r\n+OK\r\n");
    ASK(&w, "TTL a\r\nTTL b\r\nTTL c\r\nTTL d\r\nTTL none\r\n",
        ":10\r\n:20\r\n:0\r\n:-1\r\n:-2\r\n");
    pass(&w, 4 * SECOND);
    ASK(&w, "TTL a\r\nEXISTS a b c d\r\nINCR a\r\nTTL a\r\n", ":6\r\n:3\r\n:2\r\n:6\r\n");
    pass(&w, 7 * SECOND);
    ASK(&w, "GET a\r\nTTL a\r\nTTL b\r\nSET b 2\r\nTTL b\r\n",
        "$-1\r\n:-2\r\n:9\r\n+OK\r\n:-1\r\n");
    ASK(&w, "EXPIRE b 0\r\nEXISTS b\r\nEXPIRE d -1\r\nEXISTS d\r\n", ":1\r\n:0\r\n:1\r\n:0\r\n");
    end(&w);
}

/* Ours: nobody asks, and what has expired is gone all the same; then nothing ticks any more. */
TEST(sweep_removes_what_has_expired_and_rests) {
    static struct world w;
    begin(&w, 1);
    for (unsigned i = 0; i < 1000; i++) {
        char text[64];
        say(&w, text, (size_t)sprintf(text, "SET %u x EX %u\r\n", i, i % 4 ? 1 : 1000));
        hear(&w, "+OK\r\n", 5);
    }
    pass(&w, 4 * SECOND);
    CHECK_EQ(store_count(&w.server.store), 250);
    CHECK_EQ(w.server.store.expired, 750);
    struct kr_stats stats;
    CHECK_OK(kr_stats_read(w.r, &stats, sizeof stats));
    CHECK_EQ(stats.timers, 1);
    ASK(&w, "FLUSHALL\r\n", "+OK\r\n");
    pass(&w, SECOND);
    CHECK_OK(kr_stats_read(w.r, &stats, sizeof stats));
    CHECK_EQ(stats.timers, 0);
    end(&w);
}

static void check_hangs_up(const char *said, size_t size, const char *heard) {
    static struct world w;
    begin(&w, 1);
    say(&w, said, size);
    hear(&w, heard, strlen(heard));
    until(&w, is_over);
    char byte;
    CHECK_LE(kr_sim_recv(w.sim, w.peer, &byte, 1), 0);
    end(&w);
}

/* Redis's: what stands behind is not run, what stands before is answered. */
TEST(quit_and_nonsense_hang_up) {
    check_hangs_up("PING\r\nQUIT\r\nPING\r\n", 18, "+PONG\r\n+OK\r\n");
    check_hangs_up("*1\r\n$4\r\nquit\r\n", 14, "+OK\r\n");
    check_hangs_up("PING\r\n*x\r\nPING\r\n", 16,
                   "+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n");
    check_hangs_up("*1\r\n\r\n", 6, "-ERR Protocol error: expected '$', got ' '\r\n");
}

/* Ours: the peer ends its side in the middle of a request; what was whole is answered. */
TEST(peer_that_ends_is_answered_first) {
    static struct world w;
    begin(&w, 1);
    say(&w, "PING\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$100000\r\nxyz", 37);
    CHECK_OK(kr_sim_shutdown(w.sim, w.peer));
    hear(&w, "+PONG\r\n", 7);
    until(&w, is_over);
    CHECK_EQ(store_count(&w.server.store), 0);
    end(&w);
}

/* Ours: half an answer is none. A reply of more than a gigabyte is refused before it is begun. */
TEST(answer_that_is_too_large_is_refused) {
    enum { COUNT = 1100 };
    static char value[1u << 20], text[(1u << 20) + 100];
    static struct world w;
    begin(&w, 1);
    say(&w, text, set_request(text, value, sizeof value));
    hear(&w, "+OK\r\n", 5);
    say(&w, "MGET", 4);
    for (unsigned i = 0; i < COUNT; i++)
        say(&w, " v", 2);
    ASK(&w, "\r\n", "-ERR the answer would be larger than 1073741824 bytes\r\n");
    ASK(&w, "PING\r\n", "+PONG\r\n");
    end(&w);
}

/* Ours: whichever allocation of the reactor is refused, a client hears all of an answer or is hung
 * up on. */
TEST(without_memory_nobody_hears_half_an_answer, .deadline_s = 60) {
    static struct world w;
    static char value[100000], text[100100], got[200000];
    memset(value, 'v', sizeof value);
    unsigned cut_off = 0;
    for (int64_t granted = 0; granted < 20; granted++) {
        begin(&w, 1);
        say(&w, text, set_request(text, value, sizeof value));
        hear(&w, "+OK\r\n", 5);
        grants = granted;
        say(&w, "GET v\r\nPING\r\n", 13);
        pass(&w, SECOND);
        size_t size = bulk_reply(text, value, sizeof value), heard = 0;
        int64_t count;
        while ((count = kr_sim_recv(w.sim, w.peer, got + heard, sizeof got - heard)) > 0) {
            heard += (size_t)count;
            pass(&w, SECOND);
        }
        CHECK_MEM_EQ(got, text, heard < size ? heard : size);
        if (w.server.clients)
            CHECK_EQ(heard, size + 7);
        cut_off += !w.server.clients;
        grants = -1;
        end(&w);
    }
    CHECK_GT(cut_off, 0);
}

TAP_MAIN(resp_server, 11)
