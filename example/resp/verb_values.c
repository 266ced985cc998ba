/* Verbs on values. Failure: memory is refused, and the record is as it was. */
#include "number.h"
#include "verbs.h"

/* A blob with the argument's bytes: its own if it has one. `old`, which may be NULL, is given up
 * for it. */
static struct blob *value_of(const struct resp_arg *arg, struct blob *old) {
    if (!arg->blob)
        return blob_renew(old, arg->data, arg->size);
    blob_unref(old);
    return blob_ref(arg->blob);
}

struct record *assign(struct call *call, const struct store_name *name, struct record *record,
                      const struct resp_arg *arg) {
    struct blob *value = value_of(arg, record ? record->value : NULL);
    if (!value)
        return NULL;
    if (!record)
        return store_add(&call->server->store, name, value);
    record->value = value;
    return record;
}

/* As above, and whatever there was, the record does not expire. */
static struct record *assign_for_good(struct call *call, const struct store_name *name,
                                      struct record *record, const struct resp_arg *arg) {
    record = assign(call, name, record, arg);
    if (record && record->expires_ms != STORE_NEVER)
        store_expire_at(&call->server->store, record, STORE_NEVER);
    return record;
}

void reply_value(struct call *call, struct blob *value) {
    if (value) {
        call->server->hits++;
        reply_blob(call->reply, value);
    } else {
        call->server->misses++;
        reply_null(call->reply);
    }
}

static void reply_value_of(struct call *call, uint32_t index) {
    const struct record *record = find_arg(call, index);
    reply_value(call, record ? record->value : NULL);
}

void verb_get(struct call *call) {
    reply_value_of(call, 1);
}

void verb_setnx(struct call *call) {
    struct store_name name = name_of(call, 1);
    bool absent = !find(call, &name);
    if (absent && !assign(call, &name, NULL, &call->argv[2]))
        no_memory(call);
    else
        reply_integer(call->reply, absent);
}

void verb_incr(struct call *call) {
    struct store_name name = name_of(call, 1);
    struct record *record = find(call, &name);
    int64_t number = 0;
    if (record && !number_read(record->value->data, record->value->size, &number)) {
        no_number(call);
        return;
    }
    if (__builtin_add_overflow(number, 1, &number)) {
        reply_error(call->reply, "ERR increment or decrement would overflow");
        return;
    }
    char text[NUMBER_TEXT_MAX];
    struct blob *old = record ? record->value : NULL;
    struct blob *value = blob_renew(old, text, number_write(text, number));
    if (value && record)
        record->value = value;
    else if (!value || !store_add(&call->server->store, &name, value)) {
        no_memory(call);
        return;
    }
    reply_integer(call->reply, number);
}

/* Told before it is begun, since half an answer is none. */
static bool is_too_large(const struct call *call) {
    size_t total = 0;
    for (uint32_t i = 1; i < call->argc && total <= REPLY_MAX; i++) {
        const struct record *record = find_arg(call, i);
        total += 32 + (record ? record->value->size : 0);
    }
    return total > REPLY_MAX;
}

void verb_mget(struct call *call) {
    if (is_too_large(call)) {
        reply_error(call->reply, "ERR the answer would be larger than %zu bytes", REPLY_MAX);
        return;
    }
    reply_array(call->reply, call->argc - 1);
    for (uint32_t i = 1; i < call->argc; i++)
        reply_value_of(call, i);
}

void verb_mset(struct call *call) {
    if (call->argc % 2 == 0) {
        wrong_count(call, "mset");
        return;
    }
    for (uint32_t i = 1; i < call->argc; i += 2) {
        struct store_name name = name_of(call, i);
        if (!assign_for_good(call, &name, find(call, &name), &call->argv[i + 1])) {
            no_memory(call);
            return;
        }
    }
    reply_status(call->reply, "+OK");
}
