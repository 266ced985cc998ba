/* Whole numbers in text, as Redis takes and writes them: no sign but a minus, no zero in front, no
 * space, nothing behind; -2^63 to 2^63 - 1. */
#ifndef RESP_NUMBER_H
#define RESP_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NUMBER_TEXT_MAX 20u

/* False, with *ret untouched, when the `size` bytes are not such a number. */
bool number_read(const char *text, size_t size, int64_t *ret);

/* "$64\r\n", the usual line: `mark`, a number of at most three digits, two bytes. True: *at is
 * moved behind it. False, with nothing changed: it is something else, or its end has not come
 * yet. */
bool number_line(const char **at, const char *end, char mark, unsigned *ret);

/* Writes it (no 0 behind) and returns how many bytes, at most NUMBER_TEXT_MAX. */
size_t number_write(char *text, int64_t number);

#endif
