/* The rules are those of sdssplitargs in Redis 7.0 (sds.c). A word never grows by being decoded. */
#include "inline.h"

#include <stdbool.h>
#include <string.h>

static bool is_space(char c) {
    return c && strchr(" \t\n\v\f\r", c);
}

static int hex_digit(char c) {
    static const char digits[] = "0123456789abcdef";
    const char *found = c ? strchr(digits, c >= 'A' && c <= 'F' ? c | 0x20 : c) : NULL;
    return found ? (int)(found - digits) : -1;
}

/* What stands behind a backslash at *at, which is moved behind it. */
static char escaped(const char **at) {
    static const char names[] = "nrtba", bytes[] = "\n\r\t\b\a";
    const char *c = *at + 1;
    if (*c == 'x' && hex_digit(c[1]) >= 0 && hex_digit(c[2]) >= 0) {
        *at = c + 3;
        return (char)(hex_digit(c[1]) << 4 | hex_digit(c[2]));
    }
    *at = c + 1;
    const char *name = strchr(names, *c);
    return name ? bytes[name - names] : *c;
}

/* From behind the opening quote to behind the closing one; NULL when that is missing. */
static const char *quoted(const char *from, char quote, char **to) {
    while (*from != quote) {
        if (!*from)
            return NULL;
        bool escape = *from == '\\' && (quote == '"' ? from[1] != 0 : from[1] == '\'');
        *(*to)++ = escape ? escaped(&from) : *from++;
    }
    from++;
    return *from && !is_space(*from) ? NULL : from;
}

int inline_word(char **at, char **word, size_t *size) {
    const char *from = *at;
    while (is_space(*from))
        from++;
    if (!*from)
        return 0;
    char *to = *word = (char *)from;
    while (*from && !strchr(" \t\n\r", *from)) {
        if (*from == '"' || *from == '\'') {
            from = quoted(from + 1, *from, &to);
            if (!from)
                return -1;
            break; /* a closing quote ends the word */
        }
        *to++ = *from++;
    }
    *size = (size_t)(to - *word);
    *at = (char *)from;
    return 1;
}
