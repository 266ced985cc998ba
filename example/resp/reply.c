/* Happy path: reserve once, format replies one behind the other, commit once.
 * Failure modes: the queue is above REPLY_HIGH (ready says no); memory is refused (`error` stays,
 * and the connection, whose answers are no longer whole, has to be closed). */
#include "reply.h"

#include "number.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CHUNK_SMALL 440u /* and what the queue needs itself: half a KiB */
#define CHUNK_LARGE 4000u
#define HEAD_MAX (NUMBER_TEXT_MAX + 3) /* '$', a number, "\r\n" */
#define LINE_MAX_SIZE 512u             /* a status or an error */
#define COPY_MAX ((size_t)4 << 10)     /* larger bulks are not copied in */

void reply_open(struct reply *reply, struct kr_reactor *r, kr_conn conn, size_t asked) {
    *reply = (struct reply){
        .reactor = r,
        .conn = conn,
        .chunk = asked < CHUNK_SMALL / 2 ? CHUNK_SMALL : CHUNK_LARGE,
        .queued = kr_conn_queued(r, conn),
    };
}

static void fail(struct reply *reply, int error) {
    if (!reply->error)
        reply->error = error;
}

void reply_close(struct reply *reply) {
    if (!reply->start)
        return;
    int rc = kr_conn_commit(reply->reactor, reply->conn, (size_t)(reply->at - reply->start));
    if (rc < 0)
        fail(reply, rc);
    reply->start = reply->at = reply->end = NULL;
}

/* Room for `size` bytes, at most 1 MiB, at reply->at. */
static bool room(struct reply *reply, size_t size) {
    if (__builtin_expect(reply->start && (size_t)(reply->end - reply->at) >= size, 1))
        return true;
    reply_close(reply);
    if (reply->error)
        return false;
    if (size < reply->chunk)
        size = reply->chunk;
    void *start;
    int rc = kr_conn_reserve(reply->reactor, reply->conn, size, &start);
    if (rc < 0) {
        fail(reply, rc);
        return false;
    }
    reply->start = reply->at = start;
    reply->end = reply->start + size;
    return true;
}

bool reply_ready(struct reply *reply) {
    return reply->queued <= REPLY_HIGH && !reply->error;
}

/* ---- into the room ---- */

static void put(struct reply *reply, const char *data, size_t size) {
    memcpy(reply->at, data, size);
    reply->at += size;
    reply->queued += size;
}

static void put_head(struct reply *reply, char mark, int64_t number) {
    char *at = reply->at;
    *at++ = mark;
    at += number_write(at, number);
    *at++ = '\r';
    *at++ = '\n';
    reply->queued += (size_t)(at - reply->at);
    reply->at = at;
}

static void put_line(struct reply *reply, const char *text, size_t size) {
    if (!room(reply, size + 2))
        return;
    put(reply, text, size);
    put(reply, "\r\n", 2);
}

/* ---- replies ---- */

void reply_status(struct reply *reply, const char *text) {
    put_line(reply, text, strlen(text));
}

void reply_error(struct reply *reply, const char *format, ...) {
    char line[LINE_MAX_SIZE] = "-";
    va_list args;
    va_start(args, format);
    vsnprintf(line + 1, sizeof line - 1, format, args);
    va_end(args);
    for (char *c = line; *c; c++)
        if (*c == '\r' || *c == '\n')
            *c = ' ';
    put_line(reply, line, strlen(line));
}

static void head(struct reply *reply, char mark, int64_t number) {
    if (room(reply, HEAD_MAX))
        put_head(reply, mark, number);
}

void reply_integer(struct reply *reply, int64_t number) {
    head(reply, ':', number);
}

void reply_array(struct reply *reply, size_t count) {
    head(reply, '*', (int64_t)count);
}

void reply_null(struct reply *reply) {
    reply_status(reply, "$-1");
}

static void give_back(struct kr_reactor *r, void *blob) {
    (void)r;
    blob_unref(blob);
}

/* The bytes of the blob. Without one they are the connection's own, as it was just shown them, and
 * the library holds their buffer rather than copy them. */
static int send_large(struct reply *reply, const char *data, size_t size, struct blob *blob) {
    if (!blob)
        return kr_conn_send(reply->reactor, reply->conn, data, size);
    int rc = kr_conn_send_ref(reply->reactor, reply->conn, data, size, give_back, blob);
    if (rc == 0)
        blob_ref(blob);
    return rc;
}

static void reply_large(struct reply *reply, const char *data, size_t size, struct blob *blob) {
    head(reply, '$', (int64_t)size);
    reply_close(reply);
    if (reply->error)
        return;
    int rc = send_large(reply, data, size, blob);
    if (rc < 0) {
        fail(reply, rc);
        return;
    }
    reply->queued += size;
    put_line(reply, "", 0);
}

void reply_bulk(struct reply *reply, const char *data, size_t size) {
    if (size > COPY_MAX) {
        reply_large(reply, data, size, NULL);
        return;
    }
    if (!room(reply, HEAD_MAX + size + 2))
        return;
    put_head(reply, '$', (int64_t)size);
    put(reply, data, size);
    put(reply, "\r\n", 2);
}

void reply_blob(struct reply *reply, struct blob *blob) {
    if (blob->size > COPY_MAX)
        reply_large(reply, blob->data, blob->size, blob);
    else
        reply_bulk(reply, blob->data, blob->size);
}

void reply_text(struct reply *reply, const char *text) {
    reply_bulk(reply, text, strlen(text));
}
