/* Replies: formatted in the memory of the connection's send queue itself, or, if large, not copied
 * at all.
 *
 * One is opened for each call of on_data, and what all its commands answer is written into one
 * reservation after another. Back-pressure is decided before a command runs, never in its middle:
 * while more than REPLY_HIGH bytes are queued no command runs, and as no reply is larger than
 * REPLY_MAX, whatever a command says then fits below the connection's send_cap. */
#ifndef RESP_REPLY_H
#define RESP_REPLY_H

#include "blob.h"

#include <kreactor.h>

#define REPLY_HIGH ((size_t)256 << 10)         /* the connection's send_high */
#define REPLY_MAX ((size_t)1 << 30)            /* all that one command answers */
#define REPLY_CAP (REPLY_MAX + 2 * REPLY_HIGH) /* the connection's send_cap */

struct reply {
    struct kr_reactor *reactor;
    kr_conn conn;
    char *start, *at, *end; /* the open reservation, and how far it is written; all NULL: none */
    size_t chunk;           /* how much is reserved at a time */
    size_t queued;          /* bytes queued, with those written here */
    int error;              /* what the library said, if it refused; nothing more is written then */
};

/* `asked` is the size of the requests that are to be answered, from which a chunk is guessed. */
void reply_open(struct reply *reply, struct kr_reactor *r, kr_conn conn, size_t asked);

/* Whether the next command may run. If not, consume nothing more: it is shown again when the peer
 * has read. */
bool reply_ready(struct reply *reply);

/* Queues what was written. */
void reply_close(struct reply *reply);

/* "+OK" and the like: the reply as it stands, without its end. */
void reply_status(struct reply *reply, const char *text);

/* "-ERR wrong ...": the text without its end; of control bytes in it, none ends the line. */
void reply_error(struct reply *reply, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

void reply_integer(struct reply *reply, int64_t number);
void reply_bulk(struct reply *reply, const char *data, size_t size);
void reply_text(struct reply *reply, const char *text); /* a bulk */

/* A bulk of the blob's bytes. A large one is not copied, but referred to until it is sent. */
void reply_blob(struct reply *reply, struct blob *blob);
void reply_null(struct reply *reply);
void reply_array(struct reply *reply, size_t count); /* of what is replied next */

#endif
