/* Requests of the Redis protocol (RESP, and the inline form for people), out of bytes that come in
 * any pieces.
 *
 * Nothing is read twice and little is waited for. A request that came in one piece costs no copy:
 * its arguments point into the bytes themselves. Of one that was cut, the arguments that are whole
 * are copied and their bytes taken; a large argument is put together in a blob, piece by piece,
 * each byte copied once. So what is left unconsumed is less than a line or than RESP_LARGE
 * bytes. */
#ifndef RESP_PARSE_H
#define RESP_PARSE_H

#include "blob.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESP_LINE_MAX (64u << 10)  /* an inline request, or the line of a count */
#define RESP_LARGE (4u << 10)      /* an argument above it is gathered in a blob */
#define RESP_BULK_MAX (512u << 20) /* an argument */
#define RESP_REQUEST_MAX                                                                           \
    (1024u << 20) /* a request that came in pieces, with what it takes in memory */

struct resp_arg {
    const char *data;
    size_t size;
    struct blob *blob; /* NULL, or where `data` is: may be kept with blob_ref */
};

/* All zero is a parser of which nothing was asked yet. The owner reads argv, argc and error. */
struct resp_parser {
    struct resp_arg *argv;
    uint32_t argc;
    uint32_t argv_room;
    uint32_t missing;     /* arguments to come */
    uint32_t owned;       /* the first arguments, of which each has a blob */
    int64_t bulk;         /* the size of the next argument, if its line was read: `in_bulk` */
    struct blob *partial; /* a large argument as far as it has come */
    struct blob *line;    /* what an inline request's arguments point into */
    size_t searched;      /* first bytes of a line of which the end has not come */
    size_t held;          /* what of RESP_REQUEST_MAX is used */
    bool in_bulk;
    char error[40]; /* after RESP_ERROR: what is wrong, in Redis's words */
};

enum resp_status {
    RESP_MORE,    /* the request is not whole: show what is left again, with what follows */
    RESP_COMMAND, /* argv[0 .. argc) is a request; argc 0: an empty one, which has no answer */
    RESP_ERROR,   /* `error`; the stream makes no sense from here on */
};

/* Reads up to the end of one request of the `size` (at least 1) bytes, and adds to *used what it
 * has taken of them. The arguments are good as long as `data` is, and until resp_forget, which has
 * to come before the next request is read. */
enum resp_status resp_parse(struct resp_parser *p, const char *data, size_t size, size_t *used);

/* The request was answered: gives back what it took. */
void resp_forget(struct resp_parser *p);

/* Gives back all memory. */
void resp_parser_end(struct resp_parser *p);

#endif
