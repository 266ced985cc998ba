/* The real kernel's process: clock, memory, limits. */
#include "kernel/linux.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

int64_t kr__linux_clock(const struct kr__kernel *k) {
    (void)k;
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void *kr__linux_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    (void)k;
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    if ((how == KR__MAP_WIPE && madvise(pages, size, MADV_WIPEONFORK) < 0) ||
        (how == KR__MAP_KEEP && madvise(pages, size, MADV_DONTFORK) < 0)) {
        int error = errno;
        munmap(pages, size);
        errno = error;
        return NULL;
    }
    return pages;
}

void kr__linux_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    (void)k;
    munmap(pages, size);
}

void kr__linux_yield(const struct kr__kernel *k) {
    (void)k;
    sched_yield();
}

static uint64_t soft_limit(__rlimit_resource_t which) {
    struct rlimit limit;
    return getrlimit(which, &limit) < 0 ? 0 : (uint64_t)limit.rlim_cur;
}

uint64_t kr__linux_limit_nofile(const struct kr__kernel *k) {
    (void)k;
    return soft_limit(RLIMIT_NOFILE);
}

uint64_t kr__linux_limit_memlock(const struct kr__kernel *k) {
    (void)k;
    return soft_limit(RLIMIT_MEMLOCK);
}

uint64_t kr__linux_limit_as(const struct kr__kernel *k) {
    (void)k;
    return soft_limit(RLIMIT_AS);
}

uint64_t kr__linux_limit_data(const struct kr__kernel *k) {
    (void)k;
    return soft_limit(RLIMIT_DATA);
}

/* kernel >= 6.6 has the file. */
int kr__linux_sysctl_disabled(const struct kr__kernel *k) {
    (void)k;
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    char digit = 0;
    ssize_t n = read(fd, &digit, 1);
    close(fd);
    return n == 1 && digit >= '0' && digit <= '9' ? digit - '0' : -1;
}
