/* Structs of options, which grow from version to version. Each begins with its size as the program
 * that fills it was built (size_t): the library neither reads nor writes beyond.
 *
 * A program that was built with older headers gets the defaults of what its struct lacks. One that
 * was built with newer headers is refused, for it may have asked for what is not there. A field is
 * added at the end; in a struct that ends with another one, in front of that. */
#ifndef KR_BASE_SIZED_H
#define KR_BASE_SIZED_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* What is said of another size. */
#define KR__SIZED_FAULT(struct_)                                                                   \
    "size is neither this library's sizeof(struct " struct_ ") nor an older one's: call "          \
    struct_ "_init, and run with a library that is not older than your headers"

/* Fills the program's struct of `size` bytes with `ours`, or as much of it as there is room for, and
 * the rest with 0. The size itself is the program's. */
static inline void kr__sized_give(void *to, size_t size, const void *ours, size_t ours_size) {
    memset(to, 0, size);
    memcpy(to, ours, size < ours_size ? size : ours_size);
    if (size >= sizeof size)
        memcpy(to, &size, sizeof size);
}

/* Puts what the program has given over `ours`, the defaults, whose size stays. False: it is too
 * large, or no size that such a struct has ever had. */
static inline bool kr__sized_take(void *ours, size_t ours_size, const void *given) {
    size_t size;
    memcpy(&size, given, sizeof size);
    if (size > ours_size || size <= sizeof size || size % sizeof size)
        return false;
    memcpy((char *)ours + sizeof size, (const char *)given + sizeof size, size - sizeof size);
    return true;
}

/* The same of a struct whose last field is another sized one, at `head` in ours, and behind the rest
 * in the program's; that one apart. NULL, with nothing written, where there is no room for both. */
static inline void *kr__sized_give_head(void *to, size_t size, size_t inner, const void *ours,
                                        size_t head) {
    if (inner > size || size - inner < 2 * sizeof size)
        return NULL;
    kr__sized_give(to, size - inner, ours, head);
    const size_t sizes[] = {size, inner};
    memcpy(to, sizes, sizeof sizes);
    return (char *)to + size - inner;
}

/* NULL: it is too large, or of no known size; else where the inner one is. */
static inline const void *kr__sized_take_head(void *ours, size_t head, const void *given) {
    size_t sizes[2]; /* its own, and the inner one's */
    memcpy(sizes, given, sizeof sizes);
    if (sizes[1] > sizes[0] || sizes[0] - sizes[1] > head || sizes[0] - sizes[1] < sizeof sizes)
        return NULL;
    size_t size = sizes[0] - sizes[1];
    memcpy((char *)ours + sizeof sizes, (const char *)given + sizeof sizes, size - sizeof sizes);
    const void *inner = (const char *)given + size;
    size_t inner_size;
    memcpy(&inner_size, inner, sizeof inner_size);
    return inner_size == sizes[1] ? inner : NULL;
}

#endif
