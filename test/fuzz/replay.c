/* Every input kept in test/fuzz/corpus, run again by each ordinary build: a case a target.
 *
 * An input that breaks a promise ends its case; the last line that the case noted is its path. The
 * corpus is kept by hand: an input that found a defect stays, under a name that says which. */
#include "fuzz/fuzz.h"
#include "harness/tap.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX 65536u

typedef int target_fn(const uint8_t *data, size_t size);
target_fn fuzz_tag, fuzz_schedule, fuzz_api;

/* A copy of just that size, so that the sanitizer sees a read past its end. */
static void run_bytes(target_fn *target, const uint8_t *bytes, size_t size) {
    uint8_t *data = malloc(size ? size : 1);
    CHECK(data);
    if (size)
        memcpy(data, bytes, size);
    CHECK_EQ(target(data, size), 0);
    free(data);
}

static void run_file(target_fn *target, const char *path) {
    static uint8_t bytes[INPUT_MAX];
    tap_note("%s", path);
    FILE *file = fopen(path, "rb");
    CHECK(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    CHECK(!ferror(file) && size < sizeof bytes);
    fclose(file);
    run_bytes(target, bytes, size);
}

static void run_corpus(target_fn *target, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", CORPUS, name);
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    CHECK(count >= 0);
    unsigned ran = 0;
    for (int i = 0; i < count; i++) {
        if (entries[i]->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s/%s", CORPUS, name, entries[i]->d_name);
            run_file(target, path);
            ran++;
        }
        free(entries[i]);
    }
    free(entries);
    CHECK(ran > 0);
    run_bytes(target, NULL, 0);
}

TEST(tag_inputs_run_clean) {
    run_corpus(fuzz_tag, "tag");
}

TEST(schedule_inputs_run_clean, .deadline_s = 60) {
    run_corpus(fuzz_schedule, "schedule");
}

TEST(api_inputs_run_clean, .deadline_s = 60) {
    run_corpus(fuzz_api, "api");
}

TAP_MAIN(fuzz, 3)
