/* Happy path: a count, then for each argument its size and its bytes, all of it there: argv points
 * into it.
 * Failure modes: the bytes end anywhere (what is whole is copied, and a large argument grows with
 * what has come, so that an announced size costs nothing); a size or a count is no number or too
 * large; a line has no end; memory is refused. Each of these but the first is an error, and the
 * last word of the parser.
 *
 * The words of errors, and what is and is not checked (of the two bytes after an argument:
 * nothing), are those of Redis 7.0, networking.c. */
#include "parse.h"

#include "inline.h"
#include "number.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGV_FIRST 8u
#define ARGV_KEEP 64u               /* a larger argv is not kept for the next request */
#define PARTIAL_FIRST (1024u << 10) /* a blob for an announced size grows from here */

struct input {
    const char *at, *end;
};

static size_t left_of(const struct input *in) {
    return (size_t)(in->end - in->at);
}

static enum resp_status refuse(struct resp_parser *p, const char *what) {
    snprintf(p->error, sizeof p->error, "%s", what);
    return RESP_ERROR;
}

/* ---- arguments ---- */

static bool argv_grow(struct resp_parser *p) {
    uint32_t room = p->argv_room ? p->argv_room * 2 : ARGV_FIRST;
    struct resp_arg *argv = realloc(p->argv, room * sizeof *argv);
    if (!argv)
        return false;
    p->argv = argv;
    p->argv_room = room;
    return true;
}

static enum resp_status argument(struct resp_parser *p, const char *data, size_t size) {
    if (p->argc == p->argv_room && !argv_grow(p))
        return refuse(p, "out of memory");
    p->argv[p->argc++] = (struct resp_arg){.data = data, .size = size};
    return RESP_COMMAND;
}

/* The next argument without a blob gets this one, which holds it. */
static enum resp_status own(struct resp_parser *p, struct blob *blob) {
    struct resp_arg *arg = &p->argv[p->owned++];
    arg->blob = blob;
    arg->data = blob->data;
    p->held += sizeof *arg + sizeof *blob + arg->size;
    return p->held > RESP_REQUEST_MAX ? refuse(p, "too big request") : RESP_COMMAND;
}

/* The bytes are about to go, and the request is not whole. */
static enum resp_status keep(struct resp_parser *p) {
    while (p->owned < p->argc) {
        const struct resp_arg *arg = &p->argv[p->owned];
        struct blob *blob = blob_copy(arg->data, arg->size);
        if (!blob)
            return refuse(p, "out of memory");
        if (own(p, blob) == RESP_ERROR)
            return RESP_ERROR;
    }
    return RESP_MORE;
}

/* ---- lines ---- */

/* Where the line ends that begins here, or NULL. What was searched before is not searched again. */
static const char *line_end(struct resp_parser *p, const struct input *in, char mark) {
    size_t left = left_of(in);
    const char *end = memchr(in->at + p->searched, mark, left - p->searched);
    p->searched = end ? 0 : left;
    return end;
}

/* A line that ends with '\r' and another byte. */
static enum resp_status take_line(struct resp_parser *p, struct input *in, const char *too_long,
                                  struct input *ret) {
    const char *end = left_of(in) ? line_end(p, in, '\r') : NULL;
    if (!end)
        return left_of(in) > RESP_LINE_MAX ? refuse(p, too_long) : RESP_MORE;
    if (in->end - end < 2)
        return RESP_MORE;
    *ret = (struct input){in->at, end};
    in->at = end + 2;
    return RESP_COMMAND;
}

/* ---- a request of counted arguments ---- */

/* What nearly every line is, in a few steps; false: look closely. */
static bool take_usual(struct resp_parser *p, struct input *in, char mark, unsigned *ret) {
    if (!number_line(&in->at, in->end, mark, ret))
        return false;
    p->searched = 0;
    return true;
}

static enum resp_status take_count(struct resp_parser *p, struct input *in) {
    if (take_usual(p, in, '*', &p->missing))
        return RESP_COMMAND;
    struct input line;
    enum resp_status status = take_line(p, in, "too big mbulk count string", &line);
    if (status != RESP_COMMAND)
        return status;
    int64_t count;
    if (!number_read(line.at + 1, left_of(&line) - 1, &count) || count > INT32_MAX)
        return refuse(p, "invalid multibulk length");
    p->missing = count > 0 ? (uint32_t)count : 0;
    return RESP_COMMAND;
}

static enum resp_status take_size(struct resp_parser *p, struct input *in) {
    unsigned usual;
    if (take_usual(p, in, '$', &usual)) {
        p->bulk = usual;
        p->in_bulk = true;
        return RESP_COMMAND;
    }
    struct input line;
    enum resp_status status = take_line(p, in, "too big bulk count string", &line);
    if (status != RESP_COMMAND)
        return status;
    if (line.at[0] != '$') {
        snprintf(p->error, sizeof p->error, "expected '$', got '%c'", line.at[0]);
        return RESP_ERROR;
    }
    if (!number_read(line.at + 1, left_of(&line) - 1, &p->bulk) || p->bulk < 0 ||
        p->bulk > RESP_BULK_MAX)
        return refuse(p, "invalid bulk length");
    p->in_bulk = true;
    return RESP_COMMAND;
}

/* Room for more of the large argument: all of it at once, or twice as much as has come. */
static bool partial_ready(struct resp_parser *p) {
    size_t size = (size_t)p->bulk;
    if (!p->partial) {
        p->partial = blob_new(size < PARTIAL_FIRST ? size : PARTIAL_FIRST);
        return p->partial;
    }
    if (p->partial->size < p->partial->room)
        return true;
    size_t twice = (size_t)p->partial->room * 2;
    struct blob *larger = blob_resize(p->partial, twice < size ? twice : size);
    if (larger)
        p->partial = larger;
    return larger;
}

/* A large argument that is not there as a whole. */
static enum resp_status gather(struct resp_parser *p, struct input *in) {
    size_t size = (size_t)p->bulk;
    while (left_of(in) && (!p->partial || p->partial->size < size)) {
        if (!partial_ready(p))
            return refuse(p, "out of memory");
        size_t part = p->partial->room - p->partial->size;
        part = left_of(in) < part ? left_of(in) : part;
        memcpy(p->partial->data + p->partial->size, in->at, part);
        p->partial->size += (uint32_t)part;
        in->at += part;
    }
    if (!p->partial || p->partial->size < size || left_of(in) < 2)
        return RESP_MORE;
    in->at += 2;
    if (argument(p, p->partial->data, size) == RESP_ERROR)
        return RESP_ERROR;
    struct blob *blob = p->partial;
    p->partial = NULL;
    return own(p, blob);
}

static enum resp_status take_bulk(struct resp_parser *p, struct input *in) {
    size_t size = (size_t)p->bulk;
    enum resp_status status;
    if (!p->partial && left_of(in) >= size + 2) {
        status = argument(p, in->at, size);
        in->at += size + 2;
    } else if (size > RESP_LARGE) {
        status = gather(p, in);
    } else {
        status = RESP_MORE;
    }
    if (status == RESP_COMMAND) {
        p->in_bulk = false;
        p->missing--;
    }
    return status;
}

static enum resp_status take_arguments(struct resp_parser *p, struct input *in) {
    while (p->missing) {
        enum resp_status status = RESP_COMMAND;
        if (!p->in_bulk)
            status = take_size(p, in);
        if (status == RESP_COMMAND)
            status = take_bulk(p, in);
        if (status == RESP_MORE)
            return keep(p);
        if (status == RESP_ERROR)
            return RESP_ERROR;
    }
    return RESP_COMMAND;
}

/* ---- a request in one line ---- */

static enum resp_status split(struct resp_parser *p, char *at) {
    char *word;
    size_t size;
    int found;
    while ((found = inline_word(&at, &word, &size)) > 0)
        if (argument(p, word, size) == RESP_ERROR)
            return RESP_ERROR;
    return found < 0 ? refuse(p, "unbalanced quotes in request") : RESP_COMMAND;
}

static enum resp_status take_inline(struct resp_parser *p, struct input *in) {
    const char *end = line_end(p, in, '\n');
    if (!end)
        return left_of(in) > RESP_LINE_MAX ? refuse(p, "too big inline request") : RESP_MORE;
    size_t size = (size_t)(end - in->at);
    p->line = blob_new(size + 1);
    if (!p->line)
        return refuse(p, "out of memory");
    memcpy(p->line->data, in->at, size);
    in->at = end + 1;
    if (size && p->line->data[size - 1] == '\r')
        size--;
    p->line->data[size] = 0;
    return split(p, p->line->data);
}

/* ---- any request ---- */

static enum resp_status take_request(struct resp_parser *p, struct input *in) {
    assert(p->missing || !p->argc);
    if (!p->missing) {
        if (*in->at != '*')
            return take_inline(p, in);
        enum resp_status status = take_count(p, in);
        if (status != RESP_COMMAND)
            return status;
    }
    return take_arguments(p, in);
}

enum resp_status resp_parse(struct resp_parser *p, const char *data, size_t size, size_t *used) {
    struct input in = {data, data + size};
    enum resp_status status = take_request(p, &in);
    *used += (size_t)(in.at - data);
    return status;
}

void resp_forget(struct resp_parser *p) {
    for (uint32_t i = 0; i < p->owned; i++)
        blob_unref(p->argv[i].blob);
    blob_unref(p->line);
    p->line = NULL;
    p->argc = p->owned = 0;
    p->held = 0;
    if (p->argv_room > ARGV_KEEP) {
        free(p->argv);
        p->argv = NULL;
        p->argv_room = 0;
    }
}

void resp_parser_end(struct resp_parser *p) {
    resp_forget(p);
    free(p->argv);
    blob_unref(p->partial);
    *p = (struct resp_parser){0};
}
