/* The real door: what it does, as strace sees it. */
#include "door/door.h"

/* ---- the real door ---- */

static int real_listen(const char *ip, uint16_t port, unsigned backlog) {
    struct kr_addr addr, bound;
    CHECK_OK(kr_addr_ip(&addr, ip, port));
    struct kr__listen_plan plan = {.addr = &addr, .backlog = backlog};
    return kr__linux.socket.listen(&kr__linux, &plan, &bound);
}

static int real_sock_addrs(int fd) {
    struct kr_addr peer, local;
    return kr__linux.socket.addrs(&kr__linux, fd, &peer, &local);
}

/* The kernel's promise, and ours: the door returns what the system calls answer, as a negative
 * errno. */
TEST(linux_answers_in_negative_errnos) {
    const struct kr__kernel *k = &kr__linux;
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int file = CHECK_SYS(open("/dev/null", O_RDWR | O_CLOEXEC));
    struct io_uring ring;
    struct io_uring_params params = {0};
    CHECK_ERR(k->ring.open(k, &ring, 0, &params), EINVAL);
    params = (struct io_uring_params){.flags = UINT32_MAX};
    CHECK_ERR(k->ring.open(k, &ring, 8, &params), EINVAL);
    ring = (struct io_uring){.ring_fd = file, .enter_ring_fd = file};
    CHECK_ERR(k->ring.enter(k, &ring, 0, 0, 0, NULL), EOPNOTSUPP);
    CHECK_ERR(k->ring.reg(k, &ring, IORING_REGISTER_FILES_UPDATE, NULL, 0), EOPNOTSUPP);
    bool registered = false;
    CHECK_ERR(k->ring.bind(k, &ring, &registered), EOPNOTSUPP);
    CHECK(!registered);
    CHECK(!k->process.map(k, SIZE_MAX / 2, KR__MAP_PLAIN));
    CHECK_ERR(real_sock_addrs(-1), EBADF);
    CHECK_ERR(real_sock_addrs(file), ENOTSOCK);
    CHECK_ERR(real_sock_addrs(fd), ENOTCONN);
    CHECK_ERR(k->file.close(k, -1), EBADF);
    errno = EDOM;
    CHECK_ERR(k->file.wake_send(k, -1), EBADF);
    CHECK_EQ(errno, EDOM);
    CHECK_ERR(real_listen("192.0.2.1", 0, 8), EADDRNOTAVAIL);
    CHECK_SYS(close(file));
    CHECK_SYS(close(fd));
}

/* The kernel's: an eventfd whose counter is full refuses (man eventfd), and so no wake blocks. */
TEST(linux_wake_never_blocks) {
    const struct kr__kernel *k = &kr__linux;
    int fd = CHECK_OK(k->file.wake_open(k));
    CHECK_EQ(CHECK_SYS(write(fd, &(uint64_t){UINT64_MAX - 1}, 8)), 8);
    CHECK_ERR(k->file.wake_send(k, fd), EAGAIN);
    CHECK_OK(k->file.close(k, fd));
}

/* ---- the real path, under strace ---- */

struct straced {
    struct kr_reactor *r;
    unsigned fires, posts;
};

static void straced_post(struct kr_reactor *r, void *arg) {
    (void)r;
    ((struct straced *)arg)->posts++;
}

static void straced_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    struct straced *s = user;
    (void)timer;
    s->fires++;
    CHECK_OK(kr_post(r, straced_post, s));
}

int straced(enum kr_taskrun taskrun) {
    alarm(15);
    struct kr_config config = test_config();
    config.taskrun = taskrun;
    struct kr_failure why;
    struct straced s = {0};
    CHECK_OK(kr_reactor_new(&s.r, &config, &why));
    struct seen seen = {0};
    uint16_t port;
    CHECK_OK(listen_rc(s.r, false, &seen, &port));
    CHECK_OK(kr_timer_start(s.r, NULL, 0, MS, straced_fire, &s));
    struct kr_addr addr = test_loopback(port);
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(connect(fd, &addr.u.sa, addr.size));
    for (int i = 0; i < 100; i++) {
        char message[16], back[16];
        snprintf(message, sizeof message, "message %07d", i);
        CHECK_EQ(send(fd, message, sizeof message, MSG_NOSIGNAL), (ssize_t)sizeof message);
        ssize_t got;
        while ((got = recv(fd, back, sizeof back, MSG_DONTWAIT)) < 0)
            CHECK_OK(kr_step(s.r, MS));
        CHECK_EQ(got, (ssize_t)sizeof back);
        CHECK_MEM_EQ(back, message, sizeof back);
    }
    while (s.posts < 3)
        CHECK_OK(kr_step(s.r, MS));
    CHECK_SYS(close(fd));
    while (!seen.closes)
        CHECK_OK(kr_step(s.r, MS));
    CHECK_OK(kr_reactor_free(s.r));
    return 0;
}

/* How many system calls strace says it has answered itself. */
static unsigned injected(const char *path) {
    FILE *file = fopen(path, "re");
    CHECK(file);
    char line[1024];
    unsigned count = 0;
    while (fgets(line, sizeof line, file))
        count += strstr(line, "(INJECTED)") != NULL;
    fclose(file);
    return count;
}

/* Leaks are not looked for there: the checker itself needs ptrace. */
static void exec_strace(const char *inject, const char *log, const char *program) {
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    const char *mode = tap_variant()->mode == KR_TASKRUN_DEFER ? "defer" : "coop";
    execlp("strace", "strace", "-qq", "-o", log, "-e", "trace=io_uring_enter", "-e", inject, "--",
           program, "--straced", mode, (char *)NULL);
    _exit(1);
}

static void under_strace(const char *error, const char *when) {
    tap_need_program("strace");
    char inject[64], self[512], log[] = "/tmp/kreactor-door-XXXXXX";
    snprintf(inject, sizeof inject, "inject=io_uring_enter:error=%s:when=%s", error, when);
    ssize_t size = CHECK_SYS(readlink("/proc/self/exe", self, sizeof self - 1));
    self[size] = 0;
    CHECK_SYS(close(CHECK_SYS(mkstemp(log))));
    pid_t child = CHECK_SYS(fork());
    if (child == 0)
        exec_strace(inject, log, self);
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    unsigned count = injected(log);
    CHECK_SYS(unlink(log));
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    tap_note("%s: %u answers injected", inject, count);
    CHECK_GE(count, 5u);
}

/* Ours, and strace's: the kernel itself seems to answer, so that nothing of ours is in between.
 * From the third call on, since the first two are made before the ring is enabled. */
TEST_EACH(real_enter_is_interrupted) {
    under_strace("EINTR", "3+3");
}

TEST_EACH(real_enter_lacks_memory) {
    under_strace("EAGAIN", "3+3");
}

TEST_EACH(real_enter_is_busy) {
    under_strace("EBUSY", "3+3");
}
