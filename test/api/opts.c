/* Options: of programs of other versions, and their defaults. */
#include "api/api.h"

#include "conn/options.h"

#include <errno.h>
#include <string.h>

/* ---- programs of other versions ---- */

/* Memory as a program of another version has it: a struct of that size, and what is behind it. */
union foreign_opts {
    unsigned char bytes[1024];
    struct kr_config config;
    struct kr_conn_opts conn;
    struct kr_listen_opts listen;
    struct kr_connect_opts connect;
    struct kr_forward_opts forward;
};

static union foreign_opts *foreign(size_t size, void (*init)(union foreign_opts *, size_t)) {
    static union foreign_opts o;
    memset(&o, 0x5a, sizeof o);
    init(&o, size);
    size_t told;
    memcpy(&told, &o, sizeof told);
    CHECK_EQ(told, size);
    for (size_t i = size; i < sizeof o; i++)
        CHECK_EQ(o.bytes[i], 0x5au);
    return &o;
}

static void init_config(union foreign_opts *o, size_t size) {
    kr_config_init_sized(&o->config, size);
}

static void init_conn(union foreign_opts *o, size_t size) {
    kr_conn_opts_init_sized(&o->conn, size);
}

static void init_forward(union foreign_opts *o, size_t size) {
    kr_forward_opts_init_sized(&o->forward, size);
}

/* Of a version that lacks the last field of each: `inner` of the connection's limits. */
static size_t inner;

static void init_listen(union foreign_opts *o, size_t size) {
    kr_listen_opts_init_sized(&o->listen, size, inner);
}

static void init_connect(union foreign_opts *o, size_t size) {
    kr_connect_opts_init_sized(&o->connect, size, inner);
}

/* Ours: neither the init nor the call goes beyond the struct of an older program; what that lacks has
 * its default; and what it has is heard, in the struct within, too. */
TEST(options_of_an_older_program) {
    struct kr_reactor *r;
    const struct kr_config *config = &foreign(sizeof(struct kr_config) - 8, init_config)->config;
    CHECK_OK(kr_reactor_new(&r, config, NULL));

    inner = offsetof(struct kr_conn_opts, inline_size);
    struct kr_conn_opts *limits = &foreign(inner, init_conn)->conn;
    CHECK(limits->no_delay);
    CHECK_OK(kr_conn_opts_check(limits, NULL));
    struct kr_failure why;
    limits->flush_ns = -1;
    CHECK_ERR(kr_conn_opts_check(limits, &why), EINVAL);
    CHECK(strstr(why.cause, "flush_ns"));

    for (size_t less = 0; less <= 8; less += 8) {
        size_t head = offsetof(struct kr_listen_opts, conn) - less;
        struct kr_listen_opts *listen = &foreign(head + inner, init_listen)->listen;
        CHECK_EQ(listen->backlog, 1024u);
        CHECK_OK(kr_listen_opts_check(listen, NULL));
        limits = (struct kr_conn_opts *)((char *)listen + head);
        CHECK(limits->size == inner && limits->no_delay);
        limits->flush_ns = -1;
        CHECK_ERR(kr_listen_opts_check(listen, &why), EINVAL);
        CHECK(strstr(why.cause, "flush_ns"));
        limits->flush_ns = 0;
        struct kr_addr addr;
        CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 0));
        CHECK_OK(kr_listen(r, NULL, &addr, listen, &test_take_all_ops, NULL));

        head = offsetof(struct kr_connect_opts, conn) - less;
        struct kr_connect_opts *connect = &foreign(head + inner, init_connect)->connect;
        CHECK_OK(kr_connect_opts_check(connect, NULL, NULL));
        limits = (struct kr_conn_opts *)((char *)connect + head);
        limits->recv_fds = 10000;
        CHECK_ERR(kr_connect_opts_check(connect, NULL, &why), EINVAL);
        CHECK(strstr(why.cause, "recv_fds"));
    }
    foreign(offsetof(struct kr_forward_opts, max_ba), init_forward);
    kr_reactor_free(r);
}

/* Ours: a newer program's struct is filled to its end, and refused by its name. */
TEST(options_of_a_newer_program) {
    struct kr_failure why;
    struct kr_reactor *r = NULL;
    const union foreign_opts *o = foreign(sizeof(struct kr_config) + 8, init_config);
    CHECK_ERR(kr_reactor_new(&r, &o->config, &why), EINVAL);
    CHECK(!r && strstr(why.cause, "size") && strstr(why.cause, "kr_config"));
    CHECK_EQ(why.refused, KR_REFUSED_CONFIG);

    o = foreign(sizeof(struct kr_conn_opts) + 8, init_conn);
    CHECK_ERR(kr_conn_opts_check(&o->conn, &why), EINVAL);
    CHECK(strstr(why.cause, "kr_conn_opts"));
    for (size_t more = 0; more <= 8; more += 8) { /* without, and within */
        inner = sizeof(struct kr_conn_opts) + more;
        o = foreign(sizeof(struct kr_listen_opts) + 8, init_listen);
        CHECK_ERR(kr_listen_opts_check(&o->listen, &why), EINVAL);
        CHECK(strstr(why.cause, more ? "kr_conn_opts" : "kr_listen_opts"));
        o = foreign(sizeof(struct kr_connect_opts) + 8, init_connect);
        CHECK_ERR(kr_connect_opts_check(&o->connect, NULL, &why), EINVAL);
        CHECK(strstr(why.cause, more ? "kr_conn_opts" : "kr_connect_opts"));
    }
}

/* Ours: what was never filled is refused, not read as something. */
TEST(options_that_were_not_filled) {
    struct kr_failure why;
    const union foreign_opts o = {.bytes = {0}};
    struct kr_reactor *r = NULL;
    CHECK_ERR(kr_reactor_new(&r, &o.config, &why), EINVAL);
    CHECK(strstr(why.cause, "kr_config_init"));
    CHECK_ERR(kr_conn_opts_check(&o.conn, &why), EINVAL);
    CHECK_ERR(kr_listen_opts_check(&o.listen, &why), EINVAL);
    CHECK(strstr(why.cause, "kr_listen_opts_init"));
    CHECK_ERR(kr_connect_opts_check(&o.connect, NULL, &why), EINVAL);
}

/* Ours: sizes that contradict each other write nothing. */
TEST(options_of_impossible_sizes) {
    union foreign_opts o;
    memset(&o, 0x5a, sizeof o);
    kr_listen_opts_init_sized(&o.listen, 64, sizeof(struct kr_conn_opts));
    kr_connect_opts_init_sized(&o.connect, 64, sizeof(struct kr_conn_opts));
    kr_listen_opts_init_sized(&o.listen, sizeof(struct kr_conn_opts) + 8,
                              sizeof(struct kr_conn_opts));
    for (size_t i = 0; i < sizeof o; i++)
        CHECK_EQ(o.bytes[i], 0x5au);
}

/* Ours: callbacks of a version to come are refused, since nobody would call them. */
static void later(void) {
}

TEST_EACH(callbacks_of_a_newer_program) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_conn_ops newer = test_take_all_ops;
    newer.reserved[3] = later;
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 0));
    CHECK_ERR(kr_listen(r, NULL, &addr, NULL, &newer, NULL), EINVAL);
    CHECK_ERR(kr_connect(r, NULL, &addr, NULL, &newer, NULL), EINVAL);
    CHECK_ERR(kr_conn_adopt(r, NULL, 0, NULL, &newer, NULL), EINVAL);
    test_reactor_free(r);
}

/* ---- defaults ---- */

/* Ours: the defaults are those that the header gives. */
TEST(listen_opts_are_as_documented) {
    struct kr_listen_opts o;
    memset(&o, 0x5a, sizeof o);
    kr_listen_opts_init(&o);
    CHECK_EQ(o.size, sizeof o);
    CHECK_EQ(o.backlog, 1024u);
    CHECK_EQ(o.turn_accepts, 0u);
    CHECK(!o.on_end);
    CHECK(o.reuse_addr && !o.reuse_port && !o.v6_only && o.conn.no_delay && !o.addresses);
    CHECK_EQ(o.conn_max, 0u);
    CHECK_EQ(o.conn.keep_idle_s | o.conn.keep_every_s | o.conn.keep_probes, 0u);
    CHECK_EQ(o.conn.user_timeout_ms | o.conn.send_buf | o.conn.recv_buf | o.conn.mark, 0u);
    CHECK_EQ(o.conn.send_low | o.conn.send_high | o.conn.send_cap, 0u);
    CHECK_EQ(o.conn.zerocopy_min, 0u);
    CHECK_EQ(o.conn.recv_cap, 0u);
    CHECK_EQ(o.conn.idle_ns, 0);
    CHECK_EQ(o.conn.flush_ns, 0);
    CHECK_EQ(o.conn.inline_size, 0u);
    CHECK_EQ(o.in_use_ns, 0);
}

#define KIB ((size_t)1 << 10)

/* Given marks, and what they come to. */
static const struct {
    size_t low, high, cap, low_is, high_is, cap_is;
} mark_rows[] = {
    {0, 0, 0, 64 * KIB, 256 * KIB, 16384 * KIB},
    {0, 32 * KIB, 0, 8 * KIB, 32 * KIB, 16384 * KIB},
    {0, 0, 128 * KIB, 32 * KIB, 128 * KIB, 128 * KIB},
    {512 * KIB, 0, 0, 512 * KIB, 512 * KIB, 16384 * KIB},
    {0, 32768 * KIB, 0, 64 * KIB, 32768 * KIB, 32768 * KIB},
    {1, 2, 3, 1, 2, 3},
};

/* Ours: 0 stands for the default, which makes room for the marks that are given. */
TEST(listen_opts_of_0_are_the_defaults) {
    for (size_t i = 0; i < sizeof mark_rows / sizeof *mark_rows; i++) {
        const struct kr_conn_opts given = {.size = sizeof given,
                                           .send_low = mark_rows[i].low,
                                           .send_high = mark_rows[i].high,
                                           .send_cap = mark_rows[i].cap};
        struct kr_conn_opts o;
        CHECK(!kr__conn_opts_settle(&o, &given));
        CHECK_EQ(o.send_low, mark_rows[i].low_is);
        CHECK_EQ(o.send_high, mark_rows[i].high_is);
        CHECK_EQ(o.send_cap, mark_rows[i].cap_is);
        CHECK_EQ(o.recv_cap, 1024 * KIB);
        CHECK_EQ(o.flush_ns, 30000 * MS);
    }
}

static void check_words(int rc, const struct kr_failure *why, const char *of, const char *field) {
    CHECK_EQ(rc, -EINVAL);
    CHECK_EQ(why->error, -EINVAL);
    CHECK_EQ(why->refused, KR_REFUSED_CONFIG);
    CHECK(strstr(why->tried, of) && strstr(why->cause, field) && why->remedy[0]);
}

/* Ours: what is refused is told by its name, of whichever options it is part. */
TEST(opts_check_names_the_field) {
    struct kr_failure why = {.error = 1, .cause = "stale"};
    CHECK_OK(kr_conn_opts_check(NULL, &why));
    CHECK(why.error == 0 && !why.cause[0]);
    CHECK_OK(kr_listen_opts_check(NULL, NULL));
    CHECK_OK(kr_connect_opts_check(NULL, NULL, NULL));
    struct kr_listen_opts listen = test_listen_opts();
    CHECK_OK(kr_listen_opts_check(&listen, &why));
    listen.conn.send_low = 3;
    listen.conn.send_high = 2;
    check_words(kr_listen_opts_check(&listen, &why), &why, "kr_listen_opts", "send_low");
    CHECK_ERR(kr_listen_opts_check(&listen, NULL), EINVAL);
    check_words(kr_conn_opts_check(&listen.conn, &why), &why, "kr_conn_opts", "send_low");
    listen.backlog = 65536;
    check_words(kr_listen_opts_check(&listen, &why), &why, "kr_listen_opts", "backlog");
    struct kr_connect_opts connect = test_connect_opts();
    struct kr_addr four, six;
    CHECK_OK(kr_addr_ip(&four, "127.0.0.1", 0));
    CHECK_OK(kr_addr_ip(&six, "::1", 0));
    connect.source = &six;
    CHECK_OK(kr_connect_opts_check(&connect, NULL, &why));
    check_words(kr_connect_opts_check(&connect, &four, &why), &why, "kr_connect_opts", "source");
    connect.source = NULL;
    connect.conn.keep_probes = 128;
    check_words(kr_connect_opts_check(&connect, &four, &why), &why, "kr_connect_opts",
                "keep_probes");
}

TEST(config_is_as_documented) {
    struct kr_config c;
    memset(&c, 0x5a, sizeof c);
    kr_config_init(&c);
    CHECK_EQ(c.size, sizeof c);
    CHECK_EQ(c.taskrun, KR_TASKRUN_COOP);
    CHECK_EQ(c.sq_entries, 512u);
    CHECK_EQ(c.cq_entries, 4096u);
    CHECK_EQ(c.listener_max, 64u);
    CHECK_EQ(c.conn_max, 0u); /* by the limit of descriptors */
    CHECK_EQ(c.connect_max, 0u);
    CHECK_EQ(c.buf_count, 1024u);
    CHECK_EQ(c.buf_size, 65536u);
    CHECK_EQ(c.post_max, 1024u);
    CHECK_EQ(c.turn_cqes, 1024u);
    CHECK_EQ(c.turn_posts, 256u);
    CHECK_EQ(c.turn_bytes, 65536u);
    CHECK(!c.alloc);
}
