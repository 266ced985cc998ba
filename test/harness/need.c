/* What a machine may lack, and how the harness looks for it.
 *
 * Happy path: what a case needs is there, and the call returns. Else the case ends as skipped, with
 * a reason that test/harness/explain.sh knows and looks for once more, in its own way. Nothing here
 * asks the library: what the library says it cannot do may be a fault of the library. */
#include "case.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

/* Whether `attempt` succeeds, in a process of its own: what it changes stays there. */
static bool succeeds(bool (*attempt)(void)) {
    fflush(stdout);
    pid_t child = CHECK_SYS(fork());
    if (child == 0)
        tap_exit_child(attempt() ? 0 : 1);
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool becomes_another_user(void) {
    uid_t uid = 200000;
    return setgroups(0, NULL) == 0 && setresgid(uid, uid, uid) == 0 &&
           setresuid(uid, uid, uid) == 0;
}

void tap_need_users(void) {
    if (!succeeds(becomes_another_user))
        tap_skip("needs the right to become other users");
}

/* In a chroot the root is no mount point, and cannot be made private; /proc is one everywhere. */
bool tap_mounts_private(void) {
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/proc", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static bool mounts(void) {
    return tap_mounts_private() && mount("/dev/null", "/proc/version", NULL, MS_BIND, NULL) == 0;
}

void tap_need_mounts(void) {
    if (!succeeds(mounts))
        tap_skip("needs the right to mount");
}

void tap_need_ipv6(void) {
    struct sockaddr_in6 in = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool bound = fd >= 0 && bind(fd, (struct sockaddr *)&in, sizeof in) == 0;
    if (fd >= 0)
        close(fd);
    if (!bound)
        tap_skip("needs IPv6 on loopback");
}

static bool kernel_is(unsigned major, unsigned minor) {
    struct utsname name;
    unsigned is_major = 0, is_minor = 0;
    CHECK_SYS(uname(&name));
    CHECK_EQ(sscanf(name.release, "%u.%u", &is_major, &is_minor), 2);
    return is_major > major || (is_major == major && is_minor >= minor);
}

void tap_need_kernel(unsigned major, unsigned minor) {
    if (!kernel_is(major, minor))
        tap_skip("needs kernel %u.%u", major, minor);
}

bool tap_has_caps(unsigned caps) {
    for (size_t i = 0; i < tap_cap_count; i++) {
        if (caps & tap_caps[i].bit && !kernel_is(tap_caps[i].major, tap_caps[i].minor))
            return false;
    }
    return !(caps & ~tap_variant()->caps_mask);
}

void tap_need_caps(unsigned caps) {
    for (size_t i = 0; i < tap_cap_count; i++) {
        if (caps & tap_caps[i].bit)
            tap_need_kernel(tap_caps[i].major, tap_caps[i].minor);
    }
}

void tap_need_program(const char *name) {
    char path[4096], file[4096];
    const char *dirs = getenv("PATH");
    snprintf(path, sizeof path, "%s", dirs ? dirs : "/usr/bin:/bin");
    for (char *rest = path, *dir; (dir = strsep(&rest, ":"));) {
        int size = snprintf(file, sizeof file, "%s/%s", dir, name);
        if (size > 0 && (size_t)size < sizeof file && access(file, X_OK) == 0)
            return;
    }
    tap_skip("needs the program %s", name);
}

/* A connected pair: [0] is the client's end, by which the pair is found. */
static uint16_t tcp_pair(int fds[2]) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr *addr = (struct sockaddr *)&in;
    socklen_t size = sizeof in;
    int listener = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(listener, addr, size));
    CHECK_SYS(listen(listener, 1));
    CHECK_SYS(getsockname(listener, addr, &size));
    fds[0] = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(connect(fds[0], addr, size));
    fds[1] = CHECK_SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    close(listener);
    return ntohs(in.sin_port);
}

/* Needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY. Tried on a pair that no reactor has to do
 * with. */
void tap_need_ss_kill(void) {
    char command[80], byte;
    int fds[2];
    tap_need_program("ss");
    snprintf(command, sizeof command, "ss -K -t -n -H dport = :%u >/dev/null 2>&1", tcp_pair(fds));
    CHECK_SYS(system(command));
    bool killed = recv(fds[0], &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNABORTED;
    close(fds[0]);
    close(fds[1]);
    if (!killed)
        tap_skip("needs ss -K");
}

void tap_need_descriptors(unsigned count) {
    struct rlimit limit;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    if (limit.rlim_cur >= count)
        return;
    if (limit.rlim_max < count)
        tap_skip("needs %u descriptors", count);
    limit.rlim_cur = count;
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
}

void tap_need_checked(void) {
    if (!KR_CHECKED)
        tap_skip("needs a checked build");
}
