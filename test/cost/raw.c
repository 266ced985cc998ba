/* bench/peer/raw.c, whose user part callgrind counts as cost.c's (test/cost/run --where).
 *
 *     cost-raw CELL BATCHES [OPTION OF raw]...
 *
 * That program runs as it is, but for its wait: in front of it the clients have their turn. */
#include "client.h"

#include "../../bench/peer/peer.h"

#include <liburing.h>

static int wait_for_clients(struct io_uring *ring, unsigned count) {
    cost_end();
    if (!client_goes_on()) {
        client_print();
        exit(0);
    }
    cost_begin();
    return io_uring_submit_and_wait(ring, count);
}

static void ready(int listener) {
    struct sockaddr_in addr;
    socklen_t size = sizeof addr;
    if (getsockname(listener, (struct sockaddr *)&addr, &size) < 0)
        client_die("getsockname");
    client_aim(ntohs(addr.sin_port));
}

#define io_uring_submit_and_wait wait_for_clients
#define main raw_main
#define peer_ready ready
#include "../../bench/peer/raw.c"
#undef main

int main(int argc, char **argv) {
    if (argc < 3 || !client_init(argv[1], argv[2])) {
        fprintf(stderr, "usage: cost-raw CELL BATCHES [OPTION OF raw]...\n");
        return 2;
    }
    return raw_main(argc, argv);
}
