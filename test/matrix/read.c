/* Cells of the reads of a file that is sent. */
#include "matrix/matrix.h"

/* ---- read ---- */

/* man 2 read, and what io_uring/rw.c and io-wq.c may answer; 0: the file has become too short. */
static const int read_errors[] = {EACCES, EBADF, EFAULT, EINVAL, EIO,        EISDIR, ENODEV,
                                  ENOMEM, ENXIO, EPERM,  ESTALE, EOPNOTSUPP, 0};
static const int read_passing[] = {-EINTR, -EAGAIN, -ECANCELED};
#define READ_GOOD (DIGITS + COUNT(read_passing))

static struct {
    unsigned told;
    uint64_t sent;
    int error;
} file_seen;

static void file_told(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    (void)r;
    CHECK_EQ(((struct world *)arg)->closes, 0u);
    file_seen.told++;
    file_seen.sent = sent;
    file_seen.error = error;
}

static int digits_file(void) {
    int fd = CHECK_SYS(memfd_create("digits", MFD_CLOEXEC));
    CHECK_EQ(CHECK_SYS(write(fd, digits, DIGITS)), DIGITS);
    return fd;
}

/* A connection in that state, for which ten digits of a file are being read. */
static struct world *read_begin(enum send_state state, int32_t res, int *fd) {
    cell_begin("read", send_states[state], res, 0);
    struct world *w = world_begin(BY_MULTISHOT, KR__SET(read));
    connect_client(w);
    memset(&file_seen, 0, sizeof file_seen);
    *fd = digits_file();
    CHECK_OK(kr_conn_send_file(w->r, w->conn, *fd, 0, DIGITS, file_told, w));
    await_stolen(w, KR__VERB_read, slot_of(w->conn));
    if (state == LINGER_FLUSHING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_LINGER));
    else if (state == FLUSHING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_FLUSH));
    else if (state == ENDING)
        CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    return w;
}

static void read_fails(struct world *w, enum send_state state, int fd, int res) {
    int error = res ? res : -ENODATA;
    if (state == ENDING)
        check_ended(w, 0, KR_WHY_LOCAL);
    else
        check_ended(w, error, KR_WHY_FILE);
    CHECK_EQ(file_seen.told, 1u);
    CHECK_EQ(file_seen.error, state == ENDING ? -ECANCELED : error);
    CHECK_EQ(file_seen.sent, 0u);
    test_close(fd);
    world_end(w);
}

/* Ours: an error ends the connection, unless it is ending already. */
TEST_EACH(read_errors) {
    for (size_t i = 0; i < COUNT(read_errors) * SEND_STATES; i++) {
        int res = -read_errors[i % COUNT(read_errors)], fd;
        enum send_state state = (enum send_state)(i / COUNT(read_errors));
        struct world *w = read_begin(state, res, &fd);
        complete(w, KR__VERB_read, slot_of(w->conn), res, 0);
        read_fails(w, state, fd, res);
    }
}

/* Ours: the same through the real queue. */
TEST_EACH(read_errors_through_the_ring) {
    for (size_t i = 0; i < COUNT(read_errors); i++) {
        cell_begin("read through the ring", "open", -read_errors[i], 0);
        struct world *w = world_begin(BY_MULTISHOT, 0);
        connect_client(w);
        memset(&file_seen, 0, sizeof file_seen);
        int fd = digits_file();
        inject_next(w, KR__SET(read), -read_errors[i]);
        CHECK_OK(kr_conn_send_file(w->r, w->conn, fd, 0, DIGITS, file_told, w));
        TEST_UNTIL(w->r, file_seen.told);
        CHECK_EQ(w->injections, 1u);
        read_fails(w, SENDING, fd, -read_errors[i]);
    }
}

/* Ours: read in part or not at all, the rest is read from there on; -EAGAIN, by a worker;
 * -ECANCELED, by this thread. */
TEST_EACH(read_goes_on) {
    for (size_t i = 0; i < READ_GOOD * SEND_STATES; i++) {
        size_t n = i % READ_GOOD;
        int res = n < DIGITS ? (int)n + 1 : read_passing[n - DIGITS];
        enum send_state state = (enum send_state)(i / READ_GOOD);
        int fd;
        struct world *w = read_begin(state, res, &fd);
        if (res > 0)
            memcpy(conn_of(w)->more->files->reading->block, digits, (size_t)res);
        w->steal = 0;
        complete(w, KR__VERB_read, slot_of(w->conn), res, 0);
        if (state == ENDING) {
            check_ended(w, 0, KR_WHY_LOCAL);
        } else {
            char got[DIGITS];
            test_recv(w->r, w->fd, got, DIGITS);
            CHECK_MEM_EQ(got, digits, DIGITS);
            if (state == LINGER_FLUSHING)
                CHECK_SYS(shutdown(w->fd, SHUT_WR));
            if (state == SENDING)
                end_conn(w);
            else
                check_ended(w, 0, KR_WHY_LOCAL);
        }
        CHECK_EQ(file_seen.told, 1u);
        CHECK_EQ(file_seen.error, state == ENDING ? -ECANCELED : 0);
        CHECK_EQ(file_seen.sent, state == ENDING ? 0 : DIGITS);
        test_close(fd);
        world_end(w);
    }
}

/* Ours: one that is running runs to its end: it is waited for, and cancelled once only. */
TEST_EACH(read_is_waited_for) {
    int fd;
    struct world *w = read_begin(SENDING, -ECANCELED, &fd);
    CHECK_OK(kr_conn_pause(w->r, w->conn));
    TEST_UNTIL(w->r, !(conn_of(w)->owner.armed & KR__SET(recv)));
    unsigned others = w->cancels;
    w->deaf = true;
    CHECK_OK(kr_conn_close(w->r, w->conn, KR_CLOSE_NOW));
    TEST_UNTIL(w->r, w->cancels == others + 1);
    struct kr__tag tag = kr__tag_unpack(stolen(w, KR__VERB_read, slot_of(w->conn)));
    tag.op = KR__VERB_cancel;
    tag.operand = KR__VERB_read;
    kr__loop_complete(w->r, kr__tag_pack(tag), -EALREADY, 0);
    for (int i = 0; i < 3; i++)
        test_step(w->r, "turns in which it is being read");
    CHECK_EQ(w->cancels, others + 1);
    CHECK_EQ(file_seen.told + w->closes, 0u);
    w->deaf = false;
    complete(w, KR__VERB_read, slot_of(w->conn), DIGITS, 0);
    check_ended(w, 0, KR_WHY_LOCAL);
    CHECK_EQ(file_seen.error, -ECANCELED);
    test_close(fd);
    world_end(w);
}

const unsigned read_cell_count =
    COUNT(read_errors) * (SEND_STATES + 1) + READ_GOOD * SEND_STATES + 1;
