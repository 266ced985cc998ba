/* Send queues against the plainest model: one array of bytes, of which the front has been sent. */
#include "harness/bank.h"
#include "harness/tap.h"

#include "pool/sends.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define BUFS 8u
#define BUF_SIZE 4096u
#define MODEL_MAX (1u << 20)

static struct bank bank = {.left = -1};

struct queue_test {
    struct kr__mem mem;
    struct kr__blocks blocks;
    struct kr__bufs bufs;
    struct kr__sends sends;
    struct kr__sendq q;
    char model[MODEL_MAX];
    size_t front, back; /* of the model: what is queued lies between */
    unsigned lent, told; /* loans, and those that have come back */
    struct kr__kernel kernel;
    int fds, fds_most; /* open duplicates; more than so many are refused */
    size_t gifts[MODEL_MAX / 64]; /* where the bytes stand with which descriptors go */
    unsigned gift_count, given;
    uint16_t refs[BUFS], free[BUFS];
    char bytes[BUFS * BUF_SIZE];
};

static int test_dup(const struct kr__kernel *k, int fd) {
    struct queue_test *t = kr__container_of(k, struct queue_test, kernel);
    return t->fds >= t->fds_most ? -EMFILE : (t->fds++, fd + 100);
}

static int test_close_fd(const struct kr__kernel *k, int fd) {
    struct queue_test *t = kr__container_of(k, struct queue_test, kernel);
    CHECK(fd >= 100 && t->fds > 0);
    t->fds--;
    return 0;
}

/* Buffers without a kernel: all are out, with one reference that the test itself holds. */
static void test_init(struct queue_test *t) {
    bank.left = -1;
    t->mem = mem_of(&bank);
    kr__blocks_init(&t->blocks, &t->mem);
    t->bufs = (struct kr__bufs){
        .base = t->bytes, .size = BUF_SIZE, .count = BUFS, .refs = t->refs, .free = t->free};
    for (unsigned i = 0; i < BUFS; i++)
        t->refs[i] = 1;
    t->sends = (struct kr__sends){.blocks = &t->blocks, .bufs = &t->bufs};
    t->q = (struct kr__sendq){NULL, NULL};
    t->front = t->back = 0;
    t->lent = t->told = 0;
    t->kernel = (struct kr__kernel){.file.dup = test_dup, .file.close = test_close_fd};
    t->bufs.kernel = &t->kernel;
    t->fds = 0;
    t->gift_count = t->given = 0;
    for (size_t i = 0; i < sizeof t->bytes; i++)
        t->bytes[i] = (char)tap_random();
}

static void model_add(struct queue_test *t, const void *data, size_t size) {
    CHECK_LE(t->back + size, MODEL_MAX);
    memcpy(t->model + t->back, data, size);
    t->back += size;
}

static void count_told(struct kr_reactor *r, void *arg) {
    (void)r;
    ((struct queue_test *)arg)->told++;
}

/* Now and then of nothing, now and then nobody is to be told. */
static void borrow_some(struct queue_test *t) {
    size_t size = tap_random_below(8) ? 1 + (size_t)tap_random_below(3000) : 0;
    const char *data = t->bytes + tap_random_below(BUF_SIZE);
    bool tell = tap_random_below(4);
    CHECK_OK(kr__sendq_ref(&t->sends, &t->q, data, size, tell ? count_told : NULL, t));
    t->lent += tell;
    model_add(t, data, size);
}

static void check_nothing_held(struct queue_test *t) {
    kr__sends_tell(&t->sends, NULL);
    CHECK_EQ(t->told, t->lent);
    CHECK(t->q.head == NULL && t->q.tail == NULL);
    CHECK_EQ(t->sends.out, 0);
    CHECK_EQ(t->bufs.held, 0);
    CHECK_EQ(t->blocks.out, 0);
    CHECK_EQ(t->fds, 0);
    for (unsigned i = 0; i < BUFS; i++)
        CHECK_EQ(t->refs[i], 1);
    kr__blocks_free(&t->blocks);
    CHECK_EQ(t->mem.bytes, 0);
}

static void copy_some(struct queue_test *t) {
    struct iovec iov[6];
    size_t total = 0;
    int count = (int)tap_random_below(7);
    for (int i = 0; i < count; i++) {
        size_t size = (size_t)tap_random_below(tap_random_below(4) ? 60 : 3000);
        iov[i] = (struct iovec){t->bytes + tap_random_below(BUF_SIZE), size};
        total += size;
        model_add(t, iov[i].iov_base, size);
    }
    if (total)
        CHECK_OK(kr__sendq_copy(&t->sends, &t->q, iov, count, total));
}

static void lend_some(struct queue_test *t) {
    uint16_t buf = (uint16_t)tap_random_below(BUFS);
    size_t at = (size_t)tap_random_below(BUF_SIZE),
           size = 1 + (size_t)tap_random_below(BUF_SIZE - at);
    const char *data = kr__buf_at(&t->bufs, buf) + at;
    CHECK_OK(kr__sendq_lend(&t->sends, &t->q, data, size, buf));
    model_add(t, data, size);
}

/* Reserves, writes all, commits a part, or nothing, or forgets it. */
static void format_some(struct queue_test *t) {
    size_t room = 1 + (size_t)tap_random_below(2000), size = (size_t)tap_random_below(room + 1);
    struct kr__send *fresh;
    char *at = kr__sendq_room(&t->sends, &t->q, room, &fresh);
    CHECK(at != NULL);
    memset(at, (int)tap_random_below(256), room);
    if (tap_random_below(8) == 0) {
        kr__send_discard(&t->sends, fresh);
        return;
    }
    model_add(t, at, size);
    kr__sendq_commit(&t->sends, &t->q, fresh, size);
}

static void check_pieces(const struct queue_test *t) {
    struct iovec iov[64];
    int max = 1 + (int)tap_random_below(64), count = kr__sendq_pieces(&t->q, iov, max);
    if (t->q.head)
        CHECK_EQ(kr__sendq_run(&t->q, SIZE_MAX, (unsigned)max), (unsigned)count);
    size_t at = t->front;
    CHECK_LE(count, max);
    for (int i = 0; i < count; i++) {
        CHECK_GT(iov[i].iov_len, 0u);
        CHECK_LE(iov[i].iov_len, t->back - at);
        CHECK_MEM_EQ((const char *)iov[i].iov_base, t->model + at, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    size_t end = t->back;
    for (unsigned i = t->given; i < t->gift_count && end == t->back; i++)
        end = t->gifts[i] > t->front ? t->gifts[i] : end;
    CHECK_LE(at, end);
    CHECK(count == max || at == end);
}

/* What goes with the first byte, alone. */
static void check_message(const struct queue_test *t) {
    bool gives = t->given < t->gift_count && t->gifts[t->given] == t->front;
    CHECK_EQ(kr__sendq_gives(&t->q), gives);
    if (!gives)
        return;
    const struct msghdr *msg = kr__sendq_message(&t->q);
    CHECK_EQ(msg->msg_iovlen, 1u);
    CHECK_LE(msg->msg_iov->iov_len, t->back - t->front);
    CHECK_MEM_EQ((const char *)msg->msg_iov->iov_base, t->model + t->front, msg->msg_iov->iov_len);
    const struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);
    CHECK(cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS);
    unsigned count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    CHECK(count >= 1 && count <= 5);
    for (unsigned i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof fd, sizeof fd);
        CHECK_EQ(fd, 100 + (int)i);
    }
}

static void consume_some(struct queue_test *t) {
    size_t queued = t->back - t->front;
    if (queued == 0)
        return;
    size_t size =
        1 + (size_t)tap_random_below(tap_random_below(3) ? (queued < 500 ? queued : 500) : queued);
    uint64_t held = t->bufs.held;
    unsigned lent = kr__sendq_consume(&t->sends, &t->q, size).lent;
    CHECK_EQ(held - t->bufs.held, lent);
    t->front += size;
    while (t->given < t->gift_count && t->gifts[t->given] < t->front)
        t->given++;
    CHECK(t->given < t->gift_count || t->fds == 0);
}

static void give_some(struct queue_test *t) {
    size_t size = 1 + (size_t)tap_random_below(tap_random_below(4) ? 60 : 3000);
    const char *data = t->bytes + tap_random_below(BUF_SIZE);
    int fds[5] = {0, 1, 2, 3, 4}, before = t->fds;
    unsigned count = 1 + (unsigned)tap_random_below(5);
    t->fds_most = tap_random_below(4) ? INT_MAX : before + (int)tap_random_below(5);
    int rc = kr__sendq_fds(&t->sends, &t->q, data, size, fds, count);
    bool room = before + (int)count <= t->fds_most;
    CHECK_EQ(rc, room ? 0 : -EMFILE);
    CHECK_EQ(t->fds, room ? before + (int)count : before);
    if (!room)
        return;
    t->gifts[t->gift_count++] = t->back;
    model_add(t, data, size);
}

static void random_step(struct queue_test *t) {
    switch (tap_random_below(10)) {
    case 0:
    case 1:
        copy_some(t);
        break;
    case 2:
        lend_some(t);
        break;
    case 3:
        format_some(t);
        break;
    case 4:
        borrow_some(t);
        break;
    case 5:
        kr__sends_tell(&t->sends, NULL);
        break;
    case 6:
        give_some(t);
        break;
    default:
        consume_some(t);
    }
    if (t->q.head) {
        check_pieces(t);
        check_message(t);
    }
}

static struct queue_test t;

/* Ours: over random copies of many pieces, lent buffers, bytes formatted in place and sends of
 * any length, what is to be sent is the model's bytes in order, and at the end nothing is held. */
TEST(sends_keep_every_byte_in_order) {
    for (int round = 0; round < 50; round++) {
        test_init(&t);
        while (t.back < MODEL_MAX - 40000)
            random_step(&t);
        while (t.front < t.back)
            consume_some(&t);
        kr__sendq_drop(&t.sends, &t.q);
        check_nothing_held(&t);
    }
}

/* Ours: dropping a queue, at whatever point, releases every record and buffer once. */
TEST(sends_drop_releases_all) {
    for (int round = 0; round < 300; round++) {
        test_init(&t);
        for (uint64_t steps = tap_random_below(60); steps > 0; steps--)
            random_step(&t);
        kr__sendq_drop(&t.sends, &t.q);
        check_nothing_held(&t);
    }
}

/* Ours: what was borrowed is let go from the middle of a queue, and the rest of it stays in order;
 * nobody is told before the telling, and none that fell due meanwhile. */
TEST(sends_unborrow_leaves_the_rest) {
    for (int round = 0; round < 300; round++) {
        test_init(&t);
        char kept[64];
        unsigned count = 0;
        for (unsigned i = 0; i < 40; i++) {
            t.q.tail ? (void)(t.q.tail->spare = 0) : (void)0; /* each a record of its own */
            if (tap_random_below(2)) {
                CHECK_OK(kr__sendq_ref(&t.sends, &t.q, "lent", 4, count_told, &t));
                t.lent++;
            } else if (tap_random_below(4) == 0) {
                t.fds_most = INT_MAX;
                CHECK_OK(kr__sendq_fds(&t.sends, &t.q, "fd", 2, &(int){1}, 1));
            } else {
                kept[count] = (char)tap_random();
                CHECK_OK(kr__sendq_copy(&t.sends, &t.q, &(struct iovec){&kept[count], 1}, 1, 1));
                count++;
            }
        }
        kr__sendq_unborrow(&t.sends, &t.q);
        CHECK_EQ(t.told, 0u);
        CHECK_EQ(t.fds, 0);
        struct iovec iov[64];
        CHECK_EQ(kr__sendq_pieces(&t.q, iov, 64), (int)count);
        for (unsigned i = 0; i < count; i++)
            CHECK_EQ(*(const char *)iov[i].iov_base, kept[i]);
        CHECK_EQ(kr__sends_tell(&t.sends, NULL), t.lent);
        kr__sendq_drop(&t.sends, &t.q);
        check_nothing_held(&t);
    }
}

/* Ours: records go together as long as all of them are large loans, or none is. */
TEST(sends_run_ends_where_large_loans_begin_or_end) {
    test_init(&t);
    static const struct {
        bool loan;
        size_t size;
    } records[] = {{false, 900}, {true, 99}, {true, 100}, {true, 5000}, {false, 10}, {true, 100}};
    static const unsigned runs[] = {2, 1, 2, 1, 1, 1};
    for (unsigned i = 0; i < 6; i++) {
        size_t size = records[i].size;
        if (records[i].loan)
            CHECK_OK(kr__sendq_ref(&t.sends, &t.q, t.bytes, size, NULL, NULL));
        else
            CHECK_OK(kr__sendq_copy(&t.sends, &t.q, &(struct iovec){t.bytes, size}, 1, size));
    }
    CHECK_EQ(kr__sendq_run(&t.q, SIZE_MAX, 64), 6u);
    CHECK_EQ(kr__sendq_run(&t.q, SIZE_MAX, 4), 4u);
    for (unsigned i = 0; i < 6; i++) {
        CHECK_EQ(kr__sendq_run(&t.q, 100, 64), runs[i]);
        CHECK_EQ(kr__sendq_run(&t.q, 100, 1), 1u);
        kr__sendq_consume(&t.sends, &t.q, records[i].size);
    }
    check_nothing_held(&t);
}

/* Ours: in a forked child nobody is told, and nothing is kept. */
TEST(sends_forget_tells_nobody) {
    test_init(&t);
    CHECK_OK(kr__sendq_ref(&t.sends, &t.q, "lent", 4, count_told, &t));
    CHECK_OK(kr__sendq_ref(&t.sends, &t.q, "", 0, count_told, &t));
    kr__sendq_drop(&t.sends, &t.q);
    kr__sends_forget(&t.sends);
    check_nothing_held(&t);
}

/* Ours: many small sends of one turn share a record. */
TEST(sends_of_few_bytes_share_a_record) {
    test_init(&t);
    for (int i = 0; i < 40; i++)
        CHECK_OK(kr__sendq_copy(&t.sends, &t.q, &(struct iovec){"0123456789", 10}, 1, 10));
    CHECK_EQ(t.sends.out, 1);
    struct iovec iov[4];
    CHECK_EQ(kr__sendq_pieces(&t.q, iov, 4), 1);
    CHECK_EQ(iov[0].iov_len, 400u);
    kr__sendq_drop(&t.sends, &t.q);
    check_nothing_held(&t);
}

/* Ours: bytes whose send is in flight do not move when more are queued behind them. */
TEST(sends_in_flight_do_not_move) {
    test_init(&t);
    CHECK_OK(kr__sendq_copy(&t.sends, &t.q, &(struct iovec){t.bytes, 100}, 1, 100));
    struct iovec before, after;
    CHECK_EQ(kr__sendq_pieces(&t.q, &before, 1), 1);
    for (int i = 0; i < 100; i++)
        CHECK_OK(kr__sendq_copy(&t.sends, &t.q, &(struct iovec){t.bytes, 100}, 1, 100));
    CHECK_EQ(kr__sendq_pieces(&t.q, &after, 1), 1);
    CHECK(after.iov_base == before.iov_base);
    CHECK_MEM_EQ((const char *)after.iov_base, t.bytes, 100);
    kr__sendq_drop(&t.sends, &t.q);
    check_nothing_held(&t);
}

/* Ours: when memory is refused, at a first or a later record, nothing of that send is queued. */
TEST(sends_are_all_or_nothing) {
    test_init(&t);
    for (int64_t g = 0; g < 3; g++) {
        bank.left = g;
        struct iovec iov[2] = {{t.model, 400}, {t.model + 400, 100000}};
        size_t queued = 0;
        while (kr__sendq_copy(&t.sends, &t.q, iov, 2, 100400) == 0)
            queued += 100400;
        CHECK_EQ(queued, 100400u * (size_t)g);
        CHECK_ERR(kr__sendq_lend(&t.sends, &t.q, t.bytes, 5, 0), ENOMEM);
        CHECK_ERR(kr__sendq_ref(&t.sends, &t.q, t.bytes, 5, count_told, &t), ENOMEM);
        struct kr__send *fresh;
        CHECK(kr__sendq_room(&t.sends, &t.q, 200000, &fresh) == NULL);
        CHECK_EQ(t.refs[0], 1);
        if (queued)
            kr__sendq_consume(&t.sends, &t.q, queued);
        kr__blocks_free(&t.blocks);
        CHECK(t.q.head == NULL);
    }
    check_nothing_held(&t);
}

TAP_MAIN(sends, 8)
