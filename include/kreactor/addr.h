/* Socket addresses: from text to address and back. No name is looked up.
 *
 * No function of this header uses a reactor. Any thread may call them. A NULL where a pointer is
 * needed is -EINVAL. */
#ifndef KREACTOR_ADDR_H
#define KREACTOR_ADDR_H

#include <kreactor/types.h>

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An address in the form that the kernel takes. A caller may also fill `u` and `size` itself. */
struct kr_addr {
    /* Bytes of `u` in use; 0: no address. For a Unix socket at most sizeof(struct sockaddr_un); a
     * path may then have 108 bytes and no closing 0 byte. */
    socklen_t size;
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } u;
};

/* The largest number of bytes that kr_addr_text needs, with the closing 0 byte. */
#define KR_ADDR_TEXT_SIZE 128

/* Makes an IPv4 or IPv6 address.
 *   ret   receives the address
 *   ip    numeric IPv4 ("127.0.0.1") or IPv6 ("::1", "fe80::1%2" with a numeric scope). Borrowed
 *         for the call
 *   port  0 to 65535, in host byte order. 0: the kernel chooses one when listening
 * Errors: -EINVAL: `ip` is not a numeric address; `ret` is untouched. */
KR_API int kr_addr_ip(struct kr_addr *ret, const char *ip, uint16_t port) KR_MUST_CHECK;

/* Makes the address of a Unix socket. `path` is the path of a file, or "@" and an abstract name
 * (man 7 unix). The path, or the name after the "@", has 1 to 107 bytes. `path` is borrowed for the
 * call. For a file whose name begins with "@" write "./@name". For an abstract name that contains a
 * 0 byte fill `u.un` and `size` yourself. Errors: -EINVAL: the path or name is empty.
 * -ENAMETOOLONG: it is longer than 107 bytes. `ret` is untouched. */
KR_API int kr_addr_unix(struct kr_addr *ret, const char *path) KR_MUST_CHECK;

/* Makes an address from a text in the form that kr_addr_text writes: "127.0.0.1:80", "[::1]:80",
 * "unix:/run/x", "unix:@name". An IP address needs its port, 0 to 65535. `text` is borrowed for the
 * call.
 * Errors: -EINVAL: the text has none of these forms. -ENAMETOOLONG: as kr_addr_unix. `ret` is
 * untouched. */
KR_API int kr_addr_parse(struct kr_addr *ret, const char *text) KR_MUST_CHECK;

/* Returns the port in host byte order; 0 for an address without a port, and for NULL. */
KR_API uint16_t kr_addr_port(const struct kr_addr *addr);

/* Writes "127.0.0.1:80", "[::1]:80", "unix:/run/x" or "unix:@name" and a closing 0 byte to `text`,
 * which has room for `size` bytes (KR_ADDR_TEXT_SIZE always suffices). A Unix socket without a
 * name, such as most clients have, gives "unix:". A 0 byte in an abstract name is shown as "@", a
 * control character as "?". Returns the length without the closing 0 byte. Errors, with nothing
 * written: -ENOSPC: the room is too small. -EAFNOSUPPORT: the address is of another family. */
KR_API int kr_addr_text(const struct kr_addr *addr, char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
