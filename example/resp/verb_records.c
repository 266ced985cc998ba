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

void verb_expire(struct call *call) {
    int64_t time;
    if (call->argc > 3) {
        const struct resp_arg *option = &call->argv[3];
        reply_error(call->reply, "ERR Unsupported option %.*s",
                    (int)(option->size < 128 ? option->size : 128), option->data);
        return;
    }
    if (!number_read(call->argv[2].data, call->argv[2].size, &time)) {
        no_number(call);
        return;
    }
    if (__builtin_mul_overflow(time, 1000, &time) ||
        __builtin_add_overflow(time, call->now_ms, &time)) {
        no_time(call, "expire");
        return;
    }
    struct record *record = find_arg(call, 1);
    if (record && time <= call->now_ms)
        store_remove(&call->server->store, record);
    else if (record)
        expire_at(call, record, time);
    reply_integer(call->reply, record != NULL);
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
