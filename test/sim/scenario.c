/* What is likely in which scenario. */
#include "sim/storm.h"

#include <string.h>

const struct scenario scenarios[] = {
    {.name = "echo", .clients = 24, .bytes = 40000},
    {.name = "request", .clients = 16, .bytes = 20000, .messages = true, .rude = 100, .lazy = 60,
     .hoard = 60, .lease = 150},
    {.name = "pause", .clients = 16, .bytes = 30000, .pause = 300, .rude = 60, .lazy = 60},
    {.name = "slow", .clients = 12, .bytes = 60000, .slow = true, .close = 4, .lazy = 200, .idle = 20,
     .lease = 80},
    {.name = "close", .clients = 32, .bytes = 8000, .close = 160, .rude = 300, .timers = 40},
    {.name = "listener", .clients = 40, .bytes = 3000, .close = 20, .churn = 120, .rude = 100,
     .timers = 20, .drain = 3},
    {.name = "timers", .clients = 6, .bytes = 3000, .timers = 600, .close = 10, .idle = 100,
     .lazy = 100},
    {.name = "posts", .clients = 6, .bytes = 3000, .posts = 600, .close = 10, .free_early = 200},
    {.name = "proxy", .clients = 24, .bytes = 40000, .proxy = true, .rude = 100, .lazy = 60, .pause = 30},
    {.name = "cuts", .clients = 24, .bytes = 40000, .proxy = true, .slow = true, .close = 60, .pause = 60,
     .rude = 200, .lazy = 100, .no_memory = 6, .free_early = 200, .timers = 60, .drain = 1},
    {.name = "half", .clients = 20, .bytes = 12000, .half = 400, .close = 10, .rude = 100, .lazy = 60,
     .idle = 10, .hoard = 20, .drain = 1},
    {.name = "fds", .clients = 24, .bytes = 12000, .fds = 300, .close = 20, .pause = 120, .rude = 150, .lazy = 60,
     .no_memory = 6, .free_early = 200, .drain = 1, .half = 30, .lease = 60},
    {.name = "files", .clients = 20, .bytes = 40000, .files = 600, .close = 6, .pause = 30, .half = 40,
     .rude = 60, .lazy = 60, .idle = 6, .no_memory = 4, .free_early = 100, .drain = 1},
    {.name = "mixed", .clients = 32, .bytes = 12000, .messages = false, .close = 20, .pause = 40,
     .timers = 40, .posts = 40, .idle = 10, .churn = 10, .rude = 150, .lazy = 60, .no_memory = 12,
     .free_early = 250, .lease = 60, .drain = 1},
    {.name = "release", .clients = 20, .bytes = 12000, .release = 100, .close = 10, .pause = 20, .idle = 10,
     .rude = 100, .lazy = 60, .hoard = 40, .half = 40, .no_memory = 6, .free_early = 60, .lease = 20,
     .drain = 1},
};
const unsigned scenario_count = sizeof scenarios / sizeof *scenarios;

const struct scenario *scenario_of(uint64_t seed) {
    return &scenarios[seed % scenario_count];
}

const struct scenario *scenario_named(const char *name) {
    for (unsigned i = 0; i < scenario_count; i++) {
        if (!strcmp(scenarios[i].name, name))
            return &scenarios[i];
    }
    return NULL;
}

const char *const mark_names[MARK_COUNT] = {
#define X(name) #name,
    MARKS(X)
#undef X
};
