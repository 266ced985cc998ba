/* The table of commands: name, how many arguments, what it does; and what the verbs share. What is
 * answered is what Redis 7.0 answers, to the byte, but for COMMAND and INFO, which tell of this
 * server. */
#include "command.h"

#include "verbs.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- what the verbs share ---- */

bool is_word(const struct resp_arg *arg, const char *word) {
    return arg->size == strlen(word) && !strncasecmp(arg->data, word, arg->size);
}

struct store_name name_of(const struct call *call, uint32_t index) {
    const struct resp_arg *arg = &call->argv[index];
    return store_name(&call->server->store, arg->data, arg->size);
}

struct record *find(const struct call *call, const struct store_name *name) {
    return store_find(&call->server->store, name, call->now_ms);
}

struct record *find_arg(const struct call *call, uint32_t index) {
    struct store_name name = name_of(call, index);
    return find(call, &name);
}

void expire_at(struct call *call, struct record *record, int64_t expires_ms) {
    store_expire_at(&call->server->store, record, expires_ms);
    server_sweep_soon(call->server);
}

void wrong_count(struct call *call, const char *name) {
    reply_error(call->reply, "ERR wrong number of arguments for '%s' command", name);
}

void no_memory(struct call *call) {
    reply_error(call->reply, "ERR out of memory");
}

void no_number(struct call *call) {
    reply_error(call->reply, "ERR value is not an integer or out of range");
}

void no_time(struct call *call, const char *name) {
    reply_error(call->reply, "ERR invalid expire time in '%s' command", name);
}

void bad_syntax(struct call *call) {
    reply_error(call->reply, "ERR syntax error");
}

void no_subcommand(struct call *call, const char *name) {
    const struct resp_arg *word = &call->argv[1];
    reply_error(call->reply, "ERR unknown subcommand '%.*s'. Try %s HELP.",
                (int)(word->size < 128 ? word->size : 128), word->data, name);
}

/* ---- the table ---- */

struct command {
    const char *name; /* in lower case */
    size_t size;      /* of the name */
    int arity;        /* arguments with the name; -2: 2 or more */
    void (*run)(struct call *call);
    const char *flag;
    int first, last, step; /* which arguments are names of records; COMMAND tells */
};

#define COMMAND(name_, ...)                                                                        \
    { name_, sizeof(name_) - 1, __VA_ARGS__ }

static void verb_command(struct call *call);

/* Those that are asked most come first. */
static const struct command commands[] = {
    COMMAND("get", 2, verb_get, "readonly", 1, 1, 1),
    COMMAND("set", -3, verb_set, "write", 1, 1, 1),
    COMMAND("incr", 2, verb_incr, "write", 1, 1, 1),
    COMMAND("mget", -2, verb_mget, "readonly", 1, -1, 1),
    COMMAND("mset", -3, verb_mset, "write", 1, -1, 2),
    COMMAND("setnx", 3, verb_setnx, "write", 1, 1, 1),
    COMMAND("del", -2, verb_del, "write", 1, -1, 1),
    COMMAND("exists", -2, verb_exists, "readonly", 1, -1, 1),
    COMMAND("expire", -3, verb_expire, "write", 1, 1, 1),
    COMMAND("ttl", 2, verb_ttl, "readonly", 1, 1, 1),
    COMMAND("ping", -1, verb_ping, "fast", 0, 0, 0),
    COMMAND("echo", 2, verb_echo, "fast", 0, 0, 0),
    COMMAND("quit", -1, verb_quit, "fast", 0, 0, 0),
    COMMAND("flushall", -1, verb_flushall, "write", 0, 0, 0),
    COMMAND("info", -1, verb_info, "loading", 0, 0, 0),
    COMMAND("config", -2, verb_config, "admin", 0, 0, 0),
    COMMAND("command", -1, verb_command, "loading", 0, 0, 0),
};

#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static void reply_command(struct reply *reply, const struct command *command) {
    char flag[32];
    snprintf(flag, sizeof flag, "+%s", command->flag);
    reply_array(reply, 6);
    reply_text(reply, command->name);
    reply_integer(reply, command->arity);
    reply_array(reply, 1);
    reply_status(reply, flag);
    reply_integer(reply, command->first);
    reply_integer(reply, command->last);
    reply_integer(reply, command->step);
}

static void verb_command(struct call *call) {
    if (call->argc == 1) {
        reply_array(call->reply, COMMAND_COUNT);
        for (size_t i = 0; i < COMMAND_COUNT; i++)
            reply_command(call->reply, &commands[i]);
    } else if (is_word(&call->argv[1], "COUNT")) {
        reply_integer(call->reply, COMMAND_COUNT);
    } else if (is_word(&call->argv[1], "DOCS")) {
        reply_array(call->reply, 0); /* redis-cli asks, and does without */
    } else {
        no_subcommand(call, "COMMAND");
    }
}

/* ---- which ---- */

static void unknown(struct call *call) {
    char args[160] = "";
    size_t size = 0;
    for (uint32_t i = 1; i < call->argc && size < 128; i++) {
        const struct resp_arg *arg = &call->argv[i];
        size_t most = 128 - size;
        size += (size_t)snprintf(args + size, sizeof args - size, "'%.*s' ",
                                 (int)(arg->size < most ? arg->size : most), arg->data);
    }
    const struct resp_arg *name = &call->argv[0];
    reply_error(call->reply, "ERR unknown command '%.*s', with args beginning with: %s",
                (int)(name->size < 128 ? name->size : 128), name->data, args);
}

static const struct command *command_find(const struct resp_arg *name) {
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        const struct command *command = &commands[i];
        if (name->size == command->size && (name->data[0] | 0x20) == command->name[0] &&
            !strncasecmp(name->data, command->name, name->size))
            return command;
    }
    return NULL;
}

static bool count_is_right(const struct command *command, uint32_t argc) {
    return command->arity < 0 ? argc >= (uint32_t)-command->arity
                              : argc == (uint32_t)command->arity;
}

void command_run(struct call *call) {
    const struct command *command = command_find(&call->argv[0]);
    call->server->commands++;
    if (!command)
        unknown(call);
    else if (!count_is_right(command, call->argc))
        wrong_count(call, command->name);
    else
        command->run(call);
}
