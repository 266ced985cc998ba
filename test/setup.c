/* Making a reactor where it is refused: each cause has its own words, and nothing is left behind.
 *
 * Limits, filters and identities are changed in the case's own process, or in a child of it where
 * the change can not be taken back. Users that only this suite knows keep cases from sharing
 * RLIMIT_MEMLOCK. */
#include "setup/setup.h"

/* ---- what is checked of every refusal ---- */

void check_text(const char *text, size_t size) {
    CHECK(memchr(text, 0, size));
    CHECK_GT(strlen(text), 0u);
    CHECK_LT(strlen(text), size - 1); /* a full array would be a text cut short */
}

void check_why(const struct kr_failure *why, int error, enum kr_refusal refused) {
    tap_note("tried %s; %s; %s", why->tried, why->cause, why->remedy);
    CHECK_EQ(why->error, -error);
    CHECK_EQ(why->refused, refused);
    check_text(why->tried, sizeof why->tried);
    check_text(why->cause, sizeof why->cause);
    check_text(why->remedy, sizeof why->remedy);
}

void check_refused(const struct kr_config *config, int error, enum kr_refusal refused,
                   struct kr_failure *why) {
    struct kr_reactor *r = NULL;
    memset(why, 'x', sizeof *why);
    CHECK_ERR(test_reactor_try(&r, config, why), error);
    CHECK(!r);
    check_why(why, error, refused);
    CHECK_ERR(test_reactor_try(&r, config, NULL), error);
    CHECK(!r);
}

void check_echoes(struct kr_reactor *r) {
    int fd = test_connect(test_listen(r, NULL, NULL, &test_send_back_ops, NULL));
    test_send(r, fd, "hello", 5);
    CHECK_RECV(r, fd, "hello");
    test_close(fd);
    TEST_UNTIL(r, test_stats(r).conns == 0);
}

void check_works(const struct kr_config *config) {
    struct kr_reactor *r = test_reactor(config);
    check_echoes(r);
    test_reactor_free(r);
}

/* ---- limits ---- */

/* Sets soft limits only, which can be taken back; returns the old one. */
static rlim_t soft_limit(__rlimit_resource_t which, rlim_t soft) {
    struct rlimit limit;
    CHECK_SYS(getrlimit(which, &limit));
    rlim_t old = limit.rlim_cur;
    limit.rlim_cur = soft;
    CHECK_SYS(setrlimit(which, &limit));
    return old;
}

/* Ours: all defaults work under the usual soft limit of 1024 descriptors, and do not raise it. */
TEST_EACH(defaults_work_under_nofile_1024) {
    soft_limit(RLIMIT_NOFILE, 1024);
    check_works(NULL);
    CHECK_EQ(soft_limit(RLIMIT_NOFILE, 1024), 1024u);
}

/* Ours: the default table takes what fits under the limit, however low, and is refused only below
 * listener_max. */
TEST_EACH(default_table_fits_a_low_nofile) {
    soft_limit(RLIMIT_NOFILE, 80);
    check_works(NULL);
    CHECK_EQ(soft_limit(RLIMIT_NOFILE, 80), 80u);
}

/* Ours: a table that RLIMIT_NOFILE does not allow is refused as such, with both figures. */
TEST_EACH(table_longer_than_nofile) {
    tap_need_descriptors(1064);
    struct kr_failure why;
    struct kr_config config = test_config();
    config.conn_max = 1000;
    rlim_t old = soft_limit(RLIMIT_NOFILE, 100);
    check_refused(&config, EMFILE, KR_REFUSED_NOFILE, &why);
    CHECK(strstr(why.cause, "RLIMIT_NOFILE"));
    CHECK(strstr(why.cause, "100"));
    CHECK(strstr(why.cause, "1064"));
    soft_limit(RLIMIT_NOFILE, 16);
    check_refused(NULL, EMFILE, KR_REFUSED_NOFILE, &why);
    soft_limit(RLIMIT_NOFILE, old);
    check_works(&config);
}

/* Ours: a reactor needs two descriptors. With none or one left it is refused, in other words than a
 * long table is, and gives back what it had; with two it works. */
TEST_EACH(no_descriptor_left) {
    struct kr_failure why;
    struct kr_config config = test_config();
    config.conn_max = 8;
    config.listener_max = 4;
    soft_limit(RLIMIT_NOFILE, 64);
    int fds[64], count = 0, fd;
    while ((fd = dup(0)) >= 0)
        fds[count++] = fd;
    CHECK_EQ(errno, EMFILE);
    for (int left = 0; left < 2; left++) {
        check_refused(&config, EMFILE, KR_REFUSED_NOFILE, &why);
        CHECK(strstr(why.cause, "no descriptor is left"));
        CHECK_SYS(close(fds[--count]));
    }
    struct kr_reactor *r = test_reactor(&config);
    CHECK_EQ(kr_step(r, 0), 0);
    test_reactor_free(r);
    while (count > 0)
        CHECK_SYS(close(fds[--count]));
}

/* Becomes a user of its own, with so much locked memory, in a child that fn runs in. */
static void as_nobody(rlim_t memlock, void (*fn)(void)) {
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        struct rlimit limit = {memlock, memlock};
        CHECK_SYS(setrlimit(RLIMIT_MEMLOCK, &limit));
        uid_t uid = 200000 + (uid_t)(getpid() % 1000000);
        CHECK_SYS(setresgid(uid, uid, uid));
        CHECK_SYS(setresuid(uid, uid, uid));
        fn();
        tap_exit_child(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

static void refused_memlock(void) {
    struct kr_failure why;
    check_refused(NULL, ENOMEM, KR_REFUSED_MEMLOCK, &why);
    CHECK(strstr(why.cause, "RLIMIT_MEMLOCK"));
}

/* Ours: an unprivileged user whose locked memory does not suffice is told so, with the figures. */
TEST_EACH(memlock_too_small) {
    tap_need_users();
    tap_need_kernel(6, 14); /* which charges rings (about that; 6.12 does not, 6.16 does) */
    as_nobody(0, refused_memlock);
    as_nobody(16384, refused_memlock);
}

/* Bytes of address space, of data: proc(5), statm. */
static rlim_t bytes_in_use(unsigned field) {
    unsigned long pages[7];
    FILE *file = fopen("/proc/self/statm", "re");
    CHECK(file != NULL);
    for (unsigned i = 0; i < 7; i++)
        CHECK_EQ(fscanf(file, "%lu", &pages[i]), 1);
    fclose(file);
    return (rlim_t)pages[field] * (rlim_t)sysconf(_SC_PAGESIZE);
}

#define SOME_MORE ((rlim_t)32 << 20) /* the default's buffers are 64 MiB */

static void refused_by(__rlimit_resource_t limit, unsigned field, const char *cause) {
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        rlim_t most = bytes_in_use(field) + SOME_MORE;
        CHECK_SYS(setrlimit(limit, &(struct rlimit){most, most}));
        struct kr_failure why;
        check_refused(NULL, ENOMEM, KR_REFUSED_MEMORY, &why);
        CHECK(strstr(why.cause, cause));
        tap_exit_child(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

/* Ours: a limit of the process's own memory is not taken for that of locked memory. */
TEST_EACH(memory_limits_by_their_names) {
    refused_by(RLIMIT_AS, 0, "RLIMIT_AS");
    refused_by(RLIMIT_DATA, 5, "RLIMIT_DATA");
}

/* With a sanitizer mlockall(2) does nothing (sanitizer_common_interceptors.inc, compiler-rt). */
#if defined(__SANITIZE_ADDRESS__)
#define MLOCKALL_IS_VOID
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MLOCKALL_IS_VOID
#endif
#endif

#ifndef MLOCKALL_IS_VOID
static void refused_mlockall(void) {
    CHECK_SYS(mlockall(MCL_FUTURE));
    struct kr_failure why;
    check_refused(NULL, ENOMEM, KR_REFUSED_MEMLOCK, &why);
    CHECK(strstr(why.cause, "mlockall"));
}

/* Ours: nor what mlockall makes of it. */
TEST_EACH(mlockall_by_its_name) {
    tap_need_users();
    as_nobody((rlim_t)4 << 20, refused_mlockall);
}
#endif

static struct kr_reactor *fitting[512];

static unsigned make_eight(void) {
    for (unsigned i = 0; i < 8; i++)
        fitting[i] = test_reactor(NULL);
    for (unsigned i = 0; i < 8; i++)
        check_echoes(fitting[i]);
    return 8;
}

static void free_fitting(unsigned count) {
    while (count > 0)
        test_reactor_free(fitting[--count]);
}

static void eight(void) {
    free_fitting(make_eight());
}

static void as_many_as_fit(void) {
    struct kr_failure why = {0};
    unsigned count = make_eight();
    int rc = 0;
    while (count < 512 && (rc = test_reactor_try(&fitting[count], NULL, &why)) == 0)
        count++;
    tap_note("%u reactors", count);
    CHECK_ERR(rc, ENOMEM);
    check_why(&why, ENOMEM, KR_REFUSED_MEMLOCK);
    for (unsigned i = 0; i < count; i++)
        check_echoes(fitting[i]);
    free_fitting(count);
}

/* Ours: with 8 MiB of locked memory an unprivileged user has at least eight reactors of all
 * defaults. */
TEST_EACH(eight_reactors_in_8_mib) {
    tap_need_users();
    as_nobody(8 << 20, eight);
}

/* Ours: the reactor that no longer fits is refused for just that, and the others go on. */
TEST_EACH(reactor_beyond_8_mib_is_refused) {
    tap_need_users();
    tap_need_kernel(6, 14); /* which charges rings */
    as_nobody(8 << 20, as_many_as_fit);
}

/* ---- system call filters ---- */

void forbid(int call, int error) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 4, .filter = code};
    CHECK_SYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK_SYS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* The kernel tells by its sysctl that it has io_uring (>= 6.6). */
static bool has_sysctl(void) {
    return access("/proc/sys/kernel/io_uring_disabled", F_OK) == 0;
}

static void filtered_setup(int call, int error) {
    struct kr_failure why;
    check_works(NULL);
    forbid(call, error);
    if (call == SYS_io_uring_setup && error == ENOSYS && !has_sysctl()) {
        check_refused(NULL, error, KR_REFUSED_KERNEL, &why);
        CHECK(strstr(why.cause, "sandbox"));
        return;
    }
    check_refused(NULL, error, KR_REFUSED_SECCOMP, &why);
    CHECK(strstr(why.cause, "filter"));
    CHECK(strstr(why.remedy, "io_uring_setup"));
}

/* Ours: a filter that forbids io_uring_setup, as container profiles do, is named as the cause, not
 * the sysctl or a missing kernel feature; but nothing tells one that answers -ENOSYS from a kernel
 * before 6.6 that has no io_uring. */
TEST_EACH(filter_on_setup_with_eperm) {
    filtered_setup(SYS_io_uring_setup, EPERM);
}

TEST_EACH(filter_on_setup_with_enosys) {
    filtered_setup(SYS_io_uring_setup, ENOSYS);
}

/* Ours: the same for io_uring_register; the ring that was already made is given back. */
TEST_EACH(filter_on_register_with_eperm) {
    filtered_setup(SYS_io_uring_register, EPERM);
}

TEST_EACH(filter_on_register_with_enosys) {
    filtered_setup(SYS_io_uring_register, ENOSYS);
}

static void filtered_enter(int error) {
    struct kr_reactor *fresh = test_reactor(NULL), *used = test_reactor(NULL);
    int fd = test_connect(test_listen(used, NULL, NULL, &test_send_back_ops, NULL));
    test_send(used, fd, "hello", 5);
    char back[5];
    test_recv(used, fd, back, 5);
    forbid(SYS_io_uring_enter, error);

    struct kr_reactor *r;
    struct kr_failure why;
    int rc = test_reactor_try(&r, NULL, &why);
    if (rc < 0) {
        CHECK_ERR(rc, error);
        check_why(&why, error, KR_REFUSED_SECCOMP);
    } else {
        CHECK_ERR(kr_step(r, 0), error);
        CHECK_ERR(kr_run(r), error);
        test_reactor_free(r);
    }
    CHECK_ERR(kr_run(fresh), error);
    test_reactor_free(fresh);
    CHECK_ERR(kr_step(used, -1), error);
    test_reactor_free(used);
    test_close(fd);
}

/* Ours: where io_uring_enter is forbidden, running ends with that error, in place of going round
 * for ever; and a reactor, also one that had connections before, is freed though the kernel can no
 * longer be asked. */
TEST_EACH(filter_on_enter_with_eperm) {
    filtered_enter(EPERM);
}

TEST_EACH(filter_on_enter_with_enosys) {
    filtered_enter(ENOSYS);
}

/* In a child, as a filter cannot be taken back: under it `fn` leaves no descriptor. */
static void filtered(int call, int error, void (*fn)(int error)) {
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        int before = tap_fd_count();
        forbid(call, error);
        fn(error);
        if (call != SYS_openat) /* which counting takes, too */
            CHECK_EQ(tap_fd_count(), before);
        tap_exit_child(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

static void refused_memory(int error) {
    (void)error;
    struct kr_failure why;
    struct kr_reactor *r = NULL;
    CHECK_ERR(test_reactor_try(&r, NULL, &why), ENOMEM);
    CHECK(!r);
    tap_note("%s: %s", why.tried, why.cause);
}

static void refused_ring(int error) {
    struct io_uring ring;
    struct io_uring_params params = {0};
    CHECK_ERR(kr__linux.ring.open(&kr__linux, &ring, 8, &params), error);
}

static void refused_pages(int error) {
    (void)error;
    CHECK(!kr__linux.process.map(&kr__linux, 4096, KR__MAP_WIPE));
    CHECK(!kr__linux.process.map(&kr__linux, 4096, KR__MAP_KEEP));
}

static void works_unsure(int error) {
    (void)error;
    struct kr_reactor *r = test_reactor(NULL);
    CHECK(!(r->ring.caps & KR__CAP_RESET_TOLD));
    CHECK_OK(kr_step(r, 0));
    test_reactor_free(r);
}

/* Ours: where it cannot be tried whether the kernel tells of each reset, as in a namespace without
 * loopback, that is no refusal: it is taken for one that does not. */
TEST_EACH(filter_on_the_trial_of_resets) {
    static const int calls[] = {SYS_socket,  SYS_bind,    SYS_listen, SYS_getsockname,
                                SYS_connect, SYS_accept4, SYS_poll,   SYS_setsockopt};
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++)
        filtered(calls[i], EPERM, works_unsure);
    filtered(SYS_connect, ENETUNREACH, works_unsure);
}

/* Ours: memory that is mapped but cannot be set up, and a ring whose queues cannot be mapped, are
 * given back; the refusal is told. */
TEST_EACH(filter_on_mapping) {
    filtered(SYS_mmap, ENOMEM, refused_ring);
    filtered(SYS_madvise, EINVAL, refused_memory);
    filtered(SYS_madvise, EINVAL, refused_ring);
    filtered(SYS_madvise, EINVAL, refused_pages);
}

static void refused_listen(int error) {
    struct kr_addr addr, bound;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 0));
    struct kr_conn_opts conn = test_conn_opts();
    struct kr__listen_plan plan = {
        .addr = &addr, .backlog = 8, .reuse_addr = true, .reuse_port = true, .conn = &conn};
    CHECK_ERR(kr__linux.socket.listen(&kr__linux, &plan, &bound), error);
}

/* Ours: whichever system call of a listener's making is refused, its error is the answer, and the
 * socket is closed. */
TEST(filter_on_listening) {
    static const int calls[] = {SYS_socket, SYS_setsockopt, SYS_bind, SYS_listen, SYS_getsockname};
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++)
        filtered(calls[i], EPERM, refused_listen);
}

static int connected;

static void refused_addrs(int error) {
    struct kr_addr peer, local;
    CHECK_ERR(kr__linux.socket.addrs(&kr__linux, connected, &peer, &local), error);
}

/* Ours: a connection one of whose addresses may not be asked has none. */
TEST(filter_on_addresses) {
    struct kr_reactor *r = test_reactor(NULL);
    connected = test_connect(test_listen(r, NULL, NULL, &test_send_back_ops, NULL));
    filtered(SYS_getpeername, EPERM, refused_addrs);
    filtered(SYS_getsockname, EPERM, refused_addrs);
    test_close(connected);
    test_reactor_free(r);
}

static void refused_limits(int error) {
    (void)error;
    CHECK_EQ(kr__linux.process.limit_nofile(&kr__linux), 0u);
    CHECK_EQ(kr__linux.process.limit_memlock(&kr__linux), 0u);
}

static void refused_sysctl(int error) {
    (void)error;
    CHECK_EQ(kr__linux.process.sysctl_disabled(&kr__linux), -1);
}

/* Ours: limits that may not be asked are taken for none, and so is a sysctl that cannot be read. */
TEST(filter_on_what_explains) {
    filtered(SYS_prlimit64, EPERM, refused_limits);
    filtered(SYS_openat, ENOENT, refused_sysctl);
}

/* Ours: what a kernel does not announce is not used, but for what none announces, which is
 * tried. */
TEST(caps_are_what_the_kernel_announces) {
    struct io_uring_params params = {0};
    CHECK_EQ(kr__probe_caps(&params), KR__CAP_QUIET_PIPES);
    params.features = KR__FEAT_NO_IOWAIT;
    CHECK_EQ(kr__probe_caps(&params), KR__CAP_QUIET_PIPES | KR__CAP_NO_IOWAIT);
}

TAP_MAIN(setup, 95)
