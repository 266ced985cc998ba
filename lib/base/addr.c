/* Addresses and their text. inet_pton and inet_ntop know the numbers; scope, port and Unix names
 * are done by hand. The kernel counts the closing 0 of a path into the size, and that of an
 * abstract name not, for there it is a byte as any other (man 7 unix). */
#include "base/addr.h"

#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define PATH_AT offsetof(struct sockaddr_un, sun_path)
#define PATH_MAX_SIZE (sizeof((struct sockaddr_un *)0)->sun_path - 1)

static int ip6_scope(const char *text, uint32_t *ret) {
    uint64_t scope = 0;
    if (*text == 0)
        return -EINVAL;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -EINVAL;
        scope = scope * 10 + (uint64_t)(*text - '0');
        if (scope > UINT32_MAX)
            return -EINVAL;
    }
    *ret = (uint32_t)scope;
    return 0;
}

static int ip6(struct kr_addr *ret, const char *ip, uint16_t port) {
    char host[INET6_ADDRSTRLEN];
    const char *percent = strchr(ip, '%');
    size_t size = percent ? (size_t)(percent - ip) : strlen(ip);
    if (size >= sizeof host)
        return -EINVAL;
    memcpy(host, ip, size);
    host[size] = 0;
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (inet_pton(AF_INET6, host, &in6.sin6_addr) != 1)
        return -EINVAL;
    if (percent && ip6_scope(percent + 1, &in6.sin6_scope_id) < 0)
        return -EINVAL;
    *ret = (struct kr_addr){.size = sizeof in6, .u.in6 = in6};
    return 0;
}

int kr_addr_ip(struct kr_addr *ret, const char *ip, uint16_t port) {
    if (!ret || !ip)
        return -EINVAL;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, ip, &in.sin_addr) != 1)
        return ip6(ret, ip, port);
    *ret = (struct kr_addr){.size = sizeof in, .u.in = in};
    return 0;
}

/* The kernel refuses more than sizeof(struct sockaddr_un), of which `u` has two bytes more. */
static size_t size_most(int family) {
    switch (family) {
    case AF_INET:
    case AF_INET6:
        return sizeof((struct kr_addr *)0)->u;
    case AF_UNIX:
        return sizeof(struct sockaddr_un);
    default:
        return 0;
    }
}

bool kr__addr_good(const struct kr_addr *addr) {
    return addr && addr->size >= sizeof addr->u.sa.sa_family &&
           addr->size <= size_most(addr->u.sa.sa_family);
}

int kr_addr_unix(struct kr_addr *ret, const char *path) {
    if (!ret || !path)
        return -EINVAL;
    bool abstract = path[0] == '@';
    path += abstract;
    size_t size = strlen(path);
    if (size == 0)
        return -EINVAL;
    if (size > PATH_MAX_SIZE)
        return -ENAMETOOLONG;
    *ret = (struct kr_addr){.size = (socklen_t)(PATH_AT + size + 1), .u.un.sun_family = AF_UNIX};
    memcpy(ret->u.un.sun_path + abstract, path, size);
    return 0;
}

/* The decimal port at the end of a text, which is 1 to 5 digits. */
static int port_parse(const char *text, uint16_t *ret) {
    uint32_t port = 0;
    size_t size = strlen(text);
    if (size < 1 || size > 5)
        return -EINVAL;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -EINVAL;
        port = port * 10 + (uint32_t)(*text - '0');
    }
    if (port > UINT16_MAX)
        return -EINVAL;
    *ret = (uint16_t)port;
    return 0;
}

int kr_addr_parse(struct kr_addr *ret, const char *text) {
    if (!ret || !text)
        return -EINVAL;
    if (strncmp(text, "unix:", 5) == 0)
        return kr_addr_unix(ret, text + 5);
    bool six = text[0] == '[';
    text += six;
    const char *end = six ? strstr(text, "]:") : strchr(text, ':');
    char host[64]; /* longer ones are no addresses */
    if (!end || (size_t)(end - text) >= sizeof host)
        return -EINVAL;
    memcpy(host, text, (size_t)(end - text));
    host[end - text] = 0;
    if (six != (strchr(host, ':') != NULL)) /* "[127.0.0.1]:80" is not how it is written */
        return -EINVAL;
    uint16_t port;
    int rc = port_parse(end + (six ? 2 : 1), &port);
    return rc < 0 ? rc : kr_addr_ip(ret, host, port);
}

uint16_t kr_addr_port(const struct kr_addr *addr) {
    if (!addr)
        return 0;
    if (addr->size >= sizeof addr->u.in && addr->u.sa.sa_family == AF_INET)
        return ntohs(addr->u.in.sin_port);
    if (addr->size >= sizeof addr->u.in6 && addr->u.sa.sa_family == AF_INET6)
        return ntohs(addr->u.in6.sin6_port);
    return 0;
}

/* inet_ntop has nothing to refuse: the family is known and there is room for the longest. */
static int addr_host(const struct kr_addr *addr, char host[INET6_ADDRSTRLEN]) {
    if (addr->size >= sizeof addr->u.in && addr->u.sa.sa_family == AF_INET)
        inet_ntop(AF_INET, &addr->u.in.sin_addr, host, INET6_ADDRSTRLEN);
    else if (addr->size >= sizeof addr->u.in6 && addr->u.sa.sa_family == AF_INET6)
        inet_ntop(AF_INET6, &addr->u.in6.sin6_addr, host, INET6_ADDRSTRLEN);
    else
        return -EAFNOSUPPORT;
    return 0;
}

static int ip_text(const struct kr_addr *addr, char whole[KR_ADDR_TEXT_SIZE]) {
    char host[INET6_ADDRSTRLEN], scope[16] = "";
    int rc = addr_host(addr, host);
    if (rc < 0)
        return rc;
    bool six = addr->u.sa.sa_family == AF_INET6;
    if (six && addr->u.in6.sin6_scope_id)
        snprintf(scope, sizeof scope, "%%%u", addr->u.in6.sin6_scope_id);
    return snprintf(whole, KR_ADDR_TEXT_SIZE, six ? "[%s%s]:%u" : "%s%s:%u", host, scope,
                    kr_addr_port(addr));
}

/* A path that fills all of sun_path has no closing 0. */
static size_t unix_name_size(const struct kr_addr *addr) {
    size_t size = kr__min_size(addr->size, sizeof addr->u.un) - PATH_AT;
    bool abstract = size && addr->u.un.sun_path[0] == 0;
    return abstract ? size : strnlen(addr->u.un.sun_path, size);
}

static char shown(char c) {
    if (c == 0)
        return '@';
    return (unsigned char)c < ' ' || c == 127 ? '?' : c;
}

static int unix_text(const struct kr_addr *addr, char whole[KR_ADDR_TEXT_SIZE]) {
    memcpy(whole, "unix:", 5);
    size_t size = unix_name_size(addr);
    for (size_t i = 0; i < size; i++)
        whole[5 + i] = shown(addr->u.un.sun_path[i]);
    whole[5 + size] = 0;
    return (int)(5 + size);
}

int kr_addr_text(const struct kr_addr *addr, char *text, size_t size) {
    if (!addr || !text)
        return -EINVAL;
    char whole[KR_ADDR_TEXT_SIZE];
    bool is_unix = addr->size >= PATH_AT && addr->u.sa.sa_family == AF_UNIX;
    int length = is_unix ? unix_text(addr, whole) : ip_text(addr, whole);
    if (length < 0)
        return length;
    if ((size_t)length >= size)
        return -ENOSPC;
    memcpy(text, whole, (size_t)length + 1);
    return length;
}
