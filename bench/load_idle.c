/* The load generator's idle mode: what memory does a connection cost that does nothing?
 *
 * It opens the connections, has one message echoed on each, so that every one is known to be
 * served, and leaves them open. The server's resident memory before and after, from smaps_rollup,
 * which walks the pages (VmRSS may be off by some hundred KiB, man proc_pid_status), gives the
 * bytes a connection. The kernel's memory for the sockets is not in it: it is the same for every
 * server. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

/* As many connections as one source address has ports for. */
enum { PORTS = 16384 };

static long resident_kib(pid_t pid) {
    char path[64], line[256];
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        load_die("%s: %s", path, strerror(errno));
    long kib = -1;
    while (kib < 0 && fgets(line, sizeof(line), file))
        sscanf(line, "Rss: %ld kB", &kib);
    fclose(file);
    if (kib < 0)
        load_die("%s has no Rss", path);
    return kib;
}

static void echo_one(int fd, const unsigned char *message, unsigned size) {
    static unsigned char back[1 << 20];
    struct timeval limit = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (send(fd, message, size, MSG_NOSIGNAL) != (ssize_t)size)
        load_die("send on a new connection: %s", strerror(errno));
    if (recv(fd, back, size, MSG_WAITALL) != (ssize_t)size)
        load_die("no echo on a new connection");
    if (memcmp(back, message, size))
        load_die("MISMATCH: the echo is not what was sent");
}

void load_idle(const struct load_options *o) {
    if (o->size > 16384)
        load_die("idle takes at most 16 KiB");
    const unsigned char *pattern = load_pattern(o->size);
    long before = resident_kib(o->server);
    for (unsigned i = 0; i < o->connections; i++) {
        int fd = load_connect(o, 0x7f010001u + (i / PORTS << 8));
        echo_one(fd, pattern + i % LOAD_PERIOD, o->size);
    }
    long after = resident_kib(o->server);
    printf(
        "{\"connections\": %u, \"rss_before_kib\": %ld, \"rss_kib\": %ld, \"idle_bytes\": %.1f}\n",
        o->connections, before, after, (double)(after - before) * 1024 / o->connections);
}
