/* Reset: ends a TCP connection with RST, before its CLOSE.
 *
 * Happy path: CONNECT to an address of family AF_UNSPEC disconnects the socket, and tcp_disconnect
 * sends RST (net/ipv4/af_inet.c, net/ipv4/tcp.c). SO_LINGER would do it as well, but setting it on
 * a direct descriptor needs kernel 6.7; this works since 6.1.
 * Failure: the socket is no TCP socket, or was reset by the peer; the CLOSE that follows ends
 * it. */
#include "conn/op.h"

#include <sys/socket.h>

uint16_t kr__prep_reset(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    (void)o;
    static const struct sockaddr unspecified = {.sa_family = AF_UNSPEC};
    io_uring_prep_connect(sqe, 0, &unspecified, sizeof unspecified);
    return 0;
}

void kr__done_reset(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    (void)r;
    (void)how;
    kr__owner_conn(o)->reset = false;
}
