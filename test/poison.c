/* Memory that is lent, touched by those who must not: each program of misuse/ does one such thing,
 * and is to be caught by AddressSanitizer in the act. One more keeps to the rules, and is not to be
 * caught. Only the builds with the sanitizer have this suite. */
#include "harness/tap.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs a program, with what it says on stderr in `said`; returns its wait status. */
static int run(const char *name, char *said, size_t size) {
    char path[512];
    snprintf(path, sizeof path, MISUSE_DIR "/misuse-%s", name);
    int fd = CHECK_SYS(memfd_create("said", MFD_CLOEXEC));
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        dup2(fd, STDERR_FILENO);
        setenv("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=0:exitcode=66", 1);
        execl(path, path, (char *)NULL);
        _exit(127);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    ssize_t got = CHECK_SYS(pread(fd, said, size - 1, 0));
    said[got] = 0;
    CHECK_SYS(close(fd));
    return status;
}

/* It was caught for this reason, and in the program's own code or a call of its own making. */
static void check_caught(const char *name, const char *reason) {
    static char said[32768];
    int status = run(name, said, sizeof said);
    tap_note("%.3000s", said);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 66);
    CHECK(strstr(said, "ERROR: AddressSanitizer"));
    CHECK(strstr(said, reason));
    CHECK(strstr(said, name));
}

#define CAUGHT(name_, reason_)                                                                     \
    TEST(name_) {                                                                                  \
        check_caught(#name_, reason_);                                                             \
    }

/* Ours: each of these is an end, and a report that names the line. */
CAUGHT(use_after_return, "use-after-poison")
CAUGHT(read_past_the_end, "use-after-poison")
CAUGHT(read_before_the_start, "use-after-poison")
CAUGHT(terminate_in_place, "use-after-poison")
CAUGHT(kept_bytes_after_return, "use-after-poison")
CAUGHT(write_past_a_reservation, "use-after-poison")
CAUGHT(write_past_a_second_reservation, "use-after-poison")
CAUGHT(write_beyond_the_commit, "use-after-poison")
CAUGHT(write_to_a_superseded_reservation, "use-after-poison")
CAUGHT(reservation_after_the_turn, "use-after-poison")
CAUGHT(message_after_it_was_sent, "use-after-poison")
CAUGHT(inline_memory_after_close, "use-after-poison")
CAUGHT(write_past_inline_memory, "use-after-poison")
CAUGHT(callbacks_freed_too_early, "heap-use-after-free")
CAUGHT(reactor_after_free, "heap-use-after-free")

/* Ours: whoever keeps to the rules is let alone. */
TEST(well_behaved) {
    static char said[32768];
    int status = run("well_behaved", said, sizeof said);
    tap_note("%.3000s", said);
    CHECK_EQ(status, 0);
    CHECK_STR_EQ(said, "");
}

TAP_MAIN(poison, 16)
