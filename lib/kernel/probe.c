/* Capabilities from the ring's parameters, and refusals in plain words.
 *
 * The causes behind an errno (man io_uring_setup; kernel.io_uring_disabled since 6.6, in
 * Documentation/admin-guide/sysctl/kernel.rst):
 *   ENOSYS       kernel without io_uring, if it is the answer to io_uring_setup and there is no
 *                sysctl; else a filter that answers so
 *   EPERM        the sysctl, else a seccomp filter (Docker's and containerd's default profiles)
 *   EACCES       a security module (since 6.15), or a restricted ring
 *   ENOMEM       RLIMIT_MEMLOCK, which rings of one user share, charged again since about 6.14
 *                (io_uring/memmap.c); root is not charged
 *   EMFILE       no descriptor left, or a file table longer than RLIMIT_NOFILE (io_uring/rsrc.c)
 *   EINVAL       a set-up flag that the kernel does not know: older than 6.1
 * Any of these may be mmap's or madvise's own, of the pages that a step needs: that is tried
 * first. */
#include "kernel/probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

unsigned kr__probe_caps(const struct io_uring_params *params) {
    unsigned caps = KR__CAP_QUIET_PIPES; /* no parameter tells of it */
    if (params->flags & KR__SETUP_NO_SQARRAY)
        caps |= KR__CAP_NO_SQARRAY;
    if (params->features & KR__FEAT_MIN_TIMEOUT)
        caps |= KR__CAP_MIN_WAIT;
    if (params->features & KR__FEAT_NO_IOWAIT)
        caps |= KR__CAP_NO_IOWAIT;
    if (params->features & KR__FEAT_REG_REG_RING)
        caps |= KR__CAP_ZC_REPORT;
    if (params->features & KR__FEAT_RW_ATTR)
        caps |= KR__CAP_FILE_TABLE;
    return caps;
}

/* As many as are looked at; the kernel tells of fewer if it has fewer (io_probe,
 * io_uring/register.c). */
unsigned kr__probe_ops(const struct kr__kernel *k, struct io_uring *ring) {
    enum { OPS = KR__OP_BIND + 1 };
    _Alignas(struct io_uring_probe) char
        room[sizeof(struct io_uring_probe) + OPS * sizeof(struct io_uring_probe_op)] = {0};
    struct io_uring_probe *probe = (struct io_uring_probe *)(void *)room;
    if (k->ring.reg(k, ring, IORING_REGISTER_PROBE, probe, OPS) < 0)
        return 0;
    unsigned caps = 0;
    if (probe->ops[KR__OP_FIXED_FD_INSTALL].flags & IO_URING_OP_SUPPORTED)
        caps |= KR__CAP_FD_INSTALL;
    if (probe->ops[KR__OP_BIND].flags & IO_URING_OP_SUPPORTED)
        caps |= KR__CAP_ACCEPT_DONTWAIT;
    return caps;
}

/* KR__REGISTER_MEM_REGION came with 6.13, as the mended table did (kernel/plain.h). Of an argument
 * that is all zeros it finds the region's address wrong, -EFAULT; kernels that do not know it answer
 * -EINVAL (observed on 6.12.117 and 6.18). Who answers otherwise is taken for an old one. */
unsigned kr__probe_table(const struct kr__kernel *k, struct io_uring *ring) {
    const struct kr__mem_region_reg none = {0};
    int rc = k->ring.reg(k, ring, KR__REGISTER_MEM_REGION, &none, 1);
    return rc == -EFAULT ? KR__CAP_FILE_TABLE : 0;
}

#define SAY(field, ...) snprintf((field), sizeof(field), __VA_ARGS__)

static void explain_forbidden(struct kr_failure *why, int sysctl) {
    if (why->error == -EPERM && sysctl > 0) {
        why->refused = KR_REFUSED_SYSCTL;
        SAY(why->cause, "kernel.io_uring_disabled is %d: %s", sysctl,
            sysctl == 1 ? "only members of kernel.io_uring_group and CAP_SYS_ADMIN may use io_uring"
                        : "no process may use io_uring");
        SAY(why->remedy, "sysctl -w kernel.io_uring_disabled=0, or %s",
            sysctl == 1 ? "put the user into the group kernel.io_uring_group" : "ask who set it");
        return;
    }
    why->refused = KR_REFUSED_SECCOMP;
    SAY(why->cause,
        "a system call filter or security module forbids %s (container profiles do so by "
        "default)",
        why->tried);
    SAY(why->remedy,
        "allow io_uring_setup, io_uring_enter and io_uring_register in the container's "
        "seccomp profile");
}

/* A kernel with the sysctl, or with a ring that it has made, does have io_uring. */
static void explain_missing(struct kr_failure *why, int sysctl) {
    if (sysctl >= 0 || strcmp(why->tried, "io_uring_setup") != 0) {
        why->refused = KR_REFUSED_SECCOMP;
        SAY(why->cause, "the kernel has io_uring, but a system call filter answers ENOSYS to %s",
            why->tried);
        SAY(why->remedy,
            "allow io_uring_setup, io_uring_enter and io_uring_register in the sandbox");
        return;
    }
    why->refused = KR_REFUSED_KERNEL;
    SAY(why->cause, "the kernel has no io_uring (or a sandbox hides it)");
    SAY(why->remedy, "run on Linux 6.1 or newer, built with CONFIG_IO_URING");
}

/* 0 if so many bytes can be mapped in that way; else why not. */
static int map_error(const struct kr__kernel *k, size_t size, enum kr__map how) {
    errno = 0;
    void *pages = k->process.map(k, size, how);
    if (!pages)
        return errno ? errno : ENOMEM;
    k->process.unmap(k, pages, size);
    return 0;
}

static void explain_space(const struct kr__kernel *k, struct kr_failure *why, size_t size) {
    uint64_t as = k->process.limit_as(k), data = k->process.limit_data(k);
    why->refused = KR_REFUSED_MEMORY;
    if (as != UINT64_MAX)
        SAY(why->cause, "%zu KiB cannot be mapped; RLIMIT_AS is %llu KiB", size / 1024,
            (unsigned long long)(as / 1024));
    else if (data != UINT64_MAX)
        SAY(why->cause, "%zu KiB cannot be mapped; RLIMIT_DATA is %llu KiB", size / 1024,
            (unsigned long long)(data / 1024));
    else
        SAY(why->cause, "%zu KiB cannot be mapped: the system is out of memory, or has set aside "
            "too much (vm.overcommit_memory, vm.max_map_count)", size / 1024);
    SAY(why->remedy, "%s, or configure fewer connections and buffers",
        as != UINT64_MAX     ? "raise it (ulimit -v, LimitAS=)"
        : data != UINT64_MAX ? "raise it (ulimit -d, LimitDATA=)"
                             : "give the process more memory");
}

static void explain_mapping(const struct kr__kernel *k, struct kr_failure *why, size_t size,
                            int error, const char *call) {
    switch (error) {
    case ENOMEM:
        explain_space(k, why, size);
        break;
    case EAGAIN:
        why->refused = KR_REFUSED_MEMLOCK;
        SAY(why->cause,
            "mlockall(MCL_FUTURE) locks what is mapped, %zu KiB here, and RLIMIT_MEMLOCK is %llu "
            "KiB",
            size / 1024, (unsigned long long)(k->process.limit_memlock(k) / 1024));
        SAY(why->remedy, "raise it (ulimit -l, LimitMEMLOCK=), or call mlockall(MCL_CURRENT) once "
            "the reactor is made");
        break;
    default:
        why->refused = KR_REFUSED_SECCOMP;
        SAY(why->cause, "%s is answered with %s, by a system call filter as a rule", call,
            strerror(error));
        SAY(why->remedy, "allow mmap and madvise with all their arguments in the sandbox");
    }
}

/* Whether it is the memory of the process, rather than the ring's own, that is refused: mapped
 * once more, as all of it is, it still is. (man mmap, man madvise: what each error means.) */
static bool explain_pages(const struct kr__kernel *k, struct kr_failure *why, size_t size) {
    static const enum kr__map hows[] = {KR__MAP_PLAIN, KR__MAP_WIPE, KR__MAP_KEEP};
    for (unsigned i = 0; size && i < sizeof hows / sizeof *hows; i++) {
        int error = map_error(k, size, hows[i]);
        if (!error)
            continue;
        explain_mapping(k, why, size, error, i ? "madvise" : "mmap");
        return true;
    }
    return false;
}

static void explain_memory(const struct kr__kernel *k, struct kr_failure *why, size_t locked) {
    uint64_t limit = k->process.limit_memlock(k);
    if (locked == 0 || limit == UINT64_MAX) {
        why->refused = KR_REFUSED_MEMORY;
        SAY(why->cause, "no memory for %s", why->tried);
        SAY(why->remedy,
            "give the process more memory, or configure fewer connections and buffers");
        return;
    }
    why->refused = KR_REFUSED_MEMLOCK;
    SAY(why->cause,
        "the ring locks about %zu KiB; RLIMIT_MEMLOCK is %llu KiB for all rings of this "
        "user together",
        locked / 1024, (unsigned long long)(limit / 1024));
    SAY(why->remedy, "raise it (ulimit -l, LimitMEMLOCK=), or lower sq_entries and cq_entries");
}

static void explain_files(const struct kr__kernel *k, struct kr_failure *why, unsigned files) {
    why->refused = KR_REFUSED_NOFILE;
    uint64_t limit = k->process.limit_nofile(k);
    if (files > limit)
        SAY(why->cause,
            "the table of %u connections and files (descriptors before Linux 6.13) is longer than "
            "RLIMIT_NOFILE, %llu",
            files, (unsigned long long)limit);
    else
        SAY(why->cause, "no descriptor is left; RLIMIT_NOFILE is %llu", (unsigned long long)limit);
    SAY(why->remedy,
        "raise it (ulimit -n, LimitNOFILE=), or lower conn_max, connect_max and listener_max");
}

static void explain_old(struct kr_failure *why) {
    why->refused = KR_REFUSED_KERNEL;
    SAY(why->cause, "the kernel does not know what %s asks for; it is older than 6.1", why->tried);
    SAY(why->remedy, "run on Linux 6.1 or newer");
}

int kr__probe_explain(const struct kr__kernel *k, struct kr_failure *why,
                      const struct kr__attempt *attempt, int error) {
    if (!why)
        return error;
    const char *tried = attempt->tried;
    *why = (struct kr_failure){.error = error, .refused = KR_REFUSED_OTHER};
    SAY(why->tried, "%s", tried);
    if (explain_pages(k, why, attempt->mapped))
        return error;
    switch (-error) {
    case EPERM:
    case EACCES:
        explain_forbidden(why, k->process.sysctl_disabled(k));
        break;
    case ENOSYS:
        explain_missing(why, k->process.sysctl_disabled(k));
        break;
    case ENOMEM:
        explain_memory(k, why, attempt->locked);
        break;
    case EMFILE:
    case ENFILE:
        explain_files(k, why, attempt->files);
        break;
    case EUSERS:
        SAY(why->cause, "as many reactors live in this process as can: 4095");
        SAY(why->remedy, "free those that are done with; one a thread is usual");
        break;
    case EINVAL:
        explain_old(why);
        break;
    default:
        SAY(why->cause, "%s failed with %s", tried, strerror(-error));
        SAY(why->remedy, "see man io_uring_setup");
        break;
    }
    return error;
}

int kr__probe_options(struct kr_failure *why, const char *of, const char *fault) {
    int error = fault ? -EINVAL : 0;
    if (!why)
        return error;
    *why = (struct kr_failure){.error = error};
    if (!fault)
        return 0;
    why->refused = KR_REFUSED_CONFIG;
    SAY(why->tried, "%s", of);
    SAY(why->cause, "%s", fault);
    SAY(why->remedy, "fill it with its init function first, then change fields within their "
        "ranges; 0 is the default of any number");
    return error;
}

int kr__probe_refuse_config(struct kr_failure *why, const char *cause) {
    return kr__probe_options(why, "struct kr_config", cause);
}
