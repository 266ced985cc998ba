/* A circular, doubly linked, intrusive list. A link that is on no list points nowhere, so that "is
 * it on one" costs a comparison and a double insertion is caught. */
#ifndef KR_BASE_LIST_H
#define KR_BASE_LIST_H

#include "base/util.h"

struct kr__link {
    struct kr__link *next, *prev;
};

/* The list's head; its `next` is the first. Must not move while links hang on it. */
struct kr__list {
    struct kr__link head;
};

static inline void kr__list_init(struct kr__list *list) {
    list->head.next = list->head.prev = &list->head;
}

static inline bool kr__list_empty(const struct kr__list *list) {
    return list->head.next == &list->head;
}

static inline bool kr__link_on(const struct kr__link *link) {
    return link->next != NULL;
}

/* Puts a link before another, or before the head, which is the end. */
static inline void kr__link_insert(struct kr__link *before, struct kr__link *link) {
    kr__assert(!kr__link_on(link));
    link->next = before;
    link->prev = before->prev;
    link->prev->next = link;
    before->prev = link;
}

static inline void kr__list_push(struct kr__list *list, struct kr__link *link) {
    kr__link_insert(&list->head, link);
}

/* Taking off a link that is on no list does nothing. */
static inline void kr__link_off(struct kr__link *link) {
    if (!kr__link_on(link))
        return;
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->next = link->prev = NULL;
}

/* The first link, taken off; NULL when the list is empty. */
static inline struct kr__link *kr__list_pop(struct kr__list *list) {
    if (kr__list_empty(list))
        return NULL;
    struct kr__link *first = list->head.next;
    kr__link_off(first);
    return first;
}

/* Moves all links of `from` to the end of `to`, in order. */
static inline void kr__list_splice(struct kr__list *to, struct kr__list *from) {
    if (kr__list_empty(from))
        return;
    struct kr__link *first = from->head.next, *last = from->head.prev;
    first->prev = to->head.prev;
    to->head.prev->next = first;
    last->next = &to->head;
    to->head.prev = last;
    kr__list_init(from);
}

#endif
