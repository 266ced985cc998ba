/* Answers to a reactor: its making, its turns and its end. */
#include "door/door.h"

/* ---- making a reactor ---- */

struct answer {
    int error;
    enum kr_refusal refused;
};

/* man io_uring_setup, man mmap and man madvise (both are part of opening a ring), and what filters,
 * security modules and limits answer. */
static const struct answer setup_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP}, {EAGAIN, KR_REFUSED_OTHER},   {EBADF, KR_REFUSED_OTHER},
    {EBUSY, KR_REFUSED_OTHER},    {EFAULT, KR_REFUSED_OTHER},   {EINVAL, KR_REFUSED_KERNEL},
    {EMFILE, KR_REFUSED_NOFILE},  {ENFILE, KR_REFUSED_NOFILE},  {ENODEV, KR_REFUSED_OTHER},
    {ENOMEM, KR_REFUSED_MEMLOCK}, {ENOSYS, KR_REFUSED_SECCOMP}, {EOVERFLOW, KR_REFUSED_OTHER},
    {EPERM, KR_REFUSED_SECCOMP},
};

/* man io_uring_enter. -EBADFD is what a ring that is not enabled yet must answer, and no
 * refusal. */
static const struct answer enter_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP}, {EAGAIN, KR_REFUSED_OTHER}, {EBADF, KR_REFUSED_OTHER},
    {EBUSY, KR_REFUSED_OTHER},    {EFAULT, KR_REFUSED_OTHER}, {EINVAL, KR_REFUSED_KERNEL},
    {ENOSYS, KR_REFUSED_SECCOMP}, {ENXIO, KR_REFUSED_OTHER},  {EOPNOTSUPP, KR_REFUSED_OTHER},
    {EPERM, KR_REFUSED_SECCOMP},
};

/* man io_uring_register, of IORING_REGISTER_FILES2. */
static const struct answer table_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP},   {EBADF, KR_REFUSED_OTHER},    {EBADFD, KR_REFUSED_OTHER},
    {EBUSY, KR_REFUSED_OTHER},      {EEXIST, KR_REFUSED_OTHER},   {EFAULT, KR_REFUSED_OTHER},
    {EINTR, KR_REFUSED_OTHER},      {EINVAL, KR_REFUSED_KERNEL},  {EMFILE, KR_REFUSED_NOFILE},
    {ENOMEM, KR_REFUSED_MEMLOCK},   {ENOSYS, KR_REFUSED_SECCOMP}, {ENXIO, KR_REFUSED_OTHER},
    {EOPNOTSUPP, KR_REFUSED_OTHER}, {EPERM, KR_REFUSED_SECCOMP},
};

/* The same, of IORING_REGISTER_FILE_ALLOC_RANGE. */
static const struct answer range_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP}, {EFAULT, KR_REFUSED_OTHER}, {EINVAL, KR_REFUSED_KERNEL},
    {ENOSYS, KR_REFUSED_SECCOMP}, {ENXIO, KR_REFUSED_OTHER},  {EOVERFLOW, KR_REFUSED_OTHER},
    {EPERM, KR_REFUSED_SECCOMP},
};

/* man io_uring_register_buf_ring. */
static const struct answer bufs_answers[] = {
    {EACCES, KR_REFUSED_SECCOMP},   {EEXIST, KR_REFUSED_OTHER},   {EFAULT, KR_REFUSED_OTHER},
    {EINVAL, KR_REFUSED_KERNEL},    {ENOMEM, KR_REFUSED_MEMLOCK}, {ENOSYS, KR_REFUSED_SECCOMP},
    {EOPNOTSUPP, KR_REFUSED_OTHER}, {EPERM, KR_REFUSED_SECCOMP},
};

/* man eventfd. Its memory is not locked, so it is memory that lacks. */
static const struct answer eventfd_answers[] = {
    {EINVAL, KR_REFUSED_KERNEL}, {EMFILE, KR_REFUSED_NOFILE}, {ENFILE, KR_REFUSED_NOFILE},
    {ENODEV, KR_REFUSED_OTHER},  {ENOMEM, KR_REFUSED_MEMORY}, {ENOSYS, KR_REFUSED_SECCOMP},
    {EPERM, KR_REFUSED_SECCOMP},
};

static void check_text(const char *text, size_t size) {
    CHECK(memchr(text, 0, size));
    CHECK_GT(strlen(text), 0u);
    CHECK_LT(strlen(text), size - 1); /* a full array would be a text cut short */
}

/* Refused, explained, nothing left; and once the kernel is willing, all is well. */
static void check_refusal(struct door *d, int error, enum kr_refusal refused, const char *tried) {
    int fds = tap_fd_count();
    struct kr_reactor *r = NULL;
    struct kr_failure why;
    memset(&why, 'x', sizeof why);
    CHECK_ERR(make(d, &r, &why), error);
    CHECK(!r);
    CHECK_EQ(d->struck, 1u);
    CHECK_EQ(why.error, -error);
    CHECK_EQ(why.refused, refused);
    check_text(why.tried, sizeof why.tried);
    check_text(why.cause, sizeof why.cause);
    check_text(why.remedy, sizeof why.remedy);
    if (!strstr(why.tried, tried))
        FAIL("tried is \"%s\", which does not say \"%s\"", why.tried, tried);
    CHECK_EQ(d->held, 0);
    CHECK_EQ(tap_fd_count(), fds);
}

static void check_refusals(enum call call, const char *tried, const struct answer *answers,
                           size_t count) {
    for (size_t i = 0; i < count; i++) {
        row_begin(tried, answers[i].error, 0, 1);
        struct door *d = door_open();
        /* Without -EINVAL for the newest flag, a second opening would be tried. */
        bool twice = call == RING_OPEN && answers[i].error == EINVAL &&
                     (tap_variant()->caps_mask & KR__CAP_NO_SQARRAY);
        door_fail(d, call, answers[i].error, 0, twice ? 2 : 1);
        if (twice)
            d->struck = UINT32_MAX; /* the first of the two makes it 0 */
        check_refusal(d, answers[i].error, answers[i].refused, tried);
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        check_works(r);
        free_all(d, r);
    }
}

/* Ours: whatever the set-up of a ring answers. */
TEST_EACH(new_when_setup_fails) {
    check_refusals(RING_OPEN, "io_uring_setup", setup_answers, COUNT(setup_answers));
}

/* Ours: the newest set-up flag is given up when the kernel does not know it, without a word. */
TEST_EACH(new_when_setup_fails_for_its_newest_flag) {
    struct door *d = door_open();
    row_begin("io_uring_setup", EINVAL, 0, 1);
    door_fail(d, RING_OPEN, EINVAL, 0, 1);
    struct kr_reactor *r;
    int rc = make(d, &r, NULL);
    if (!(tap_variant()->caps_mask & KR__CAP_NO_SQARRAY)) {
        CHECK_ERR(rc, EINVAL);
        return;
    }
    CHECK_OK(rc);
    CHECK(!(r->ring.caps & KR__CAP_NO_SQARRAY));
    check_works(r);
    free_all(d, r);
}

/* Ours: a kernel that does not tell what it can do is taken for the oldest, without a word. */
TEST_EACH(new_when_the_probe_fails) {
    struct door *d = door_open();
    row_begin("the probe", EINVAL, 0, 1);
    door_fail(d, REG_PROBE, EINVAL, 0, 1);
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    CHECK_EQ(d->struck, 1u);
    CHECK(!(r->ring.caps & KR__CAP_FD_INSTALL));
    check_works(r);
    free_all(d, r);
}

/* Ours: the system call that a filter may forbid alone. */
TEST_EACH(new_when_enter_fails) {
    check_refusals(ENTER, "io_uring_enter", enter_answers, COUNT(enter_answers));
}

TEST_EACH(new_when_the_file_table_fails, .needs = KR__CAP_FILE_TABLE) {
    check_refusals(REG_TABLE, "file table", table_answers, COUNT(table_answers));
}

TEST_EACH(new_when_its_range_fails, .needs = KR__CAP_FILE_TABLE) {
    check_refusals(REG_RANGE, "file table", range_answers, COUNT(range_answers));
}

TEST_EACH(new_when_the_buffers_fail) {
    check_refusals(REG_BUFS, "buffers", bufs_answers, COUNT(bufs_answers));
}

TEST_EACH(new_when_the_eventfd_fails) {
    check_refusals(WAKE_OPEN, "eventfd", eventfd_answers, COUNT(eventfd_answers));
}

/* The mappings of a set-up, in order, and what their failing is called. */
static const struct {
    unsigned nth;
    const char *tried;
} map_rows[] = {
    {0, "page"}, {1, "buffers"}, {2, "buffers"}, {3, "tables"}, {4, "tables"},
};

static void check_mapping(unsigned nth, const char *tried) {
    row_begin("mmap", ENOMEM, nth, 1);
    struct door *d = door_open();
    d->memlock = UINT64_MAX;
    door_fail(d, MAP, ENOMEM, nth, 1);
    check_refusal(d, ENOMEM, KR_REFUSED_MEMORY, tried);
}

/* Ours: mmap knows one error here, and it does not matter which mapping meets it. */
TEST_EACH(new_when_a_mapping_fails) {
    unsigned more = (unsigned)test_slot_cost(NULL); /* a plain table is one, the second */
    for (size_t i = 0; i < COUNT(map_rows); i++)
        check_mapping(map_rows[i].nth ? map_rows[i].nth + more : 0, map_rows[i].tried);
    if (more)
        check_mapping(1, "table of descriptors");
    struct door *d = door_open();
    door_fail(d, MAP, ENOMEM, COUNT(map_rows) + more, 1);
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    CHECK_EQ(d->struck, 0u); /* the table names them all */
    free_all(d, r);
}

/* man mmap, man madvise: what the memory of the process is refused with, under which limits, and
 * which of them is blamed. */
static const struct {
    int error;
    uint64_t as, data;
    bool advice;
    enum kr_refusal refused;
    const char *cause;
} space_rows[] = {
    {ENOMEM, 1 << 30, UINT64_MAX, false, KR_REFUSED_MEMORY, "RLIMIT_AS is 1048576 KiB"},
    {ENOMEM, UINT64_MAX, 1 << 30, false, KR_REFUSED_MEMORY, "RLIMIT_DATA is 1048576 KiB"},
    {ENOMEM, UINT64_MAX, UINT64_MAX, false, KR_REFUSED_MEMORY, "out of memory"},
    {EAGAIN, UINT64_MAX, UINT64_MAX, false, KR_REFUSED_MEMLOCK, "mlockall"},
    {EPERM, UINT64_MAX, UINT64_MAX, false, KR_REFUSED_SECCOMP, "mmap is answered"},
    {EPERM, UINT64_MAX, UINT64_MAX, true, KR_REFUSED_SECCOMP, "madvise is answered"},
    {EINVAL, UINT64_MAX, UINT64_MAX, true, KR_REFUSED_SECCOMP, "madvise is answered"},
};

/* Ours: whichever mapping meets it first, and the ring's own, which only the kernel makes. */
TEST_EACH(new_when_the_process_gets_no_memory) {
    for (size_t i = 0; i < COUNT(space_rows) * 3; i++) {
        size_t n = i % COUNT(space_rows);
        unsigned nth = space_rows[n].advice ? 0 : (unsigned)(i / COUNT(space_rows));
        row_begin("mmap for ever", space_rows[n].error, nth, FOR_EVER);
        struct door *d = door_open();
        d->as = space_rows[n].as;
        d->data = space_rows[n].data;
        d->advice = space_rows[n].advice;
        door_fail(d, MAP, space_rows[n].error, nth, FOR_EVER);
        struct kr_reactor *r;
        struct kr_failure why;
        CHECK_ERR(make(d, &r, &why), ENOMEM);
        CHECK_EQ(why.refused, space_rows[n].refused);
        CHECK(strstr(why.cause, space_rows[n].cause));
        CHECK_EQ(d->held, 0);
    }
}

/* What the limits and the sysctl say beside an error. */
static const struct {
    int error, sysctl;
    uint64_t memlock;
    enum kr_refusal refused;
} cause_rows[] = {
    {EPERM, -1, 0, KR_REFUSED_SECCOMP},         {EPERM, 0, 0, KR_REFUSED_SECCOMP},
    {EPERM, 1, 0, KR_REFUSED_SYSCTL},           {EPERM, 2, 0, KR_REFUSED_SYSCTL},
    {EACCES, 2, 0, KR_REFUSED_SECCOMP},         {ENOSYS, -1, 0, KR_REFUSED_KERNEL},
    {ENOSYS, 0, 0, KR_REFUSED_SECCOMP},         {ENOSYS, 2, 0, KR_REFUSED_SECCOMP},
    {ENOMEM, 0, 0, KR_REFUSED_MEMLOCK},         {ENOMEM, 0, 65536, KR_REFUSED_MEMLOCK},
    {ENOMEM, 0, UINT64_MAX, KR_REFUSED_MEMORY},
};

/* Ours: the same error has another cause where the machine is set up otherwise. */
TEST_EACH(new_finds_the_cause_by_the_limits) {
    for (size_t i = 0; i < COUNT(cause_rows); i++) {
        row_begin("io_uring_setup", cause_rows[i].error, 0, 1);
        struct door *d = door_open();
        d->sysctl = cause_rows[i].sysctl;
        d->memlock = cause_rows[i].memlock;
        door_fail(d, RING_OPEN, cause_rows[i].error, 0, 1);
        check_refusal(d, cause_rows[i].error, cause_rows[i].refused, "io_uring_setup");
    }
}

/* Ours: a kernel that has made a ring does have io_uring, also one before 6.6, which has no sysctl:
 * what then answers -ENOSYS is a filter. */
TEST_EACH(new_blames_a_filter_once_there_is_a_ring) {
    static const struct {
        enum call call;
        const char *tried;
    } steps[] = {{ENTER, "io_uring_enter"},
                 {REG_TABLE, "file table"},
                 {REG_RANGE, "file table"},
                 {REG_BUFS, "buffers"},
                 {WAKE_OPEN, "eventfd"}};
    bool plain = test_slot_cost(NULL); /* such a table asks the kernel for nothing */
    for (size_t i = 0; i < COUNT(steps); i++) {
        if (plain && (steps[i].call == REG_TABLE || steps[i].call == REG_RANGE))
            continue;
        row_begin(steps[i].tried, ENOSYS, 0, 1);
        struct door *d = door_open();
        d->sysctl = -1;
        door_fail(d, steps[i].call, ENOSYS, 0, 1);
        check_refusal(d, ENOSYS, KR_REFUSED_SECCOMP, steps[i].tried);
    }
}

/* What was asked for under which limit (0: nothing), and what came of it, with 4 files. */
static const struct {
    uint64_t nofile;
    unsigned conn_asked, connect_asked, conn_max, connect_max;
} limit_rows[] = {
    {0, 0, 0, 1, 0},           {4, 0, 0, 1, 0},
    {5, 0, 0, 1, 0},           {6, 0, 0, 2, 0},
    {8, 0, 0, 3, 1},           {1024, 0, 0, 701, 255},
    {6000, 0, 0, 4597, 1024},  {UINT64_MAX, 0, 0, 16384, 1024},
    {1024, 16, 0, 16, 255},    {1024, 1020, 0, 1020, 0},
    {1024, 1000, 0, 1000, 20}, {1024, 0, 1000, 10, 1000},
    {1024, 0, 1019, 1, 1019},  {1024, 7, 8, 7, 8},
};

/* Ours: the default table is as long as the limit of descriptors lets it be, less the library's own
 * files; a quarter of it is for connections that the program makes, but never such that a number of
 * the others which was asked for does not fit. Of the rest a part is left to the process. A plain
 * table that is longer than the limit all the same is refused, as a registered one is by the real
 * limit. */
TEST_EACH(new_sizes_its_table_by_the_limit) {
    tap_need_descriptors(16384 + 1024 + 4); /* the real one must allow it, too */
    for (size_t i = 0; i < COUNT(limit_rows); i++) {
        struct door *d = door_open();
        d->nofile = limit_rows[i].nofile;
        struct kr_config config = small_config(d);
        config.conn_max = limit_rows[i].conn_asked;
        config.connect_max = limit_rows[i].connect_asked;
        struct kr_reactor *r;
        int rc = kr__reactor_new(&r, &config, NULL, &d->kernel, (unsigned)tap_variant()->caps_mask);
        unsigned slots = limit_rows[i].conn_max + limit_rows[i].connect_max + config.listener_max;
        if (slots > d->nofile && test_slot_cost(NULL)) {
            CHECK_ERR(rc, EMFILE);
            continue;
        }
        CHECK_OK(rc);
        CHECK_EQ(r->config.conn_max, limit_rows[i].conn_max);
        CHECK_EQ(r->config.connect_max, limit_rows[i].connect_max);
        CHECK_EQ(r->conns.accept_max, limit_rows[i].conn_max);
        CHECK_EQ(r->slots.made.free_count, limit_rows[i].connect_max);
        check_works(r);
        free_all(d, r);
    }
}

/* ---- binding and running ---- */

/* man io_uring_register, of IORING_REGISTER_ENABLE_RINGS. */
static const int bind_errors[] = {EACCES, EBADF, EBADFD, EEXIST, EINVAL, ENOMEM, ENOSYS, EPERM};

/* Ours: a ring that cannot be enabled is told of, is not bound to the thread, and may be tried
 * again. */
TEST_EACH(run_when_enabling_fails) {
    for (size_t i = 0; i < COUNT(bind_errors); i++) {
        row_begin("enabling the ring", bind_errors[i], 0, 2);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        door_fail(d, RING_BIND, bind_errors[i], 0, 2);
        CHECK_ERR(kr_step(r, 0), bind_errors[i]);
        CHECK_ERR(kr_run(r), bind_errors[i]);
        CHECK_EQ(d->struck, 2u);
        CHECK(!r->thread);
        check_works(r);
        free_all(d, r);
    }
}

/* A reactor with a client that has been served once. */
struct served {
    struct door *d;
    struct kr_reactor *r;
    struct seen seen;
    uint16_t port;
    int fd;
};

static void served_begin(struct served *s) {
    *s = (struct served){.d = door_open()};
    CHECK_OK(make(s->d, &s->r, NULL));
    CHECK_OK(listen_rc(s->r, false, &s->seen, &s->port));
    s->fd = test_connect(s->port);
    echo_once(s->r, s->fd);
}

/* Something of each kind has begun while the kernel is difficult; all of it must come to its
 * end. */
static void served_ask(struct served *s) {
    CHECK_EQ(test_send_some(s->fd, "hello", 5), 5);
    CHECK_OK(kr_timer_start(s->r, NULL, 0, 0, seen_fire, &s->seen));
    CHECK_OK(kr_post(s->r, seen_post, &s->seen));
    CHECK_OK(kr_conn_send(s->r, s->seen.conn, "+", 1));
}

static void served_get(struct served *s) {
    char back[6];
    test_recv(s->r, s->fd, back, sizeof back);
    CHECK_EQ(back[0] == '+' ? memcmp(back, "+hello", 6) : memcmp(back, "hello+", 6), 0);
    TEST_UNTIL(s->r, s->seen.fires == 1 && s->seen.posts == 1);
}

static void served_end(struct served *s) {
    check_serves(s->r, s->port, &s->seen);
    test_close(s->fd);
    TEST_UNTIL(s->r, s->seen.closes == 2);
    free_all(s->d, s->r);
}

/* man io_uring_enter: what passes by itself. -ETIME is how a wait ends. */
static const int passing_errors[] = {EINTR, EAGAIN, EBUSY, ETIME};
static const unsigned passing_times[] = {1, 3, 50};

/* Ours: a signal, a kernel short of memory, an overflown queue: the turn ends, the next one tries
 * again, nothing is lost, however often it happens. */
TEST_EACH(run_when_enter_fails_for_a_while) {
    for (size_t i = 0; i < COUNT(passing_errors) * COUNT(passing_times) * 2; i++) {
        int error = passing_errors[i % COUNT(passing_errors)];
        unsigned times = passing_times[i / COUNT(passing_errors) % COUNT(passing_times)];
        unsigned skip = (unsigned)(i / (COUNT(passing_errors) * COUNT(passing_times)));
        row_begin("io_uring_enter", error, skip, times);
        struct served s;
        served_begin(&s);
        door_fail(s.d, ENTER, error, skip, times);
        served_ask(&s);
        TEST_UNTIL(s.r, s.d->struck == times);
        served_get(&s);
        served_end(&s);
    }
}

static const int told_errors[] = {
    EACCES, EBADF,  EBADFD, EBADR,      EEXIST,     EFAULT, EINVAL,
    ENOMEM, ENOSYS, ENXIO,  EOPNOTSUPP, EOWNERDEAD, EPERM,
};

/* Ours: every other error of enter ends the run, unaltered. What had been asked for is still there,
 * so that a caller who knows better may run on. */
TEST_EACH(run_when_enter_fails) {
    for (size_t i = 0; i < COUNT(told_errors) * 2; i++) {
        int error = told_errors[i % COUNT(told_errors)];
        unsigned skip = (unsigned)(i / COUNT(told_errors));
        row_begin("io_uring_enter", error, skip, 1);
        struct served s;
        served_begin(&s);
        served_ask(&s);
        door_fail(s.d, ENTER, error, skip, 1);
        CHECK_ERR(kr_run(s.r), error);
        CHECK_EQ(s.d->struck, 1u);
        served_get(&s);
        served_end(&s);
    }
}

/* Ours: a submission that takes fewer requests than offered (man io_uring_enter): the others go
 * with the next one, in order. */
TEST_EACH(run_when_enter_takes_one_of_many) {
    enum { CLIENTS = 8 };
    struct served s;
    served_begin(&s);
    row_begin("io_uring_enter", 1, 0, 50);
    int fds[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        fds[i] = test_connect(s.port);
    TEST_UNTIL(s.r, s.seen.opens == CLIENTS + 1);
    door_fail(s.d, ENTER_SHORT, 1, 0, 50);
    while (s.d->times) {
        for (int i = 0; i < CLIENTS; i++)
            CHECK_EQ(test_send_some(fds[i], "hello", 5), 5);
        for (int i = 0; i < CLIENTS; i++) {
            CHECK_RECV(s.r, fds[i], "hello");
        }
    }
    for (int i = 0; i < CLIENTS; i++)
        test_close(fds[i]);
    TEST_UNTIL(s.r, s.seen.closes == CLIENTS);
    test_close(s.fd);
    TEST_UNTIL(s.r, s.seen.closes == CLIENTS + 1);
    free_all(s.d, s.r);
}

/* ---- freeing ---- */

/* Ours: freeing goes round until the kernel has let go, though it is difficult at first. */
TEST_EACH(free_when_enter_fails_for_a_while) {
    for (size_t i = 0; i < COUNT(passing_errors); i++) {
        row_begin("io_uring_enter", passing_errors[i], 0, 20);
        struct served s;
        served_begin(&s);
        CHECK_OK(kr_post(s.r, seen_post, &s.seen));
        door_fail(s.d, ENTER, passing_errors[i], 0, 20);
        free_all(s.d, s.r);
        CHECK_EQ(s.d->struck, 20u);
        CHECK_EQ(s.seen.closes, 1u);
        CHECK_EQ(s.seen.posts, 1u);
        CHECK_EQ(test_recv_end(NULL, s.fd, NULL), 0);
        test_close(s.fd);
    }
}

static void seen_stale_post(struct kr_reactor *r, void *arg) {
    struct seen *seen = arg;
    CHECK_EQ(seen->closes, 1u);
    CHECK_ERR(kr_conn_send(r, seen->conn, "x", 1), ESTALE);
    seen->posts++;
}

/* Ours: when the kernel does not let itself be asked any more, the reactor is freed all the same.
 * The user hears the end of each connection, exactly once, and gets back what was posted: handles
 * are stale by then. */
TEST_EACH(free_when_enter_fails_for_ever) {
    for (size_t i = 0; i < COUNT(told_errors); i++) {
        row_begin("io_uring_enter", told_errors[i], 0, FOR_EVER);
        struct served s;
        served_begin(&s);
        CHECK_OK(kr_conn_send(s.r, s.seen.conn, "never sent", 10));
        CHECK_OK(kr_post(s.r, seen_stale_post, &s.seen));
        door_fail(s.d, ENTER, told_errors[i], 0, FOR_EVER);
        free_all(s.d, s.r);
        CHECK_GE(s.d->struck, 1u);
        CHECK_EQ(s.seen.closes, 1u);
        CHECK_EQ(s.seen.posts, 1u);
        test_close(s.fd);
    }
}

/* Ours: so is a client who has been accepted and was to be given his slot just now. */
TEST_EACH(free_when_enter_fails_between_accept_and_slot) {
    struct door *d = door_open();
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    struct seen seen = {0};
    uint16_t port;
    CHECK_OK(listen_rc(r, true, &seen, &port));
    test_step(r, "the listener");
    int held = d->held;
    int fd = test_connect(port);
    TEST_UNTIL(r, d->held > held);
    door_fail(d, ENTER, EPERM, 0, FOR_EVER);
    CHECK_ERR(kr_step(r, 0), EPERM);
    free_all(d, r);
    CHECK_EQ(seen.opens, 0u);
    CHECK_EQ(test_recv_end(NULL, fd, NULL), 0);
    test_close(fd);
}

const unsigned reactor_row_count =
    COUNT(setup_answers) + 1 + COUNT(enter_answers) + COUNT(table_answers) + COUNT(range_answers) +
    COUNT(bufs_answers) + COUNT(eventfd_answers) + COUNT(map_rows) + COUNT(cause_rows) +
    COUNT(limit_rows) + COUNT(bind_errors) + COUNT(passing_errors) * COUNT(passing_times) * 2 +
    COUNT(told_errors) * 2 + 1 + COUNT(passing_errors) + COUNT(told_errors);
