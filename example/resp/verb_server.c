/* Verbs that ask about no record: the connection, and the server itself. */
#include "verbs.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void verb_ping(struct call *call) {
    if (call->argc > 2)
        wrong_count(call, "ping");
    else if (call->argc == 2)
        reply_bulk(call->reply, call->argv[1].data, call->argv[1].size);
    else
        reply_status(call->reply, "+PONG");
}

void verb_echo(struct call *call) {
    reply_bulk(call->reply, call->argv[1].data, call->argv[1].size);
}

void verb_quit(struct call *call) {
    reply_status(call->reply, "+OK");
    call->quit = true;
}

void verb_info(struct call *call) {
    const struct server *s = call->server;
    struct kr_stats stats = {0};
    kr_stats_read(s->reactor, &stats, sizeof stats);
    char text[1024];
    int size = snprintf(
        text, sizeof text,
        "# Server\r\nkreactor_version:%u\r\nprocess_id:%d\r\nuptime_in_seconds:%" PRId64 "\r\n\r\n"
        "# Clients\r\nconnected_clients:%" PRIu64 "\r\n\r\n"
        "# Stats\r\ntotal_connections_received:%" PRIu64 "\r\ntotal_commands_processed:%" PRIu64
        "\r\n"
        "total_net_input_bytes:%" PRIu64 "\r\ntotal_net_output_bytes:%" PRIu64 "\r\n"
        "expired_keys:%" PRIu64 "\r\nkeyspace_hits:%" PRIu64 "\r\nkeyspace_misses:%" PRIu64
        "\r\n\r\n"
        "# Reactor\r\nturns:%" PRIu64 "\r\nenters:%" PRIu64 "\r\ncompletions:%" PRIu64 "\r\n\r\n"
        "# Keyspace\r\ndb0:keys=%" PRIu64 ",expires=%" PRIu64 ",avg_ttl=0\r\n",
        kr_version(), getpid(), (call->now_ms - s->started_ms) / 1000, s->clients, s->connections,
        s->commands, stats.bytes_in, stats.bytes_out, s->store.expired, s->hits, s->misses,
        stats.turns, stats.enters, stats.cqes, store_count(&s->store), s->store.expiring_count);
    reply_bulk(call->reply, text, (size_t)size);
}

static const struct {
    const char *name, *value;
} settings[] = {
    {"appendonly", "no"},
    {"databases", "1"},
    {"proto-max-bulk-len", "536870912"},
    {"save", ""},
};

#define SETTING_COUNT (sizeof settings / sizeof settings[0])

/* Whether one of the patterns that stand from argv[2] on is for this setting. */
static bool is_asked(const struct call *call, const char *setting) {
    for (uint32_t i = 2; i < call->argc; i++) {
        char pattern[64];
        const struct resp_arg *arg = &call->argv[i];
        if (arg->size >= sizeof pattern)
            continue;
        memcpy(pattern, arg->data, arg->size);
        pattern[arg->size] = 0;
        if (!fnmatch(pattern, setting, FNM_CASEFOLD))
            return true;
    }
    return false;
}

void verb_config(struct call *call) {
    if (!is_word(&call->argv[1], "GET")) {
        no_subcommand(call, "CONFIG");
        return;
    }
    if (call->argc < 3) {
        wrong_count(call, "config|get");
        return;
    }
    size_t count = 0;
    for (size_t i = 0; i < SETTING_COUNT; i++)
        count += is_asked(call, settings[i].name);
    reply_array(call->reply, 2 * count);
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (!is_asked(call, settings[i].name))
            continue;
        reply_text(call->reply, settings[i].name);
        reply_text(call->reply, settings[i].value);
    }
}
