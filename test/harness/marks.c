#include "marks.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

const struct test_mark test_marks[KR__MARK_COUNT] = {
#define X(name, suite) {#name, #suite},
    KR__MARKS(X)
#undef X
};

void test_marks_share(void) {
    static bool shared;
    if (shared)
        return;
    size_t size = KR__MARK_COUNT * sizeof *kr__marks;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(EXIT_FAILURE);
    }
    kr__marks = memory;
    shared = true;
}

void test_marks_print(void) {
    printf("# marks");
    for (unsigned i = 0; i < KR__MARK_COUNT; i++) {
        uint64_t count = __atomic_load_n(&kr__marks[i], __ATOMIC_RELAXED);
        if (count)
            printf(" %s %llu", test_marks[i].name, (unsigned long long)count);
    }
    printf("\n");
}
