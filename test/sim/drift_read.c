/* READ of regular files on both kernels. */
#include "harness/tap.h"
#include "sim/raw.h"

#include <string.h>

#define COUNT(table_) (sizeof(table_) / sizeof *(table_))

static char letters[64];

/* `fd` -1: that in slot 1. */
static void read_at(struct raw *x, const char *name, int fd, uint64_t offset, unsigned size) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_READ, 1);
    if (fd >= 0) {
        sqe->fd = fd;
        sqe->flags &= (uint8_t)~IOSQE_FIXED_FILE;
    }
    memset(letters, 0, sizeof letters);
    sqe->addr = (uint64_t)(uintptr_t)letters;
    sqe->len = size;
    sqe->off = offset;
}

static void reading(struct raw *x, int fd) {
    static const struct {
        const char *name;
        uint64_t offset;
        unsigned size;
    } reads[] = {{"part", 0, 10}, {"whole", 0, 26},       {"more", 0, 40},   {"rest", 20, 40},
                 {"none", 5, 0},  {"at the end", 26, 10}, {"beyond", 99, 10}};
    for (size_t i = 0; i < COUNT(reads); i++) {
        read_at(x, reads[i].name, fd, reads[i].offset, reads[i].size);
        raw_await(x, reads[i].name, 1);
        raw_note(x, "first", letters[0]);
        raw_note(x, "length", (int64_t)strlen(letters));
    }
}

static void of_a_descriptor(struct raw *x) {
    int fd = raw_file(x);
    reading(x, fd);
    CHECK_OK(x->door->file.close(x->door, fd));
    read_at(x, "closed", fd, 0, 10);
    raw_await(x, "closed", 1);
}

static void of_a_slot(struct raw *x) {
    raw_install(x, 1, raw_file(x));
    reading(x, -1);
    raw_close(x, "close", 1);
    raw_await(x, "close", 1);
    read_at(x, "closed", -1, 0, 10);
    raw_await(x, "closed", 1);
}

/* It has the file when it is submitted, whatever becomes of the descriptor. */
static void closed_behind(struct raw *x) {
    int fd = raw_file(x);
    read_at(x, "read", fd, 0, 10);
    raw_submit(x);
    CHECK_OK(x->door->file.close(x->door, fd));
    raw_await(x, "read", 1);
}

static void by_a_worker(struct raw *x) {
    int fd = raw_file(x);
    struct io_uring_sqe *sqe = raw_ask(x, "read", IORING_OP_READ, 1);
    sqe->fd = fd;
    sqe->flags = IOSQE_ASYNC;
    sqe->addr = (uint64_t)(uintptr_t)letters;
    sqe->len = sizeof letters;
    raw_await(x, "read", 1);
    CHECK_OK(x->door->file.close(x->door, fd));
}

/* What is in memory has been read by then; what a worker is to read, not yet. */
static void cancelled(struct raw *x) {
    int fd = raw_file(x);
    read_at(x, "read", fd, 0, 10);
    raw_cancel(x, "cancel", "read");
    raw_await(x, "read", 1);
    raw_await(x, "cancel", 1);
    CHECK_OK(x->door->file.close(x->door, fd));
}

/* What the library asks before it reads. */
static void size_asked(struct raw *x) {
    int fd = raw_file(x);
    uint64_t size = 0;
    raw_note(x, "file", x->door->file.size(x->door, fd, &size));
    raw_note(x, "its size", (int64_t)size);
    CHECK_OK(x->door->file.close(x->door, fd));
    raw_note(x, "closed", x->door->file.size(x->door, fd, &size));
    raw_note(x, "none", x->door->file.size(x->door, -1, &size));
    int waker = x->door->file.wake_open(x->door);
    raw_note(x, "waker", x->door->file.size(x->door, waker, &size));
    CHECK_OK(x->door->file.close(x->door, waker));
}

static const struct raw_script scripts[] = {
    {.name = "of a descriptor", .run = of_a_descriptor},
    {.name = "of a slot", .run = of_a_slot},
    {.name = "closed behind", .run = closed_behind},
    {.name = "by a worker", .run = by_a_worker},
    {.name = "cancelled", .run = cancelled, .loose = true},
    {.name = "size asked", .run = size_asked},
};

/* The kernel's: how much a read of a file brings, and from where. */
TEST_EACH(read_is_answered_alike, .deadline_s = 60) {
    raw_compare(scripts, COUNT(scripts));
}
