/* kreactor-doctor: can a reactor start here, and if not, why, and what helps?
 *
 * It makes a reactor with the defaults, in both task-run modes, runs one turn of each, and says
 * what it met, a line each. Exit status 0 when both work, 1 when one is refused. */
#include <kreactor.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/utsname.h>

static void print_limit(const char *name, __rlimit_resource_t which) {
    struct rlimit limit;
    if (getrlimit(which, &limit) < 0)
        return;
    if (limit.rlim_cur == RLIM_INFINITY)
        printf("%s: unlimited\n", name);
    else
        printf("%s: %llu\n", name, (unsigned long long)limit.rlim_cur);
}

static void print_machine(void) {
    struct utsname name;
    if (uname(&name) == 0)
        printf("system: %s %s %s\n", name.sysname, name.release, name.machine);
    unsigned version = kr_version();
    printf("kreactor: %u.%u.%u\n", version / 10000, version / 100 % 100, version % 100);
    print_limit("soft limit of descriptors (bounds connections)", RLIMIT_NOFILE);
    print_limit("soft limit of locked bytes (all rings of a user)", RLIMIT_MEMLOCK);
}

static int refused(const char *mode, const struct kr_failure *why) {
    printf("%s: refused: %s: %s\n", mode, why->tried, kr_errname(why->error));
    printf("  cause: %s\n  remedy: %s\n", why->cause, why->remedy);
    return 1;
}

static int try_mode(const char *mode, enum kr_taskrun taskrun) {
    struct kr_config config;
    kr_config_init(&config);
    config.taskrun = taskrun;
    struct kr_reactor *r;
    struct kr_failure why;
    if (kr_reactor_new(&r, &config, &why) < 0)
        return refused(mode, &why);
    bool plain = kr_reactor_table(r) == KR_TABLE_PLAIN;
    int rc = kr_step(r, 0);
    kr_reactor_free(r);
    if (rc < 0) {
        printf("%s: made, but a turn failed: %s\n", mode, kr_errname(rc));
        return 1;
    }
    printf("%s: works\n", mode);
    printf("  table: %s\n", plain ? "plain: each connection is a descriptor, until Linux 6.13"
                                   : "registered: connections are no descriptors");
    return 0;
}

int main(void) {
    print_machine();
    int failed = try_mode("COOP", KR_TASKRUN_COOP);
    failed |= try_mode("DEFER", KR_TASKRUN_DEFER);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
