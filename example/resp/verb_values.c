/* Verbs on values. Failure: memory is refused, and the record is as it was. */
#include "number.h"
#include "verbs.h"

static void no_memory(struct call *call) {
    reply_error(call->reply, "ERR out of memory");
}

/* A blob with the argument's bytes: its own if it has one. `old`, which may be NULL, is given up for it. */
static struct blob *value_of(const struct resp_arg *arg, struct blob *old) {
    if (!arg->blob)
        return blob_renew(old, arg->data, arg->size);
    blob_unref(old);
    return blob_ref(arg->blob);
}

/* Gives the record (NULL: a new one) the argument's value, for good. NULL when memory is refused. */
static struct record *assign(struct call *call, const struct store_name *name,
                             struct record *record, const struct resp_arg *arg) {
    struct blob *value = value_of(arg, record ? record->value : NULL);
    if (!value)
        return NULL;
    if (!record)
        return store_add(&call->server->store, name, value);
    record->value = value;
    if (record->expires_ms != STORE_NEVER)
        store_expire_at(&call->server->store, record, STORE_NEVER);
    return record;
}

static void reply_value(struct call *call, const struct record *record) {
    if (record) {
        call->server->hits++;
        reply_blob(call->reply, record->value);
    } else {
        call->server->misses++;
        reply_null(call->reply);
    }
}

void verb_get(struct call *call) {
    reply_value(call, find_arg(call, 1));
}

struct set_options {
    bool if_absent, if_present;
    const struct resp_arg *time;
    int64_t unit_ms; /* of `time` */
};

static bool set_options_read(const struct call *call, struct set_options *o) {
    *o = (struct set_options){0};
    for (uint32_t i = 3; i < call->argc; i++) {
        const struct resp_arg *arg = &call->argv[i];
        bool more = i + 1 < call->argc;
        if (is_word(arg, "NX") && !o->if_present) {
            o->if_absent = true;
        } else if (is_word(arg, "XX") && !o->if_absent) {
            o->if_present = true;
        } else if (is_word(arg, "EX") && o->unit_ms != 1 && more) {
            o->unit_ms = 1000;
            o->time = &call->argv[++i];
        } else if (is_word(arg, "PX") && o->unit_ms != 1000 && more) {
            o->unit_ms = 1;
            o->time = &call->argv[++i];
        } else {
            return false;
        }
    }
    return true;
}

/* When a SET with these options expires; false after an error was replied. */
static bool set_time(struct call *call, const struct set_options *o, int64_t *expires_ms) {
    *expires_ms = STORE_NEVER;
    if (!o->time)
        return true;
    int64_t time;
    if (!number_read(o->time->data, o->time->size, &time)) {
        no_number(call);
        return false;
    }
    if (time <= 0 || __builtin_mul_overflow(time, o->unit_ms, &time) ||
        __builtin_add_overflow(time, call->now_ms, expires_ms)) {
        no_time(call, "set");
        return false;
    }
    return true;
}

void verb_set(struct call *call) {
    struct set_options options;
    int64_t expires_ms;
    if (!set_options_read(call, &options)) {
        bad_syntax(call);
        return;
    }
    if (!set_time(call, &options, &expires_ms))
        return;
    struct store_name name = name_of(call, 1);
    struct record *record = find(call, &name);
    if (record ? options.if_absent : options.if_present) {
        reply_null(call->reply);
        return;
    }
    record = assign(call, &name, record, &call->argv[2]);
    if (!record) {
        no_memory(call);
        return;
    }
    if (options.time)
        expire_at(call, record, expires_ms);
    reply_status(call->reply, "+OK");
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
        reply_value(call, find_arg(call, i));
}

void verb_mset(struct call *call) {
    if (call->argc % 2 == 0) {
        wrong_count(call, "mset");
        return;
    }
    for (uint32_t i = 1; i < call->argc; i += 2) {
        struct store_name name = name_of(call, i);
        if (!assign(call, &name, find(call, &name), &call->argv[i + 1])) {
            no_memory(call);
            return;
        }
    }
    reply_status(call->reply, "+OK");
}
