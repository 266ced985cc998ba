/* The public functions, one by one: what they refuse, and what they answer.
 *
 * What must hold of each: an argument out of its range is -EINVAL, a handle whose object is gone
 * (or never was) is -ESTALE, in both cases nothing was done and what `ret` points to is
 * untouched. */
#include "harness/server.h"

#include "core/profile.h"

#include <errno.h>
#include <limits.h>
#include <stdalign.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define MS 1000000ll
#define HOUR (3600 * 1000 * MS)

/* ---- words and numbers ---- */

/* Ours: the headers' version is the library's. */
TEST(version_is_that_of_the_headers) {
    CHECK_EQ(kr_version(), (unsigned)KR_VERSION);
    CHECK_EQ(KR_VERSION, KR_VERSION_MAJOR * 10000 + KR_VERSION_MINOR * 100 + KR_VERSION_PATCH);
}

/* Ours: every error that the headers speak of has its name, with either sign; no number has a wrong
 * one (libc's list is the judge), and none has NULL. */
TEST(errname_names_errors) {
    static const int spoken_of[] = {
        EINVAL,   EPERM,        ECHILD,     ESTALE,     ENOBUFS,      EPIPE,  ENOMEM,
        ENODATA,  EADDRINUSE,   EACCES,     EMFILE,     EAFNOSUPPORT, ENOSPC, EADDRNOTAVAIL,
        EBUSY,    EBADR,        ENOSYS,     ENFILE,     ECONNRESET,   EINTR,  ETIMEDOUT,
        EMSGSIZE, ECONNABORTED, ECANCELED,  EAGAIN,     ECONNREFUSED, EIO,    ENOTCONN,
    };
    for (size_t i = 0; i < sizeof spoken_of / sizeof *spoken_of; i++) {
        CHECK_STR_EQ(kr_errname(spoken_of[i]), strerrorname_np(spoken_of[i]));
        CHECK_STR_EQ(kr_errname(-spoken_of[i]), strerrorname_np(spoken_of[i]));
    }
    for (int error = 1; error < 5000; error++) {
        const char *name = strerrorname_np(error);
        CHECK(kr_errname(error));
        if (strcmp(kr_errname(error), "E?") != 0)
            CHECK_STR_EQ(kr_errname(error), name ? name : "E?");
        CHECK_STR_EQ(kr_errname(-error), kr_errname(error));
    }
    CHECK(kr_errname(0));
    CHECK_STR_EQ(kr_errname(INT_MIN), "E?");
    CHECK_STR_EQ(kr_errname(INT_MAX), "E?");
}

TEST(whyname_names_causes) {
    CHECK_STR_EQ(kr_whyname(KR_WHY_LOCAL), "local");
    CHECK_STR_EQ(kr_whyname(KR_WHY_PEER), "peer");
    CHECK_STR_EQ(kr_whyname(KR_WHY_ERROR), "error");
    CHECK_STR_EQ(kr_whyname(KR_WHY_TIMEOUT), "timeout");
    CHECK_STR_EQ(kr_whyname(KR_WHY_LIMIT), "limit");
    CHECK_STR_EQ(kr_whyname(KR_WHY_REACTOR), "reactor");
    CHECK_STR_EQ(kr_whyname(KR_WHY_CONNECT), "connect");
    CHECK_STR_EQ(kr_whyname(KR_WHY_FILE), "file");
    CHECK_STR_EQ(kr_whyname(KR_WHY_RELEASED), "released");
    CHECK_STR_EQ(kr_whyname((enum kr_why)9), "?");
    CHECK_STR_EQ(kr_whyname((enum kr_why)250), "?");
}

/* ---- addresses ---- */

static void check_round_trip(const char *ip, uint16_t port, const char *text) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, ip, port));
    CHECK_EQ(kr_addr_port(&addr), port);
    char got[KR_ADDR_TEXT_SIZE];
    int size = CHECK_OK(kr_addr_text(&addr, got, sizeof got));
    CHECK_STR_EQ(got, text);
    CHECK_EQ((size_t)size, strlen(text));
}

TEST(addr_to_text_and_back) {
    check_round_trip("127.0.0.1", 80, "127.0.0.1:80");
    check_round_trip("0.0.0.0", 0, "0.0.0.0:0");
    check_round_trip("255.255.255.255", 65535, "255.255.255.255:65535");
    check_round_trip("::1", 443, "[::1]:443");
    check_round_trip("::", 0, "[::]:0");
    check_round_trip("2001:db8:1111:2222:3333:4444:5555:6666", 65535,
                     "[2001:db8:1111:2222:3333:4444:5555:6666]:65535");
    check_round_trip("::ffff:192.0.2.255", 1, "[::ffff:192.0.2.255]:1");
}

/* Ours: the scope of a link-local address is kept, and the longest text there is has room. */
TEST(addr_keeps_a_scope) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "fe80::1%7", 9));
    CHECK_EQ(addr.u.in6.sin6_scope_id, 7u);
    CHECK_EQ(kr_addr_port(&addr), 9);
    addr.u.in6.sin6_scope_id = UINT32_MAX;
    memset(&addr.u.in6.sin6_addr, 0xff, sizeof addr.u.in6.sin6_addr);
    addr.u.in6.sin6_port = 0xffff;
    char text[KR_ADDR_TEXT_SIZE];
    CHECK_GT(kr_addr_text(&addr, text, sizeof text), 0);
    CHECK(memchr(text, 0, sizeof text));
}

TEST(addr_refuses_what_is_not_numeric) {
    static const char *const bad[] = {
        "",          "localhost", "1.2.3",     "1.2.3.4.5", "256.1.1.1", "127.0.0.1 ", " 127.0.0.1",
        "127.0.0.1:80", "[::1]",  "::g",       ":",         "1:2:3",     "::1%",
        "fe80::1%no such",
        "fe80::1%4294967296",
        "fe80::1%/",
    };
    struct kr_addr addr, before;
    memset(&addr, 0x5a, sizeof addr);
    before = addr;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (kr_addr_ip(&addr, bad[i], 1) != -EINVAL)
            FAIL("\"%s\" is taken for an address", bad[i]);
        CHECK_MEM_EQ(&addr, &before, sizeof addr);
    }
    CHECK_ERR(kr_addr_ip(&addr, NULL, 1), EINVAL);
    CHECK_ERR(kr_addr_ip(NULL, "127.0.0.1", 1), EINVAL);
    CHECK_MEM_EQ(&addr, &before, sizeof addr);
}

/* Ours: in a room that is too small nothing is written, not even the closing 0; one byte less than
 * needed is too small, what is needed is enough. */
TEST(addr_text_needs_its_room) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 80));
    char text[16];
    for (size_t size = 0; size < sizeof "127.0.0.1:80"; size++) {
        memset(text, '#', sizeof text);
        CHECK_ERR(kr_addr_text(&addr, text, size), ENOSPC);
        for (size_t i = 0; i < sizeof text; i++)
            CHECK_EQ(text[i], '#');
    }
    CHECK_EQ(kr_addr_text(&addr, text, sizeof "127.0.0.1:80"), 12);
    CHECK_EQ(text[sizeof "127.0.0.1:80"], '#');
}

/* Ours: a Unix address is a path with its closing 0, or an abstract name without one (man 7
 * unix). */
TEST(addr_of_unix_sockets) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_unix(&addr, "/run/x"));
    CHECK_EQ(addr.u.un.sun_family, AF_UNIX);
    CHECK_EQ(addr.size, offsetof(struct sockaddr_un, sun_path) + sizeof "/run/x");
    CHECK_STR_EQ(addr.u.un.sun_path, "/run/x");
    CHECK_EQ(kr_addr_port(&addr), 0);
    CHECK_OK(kr_addr_unix(&addr, "@name"));
    CHECK_EQ(addr.size, offsetof(struct sockaddr_un, sun_path) + sizeof "@name" - 1);
    CHECK_MEM_EQ(addr.u.un.sun_path, "\0name", 5);
}

TEST(addr_of_unix_sockets_has_its_bounds) {
    char path[110];
    memset(path, 'x', sizeof path);
    path[108] = 0;
    struct kr_addr addr, before;
    memset(&addr, 0x5a, sizeof addr);
    before = addr;
    CHECK_ERR(kr_addr_unix(&addr, path), ENAMETOOLONG);
    CHECK_ERR(kr_addr_unix(&addr, ""), EINVAL);
    CHECK_ERR(kr_addr_unix(&addr, "@"), EINVAL);
    CHECK_ERR(kr_addr_unix(&addr, NULL), EINVAL);
    CHECK_ERR(kr_addr_unix(NULL, "/run/x"), EINVAL);
    path[0] = '@';
    path[108] = 'x';
    path[109] = 0;
    CHECK_ERR(kr_addr_unix(&addr, path), ENAMETOOLONG);
    CHECK_MEM_EQ(&addr, &before, sizeof addr);
    path[108] = 0;
    CHECK_OK(kr_addr_unix(&addr, path)); /* 107 bytes behind the "@" */
    CHECK_EQ(addr.size, sizeof addr.u.un);
    CHECK_OK(kr_addr_unix(&addr, path + 1));
    CHECK_EQ(addr.size, sizeof addr.u.un);
}

/* Ours: what kr_addr_text writes is what kr_addr_parse reads. */
TEST(addr_parse_reads_what_text_writes) {
    static const char *const texts[] = {
        "127.0.0.1:80", "0.0.0.0:0",   "[::1]:443",        "[fe80::1%4294967295]:65535",
        "unix:/run/x",  "unix:@name",  "unix:relative/x",  "[::ffff:192.0.2.255]:1",
        "unix:./@name", "unix:/a:b@c", "255.255.255.255:65535",
        "[2001:db8:1111:2222:3333:4444:5555:6666]:65535",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct kr_addr addr;
        char text[KR_ADDR_TEXT_SIZE];
        CHECK_OK(kr_addr_parse(&addr, texts[i]));
        CHECK_OK(kr_addr_text(&addr, text, sizeof text));
        CHECK_STR_EQ(text, texts[i]);
    }
}

TEST(addr_parse_refuses_what_it_does_not_write) {
    static const char *const bad[] = {
        "",          "127.0.0.1",    "127.0.0.1:",       ":80",        "127.0.0.1:65536",
        "::1:80",    "[::1]",        "[::1]80",          "[::1]:",     "[127.0.0.1]:80",
        "[::1:80",   "127.0.0.1:+1", "127.0.0.1:80 ",    "1.2.3:80",   "127.0.0.1:000080",
        "unix:",     "unix:@",       "unix",             "/run/x",     "localhost:80",
        "[]:80",     "[::1%]:80",    "127.0.0.1: 80",    "[::1]:80]:", "-1:80",
        "0000000000000000000000000000000000000000000000000000000000000000000000:80",
    };
    struct kr_addr addr, before;
    memset(&addr, 0x5a, sizeof addr);
    before = addr;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (kr_addr_parse(&addr, bad[i]) != -EINVAL)
            FAIL("\"%s\" is taken for an address", bad[i]);
        CHECK_MEM_EQ(&addr, &before, sizeof addr);
    }
    CHECK_ERR(kr_addr_parse(&addr, NULL), EINVAL);
    CHECK_ERR(kr_addr_parse(NULL, "127.0.0.1:80"), EINVAL);
}

/* Ours: names that the kernel may give: none at all, one with zeros, one that fills all there
 * is. */
TEST(addr_text_of_any_unix_name) {
    char text[KR_ADDR_TEXT_SIZE];
    struct kr_addr addr = {.size = sizeof addr.u.sa.sa_family, .u.sa.sa_family = AF_UNIX};
    CHECK_EQ(kr_addr_text(&addr, text, sizeof text), 5);
    CHECK_STR_EQ(text, "unix:");
    addr.size = offsetof(struct sockaddr_un, sun_path) + 6;
    memcpy(addr.u.un.sun_path, "\0a\0b\n\0", 6);
    CHECK_EQ(kr_addr_text(&addr, text, sizeof text), 11);
    CHECK_STR_EQ(text, "unix:@a@b?@");
    memset(addr.u.un.sun_path, 'x', sizeof addr.u.un.sun_path);
    addr.size = sizeof addr.u.un;
    CHECK_EQ(kr_addr_text(&addr, text, sizeof text), 5 + 108);
    CHECK_EQ(strlen(text), 5u + 108u);
    CHECK_ERR(kr_addr_text(&addr, text, 5 + 108), ENOSPC);
}

TEST(addr_of_another_family) {
    struct kr_addr addr = {.size = sizeof addr.u.sa, .u.sa.sa_family = AF_NETLINK};
    char text[KR_ADDR_TEXT_SIZE] = "#";
    CHECK_EQ(kr_addr_port(&addr), 0);
    CHECK_ERR(kr_addr_text(&addr, text, sizeof text), EAFNOSUPPORT);
    CHECK_STR_EQ(text, "#");
    struct kr_addr none = {0};
    CHECK_EQ(kr_addr_port(&none), 0);
    CHECK_ERR(kr_addr_text(&none, text, sizeof text), EAFNOSUPPORT);
    addr.size = sizeof addr.u; /* long enough for any */
    CHECK_EQ(kr_addr_port(&addr), 0);
    CHECK_ERR(kr_addr_text(&addr, text, sizeof text), EAFNOSUPPORT);
    addr.u.sa.sa_family = AF_INET6;
    addr.size = sizeof addr.u.in; /* too short for what it says it is */
    CHECK_EQ(kr_addr_port(&addr), 0);
    CHECK_ERR(kr_addr_text(&addr, text, sizeof text), EAFNOSUPPORT);
    CHECK_STR_EQ(text, "#");
}

TEST(addr_is_asked_for_in_vain) {
    struct kr_addr addr;
    char text[KR_ADDR_TEXT_SIZE];
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 80));
    CHECK_EQ(kr_addr_port(NULL), 0);
    CHECK_ERR(kr_addr_text(NULL, text, sizeof text), EINVAL);
    CHECK_ERR(kr_addr_text(&addr, NULL, sizeof text), EINVAL);
}

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
    kr_listen_opts_init_sized(&o.listen, sizeof(struct kr_conn_opts) + 8, sizeof(struct kr_conn_opts));
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
        const struct kr_conn_opts given = {.size = sizeof given, .send_low = mark_rows[i].low,
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
    check_words(kr_connect_opts_check(&connect, &four, &why), &why, "kr_connect_opts", "keep_probes");
}

TEST(config_is_as_documented) {
    struct kr_config c;
    memset(&c, 0x5a, sizeof c);
    kr_config_init(&c);
    CHECK_EQ(c.size, sizeof c);
    CHECK_EQ(c.taskrun, KR_TASKRUN_COOP);
    CHECK_EQ(c.sq_entries, 512u);
    CHECK_EQ(c.cq_entries, 4096u);
    CHECK_EQ(c.file_max, 64u);
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

/* ---- one connection, and what was seen of it ---- */

/* The user pointer is itself under test: that of the callbacks is not the server. */
static struct test_server *the_server;
static void *close_user;

static void seen_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    test_server_open(r, conn, the_server);
}

static size_t seen_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    (void)user;
    return test_server_data(r, conn, the_server, data, size);
}

static void seen_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    close_user = user;
    test_server_close(r, conn, the_server, error, why);
}

static const struct kr_conn_ops seen_ops = {
    .on_open = seen_open, .on_data = seen_data, .on_close = seen_close};

static void begin(struct test_server *s, const struct kr_listen_opts *opts) {
    the_server = s;
    test_server_begin(s, opts, &seen_ops);
}

/* Nothing has been queued or sent, and the client has heard nothing. */
static void check_silent(struct test_server *p) {
    CHECK_EQ(kr_conn_queued(p->r, p->conn), 0u);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(kr_step(p->r, 0), 0);
    CHECK_EQ(test_recv_some(p->fd, &(char){0}, 1), 0);
    CHECK_EQ(test_stats(p->r).bytes_out, 0u);
    CHECK_EQ(p->closes + 1, p->opens);
}

/* ---- arguments ---- */

/* Ours: without a reactor nothing can be done; freeing none is allowed. */
TEST(no_reactor_is_refused) {
    struct kr_addr addr;
    kr_conn conn = {1};
    kr_listener listener = {1};
    kr_timer timer = {1};
    void *room;
    struct kr_stats stats;
    CHECK_ERR(kr_run(NULL), EINVAL);
    CHECK_ERR(kr_step(NULL, 0), EINVAL);
    CHECK_OK(kr_reactor_free(NULL));
    kr_stop(NULL);
    CHECK_ERR(kr_dump(NULL, 1), EINVAL);
    CHECK_ERR(kr_stats_read(NULL, &stats, sizeof stats), EINVAL);
    CHECK_ERR(kr_post(NULL, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_send(NULL, conn, "x", 1), EINVAL);
    CHECK_ERR(kr_conn_sendv(NULL, conn, NULL, 0), EINVAL);
    CHECK_ERR(kr_conn_send_ref(NULL, conn, "x", 1, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_send_fds(NULL, conn, "x", 1, &(int){0}, 1), EINVAL);
    CHECK_ERR(kr_conn_reserve(NULL, conn, 1, &room), EINVAL);
    CHECK_ERR(kr_conn_commit(NULL, conn, 0), EINVAL);
    CHECK_ERR(kr_conn_pause(NULL, conn), EINVAL);
    CHECK_ERR(kr_conn_resume(NULL, conn), EINVAL);
    CHECK_ERR(kr_conn_shutdown(NULL, conn), EINVAL);
    CHECK_ERR(kr_drain(NULL, 0, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_close(NULL, conn, KR_CLOSE_NOW), EINVAL);
    CHECK_ERR(kr_conn_peer(NULL, conn, &addr), EINVAL);
    CHECK_ERR(kr_conn_local(NULL, conn, &addr), EINVAL);
    CHECK_ERR(kr_conn_set_user(NULL, conn, NULL), EINVAL);
    CHECK_ERR(kr_conn_deadline(NULL, conn, KR_DEADLINE_IDLE, 0), EINVAL);
    CHECK_ERR(kr_listener_addr(NULL, listener, &addr), EINVAL);
    CHECK_ERR(kr_listener_pause(NULL, listener), EINVAL);
    CHECK_ERR(kr_listener_resume(NULL, listener), EINVAL);
    CHECK_ERR(kr_listener_drain(NULL, listener, 0), EINVAL);
    CHECK_ERR(kr_listener_close(NULL, listener), EINVAL);
    CHECK_ERR(kr_timer_restart(NULL, timer, 0, 0), EINVAL);
    CHECK_ERR(kr_timer_stop(NULL, timer), EINVAL);
    CHECK_ERR(kr_reactor_new(NULL, NULL, NULL), EINVAL);
}

static void never(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)r;
    (void)timer;
    (void)user;
    FAIL("fired");
}

TEST_EACH(timer_refuses_bad_arguments) {
    struct kr_reactor *r = test_reactor(NULL);
    kr_timer timer = {.bits = 7};
    CHECK_ERR(kr_timer_start(r, &timer, -1, 0, never, NULL), EINVAL);
    CHECK_ERR(kr_timer_start(r, &timer, INT64_MIN, 0, never, NULL), EINVAL);
    CHECK_ERR(kr_timer_start(r, &timer, 0, -1, never, NULL), EINVAL);
    CHECK_ERR(kr_timer_start(r, &timer, 0, 0, NULL, NULL), EINVAL);
    CHECK_ERR(kr_timer_start(NULL, &timer, 0, 0, never, NULL), EINVAL);
    CHECK_EQ(timer.bits, 7u);
    CHECK_EQ(test_stats(r).timers, 0u);
    CHECK_OK(kr_timer_start(r, &timer, HOUR, 0, never, NULL));
    CHECK_ERR(kr_timer_restart(r, timer, -1, 0), EINVAL);
    CHECK_ERR(kr_timer_restart(r, timer, 0, -1), EINVAL);
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_OK(kr_timer_stop(r, timer));
    test_rest(r, (struct test_levels){0});
    test_reactor_free(r);
}

TEST_EACH(post_and_stats_refuse_bad_arguments) {
    struct kr_reactor *r = test_reactor(NULL);
    CHECK_ERR(kr_post(r, NULL, NULL), EINVAL);
    CHECK_ERR(kr_stats_read(r, NULL, sizeof(struct kr_stats)), EINVAL);
    CHECK_EQ(kr_step(r, 0), 0);
    test_reactor_free(r);
}

static void listen_refused(struct kr_reactor *r, const struct kr_addr *addr,
                           const struct kr_listen_opts *opts, const struct kr_conn_ops *ops) {
    kr_listener listener = {.bits = 7};
    CHECK_ERR(kr_listen(r, &listener, addr, opts, ops, NULL), EINVAL);
    CHECK_EQ(listener.bits, 7u);
    CHECK_EQ(test_stats(r).listeners, 0u);
}

#define OPTS_REFUSED(field, value)                                                                 \
    do {                                                                                           \
        struct kr_listen_opts opts;                                                                \
        kr_listen_opts_init(&opts);                                                                \
        opts.field = (value);                                                                      \
        listen_refused(r, &loopback, &opts, &seen_ops);                                            \
        CHECK_ERR(kr_listen_opts_check(&opts, NULL), EINVAL);                                      \
    } while (0)

/* Ours: each option out of its range, and each pointer that must be, is refused; no descriptor is
 * left open, which the harness checks. */
TEST_EACH(listen_refuses_bad_arguments) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr loopback;
    CHECK_OK(kr_addr_ip(&loopback, "127.0.0.1", 0));
    struct kr_conn_ops mute = seen_ops;
    mute.on_data = NULL;
    listen_refused(r, NULL, NULL, &seen_ops);
    listen_refused(r, &loopback, NULL, NULL);
    listen_refused(r, &loopback, NULL, &mute);
    listen_refused(r, &(struct kr_addr){0}, NULL, &seen_ops);
    struct kr_addr cut = loopback;
    cut.size = 4;
    listen_refused(r, &cut, NULL, &seen_ops);
    cut.size = sizeof cut.u + 1;
    listen_refused(r, &cut, NULL, &seen_ops);

    OPTS_REFUSED(size, 0);
    OPTS_REFUSED(size, 8);
    OPTS_REFUSED(backlog, 65536);
    OPTS_REFUSED(turn_accepts, 17);
    OPTS_REFUSED(conn.send_low, (size_t)1 << 31);
    OPTS_REFUSED(conn.send_high, (size_t)1 << 31);
    OPTS_REFUSED(conn.send_cap, (size_t)1 << 31);
    OPTS_REFUSED(conn.send_cap, SIZE_MAX);
    OPTS_REFUSED(conn.zerocopy_min, (size_t)1 << 31);
    OPTS_REFUSED(conn.zerocopy_min, SIZE_MAX);
    OPTS_REFUSED(conn.recv_cap, (size_t)1 << 31);
    OPTS_REFUSED(conn.recv_cap, SIZE_MAX);
    OPTS_REFUSED(conn.recv_fds, KR_FDS_MAX + 1);
    OPTS_REFUSED(conn.recv_fds, UINT_MAX);
    OPTS_REFUSED(conn.idle_ns, -1);
    OPTS_REFUSED(conn.flush_ns, -1);
    OPTS_REFUSED(conn.inline_size, ((size_t)1 << 20) + 1);
    OPTS_REFUSED(conn.inline_size, SIZE_MAX);

    struct kr_addr local = {.size = sizeof local.u.sa, .u.sa.sa_family = AF_NETLINK};
    listen_refused(r, &local, NULL, &seen_ops);
    CHECK_ERR(kr_listen(NULL, NULL, &loopback, NULL, &seen_ops, NULL), EINVAL);
    test_reactor_free(r);
}

/* Ours: a refused send has taken nothing, however it is refused. */
TEST_EACH(send_refuses_bad_arguments) {
    struct test_server p = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.send_low = opts.conn.send_high = opts.conn.send_cap = 1000;
    begin(&p, &opts);
    kr_conn c = p.conn;
    CHECK_ERR(kr_conn_send(p.r, c, NULL, 1), EINVAL);
    CHECK_OK(kr_conn_send(p.r, c, NULL, 0));
    static char bytes[1001];
    CHECK_ERR(kr_conn_send(p.r, c, bytes, 1001), EMSGSIZE);

    struct iovec iov[2] = {{bytes, 1}, {bytes, SIZE_MAX}};
    CHECK_ERR(kr_conn_sendv(p.r, c, NULL, 1), EINVAL);
    CHECK_ERR(kr_conn_sendv(p.r, c, iov, -1), EINVAL);
    CHECK_ERR(kr_conn_sendv(p.r, c, iov, 2), EINVAL);
    CHECK_ERR(kr_conn_sendv(p.r, c, &(struct iovec){NULL, 1}, 1), EINVAL);
    CHECK_ERR(kr_conn_sendv(p.r, c, &(struct iovec){bytes, 1001}, 1), EMSGSIZE);
    CHECK_OK(kr_conn_sendv(p.r, c, NULL, 0));
    CHECK_ERR(kr_conn_send_ref(p.r, c, NULL, 1, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_send_ref(p.r, c, bytes, 1001, NULL, NULL), EMSGSIZE);
    CHECK_OK(kr_conn_sendv(p.r, c, &(struct iovec){NULL, 0}, 1));

    void *room = bytes;
    CHECK_ERR(kr_conn_reserve(p.r, c, 0, &room), EINVAL);
    CHECK_ERR(kr_conn_reserve(p.r, c, 8, NULL), EINVAL);
    CHECK_ERR(kr_conn_reserve(p.r, c, ((size_t)1 << 20) + 1, &room), EINVAL);
    CHECK_ERR(kr_conn_reserve(p.r, c, SIZE_MAX, &room), EINVAL);
    CHECK_ERR(kr_conn_reserve(p.r, c, 1001, &room), EMSGSIZE);
    CHECK(room == bytes);
    CHECK_ERR(kr_conn_commit(p.r, c, 0), EINVAL);
    CHECK_OK(kr_conn_reserve(p.r, c, 8, &room));
    CHECK_ERR(kr_conn_commit(p.r, c, 9), EINVAL);
    CHECK_OK(kr_conn_commit(p.r, c, 0));
    CHECK_ERR(kr_conn_commit(p.r, c, 0), EINVAL);
    check_silent(&p);
    test_server_end(&p);
}

/* Ours: a send ends an open reservation, whose bytes are not sent. */
TEST_EACH(send_ends_the_reservation) {
    struct test_server p = {0};
    begin(&p, NULL);
    void *room;
    CHECK_OK(kr_conn_reserve(p.r, p.conn, 5, &room));
    memcpy(room, "wrong", 5);
    CHECK_OK(kr_conn_send(p.r, p.conn, "right", 5));
    CHECK_ERR(kr_conn_commit(p.r, p.conn, 5), EINVAL);
    char got[5];
    test_recv(p.r, p.fd, got, 5);
    CHECK_MEM_EQ(got, "right", 5);
    CHECK_EQ(test_stats(p.r).bytes_out, 5u);
    test_server_end(&p);
}

TEST_EACH(conn_refuses_bad_arguments) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn c = p.conn;
    CHECK_ERR(kr_conn_close(p.r, c, (enum kr_close)4), EINVAL);
    CHECK_ERR(kr_conn_close(p.r, c, (enum kr_close)-1), EINVAL);
    CHECK_ERR(kr_conn_deadline(p.r, c, KR_DEADLINE_IDLE, -1), EINVAL);
    CHECK_ERR(kr_conn_peer(p.r, c, NULL), EINVAL);
    CHECK_ERR(kr_conn_local(p.r, c, NULL), EINVAL);
    CHECK_ERR(kr_listener_addr(p.r, p.listener, NULL), EINVAL);
    check_silent(&p);
    test_server_end(&p);
}

/* ---- handles ---- */

/* Whatever is asked about a connection that is not there. */
static void check_stale_conn(struct kr_reactor *r, kr_conn c) {
    struct kr_addr addr, before;
    memset(&addr, 0x5a, sizeof addr);
    before = addr;
    void *room = &addr;
    CHECK_ERR(kr_conn_send(r, c, "x", 1), ESTALE);
    CHECK_ERR(kr_conn_send(r, c, "", 0), ESTALE);
    CHECK_ERR(kr_conn_sendv(r, c, &(struct iovec){(void *)(uintptr_t) "x", 1}, 1), ESTALE);
    CHECK_ERR(kr_conn_send_ref(r, c, "x", 1, NULL, NULL), ESTALE);
    CHECK_ERR(kr_conn_send_fds(r, c, "x", 1, &(int){0}, 1), ESTALE);
    CHECK_ERR(kr_conn_reserve(r, c, 8, &room), ESTALE);
    CHECK_ERR(kr_conn_commit(r, c, 0), ESTALE);
    CHECK_ERR(kr_conn_pause(r, c), ESTALE);
    CHECK_ERR(kr_conn_resume(r, c), ESTALE);
    CHECK_ERR(kr_conn_shutdown(r, c), ESTALE);
    CHECK_ERR(kr_conn_close(r, c, KR_CLOSE_RESET), ESTALE);
    CHECK_ERR(kr_conn_peer(r, c, &addr), ESTALE);
    CHECK_ERR(kr_conn_local(r, c, &addr), ESTALE);
    CHECK_ERR(kr_conn_set_user(r, c, r), ESTALE);
    CHECK_ERR(kr_conn_deadline(r, c, KR_DEADLINE_IDLE, HOUR), ESTALE);
    CHECK_EQ(kr_conn_queued(r, c), 0u);
    CHECK(!kr_conn_user(r, c));
    CHECK(!kr_conn_inline(r, c));
    CHECK(room == &addr);
    CHECK_MEM_EQ(&addr, &before, sizeof addr);
}

static void check_stale_listener(struct kr_reactor *r, kr_listener l) {
    CHECK_ERR(kr_listener_addr(r, l, &(struct kr_addr){0}), ESTALE);
    CHECK_ERR(kr_listener_pause(r, l), ESTALE);
    CHECK_ERR(kr_listener_resume(r, l), ESTALE);
    CHECK_ERR(kr_listener_drain(r, l, 0), ESTALE);
    CHECK_ERR(kr_listener_close(r, l), ESTALE);
}

static void check_stale_timer(struct kr_reactor *r, kr_timer t) {
    CHECK_ERR(kr_timer_restart(r, t, 0, 0), ESTALE);
    CHECK_ERR(kr_timer_stop(r, t), ESTALE);
}

/* Ours: zero is no handle, nor is one of another kind, of a slot beyond the table, of another life,
 * or all ones; and the living things whose neighbours they are do not notice. */
TEST_EACH(what_is_no_handle_is_stale) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_timer timer;
    CHECK_OK(kr_timer_start(p.r, &timer, HOUR, 0, never, NULL));
    uint64_t bits[64] = {0, UINT64_MAX, p.conn.bits, p.listener.bits, timer.bits};
    unsigned count = 5;
    for (unsigned i = 2; i < 5; i++) {
        bits[count++] = bits[i] + 1;
        bits[count++] = bits[i] - 1;
        for (unsigned bit = 0; bit < 64; bit += 4)
            bits[count++] = bits[i] ^ (uint64_t)1 << bit;
    }
    for (unsigned i = 0; i < count; i++) {
        if (bits[i] != p.conn.bits)
            check_stale_conn(p.r, (kr_conn){bits[i]});
        if (bits[i] != p.listener.bits)
            check_stale_listener(p.r, (kr_listener){bits[i]});
        if (bits[i] != timer.bits)
            check_stale_timer(p.r, (kr_timer){bits[i]});
    }
    check_silent(&p);
    CHECK_EQ(test_stats(p.r).timers, 1u);
    CHECK_EQ(test_stats(p.r).listeners, 1u);
    CHECK_OK(kr_timer_stop(p.r, timer));
    check_stale_timer(p.r, timer);
    CHECK_OK(kr_listener_close(p.r, p.listener));
    check_stale_listener(p.r, p.listener);
    test_server_end(&p);
}

/* A server, a timer and a lease of one reactor, made in the same order as those of another. */
struct estate {
    struct test_server s;
    kr_timer timer;
    kr_lease lease;
};

static void estate_make(struct estate *e) {
    begin(&e->s, NULL);
    CHECK_OK(kr_timer_start(e->s.r, &e->timer, HOUR, 0, never, NULL));
    CHECK_OK(kr_lease_take(e->s.r, e->s.conn, "kept", 4, &e->lease));
}

static void estate_end(struct estate *e) {
    CHECK_OK(kr_timer_stop(e->s.r, e->timer));
    CHECK_OK(kr_lease_return(e->s.r, e->lease));
    the_server = &e->s;
    test_server_end(&e->s);
}

/* Ours: a handle is of no use to any reactor but its own, whatever it names: two reactors that did
 * the same things have given no two equal handles. */
TEST_EACH(handles_of_another_reactor_are_stale) {
    static struct estate own, other;
    estate_make(&own);
    estate_make(&other);
    struct kr_reactor *r = own.s.r;
    check_stale_conn(r, other.s.conn);
    check_stale_listener(r, other.s.listener);
    check_stale_timer(r, other.timer);
    CHECK(!kr_lease_data(r, other.lease, NULL));
    CHECK_ERR(kr_lease_return(r, other.lease), ESTALE);
    kr_lease lease;
    CHECK_ERR(kr_lease_take(r, other.s.conn, "x", 1, &lease), ESTALE);
    CHECK_ERR(kr_conn_forward(r, own.s.conn, other.s.conn, NULL, NULL, NULL),
              ESTALE);
    CHECK_ERR(kr_conn_forward(r, other.s.conn, own.s.conn, NULL, NULL, NULL),
              ESTALE);
    check_silent(&own.s);
    check_silent(&other.s);
    estate_end(&own);
    estate_end(&other);
}

/* Ours: when on_close has returned, the connection's handle is stale for good, also when its slot
 * has the next connection in it, which has another handle. */
TEST_EACH(closed_connection_stays_stale) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn gone[20];
    for (unsigned i = 0; i < 20; i++) {
        gone[i] = p.conn;
        test_close(p.fd);
        TEST_UNTIL(p.r, p.closes == i + 1);
        p.fd = test_connect(p.port);
        TEST_UNTIL(p.r, p.opens == i + 2);
        for (unsigned k = 0; k <= i; k++) {
            CHECK_NE(gone[k].bits, p.conn.bits);
            check_stale_conn(p.r, gone[k]);
        }
    }
    check_silent(&p);
    test_server_end(&p);
}

static char other_user;

static void still_good(struct test_server *s, kr_conn conn) {
    struct kr_reactor *r = s->r;
    CHECK_EQ(conn.bits, s->conn.bits);
    CHECK(kr_conn_user(r, conn) == &other_user);
    CHECK_MEM_EQ(kr_conn_inline(r, conn), "inline", 6);
    CHECK_ERR(kr_conn_send(r, conn, "x", 1), EPIPE);
    CHECK_ERR(kr_conn_pause(r, conn), EPIPE);
    CHECK_ERR(kr_conn_resume(r, conn), EPIPE);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_RESET));
}

static void write_inline(struct test_server *s, kr_conn conn) {
    memcpy(kr_conn_inline(s->r, conn), "inline", 6);
}

/* Ours: until on_close has returned the handle, the user pointer and the inline memory are good;
 * what would send, read on or wait is -EPIPE, and closing again changes nothing. */
TEST_EACH(handle_is_good_in_on_close) {
    struct test_server p = {.in_open = write_inline, .in_close = still_good};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.inline_size = 6;
    begin(&p, &opts);
    CHECK(kr_conn_user(p.r, p.conn) == &p);
    CHECK_OK(kr_conn_set_user(p.r, p.conn, &other_user));
    CHECK(kr_conn_user(p.r, p.conn) == &other_user);
    void *room;
    CHECK_OK(kr_conn_reserve(p.r, p.conn, 1, &room));
    CHECK_OK(kr_conn_close(p.r, p.conn, KR_CLOSE_NOW));
    CHECK_ERR(kr_conn_send(p.r, p.conn, "x", 1), EPIPE);
    CHECK_ERR(kr_conn_commit(p.r, p.conn, 1), EPIPE);
    CHECK_ERR(kr_conn_deadline(p.r, p.conn, KR_DEADLINE_IDLE, HOUR), EPIPE);
    TEST_UNTIL(p.r, p.closes == 1);
    CHECK(close_user == &other_user);
    check_stale_conn(p.r, p.conn);
    test_close(p.fd);
    test_reactor_free(p.r);
}

/* Ours: NULL is a user pointer like any other. */
TEST_EACH(user_pointer_may_be_null) {
    struct test_server p = {0};
    begin(&p, NULL);
    CHECK_OK(kr_conn_set_user(p.r, p.conn, NULL));
    CHECK(!kr_conn_user(p.r, p.conn));
    test_server_end(&p);
    CHECK(!close_user);
}

/* ---- inline memory ---- */

static size_t inline_size;

static void check_inline_fresh(struct test_server *s, kr_conn conn) {
    unsigned char *memory = kr_conn_inline(s->r, conn);
    CHECK(memory);
    CHECK_EQ((uintptr_t)memory % alignof(max_align_t), 0u);
    for (size_t i = 0; i < inline_size; i++)
        CHECK(memory[i] == 0);
    memset(memory, 0xa5, inline_size);
}

static void check_inline_kept(struct test_server *s, kr_conn conn) {
    const unsigned char *memory = kr_conn_inline(s->r, conn);
    for (size_t i = 0; i < inline_size; i++)
        CHECK(memory[i] == 0xa5);
}

static void inline_of(size_t size) {
    inline_size = size;
    struct test_server p = {.in_open = check_inline_fresh, .in_close = check_inline_kept};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.inline_size = size;
    begin(&p, &opts);
    int fds[3];
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 3; i++)
            fds[i] = test_connect(p.port);
        TEST_UNTIL(p.r, test_stats(p.r).conns == 4);
        for (unsigned i = 0; i < 3; i++)
            test_close(fds[i]);
        TEST_UNTIL(p.r, test_stats(p.r).conns == 1);
    }
    test_close(p.fd);
    TEST_UNTIL(p.r, test_stats(p.r).conns == 0);
    CHECK_EQ(p.closes, 10u);
    test_reactor_free(p.r);
}

/* Ours: inline memory is zeroed for each life, aligned for any type, of the full size, and nobody
 * else's: each connection fills its own and finds it so in on_close. */
TEST_EACH(inline_memory_is_fresh_and_its_own) {
    inline_of(1);
    inline_of(8);
    inline_of(100);
    inline_of(4097);
    inline_of((size_t)1 << 20);
}

TEST_EACH(no_inline_memory_was_asked_for) {
    struct test_server p = {0};
    begin(&p, NULL);
    CHECK(!kr_conn_inline(p.r, p.conn));
    test_server_end(&p);
}

/* ---- queued bytes and addresses ---- */

/* Ours: kr_conn_queued counts what was given and not yet taken by the kernel, of all sends
 * together. */
TEST_EACH(queued_counts_bytes) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn c = p.conn;
    CHECK_OK(kr_conn_send(p.r, c, "12345", 5));
    CHECK_EQ(kr_conn_queued(p.r, c), 5u);
    struct iovec iov[3] = {{(void *)(uintptr_t) "67", 2}, {NULL, 0}, {(void *)(uintptr_t) "8", 1}};
    CHECK_OK(kr_conn_sendv(p.r, c, iov, 3));
    CHECK_EQ(kr_conn_queued(p.r, c), 8u);
    void *room;
    CHECK_OK(kr_conn_reserve(p.r, c, 100, &room));
    CHECK_EQ(kr_conn_queued(p.r, c), 8u);
    memcpy(room, "90", 2);
    CHECK_OK(kr_conn_commit(p.r, c, 2));
    CHECK_EQ(kr_conn_queued(p.r, c), 10u);
    char got[10];
    test_recv(p.r, p.fd, got, 10);
    CHECK_MEM_EQ(got, "1234567890", 10);
    TEST_UNTIL(p.r, kr_conn_queued(p.r, c) == 0);
    CHECK_EQ(test_stats(p.r).bytes_out, 10u);
    test_server_end(&p);
}

/* Ours: however many pieces, they are one message. */
TEST_EACH(sendv_gathers_its_pieces) {
    struct test_server p = {0};
    begin(&p, NULL);
    char bytes[1024], got[1024];
    test_pattern(bytes, sizeof bytes, 1, 0);
    struct iovec iov[1024];
    for (unsigned i = 0; i < 1024; i++)
        iov[i] = (struct iovec){bytes + i, 1};
    CHECK_OK(kr_conn_sendv(p.r, p.conn, iov, 1024));
    test_recv(p.r, p.fd, got, sizeof got);
    test_pattern_check(got, sizeof got, 1, 0);
    test_server_end(&p);
}

static void check_addresses(const char *ip) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server seen = {.r = r};
    the_server = &seen;
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    struct kr_addr at, peer, local, mine = {.size = sizeof mine.u},
                                    theirs = {.size = sizeof theirs.u};
    CHECK_OK(kr_addr_ip(&at, ip, 0));
    kr_listener listener;
    CHECK_OK(kr_listen(r, &listener, &at, &opts, &seen_ops, NULL));
    CHECK_OK(kr_listener_addr(r, listener, &at));
    int fd = CHECK_SYS(socket(at.u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(connect(fd, &at.u.sa, at.size));
    TEST_UNTIL(r, seen.opens == 1);
    CHECK_SYS(getsockname(fd, &mine.u.sa, &mine.size));
    CHECK_SYS(getpeername(fd, &theirs.u.sa, &theirs.size));

    CHECK_OK(kr_conn_peer(r, seen.conn, &peer));
    CHECK_EQ(peer.size, mine.size);
    CHECK_MEM_EQ(&peer.u, &mine.u, mine.size);
    CHECK_OK(kr_conn_local(r, seen.conn, &local));
    CHECK_EQ(local.size, theirs.size);
    CHECK_MEM_EQ(&local.u, &theirs.u, theirs.size);
    CHECK_EQ(kr_addr_port(&local), kr_addr_port(&at));
    test_close(fd);
    TEST_UNTIL(r, seen.closes == 1);
    test_reactor_free(r);
}

/* Ours: peer and local address are the client's own view the other way round. */
TEST_EACH(addresses_of_a_connection_ipv4) {
    check_addresses("127.0.0.1");
}

TEST_EACH(addresses_of_a_connection_ipv6) {
    tap_need_ipv6();
    check_addresses("::1");
}

TEST_EACH(addresses_not_asked_for_are_unknown) {
    struct test_server p = {0};
    begin(&p, NULL);
    struct kr_addr addr, before;
    memset(&addr, 0x5a, sizeof addr);
    before = addr;
    CHECK_ERR(kr_conn_peer(p.r, p.conn, &addr), ENODATA);
    CHECK_ERR(kr_conn_local(p.r, p.conn, &addr), ENODATA);
    CHECK_MEM_EQ(&addr, &before, sizeof addr);
    test_server_end(&p);
}

/* ---- counters and time ---- */

/* Ours: an older program's smaller struct gets its part and not a byte more; a newer one's larger
 * struct gets zeros behind. */
TEST_EACH(stats_of_any_size) {
    struct kr_reactor *r = test_reactor(NULL);
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_EQ(kr_step(r, 0), 0);
    struct kr_stats whole = test_stats(r);
    CHECK_EQ(whole.turns, 2u);
    for (size_t size = 0; size <= sizeof whole; size += 8) {
        struct kr_stats part;
        memset(&part, 0x5a, sizeof part);
        CHECK_OK(kr_stats_read(r, &part, size));
        CHECK_MEM_EQ(&part, &whole, size);
        for (size_t i = size; i < sizeof part; i++)
            CHECK_EQ(((unsigned char *)&part)[i], 0x5a);
    }
    struct {
        struct kr_stats known;
        uint64_t later[3], beyond;
    } larger;
    memset(&larger, 0x5a, sizeof larger);
    CHECK_OK(kr_stats_read(r, (struct kr_stats *)&larger, sizeof larger - 8));
    CHECK_MEM_EQ(&larger.known, &whole, sizeof whole);
    CHECK_EQ(larger.later[0] | larger.later[1] | larger.later[2], 0u);
    CHECK_EQ(larger.beyond, 0x5a5a5a5a5a5a5a5au);
    test_reactor_free(r);
}

/* Ours: the counters count what they say. Ten bytes in and out over one connection, one timer, one
 * post. */
TEST_EACH(stats_count_what_happens) {
    struct test_server p = {0};
    begin(&p, NULL);
    test_send(p.r, p.fd, "0123456789", 10);
    TEST_UNTIL(p.r, p.bytes == 10);
    CHECK_OK(kr_conn_send(p.r, p.conn, "9876543210", 10));
    char got[10];
    test_recv(p.r, p.fd, got, 10);
    test_rest(p.r, (struct test_levels){.conns = 1, .listeners = 1});
    struct kr_stats s = test_stats(p.r);
    CHECK_EQ(s.accepts, 1u);
    CHECK_EQ(s.closes, 0u);
    CHECK_EQ(s.bytes_in, 10u);
    CHECK_EQ(s.bytes_out, 10u);
    CHECK_EQ(s.bytes_copied, 10u);
    CHECK_EQ(s.bytes_kept, 0u);
    CHECK_EQ(s.stale_cqes, 0u);
    CHECK_EQ(s.cq_overflows, 0u);
    CHECK_GT(s.allocs, 0u);
    CHECK_GT(s.alloc_bytes, 0u);
    CHECK_GE(s.turns, s.waits);
    CHECK_GE(s.enters, s.waits);
    test_server_end(&p);
}

struct moment {
    int64_t first, second;
};

static void look_twice(struct kr_reactor *r, void *arg) {
    struct moment *m = arg;
    m->first = kr_now(r);
    for (int64_t until = tap_now_ns() + MS; tap_now_ns() < until;)
        ;
    m->second = kr_now(r);
}

/* Ours: within a turn time stands still; outside it is the clock's. */
TEST_EACH(now_stands_still_in_a_turn) {
    struct kr_reactor *r = test_reactor(NULL);
    int64_t before = tap_now_ns(), outside = kr_now(r);
    CHECK_GE(outside, before);
    CHECK_LE(outside, tap_now_ns());
    struct moment m = {0};
    CHECK_OK(kr_post(r, look_twice, &m));
    TEST_UNTIL(r, m.second);
    CHECK_EQ(m.first, m.second);
    CHECK_GE(m.first, outside);
    CHECK_GE(kr_now(r), m.second + MS);
    test_reactor_free(r);
}

/* ---- calls and callbacks ---- */

static unsigned fires, posts;

static void count_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)r;
    (void)timer;
    (void)user;
    fires++;
}

static void count_post(struct kr_reactor *r, void *arg) {
    (void)r;
    (void)arg;
    posts++;
}

/* Ours: no call but the three that run the reactor runs a callback, though everything is due: a
 * client waits, bytes have come, a timer is due, a call was posted, the connection is closed. The
 * turns that follow run them all. */
TEST_EACH(no_call_runs_a_callback) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn c = p.conn;
    kr_timer timer;
    void *room;
    int second = test_connect(p.port);
    test_send(NULL, p.fd, "bytes", 5);
    CHECK_OK(kr_timer_start(p.r, &timer, 0, 0, count_fire, NULL));
    CHECK_OK(kr_post(p.r, count_post, NULL));
    CHECK_OK(kr_timer_restart(p.r, timer, 0, 0));
    CHECK_OK(kr_conn_send(p.r, c, "x", 1));
    CHECK_OK(kr_conn_sendv(p.r, c, &(struct iovec){(void *)(uintptr_t) "y", 1}, 1));
    CHECK_OK(kr_conn_reserve(p.r, c, 10, &room));
    CHECK_OK(kr_conn_commit(p.r, c, 0));
    CHECK_OK(kr_conn_pause(p.r, c));
    CHECK_OK(kr_conn_resume(p.r, c));
    CHECK_OK(kr_conn_deadline(p.r, c, KR_DEADLINE_IDLE, 1));
    CHECK_OK(kr_conn_shutdown(p.r, c));
    CHECK_OK(kr_listener_pause(p.r, p.listener));
    CHECK_OK(kr_listener_resume(p.r, p.listener));
    CHECK_OK(kr_conn_close(p.r, c, KR_CLOSE_FLUSH));
    CHECK_OK(kr_conn_close(p.r, c, KR_CLOSE_NOW));
    CHECK_OK(kr_conn_close(p.r, c, KR_CLOSE_RESET));
    CHECK_EQ(p.opens, 1u);
    CHECK_EQ(p.datas + p.closes + fires + posts, 0u);

    TEST_UNTIL(p.r, p.opens == 2 && p.closes == 1 && fires == 1 && posts == 1);
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), ECONNRESET);
    test_close(second);
    test_server_end(&p);
}

/* Ours: a send for which there is no memory takes nothing, and the next is good. */
TEST_EACH(send_without_memory_takes_nothing) {
    static char bytes[200000];
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn c = p.conn;
    void *room = bytes;
    test_reactor_refuse_memory(p.r, 0);
    CHECK_ERR(kr_conn_send(p.r, c, bytes, sizeof bytes), ENOMEM);
    CHECK_ERR(kr_conn_sendv(p.r, c, &(struct iovec){bytes, sizeof bytes}, 1), ENOMEM);
    CHECK_ERR(kr_conn_reserve(p.r, c, sizeof bytes, &room), ENOMEM);
    CHECK(room == bytes);
    CHECK_ERR(kr_conn_commit(p.r, c, 0), EINVAL);
    check_silent(&p);
    test_reactor_refuse_memory(p.r, -1);
    CHECK_OK(kr_conn_send(p.r, c, "good", 4));
    char got[4];
    test_recv(p.r, p.fd, got, 4);
    CHECK_MEM_EQ(got, "good", 4);
    test_server_end(&p);
}

static unsigned nested;

static void run_nested(struct kr_reactor *r) {
    nested++;
    CHECK_ERR(kr_run(r), EBUSY);
    CHECK_ERR(kr_step(r, 0), EBUSY);
    CHECK_ERR(kr_reactor_free(r), EBUSY);
}

static void nested_in_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    (void)user;
    run_nested(r);
}

static void nested_in_post(struct kr_reactor *r, void *arg) {
    (void)arg;
    run_nested(r);
}

static void nested_in_conn(struct test_server *s, kr_conn conn) {
    (void)conn;
    run_nested(s->r);
}

/* Ours: kr_run, kr_step and kr_reactor_free from within a callback are -EBUSY, and nothing
 * happened; also in the callbacks that kr_reactor_free itself runs. */
TEST_EACH(running_and_freeing_in_a_callback_is_busy) {
    struct test_server p = {.in_open = nested_in_conn, .in_close = nested_in_conn};
    begin(&p, NULL);
    CHECK_EQ(nested, 1u);
    CHECK_OK(kr_timer_start(p.r, NULL, 0, 0, nested_in_timer, NULL));
    CHECK_OK(kr_post(p.r, nested_in_post, NULL));
    TEST_UNTIL(p.r, nested == 3);
    check_silent(&p);
    CHECK_OK(kr_post(p.r, nested_in_post, NULL));
    test_reactor_free(p.r);
    CHECK_EQ(nested, 5u);
    CHECK_EQ(p.closes, 1u);
    test_close(p.fd);
}

static unsigned listens_refused;

static void listen_in_close(struct test_server *s, kr_conn conn) {
    struct kr_addr loopback;
    kr_listener listener = {.bits = 7};
    (void)conn;
    CHECK_OK(kr_addr_ip(&loopback, "127.0.0.1", 0));
    CHECK_ERR(kr_listen(s->r, &listener, &loopback, NULL, &seen_ops, s), ESHUTDOWN);
    CHECK_EQ(listener.bits, 7u);
    listens_refused++;
}

/* Ours: once the reactor's end has begun nobody listens any more, though callbacks still run. */
TEST_EACH(listening_at_the_end_of_the_reactor_is_refused) {
    struct test_server p = {.in_close = listen_in_close};
    begin(&p, NULL);
    test_reactor_free(p.r);
    CHECK_EQ(listens_refused, 1u);
    test_close(p.fd);
}

TAP_MAIN(api, 127)
