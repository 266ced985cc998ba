/* Words, numbers and addresses: errors and causes by name, addresses to text and back. */
#include "api/api.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/un.h>

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
        EINVAL,   EPERM,        ECHILD,    ESTALE, ENOBUFS,      EPIPE,  ENOMEM,
        ENODATA,  EADDRINUSE,   EACCES,    EMFILE, EAFNOSUPPORT, ENOSPC, EADDRNOTAVAIL,
        EBUSY,    EBADR,        ENOSYS,    ENFILE, ECONNRESET,   EINTR,  ETIMEDOUT,
        EMSGSIZE, ECONNABORTED, ECANCELED, EAGAIN, ECONNREFUSED, EIO,    ENOTCONN,
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
    CHECK_STR_EQ(kr_whyname(KR_WHY_DETACHED), "detached");
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
        "",           "localhost",  "1.2.3",        "1.2.3.4.5",       "256.1.1.1",
        "127.0.0.1 ", " 127.0.0.1", "127.0.0.1:80", "[::1]",           "::g",
        ":",          "1:2:3",      "::1%",         "fe80::1%no such", "fe80::1%4294967296",
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
        "127.0.0.1:80",
        "0.0.0.0:0",
        "[::1]:443",
        "[fe80::1%4294967295]:65535",
        "unix:/run/x",
        "unix:@name",
        "unix:relative/x",
        "[::ffff:192.0.2.255]:1",
        "unix:./@name",
        "unix:/a:b@c",
        "255.255.255.255:65535",
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
        "",
        "127.0.0.1",
        "127.0.0.1:",
        ":80",
        "127.0.0.1:65536",
        "::1:80",
        "[::1]",
        "[::1]80",
        "[::1]:",
        "[127.0.0.1]:80",
        "[::1:80",
        "127.0.0.1:+1",
        "127.0.0.1:80 ",
        "1.2.3:80",
        "127.0.0.1:000080",
        "unix:",
        "unix:@",
        "unix",
        "/run/x",
        "localhost:80",
        "[]:80",
        "[::1%]:80",
        "127.0.0.1: 80",
        "[::1]:80]:",
        "-1:80",
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
