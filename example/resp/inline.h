/* Words of a request in one line, as people type them: separated by space, quoted where they hold
 * some. */
#ifndef RESP_INLINE_H
#define RESP_INLINE_H

#include <stddef.h>

/* Decodes the word at *at, in place, and moves *at behind it. The text ends with 0. In "double
 * quotes" \n \r \t \b \a \xHH and any other byte behind a backslash are known, in 'single quotes'
 * only \'. Returns 1; 0 when there is no word left; -1 when a quote is not closed, or not followed
 * by space. */
int inline_word(char **at, char **word, size_t *size);

#endif
