/* The parser of example/resp, against itself: whatever a stream is cut into, it tells the same
 * story. And against Redis 7.0 in the words of its errors and the limits it sets;
 * test/resp/clients.py asks Redis. */
#include "harness/tap.h"

#include "resp/number.h"
#include "resp/parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORY_MAX (8u << 20)
#define SHOWN_MAX (8u << 20)

/* What a stream said, as text; and the stream's end that the parser has not taken. */
struct reader {
    struct resp_parser parser;
    char *story;
    size_t size, room;
    char *rest;
    size_t rest_size, rest_room;
    bool over; /* after an error */
};

static void reader_init(struct reader *d) {
    *d = (struct reader){.room = 512, .rest_room = 512};
    d->story = malloc(d->room);
    d->rest = malloc(d->rest_room);
    CHECK(d->story && d->rest);
}

static char *grow(char *bytes, size_t *room, size_t need) {
    if (need <= *room)
        return bytes;
    while (*room < need)
        *room *= 2;
    bytes = realloc(bytes, *room);
    CHECK(bytes != NULL);
    return bytes;
}

static void reader_end(struct reader *d) {
    resp_parser_end(&d->parser);
    free(d->story);
    free(d->rest);
}

static void tell(struct reader *d, const void *data, size_t size) {
    CHECK_LE(d->size + size, STORY_MAX);
    d->story = grow(d->story, &d->room, d->size + size);
    memcpy(d->story + d->size, data, size);
    d->size += size;
}

static void tell_request(struct reader *d) {
    char text[32];
    tell(d, text, (size_t)sprintf(text, "(%u", d->parser.argc));
    for (uint32_t i = 0; i < d->parser.argc; i++) {
        const struct resp_arg *arg = &d->parser.argv[i];
        tell(d, text, (size_t)sprintf(text, " %zu:", arg->size));
        tell(d, arg->data, arg->size);
    }
    tell(d, ")", 1);
    resp_forget(&d->parser);
}

static void tell_error(struct reader *d) {
    tell(d, "!", 1);
    tell(d, d->parser.error, strlen(d->parser.error));
    d->over = true;
}

/* As on_data does: requests as long as there are any. Returns how many bytes were taken. */
static size_t read_shown(struct reader *d, const char *data, size_t size) {
    size_t used = 0;
    while (used < size && !d->over) {
        switch (resp_parse(&d->parser, data + used, size - used, &used)) {
        case RESP_MORE:
            return used;
        case RESP_COMMAND:
            tell_request(d);
            break;
        case RESP_ERROR:
            tell_error(d);
            break;
        }
        CHECK_LE(used, size);
    }
    return used;
}

/* Shows the rest and what follows, in memory of just that size that is gone afterwards, so that the
 * sanitizer sees a read past the end and an argument that was not kept. */
static void show(struct reader *d, const char *piece, size_t size) {
    size_t total = d->rest_size + size;
    if (d->over || total == 0)
        return;
    char *shown = malloc(total);
    CHECK(shown && total <= SHOWN_MAX);
    memcpy(shown, d->rest, d->rest_size);
    memcpy(shown + d->rest_size, piece, size);
    size_t used = read_shown(d, shown, total);
    d->rest_size = total - used;
    d->rest = grow(d->rest, &d->rest_room, d->rest_size);
    memcpy(d->rest, shown + used, d->rest_size);
    free(shown);
}

static void check_story(const struct reader *d, const struct reader *expected) {
    CHECK_EQ(d->size, expected->size);
    CHECK(!memcmp(d->story, expected->story, d->size));
}

static void check_says(const char *stream, size_t size, const char *story) {
    struct reader d;
    reader_init(&d);
    show(&d, stream, size);
    tell(&d, "", 1);
    CHECK_STR_EQ(d.story, story);
    reader_end(&d);
}

#define SAYS(stream_, story_) check_says(stream_, sizeof(stream_) - 1, story_)

/* Every form there is, and bytes of every kind in it. */
static const char script[] = "*1\r\n$4\r\nPING\r\n"
                             "ping\r\n"
                             "\r\n\n"
                             "*0\r\n*-1\r\n"
                             "set  'a b'\t\"\\x00\\n\\\"\" c\\d\n"
                             "*3\r\n$3\r\nSET\r\n$5\r\nk\r\0\n*\r\n$0\r\n\r\n"
                             "*2\r\n$3\r\nget\r\n$16\r\nkey:000000000001\r\n"
                             "*2xx$3xxgetxx$1xxkxx" /* not looked at, but for '\r': an error */;
static const size_t script_size = sizeof script - 1;

/* Ours: at each place. And the pieces are the smallest there are. */
TEST(each_cut_tells_the_same) {
    struct reader whole;
    reader_init(&whole);
    show(&whole, script, script_size);
    CHECK_GT(whole.size, 100);
    for (size_t cut = 0; cut <= script_size; cut++) {
        struct reader d;
        reader_init(&d);
        show(&d, script, cut);
        show(&d, script + cut, script_size - cut);
        check_story(&d, &whole);
        reader_end(&d);
    }
    struct reader d;
    reader_init(&d);
    for (size_t i = 0; i < script_size; i++)
        show(&d, script + i, 1);
    check_story(&d, &whole);
    reader_end(&d);
    reader_end(&whole);
}

/* Ours: at each two places. */
TEST(each_two_cuts_tell_the_same, .deadline_s = 60) {
    struct reader whole;
    reader_init(&whole);
    show(&whole, script, script_size);
    for (size_t a = 0; a <= script_size; a++)
        for (size_t b = a; b <= script_size; b++) {
            struct reader d;
            reader_init(&d);
            show(&d, script, a);
            show(&d, script + a, b - a);
            show(&d, script + b, script_size - b);
            check_story(&d, &whole);
            reader_end(&d);
        }
    reader_end(&whole);
}

static size_t request_add(char *stream, size_t at, const char *data, size_t size) {
    at += (size_t)sprintf(stream + at, "*2\r\n$3\r\nSET\r\n$%zu\r\n", size);
    memcpy(stream + at, data, size);
    memcpy(stream + at + size, "\r\n", 2);
    return at + size + 2;
}

static void show_in_pieces(struct reader *d, const char *stream, size_t size, size_t most) {
    for (size_t at = 0; at < size;) {
        size_t piece = 1 + (size_t)tap_random_below(most);
        piece = piece < size - at ? piece : size - at;
        show(d, stream + at, piece);
        at += piece;
    }
}

/* Ours: whatever the size, around each limit. What stays unconsumed is never much. */
TEST(large_arguments_come_whole, .deadline_s = 60) {
    static const size_t sizes[] = {1,     RESP_LARGE - 2, RESP_LARGE,     RESP_LARGE + 1, 65536,
                                   70000, 1u << 20,       (1u << 20) + 1, 3u << 20};
    char *stream = malloc(SHOWN_MAX), *data = malloc(3u << 20);
    CHECK(stream && data);
    for (size_t i = 0; i < 3u << 20; i++)
        data[i] = (char)tap_random();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t size = request_add(stream, 0, data, sizes[i]);
        size = request_add(stream, size, data, 10);
        struct reader whole;
        reader_init(&whole);
        show(&whole, stream, size);
        for (unsigned round = 0; round < 8; round++) {
            struct reader d;
            reader_init(&d);
            show_in_pieces(&d, stream, size, 1 + sizes[i] / (1 + round));
            check_story(&d, &whole);
            CHECK_EQ(d.rest_size, 0);
            reader_end(&d);
        }
        reader_end(&whole);
    }
    free(stream);
    free(data);
}

/* Ours: an argument that was gathered is a blob of just its size, which the store may keep. */
TEST(gathered_argument_is_a_blob_of_its_size) {
    static char data[3u << 20];
    char *stream = malloc(4u << 20);
    CHECK(stream);
    size_t size = request_add(stream, 0, data, sizeof data);
    struct resp_parser p = {0};
    size_t used = 0;
    CHECK_EQ(resp_parse(&p, stream, 100000, &used), RESP_MORE);
    CHECK_EQ(used, 100000);
    CHECK_EQ(resp_parse(&p, stream + used, size - used, &used), RESP_COMMAND);
    CHECK_EQ(used, size);
    CHECK(p.argv[1].blob && p.argv[1].data == p.argv[1].blob->data);
    CHECK_EQ(p.argv[1].blob->size, sizeof data);
    CHECK_EQ(p.argv[1].blob->room, sizeof data);
    resp_parser_end(&p);
    free(stream);
}

/* Ours: who announces half a gigabyte and sends a byte has us keep little. */
TEST(announced_size_costs_little) {
    static const char stream[] = "*2\r\n$3\r\nSET\r\n$536870912\r\nx";
    struct resp_parser p = {0};
    size_t used = 0;
    CHECK_EQ(resp_parse(&p, stream, sizeof stream - 1, &used), RESP_MORE);
    CHECK_EQ(used, sizeof stream - 1);
    CHECK_LE(p.partial->room, 1u << 20);
    resp_parser_end(&p);
}

/* Redis's: the words of each error, and what comes before it is answered. */
TEST(errors_are_told_in_the_words_of_redis) {
    SAYS("PING\r\n*1\r\nxPING\r\n", "(1 4:PING)!expected '$', got 'x'");
    SAYS("*1\r\n\r\n", "!expected '$', got '\r'");
    SAYS("*x\r\n", "!invalid multibulk length");
    SAYS("*\r\n", "!invalid multibulk length");
    SAYS("*03\r\n", "!invalid multibulk length");
    SAYS("*+3\r\n", "!invalid multibulk length");
    SAYS("* 3\r\n", "!invalid multibulk length");
    SAYS("*2147483648\r\n", "!invalid multibulk length");
    SAYS("*99999999999999999999\r\n", "!invalid multibulk length");
    SAYS("*1\r\n$-1\r\n", "!invalid bulk length");
    SAYS("*1\r\n$x\r\n", "!invalid bulk length");
    SAYS("*1\r\n$536870913\r\n", "!invalid bulk length");
    SAYS("set \"a\r\n", "!unbalanced quotes in request");
    SAYS("set 'a'b\r\n", "!unbalanced quotes in request");
}

/* Redis's: the largest of each is no error. */
TEST(largest_numbers_are_taken) {
    SAYS("*2147483647\r\n", "");
    SAYS("*1\r\n$536870912\r\n", "");
    SAYS("*-2147483648\r\nPING\r\n", "(0)(1 4:PING)");
    SAYS("*-9223372036854775808\r\nPING\r\n", "(0)(1 4:PING)");
}

static void check_endless(const char *begin, const char *words) {
    struct reader d;
    reader_init(&d);
    static char filler[RESP_LINE_MAX];
    memset(filler, '1', sizeof filler);
    show(&d, begin, strlen(begin));
    size_t line = d.rest_size;
    show(&d, filler, sizeof filler - line);
    CHECK(!d.over);
    CHECK_EQ(d.rest_size, RESP_LINE_MAX);
    show(&d, filler, 1);
    CHECK(d.over);
    CHECK_STR_EQ(d.parser.error, words);
    reader_end(&d);
}

/* Redis's: a line of 64 KiB may still end, a longer one not. */
TEST(endless_lines_end) {
    check_endless("x", "too big inline request");
    check_endless("*", "too big mbulk count string");
    check_endless("*2\r\n$3\r\nGET\r\n$", "too big bulk count string");
}

/* Ours: a request in pieces has a limit of its own, however small its arguments are. */
TEST(request_in_pieces_is_bounded) {
    struct reader d;
    reader_init(&d);
    show(&d, "*9\r\n$3\r\nDEL\r\n", 13);
    d.parser.held = RESP_REQUEST_MAX - 2 * sizeof(struct resp_arg);
    show(&d, "$1\r\na\r\n", 7);
    CHECK(!d.over);
    show(&d, "$1\r\na\r\n", 7);
    CHECK(d.over);
    CHECK_STR_EQ(d.parser.error, "too big request");
    reader_end(&d);
}

/* Ours: many arguments are no matter, and the memory for them does not stay. */
TEST(many_arguments) {
    enum { COUNT = 5000 };
    static char stream[COUNT * 8 + 32];
    size_t size = (size_t)sprintf(stream, "*%d\r\n", COUNT);
    for (int i = 0; i < COUNT; i++)
        size += (size_t)sprintf(stream + size, "$1\r\n%c\r\n", 'a' + i % 26);
    struct resp_parser p = {0};
    size_t used = 0;
    CHECK_EQ(resp_parse(&p, stream, size / 2, &used), RESP_MORE);
    CHECK_EQ(resp_parse(&p, stream + used, size - used, &used), RESP_COMMAND);
    CHECK_EQ(p.argc, COUNT);
    for (int i = 0; i < COUNT; i++)
        CHECK(p.argv[i].size == 1 && p.argv[i].data[0] == 'a' + i % 26);
    resp_forget(&p);
    CHECK_LE(p.argv_room, 64);
    resp_parser_end(&p);
}

/* Redis's sdssplitargs. */
TEST(words_of_a_line) {
    SAYS("\n", "(0)");
    SAYS(" \t\v\f \r\n", "(0)");
    SAYS("  a  bc\t d \r\n", "(3 1:a 2:bc 1:d)");
    SAYS("a\r\n", "(1 1:a)");
    SAYS("a\rb\n", "(2 1:a 1:b)");
    SAYS("\"\"\n''\n", "(1 0:)(1 0:)");
    SAYS("\"a b\" 'c d'\n", "(2 3:a b 3:c d)");
    SAYS("a\"b c\" d\n", "(2 4:ab c 1:d)");
    SAYS("\"\\x41\\xfF\\x4\\xg\" x\n", "(2 6:A\xffx4xg 1:x)");
    SAYS("\"\\n\\r\\t\\b\\a\\q\\\\\\\"\"\n", "(1 8:\n\r\t\b\aq\\\")");
    SAYS("'\\n\\''\n", "(1 3:\\n')");
    SAYS("'\"'\"'\"\n", "!unbalanced quotes in request");
    SAYS("'\"' \"'\"\n", "(2 1:\" 1:')");
    SAYS("\"a\\\"\n", "!unbalanced quotes in request");
    SAYS("'a\n", "!unbalanced quotes in request");
    SAYS("\"a\"b\n", "!unbalanced quotes in request");
}

/* Ours: whatever the bytes, and whatever they are cut into; no memory is lost or read that is not
 * ours. */
TEST(broken_streams_tell_the_same_in_any_pieces, .deadline_s = 120) {
    static const char spoilers[] = "*$\r\n\0 09-\"'\\x";
    unsigned rounds = tap_full() ? 200000 : 20000;
    struct reader whole, d;
    for (unsigned round = 0; round < rounds; round++) {
        char stream[sizeof script];
        memcpy(stream, script, script_size);
        for (uint64_t spoils = tap_random_below(6); spoils; spoils--)
            stream[tap_random_below(script_size)] = spoilers[tap_random_below(sizeof spoilers - 1)];
        size_t from = (size_t)tap_random_below(script_size);
        reader_init(&whole);
        show(&whole, stream + from, script_size - from);
        reader_init(&d);
        show_in_pieces(&d, stream + from, script_size - from, 1 + tap_random_below(40));
        check_story(&d, &whole);
        reader_end(&d);
        reader_end(&whole);
    }
}

/* Redis's string2ll. */
TEST(numbers_are_strict) {
    static const struct {
        const char *text;
        int64_t number;
    } good[] = {{"0", 0},
                {"7", 7},
                {"-1", -1},
                {"9223372036854775807", INT64_MAX},
                {"-9223372036854775808", INT64_MIN}};
    static const char *const bad[] = {"",
                                      "-",
                                      "-0",
                                      "00",
                                      "01",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1a",
                                      "--1",
                                      "9223372036854775808",
                                      "-9223372036854775809",
                                      "18446744073709551616",
                                      "99999999999999999999"};
    int64_t number = 42;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        CHECK(number_read(good[i].text, strlen(good[i].text), &number));
        CHECK_EQ(number, good[i].number);
        char text[NUMBER_TEXT_MAX + 1] = "";
        CHECK_EQ(number_write(text, number), strlen(good[i].text));
        CHECK_STR_EQ(text, good[i].text);
    }
    number = 42;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(!number_read(bad[i], strlen(bad[i]), &number));
    CHECK_EQ(number, 42);
}

TAP_MAIN(resp_parse, 13)
