/* What the parts of the suite setup share: what is checked of every refusal. See test/setup.c. */
#pragma once

#include "harness/server.h"

#include "kernel/probe.h"
#include "roof/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

void check_text(const char *text, size_t size);
void check_why(const struct kr_failure *why, int error, enum kr_refusal refused);
void check_refused(const struct kr_config *config, int error, enum kr_refusal refused,
                   struct kr_failure *why);
void check_echoes(struct kr_reactor *r);
void check_works(const struct kr_config *config);

/* From now on this process gets `error` from that system call. */
void forbid(int call, int error);
