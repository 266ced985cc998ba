/* The sysctl, each step that may fail, and the config. */
#include "setup/setup.h"

/* ---- the sysctl ---- */

/* The real kernel, but for what a case has it answer. */
static struct {
    int ring_error, sysctl;
    uint64_t memlock;
} fake;

static int fake_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                          struct io_uring_params *params) {
    UNUSED(k, ring, entries, params);
    return -fake.ring_error;
}

static int fake_sysctl(const struct kr__kernel *k) {
    (void)k;
    return fake.sysctl;
}

static uint64_t fake_memlock(const struct kr__kernel *k) {
    (void)k;
    return fake.memlock;
}

static void check_fake(int error, int sysctl, enum kr_refusal refused, struct kr_failure *why) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.open = fake_ring_open;
    kernel.process.sysctl_disabled = fake_sysctl;
    kernel.process.limit_memlock = fake_memlock;
    fake.ring_error = error;
    fake.sysctl = sysctl;
    struct kr_config config = test_config();
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    struct kr_reactor *r = NULL;
    CHECK_ERR(kr__reactor_new(&r, &config, why, &kernel, (unsigned)tap_variant()->caps_mask),
              error);
    CHECK(!r);
    check_why(why, error, refused);
}

/* Ours: what the kernel may answer to io_uring_setup is told apart, and no two causes share their
 * words. The answers come from a made-up kernel, since the sysctl is the whole machine's. */
TEST_EACH(each_cause_has_its_own_words) {
    struct kr_failure why[9];
    unsigned count = 0;
    fake.memlock = 65536;
    check_fake(EPERM, 1, KR_REFUSED_SYSCTL, &why[count++]);
    check_fake(EPERM, 2, KR_REFUSED_SYSCTL, &why[count++]);
    check_fake(EPERM, 0, KR_REFUSED_SECCOMP, &why[count++]);
    check_fake(ENOSYS, 0, KR_REFUSED_SECCOMP, &why[count++]);
    check_fake(ENOSYS, -1, KR_REFUSED_KERNEL, &why[count++]);
    check_fake(EINVAL, -1, KR_REFUSED_KERNEL, &why[count++]);
    check_fake(ENOMEM, 0, KR_REFUSED_MEMLOCK, &why[count++]);
    fake.memlock = UINT64_MAX;
    check_fake(ENOMEM, 0, KR_REFUSED_MEMORY, &why[count++]);
    check_fake(EIO, 0, KR_REFUSED_OTHER, &why[count++]);
    for (unsigned i = 0; i < count; i++) {
        for (unsigned k = 0; k < i; k++)
            CHECK(strcmp(why[i].cause, why[k].cause) != 0);
    }
    CHECK(strstr(why[0].cause, "io_uring_disabled is 1"));
    CHECK(strstr(why[1].cause, "io_uring_disabled is 2"));
}

/* Ours: the sysctl is read where the kernel shows it. A file of our own is mounted over it, for
 * this process only, and a filter answers as the kernel would. */
TEST(sysctl_is_read_from_the_system) {
    tap_need_mounts();
    tap_need_kernel(6, 6);
    char path[] = "/tmp/kreactor-sysctl-XXXXXX";
    int fd = CHECK_SYS(mkstemp(path));
    CHECK_EQ(write(fd, "2\n", 2), 2);
    CHECK_SYS(close(fd));
    const char *sysctl = "/proc/sys/kernel/io_uring_disabled";
    CHECK(tap_mounts_private());
    CHECK_SYS(mount(path, sysctl, NULL, MS_BIND, NULL));
    CHECK_SYS(unlink(path));
    forbid(SYS_io_uring_setup, EPERM);
    struct kr_failure why;
    check_refused(NULL, EPERM, KR_REFUSED_SYSCTL, &why);
    CHECK(strstr(why.cause, "io_uring_disabled is 2"));
}

/* ---- every step may fail ---- */

/* Counts down over all that may fail in a set-up; at 0 the step fails. */
static struct {
    long left;
    long held; /* rings, mappings, descriptors and blocks not given back */
} steps;

static bool step_fails(void) {
    return steps.left-- == 0;
}

static int step_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                          struct io_uring_params *params) {
    if (step_fails())
        return -ENFILE;
    int rc = kr__linux.ring.open(k, ring, entries, params);
    steps.held += rc >= 0;
    return rc;
}

static void step_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                            bool child) {
    kr__linux.ring.close(k, ring, registered, child);
    steps.held--;
}

static int step_reg(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode,
                    const void *arg, unsigned count) {
    return step_fails() ? -ENOMEM : kr__linux.ring.reg(k, ring, opcode, arg, count);
}

static void *step_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    void *pages = step_fails() ? NULL : kr__linux.process.map(k, size, how);
    steps.held += pages != NULL;
    return pages;
}

static void step_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    kr__linux.process.unmap(k, pages, size);
    steps.held--;
}

static int step_wake_open(const struct kr__kernel *k) {
    int fd = step_fails() ? -EMFILE : kr__linux.file.wake_open(k);
    steps.held += fd >= 0;
    return fd;
}

static int step_close(const struct kr__kernel *k, int fd) {
    steps.held--;
    return kr__linux.file.close(k, fd);
}

static void *step_alloc(void *ctx, size_t size) {
    (void)ctx;
    void *memory = step_fails() ? NULL : malloc(size);
    steps.held += memory != NULL;
    return memory;
}

static void step_free(void *ctx, void *memory, size_t size) {
    UNUSED(ctx, size);
    free(memory);
    steps.held--;
}

/* Ours: whichever step of a set-up fails, it is refused with a filled kr_failure, and all that the
 * steps before had taken is given back. One run for each step, until none is left to fail. */
TEST_EACH(whichever_step_fails_nothing_is_left) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.open = step_ring_open;
    kernel.ring.close = step_ring_close;
    kernel.ring.reg = step_reg;
    kernel.process.map = step_map;
    kernel.process.unmap = step_unmap;
    kernel.file.wake_open = step_wake_open;
    kernel.file.close = step_close;
    struct kr_alloc alloc = {.alloc = step_alloc, .free = step_free};
    struct kr_config config = test_config();
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    config.alloc = &alloc;

    int before = tap_fd_count();
    for (long step = 0;; step++) {
        steps.left = step;
        struct kr_reactor *r = NULL;
        struct kr_failure why = {0};
        int rc = kr__reactor_new(&r, &config, &why, &kernel, (unsigned)tap_variant()->caps_mask);
        if (rc == 0) {
            bool all_went_well = steps.left >= 0;
            steps.left = -1;
            CHECK_OK(kr_reactor_free(r));
            CHECK_EQ(steps.held, 0);
            if (!all_went_well)
                continue; /* what failed was no more than an advantage */
            CHECK_GE(step, 5);
            break;
        }
        CHECK_LT(rc, 0);
        CHECK(!r);
        CHECK_EQ(why.error, rc);
        CHECK_NE(why.refused, KR_REFUSED_NOTHING);
        check_text(why.cause, sizeof why.cause);
        CHECK_EQ(steps.held, 0);
        CHECK_EQ(tap_fd_count(), before);
    }
}

/* ---- the config ---- */

static void check_config(struct kr_config config, const char *field) {
    struct kr_failure why;
    check_refused(&config, EINVAL, KR_REFUSED_CONFIG, &why);
    if (!strstr(why.cause, field))
        FAIL("the cause does not name %s: %s", field, why.cause);
}

#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        struct kr_config config;                                                                   \
        kr_config_init(&config);                                                                   \
        config.field = (value);                                                                    \
        check_config(config, #field);                                                              \
    } while (0)

/* Ours: each field outside of its range is refused by name. */
TEST_EACH(each_bound_of_the_config_is_refused_by_name) {
    REFUSED(size, 0);
    REFUSED(size, sizeof(struct kr_config) - 1);
    REFUSED(size, sizeof(struct kr_config) + 8);
    REFUSED(sq_entries, 32769);
    REFUSED(cq_entries, 65537);
    REFUSED(conn_max, 1048576);
    REFUSED(conn_max, UINT32_MAX);
    REFUSED(connect_max, 1048512);
    REFUSED(connect_max, UINT32_MAX);
    REFUSED(listener_max, 65537);
    REFUSED(buf_count, 3);
    REFUSED(buf_count, 32769);
    REFUSED(buf_count, 65536);
    REFUSED(buf_size, ((size_t)1 << 20) + 1);
    REFUSED(buf_size, SIZE_MAX);
    REFUSED(post_max, 65537);
    REFUSED(post_max, UINT32_MAX);
    REFUSED(turn_cqes, (unsigned)INT32_MAX + 1);
    REFUSED(turn_posts, UINT32_MAX);
    REFUSED(turn_bytes, (unsigned)INT32_MAX + 1);

    struct kr_config config = test_config();
    config.sq_entries = 512;
    config.cq_entries = 256;
    check_config(config, "cq_entries");
    struct kr_alloc none = {0}, no_free = {.alloc = step_alloc};
    kr_config_init(&config);
    config.alloc = &none;
    check_config(config, "alloc");
    config.alloc = &no_free;
    check_config(config, "alloc");
}

/* Ours: a task-run mode that there is not is refused. It does not go through test_reactor_try,
 * which sets one. */
TEST(unknown_taskrun_is_refused) {
    struct kr_config config = test_config();
    memcpy(&config.taskrun, &(int){7}, sizeof(int));
    struct kr_failure why;
    struct kr_reactor *r;
    CHECK_ERR(kr_reactor_new(&r, &config, &why), EINVAL);
    check_why(&why, EINVAL, KR_REFUSED_CONFIG);
    CHECK(strstr(why.cause, "taskrun"));
}

/* Ours: the least of everything is a working reactor. */
TEST_EACH(least_config_works) {
    struct kr_config config = test_config();
    config.sq_entries = config.cq_entries = 1;
    config.conn_max = config.connect_max = config.listener_max = 1;
    config.buf_count = 1;
    config.buf_size = 1;
    config.post_max = 1;
    config.turn_cqes = config.turn_posts = config.turn_bytes = 1;
    check_works(&config);
}

/* Ours: and so is the most of all that the machine's limits do not bound. */
TEST_EACH(greatest_rings_work) {
    struct kr_config config = test_config();
    config.sq_entries = 32768;
    config.cq_entries = 65536;
    config.listener_max = 1000;
    config.buf_count = 32768;
    config.post_max = 65536;
    config.turn_cqes = config.turn_posts = config.turn_bytes = INT32_MAX;
    check_works(&config);
}

/* Ours: no config at all means the defaults, and success leaves no failure behind. */
TEST(no_config_means_defaults) {
    struct kr_failure why;
    memset(&why, 'x', sizeof why);
    struct kr_reactor *r;
    CHECK_OK(kr_reactor_new(&r, NULL, &why));
    CHECK_EQ(why.error, 0);
    CHECK_EQ(why.refused, KR_REFUSED_NOTHING);
    CHECK_STR_EQ(why.cause, "");
    check_echoes(r);
    CHECK_OK(kr_reactor_free(r));
}

/* Ours: fields that are 0 mean their defaults. */
TEST_EACH(zero_fields_mean_defaults) {
    struct kr_config config = {.size = sizeof config};
    check_works(&config);
}
