/* What the files of verbs share: the verbs themselves, for the table, and what several of them
 * need. */
#ifndef RESP_VERBS_H
#define RESP_VERBS_H

#include "command.h"

/* verb_values.c */
void verb_get(struct call *call);
void verb_setnx(struct call *call);
void verb_incr(struct call *call);
void verb_mget(struct call *call);
void verb_mset(struct call *call);

/* verb_set.c */
void verb_set(struct call *call);

/* verb_records.c */
void verb_del(struct call *call);
void verb_exists(struct call *call);
void verb_expire(struct call *call);
void verb_ttl(struct call *call);
void verb_flushall(struct call *call);

/* verb_server.c */
void verb_ping(struct call *call);
void verb_echo(struct call *call);
void verb_quit(struct call *call);
void verb_info(struct call *call);
void verb_config(struct call *call);

/* Whether the argument is the word, in whatever case. */
bool is_word(const struct resp_arg *arg, const char *word);

/* The name that argv[index] is, and the record of that name or NULL. */
struct store_name name_of(const struct call *call, uint32_t index);
struct record *find(const struct call *call, const struct store_name *name);
struct record *find_arg(const struct call *call, uint32_t index);

/* The record expires then, and is swept. */
void expire_at(struct call *call, struct record *record, int64_t expires_ms);

/* Gives the record (NULL: a new one) the argument's value; when it expires stays. NULL when memory
 * is refused. */
struct record *assign(struct call *call, const struct store_name *name, struct record *record,
                      const struct resp_arg *arg);

/* NULL: there is no record. Counts hit or miss. */
void reply_value(struct call *call, struct blob *value);

/* Errors that several verbs reply. `verb` is in lower case. */
void wrong_count(struct call *call, const char *verb);
void no_memory(struct call *call);
void no_number(struct call *call);
void no_time(struct call *call, const char *verb);
void bad_syntax(struct call *call);
void no_subcommand(struct call *call,
                   const char *verb); /* `verb` in capitals; argv[1] is not known */

#endif
