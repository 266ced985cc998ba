/* SET and its options. Failure: memory is refused, and the record is as it was. */
#include "number.h"
#include "verbs.h"

#include <time.h>

enum time_kind { TIME_NONE, TIME_KEEP, TIME_IN_S, TIME_IN_MS, TIME_AT_S, TIME_AT_MS };

struct options {
    bool if_absent, if_present;
    bool get; /* the answer is the value there was */
    enum time_kind kind;
    const struct resp_arg *time; /* of the last four kinds */
};

static enum time_kind time_kind_of(const struct resp_arg *arg) {
    static const struct {
        const char *word;
        enum time_kind kind;
    } kinds[] = {
        {"EX", TIME_IN_S},    {"PX", TIME_IN_MS},     {"EXAT", TIME_AT_S},
        {"PXAT", TIME_AT_MS}, {"KEEPTTL", TIME_KEEP},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (is_word(arg, kinds[i].word))
            return kinds[i].kind;
    }
    return TIME_NONE;
}

/* An option that says when it expires, at *index, and its value. One kind may be said again, and
 * the last counts; two kinds contradict each other. */
static bool time_read(const struct call *call, uint32_t *index, struct options *o) {
    enum time_kind kind = time_kind_of(&call->argv[*index]);
    if (kind == TIME_NONE || (o->kind != TIME_NONE && o->kind != kind))
        return false;
    o->kind = kind;
    if (kind == TIME_KEEP)
        return true;
    if (++*index == call->argc)
        return false;
    o->time = &call->argv[*index];
    return true;
}

static bool options_read(const struct call *call, struct options *o) {
    *o = (struct options){0};
    for (uint32_t i = 3; i < call->argc; i++) {
        const struct resp_arg *arg = &call->argv[i];
        if (is_word(arg, "NX") && !o->if_present)
            o->if_absent = true;
        else if (is_word(arg, "XX") && !o->if_absent)
            o->if_present = true;
        else if (is_word(arg, "GET"))
            o->get = true;
        else if (!time_read(call, &i, o))
            return false;
    }
    return true;
}

/* Clients say dates; the store's time is the reactor's. */
static int64_t since_epoch_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* When a SET with these options expires; false after an error was replied. */
static bool expiry_read(struct call *call, const struct options *o, int64_t *expires_ms) {
    *expires_ms = STORE_NEVER;
    if (!o->time)
        return true;
    bool seconds = o->kind == TIME_IN_S || o->kind == TIME_AT_S;
    bool date = o->kind == TIME_AT_S || o->kind == TIME_AT_MS;
    int64_t time;
    if (!number_read(o->time->data, o->time->size, &time)) {
        no_number(call);
        return false;
    }
    int64_t now_ms = date ? call->now_ms - since_epoch_ms() : call->now_ms;
    if (time <= 0 || __builtin_mul_overflow(time, seconds ? 1000 : 1, &time) ||
        __builtin_add_overflow(time, now_ms, expires_ms)) {
        no_time(call, "set");
        return false;
    }
    return true;
}

/* One of those is the answer: the value there was, or whether it was set. */
static void reply_set(struct call *call, const struct options *o, struct blob *old, bool set) {
    if (o->get)
        reply_value(call, old);
    else if (set)
        reply_status(call->reply, "+OK");
    else
        reply_null(call->reply);
}

static void set(struct call *call, const struct options *o, int64_t expires_ms) {
    struct store_name name = name_of(call, 1);
    struct record *record = find(call, &name);
    if (record ? o->if_absent : o->if_present) {
        reply_set(call, o, record ? record->value : NULL, false);
        return;
    }
    struct blob *old = o->get && record ? blob_ref(record->value) : NULL;
    record = assign(call, &name, record, &call->argv[2]);
    if (record) {
        if (o->kind != TIME_KEEP && record->expires_ms != expires_ms)
            expire_at(call, record, expires_ms);
        reply_set(call, o, old, true);
    } else {
        no_memory(call);
    }
    blob_unref(old);
}

void verb_set(struct call *call) {
    struct options options;
    int64_t expires_ms;
    if (!options_read(call, &options))
        bad_syntax(call);
    else if (expiry_read(call, &options, &expires_ms))
        set(call, &options, expires_ms);
}
