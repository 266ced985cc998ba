/* The load generator's watch mode: it makes no load, it measures a server of the Redis protocol to
 * which another client talks.
 *
 * What came in the window is what the server itself says: the difference of
 * `total_commands_processed` in its INFO, less the asking. It is asked each 20 ms, on a connection
 * of its own, and right before the window opens and shuts, so that the commands and the CPU time
 * are of the same time, but for the time of an answer. */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PERIOD_NS 20000000

struct watch {
    const struct load_options *o;
    int fd;
    uint64_t commands; /* as the server last said, with those of asking */
};

/* An INFO as a bulk: "$SIZE\r\n", SIZE bytes, "\r\n". Returns whether all of it is there. */
static bool is_whole(const char *answer, size_t size) {
    const char *text = memchr(answer, '\n', size);
    return text && answer[0] == '$' &&
           size >= (size_t)(text + 1 - answer) + strtoul(answer + 1, NULL, 10) + 2;
}

static uint64_t commands_said(const char *answer) {
    static const char field[] = "total_commands_processed:";
    const char *found = strstr(answer, field);
    if (!found)
        load_die("the server's INFO does not tell how many commands it has run");
    return strtoull(found + sizeof field - 1, NULL, 10);
}

static void info_read(const struct watch *w, char *answer, size_t room) {
    size_t size = 0;
    do {
        ssize_t part = read(w->fd, answer + size, room - 1 - size);
        if (part <= 0)
            load_die("the server does not answer INFO: %s", part ? strerror(errno) : "it hung up");
        size += (size_t)part;
        answer[size] = 0;
    } while (!is_whole(answer, size) && size < room - 1);
}

/* How many commands others have had run since the last call. */
static uint64_t commands_since(struct watch *w) {
    static char answer[64 << 10];
    if (write(w->fd, "INFO\r\n", 6) != 6)
        load_die("the server does not take INFO: %s", strerror(errno));
    info_read(w, answer, sizeof answer);
    uint64_t said = commands_said(answer), since = said - w->commands;
    w->commands = said;
    return since ? since - 1 : 0;
}

void load_watch(const struct load_options *o, struct record *r) {
    struct watch w = {.o = o, .fd = load_connect(o, 0)};
    commands_since(&w);
    record_init(r, o);
    while (r->phase != LOAD_DONE) {
        nanosleep(&(struct timespec){.tv_nsec = PERIOD_NS}, NULL);
        record_count(r, commands_since(&w));
        record_tick(r, o, true);
    }
    close(w.fd);
}
