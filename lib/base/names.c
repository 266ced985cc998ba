/* Names for people. strerrorname_np is glibc's (>= 2.32). */
#include <kreactor/types.h>
#include <kreactor/version.h>

#include <string.h>

const char *kr_errname(int error) {
    const char *name = error == INT32_MIN ? NULL : strerrorname_np(error < 0 ? -error : error);
    return name ? name : "E?";
}

const char *kr_whyname(enum kr_why why) {
    static const char *const names[] = {
        [KR_WHY_LOCAL] = "local",     [KR_WHY_PEER] = "peer",   [KR_WHY_ERROR] = "error",
        [KR_WHY_TIMEOUT] = "timeout", [KR_WHY_LIMIT] = "limit", [KR_WHY_REACTOR] = "reactor",
        [KR_WHY_CONNECT] = "connect", [KR_WHY_FILE] = "file",   [KR_WHY_DETACHED] = "detached",
    };
    size_t index = (size_t)why;
    return index < sizeof names / sizeof *names ? names[index] : "?";
}

unsigned kr_version(void) {
    return KR_VERSION;
}
