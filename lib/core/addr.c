/* Numeric addresses. inet_pton and inet_ntop do the work; a scope is added by hand. */
#include "base/util.h"

#include <kreactor/addr.h>

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

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

uint16_t kr_addr_port(const struct kr_addr *addr) {
    if (!addr)
        return 0;
    if (addr->size >= sizeof addr->u.in && addr->u.sa.sa_family == AF_INET)
        return ntohs(addr->u.in.sin_port);
    if (addr->size >= sizeof addr->u.in6 && addr->u.sa.sa_family == AF_INET6)
        return ntohs(addr->u.in6.sin6_port);
    return 0;
}

static int addr_host(const struct kr_addr *addr, char *host, socklen_t size) {
    if (addr->size >= sizeof addr->u.in && addr->u.sa.sa_family == AF_INET)
        return inet_ntop(AF_INET, &addr->u.in.sin_addr, host, size) ? 0 : -errno;
    if (addr->size >= sizeof addr->u.in6 && addr->u.sa.sa_family == AF_INET6)
        return inet_ntop(AF_INET6, &addr->u.in6.sin6_addr, host, size) ? 0 : -errno;
    return -EAFNOSUPPORT;
}

int kr_addr_text(const struct kr_addr *addr, char *text, size_t size) {
    if (!addr || !text)
        return -EINVAL;
    char host[INET6_ADDRSTRLEN], whole[KR_ADDR_TEXT_SIZE], scope[16] = "";
    int rc = addr_host(addr, host, sizeof host);
    if (rc < 0)
        return rc;
    bool six = addr->u.sa.sa_family == AF_INET6;
    if (six && addr->u.in6.sin6_scope_id)
        snprintf(scope, sizeof scope, "%%%u", addr->u.in6.sin6_scope_id);
    int length = snprintf(whole, sizeof whole, six ? "[%s%s]:%u" : "%s%s:%u", host, scope,
                          kr_addr_port(addr));
    if ((size_t)length >= size)
        return -ENOSPC;
    memcpy(text, whole, (size_t)length + 1);
    return length;
}
