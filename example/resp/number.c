#include "number.h"

#include <string.h>

/* The digits as a number, unless they are more than fit or something else. */
static bool digits_read(const char *text, size_t size, uint64_t *ret) {
    if (size == 0 || size > 19 || text[0] < '1' || text[0] > '9')
        return false;
    uint64_t number = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned digit = (unsigned char)text[i] - (unsigned)'0';
        if (digit > 9)
            return false;
        number = number * 10 + digit; /* 19 digits are less than 2^64 */
    }
    *ret = number;
    return true;
}

bool number_read(const char *text, size_t size, int64_t *ret) {
    if (size == 1 && text[0] == '0') {
        *ret = 0;
        return true;
    }
    bool negative = size && text[0] == '-';
    uint64_t number;
    if (!digits_read(text + negative, size - negative, &number))
        return false;
    if (number > (uint64_t)INT64_MAX + negative)
        return false;
    *ret = (int64_t)(negative ? -number : number);
    return true;
}

bool number_line(const char **at, const char *end, char mark, unsigned *ret) {
    const char *c = *at;
    if (end - c < 6 || c[0] != mark || c[1] < '1' || c[1] > '9')
        return false;
    unsigned number = (unsigned)(c[1] - '0');
    for (c += 2; c < *at + 4 && *c >= '0' && *c <= '9'; c++)
        number = number * 10 + (unsigned)(*c - '0');
    if (*c != '\r')
        return false;
    *at = c + 2;
    *ret = number;
    return true;
}

size_t number_write(char *text, int64_t number) {
    char digits[NUMBER_TEXT_MAX];
    char *at = digits + sizeof digits;
    uint64_t left = number < 0 ? -(uint64_t)number : (uint64_t)number;
    do {
        *--at = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    if (number < 0)
        *--at = '-';
    size_t size = (size_t)(digits + sizeof digits - at);
    memcpy(text, at, size);
    return size;
}
