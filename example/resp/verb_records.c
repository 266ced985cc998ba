/* Verbs on records, whatever their values. */
#include "number.h"
#include "verbs.h"

void verb_del(struct call *call) {
    int64_t removed = 0;
    for (uint32_t i = 1; i < call->argc; i++) {
        struct record *record = find_arg(call, i);
        if (!record)
            continue;
        store_remove(&call->server->store, record);
        removed++;
    }
    reply_integer(call->reply, removed);
}

void verb_exists(struct call *call) {
    int64_t found = 0;
    for (uint32_t i = 1; i < call->argc; i++)
        found += find_arg(call, i) != NULL;
    reply_integer(call->reply, found);
}

struct conditions {
    /* than it expires now; never is later than any time */
    bool if_never, if_some, if_later, if_sooner;
};

/* False after an error was replied. */
static bool conditions_read(struct call *call, struct conditions *c) {
    *c = (struct conditions){0};
    for (uint32_t i = 3; i < call->argc; i++) {
        const struct resp_arg *arg = &call->argv[i];
        bool *known = is_word(arg, "NX")   ? &c->if_never
                      : is_word(arg, "XX") ? &c->if_some
                      : is_word(arg, "GT") ? &c->if_later
                      : is_word(arg, "LT") ? &c->if_sooner
                                           : NULL;
        if (!known) {
            reply_error(call->reply, "ERR Unsupported option %.*s",
                        (int)(arg->size < 128 ? arg->size : 128), arg->data);
            return false;
        }
        *known = true;
    }
    if (c->if_never && (c->if_some || c->if_later || c->if_sooner)) {
        reply_error(call->reply,
                    "ERR NX and XX, GT or LT options at the same time are not compatible");
        return false;
    }
    if (c->if_later && c->if_sooner) {
        reply_error(call->reply, "ERR GT and LT options at the same time are not compatible");
        return false;
    }
    return true;
}

static bool conditions_hold(const struct conditions *c, const struct record *record, int64_t time) {
    bool never = record->expires_ms == STORE_NEVER;
    return !(c->if_never && !never) && !(c->if_some && never) &&
           !(c->if_later && time <= record->expires_ms) &&
           !(c->if_sooner && time >= record->expires_ms);
}

/* When an EXPIRE is for; false after an error was replied. */
static bool expiry_read(struct call *call, int64_t *expires_ms) {
    int64_t time;
    if (!number_read(call->argv[2].data, call->argv[2].size, &time)) {
        no_number(call);
        return false;
    }
    if (__builtin_mul_overflow(time, 1000, &time) ||
        __builtin_add_overflow(time, call->now_ms, expires_ms)) {
        no_time(call, "expire");
        return false;
    }
    return true;
}

void verb_expire(struct call *call) {
    struct conditions conditions;
    int64_t time;
    if (!conditions_read(call, &conditions) || !expiry_read(call, &time))
        return;
    struct record *record = find_arg(call, 1);
    bool does = record && conditions_hold(&conditions, record, time);
    if (does && time <= call->now_ms)
        store_remove(&call->server->store, record);
    else if (does)
        expire_at(call, record, time);
    reply_integer(call->reply, does);
}

void verb_ttl(struct call *call) {
    const struct record *record = find_arg(call, 1);
    if (!record)
        reply_integer(call->reply, -2);
    else if (record->expires_ms == STORE_NEVER)
        reply_integer(call->reply, -1);
    else
        reply_integer(call->reply, (record->expires_ms - call->now_ms + 500) / 1000);
}

void verb_flushall(struct call *call) {
    bool known =
        call->argc == 1 ||
        (call->argc == 2 && (is_word(&call->argv[1], "SYNC") || is_word(&call->argv[1], "ASYNC")));
    if (!known) {
        bad_syntax(call);
        return;
    }
    store_clear(&call->server->store);
    reply_status(call->reply, "+OK");
}
