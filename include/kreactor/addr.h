/* Socket addresses: text to address and back. No name is looked up.
 *
 * None of these functions touches a reactor; any thread may call them. */
#ifndef KREACTOR_ADDR_H
#define KREACTOR_ADDR_H

#include <kreactor/types.h>

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An address as the kernel takes it. A caller may also fill `u` and `size` itself. */
struct kr_addr {
    /* Bytes of `u` in use; 0 = no address. A Unix socket's at most sizeof(struct sockaddr_un), with
     * a path of 108 bytes, which has no closing 0 then. */
    socklen_t size;
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } u;
};

/* The room that kr_addr_text needs at most, with the closing 0. */
#define KR_ADDR_TEXT_SIZE 128

/* Makes an address of `ip`, numeric IPv4 ("127.0.0.1") or IPv6 ("::1", "fe80::1%2" with a numeric
 * scope), and `port` (host byte order, 0 = the kernel chooses when listening). `ip` is borrowed for
 * the call. -EINVAL: not a numeric address; `ret` is untouched. */
KR_API int kr_addr_ip(struct kr_addr *ret, const char *ip, uint16_t port) KR_MUST_CHECK;

/* Makes the address of a Unix socket: the `path` of a file, or, where it begins with "@", the
 * abstract name that follows the "@" (man 7 unix). Either is 1 to 107 bytes. A file whose name
 * begins with "@" is "./@name"; for an abstract name with a 0 in it fill `u.un` and `size`
 * yourself. `path` is borrowed for the call. -EINVAL: it is empty; -ENAMETOOLONG: it is longer;
 * `ret` is untouched. */
KR_API int kr_addr_unix(struct kr_addr *ret, const char *path) KR_MUST_CHECK;

/* Makes the address that a text names, as kr_addr_text writes it: "127.0.0.1:80", "[::1]:80",
 * "unix:/run/x", "unix:@name". The port must be there, 0 to 65535. `text` is borrowed for the call.
 * -EINVAL: it is none of these; -ENAMETOOLONG as kr_addr_unix; `ret` is untouched. */
KR_API int kr_addr_parse(struct kr_addr *ret, const char *text) KR_MUST_CHECK;

/* The port in host byte order; 0 for an address without one. */
KR_API uint16_t kr_addr_port(const struct kr_addr *addr);

/* Writes "127.0.0.1:80", "[::1]:80", "unix:/run/x" or "unix:@name" and a closing 0 into `text`,
 * which has room for `size` bytes (KR_ADDR_TEXT_SIZE always suffices). A Unix socket without a
 * name, as most clients are, is "unix:"; a 0 in an abstract name shows as "@" and a control
 * character as "?". Returns the length without the 0. -ENOSPC: the room is too small;
 * -EAFNOSUPPORT: another family; nothing is written. */
KR_API int kr_addr_text(const struct kr_addr *addr, char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
