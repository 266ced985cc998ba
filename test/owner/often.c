/* Made and freed many times, and signals. */
#include "owner/owner.h"

/* ---- made and freed, many times ---- */

/* The real kernel, with what is opened and mapped counted. */
static struct {
    long rings, mapped, wakes;
    size_t bytes;
} held;

static int counted_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                             struct io_uring_params *params) {
    int rc = kr__linux.ring.open(k, ring, entries, params);
    held.rings += rc >= 0;
    return rc;
}

static void counted_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                               bool child) {
    kr__linux.ring.close(k, ring, registered, child);
    held.rings--;
}

static void *counted_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    void *pages = kr__linux.process.map(k, size, how);
    held.mapped += pages != NULL;
    held.bytes += pages ? size : 0;
    return pages;
}

static void counted_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    kr__linux.process.unmap(k, pages, size);
    held.mapped--;
    held.bytes -= size;
}

static unsigned count_ring_mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "re");
    CHECK(maps);
    char line[512];
    unsigned count = 0;
    while (fgets(line, sizeof line, maps))
        count += strstr(line, "[io_uring]") != NULL;
    fclose(maps);
    return count;
}

static void make_use_and_free(const struct kr__kernel *kernel, const struct kr_config *config,
                              unsigned i) {
    struct kr_reactor *r = variant_reactor(config, kernel);
    struct things t = {.r = r, .fd = -1};
    if (i % 8 == 1)
        CHECK_OK(kr_timer_start(r, NULL, 0, 0, never, NULL));
    if (i % 8 == 2 || i % 8 == 3)
        t.port = test_listen(r, NULL, NULL, &things_ops, &t);
    if (i % 8 == 3) {
        t.fd = test_connect(t.port);
        TEST_UNTIL(r, t.opens == 1);
    }
    if (i % 8 == 4)
        CHECK_EQ(kr_step(r, 0), 0);
    CHECK_OK(kr_reactor_free(r));
    CHECK_EQ(t.closes, t.opens);
    if (t.fd >= 0)
        test_close(t.fd);
}

/* Ours: reactors made and freed one after another, run or not, with listeners and connections or
 * without, leave no descriptor, mapping, ring or byte behind. */
TEST_EACH(thousands_made_and_freed, .deadline_s = 120) {
    struct kr__kernel counted = kr__linux;
    counted.ring.open = counted_ring_open;
    counted.ring.close = counted_ring_close;
    counted.process.map = counted_map;
    counted.process.unmap = counted_unmap;
    struct kr_config small, usual;
    small_config(&small);
    kr_config_init(&usual);

    int before = tap_fd_count();
    unsigned count = tap_full() ? 10000 : 400;
    for (unsigned i = 0; i < count; i++) {
        make_use_and_free(&counted, i % 10 == 9 ? &usual : &small, i);
        CHECK_EQ(tap_fd_count(), before);
        CHECK_EQ(held.rings, 0);
        CHECK_EQ(held.mapped, 0);
        CHECK_EQ(held.bytes, 0u);
    }
    CHECK_EQ(count_ring_mappings(), 0u);
}

/* ---- signals ---- */

static void ignore(int signo) {
    (void)signo;
}

static void storm(long every_us) {
    struct sigaction action = {.sa_handler = ignore};
    CHECK_SYS(sigaction(SIGALRM, &action, NULL));
    struct itimerval timer = {.it_interval.tv_usec = every_us, .it_value.tv_usec = every_us};
    CHECK_SYS(setitimer(ITIMER_REAL, &timer, NULL));
}

struct driver {
    struct test_echo echoes[16];
    unsigned beats;
};

static void drive(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct driver *d = user;
    bool done = ++d->beats > 200;
    for (unsigned i = 0; i < 16; i++) {
        test_echo_move(&d->echoes[i]);
        done = done && test_echo_done(&d->echoes[i]);
    }
    if (done)
        kr_stop(r);
}

/* Ours: signals that interrupt every wait end no run, lose no byte and no timer. kr_run is left
 * only by the kr_stop that follows the last echo. */
TEST_EACH(signal_storm_ends_no_run) {
    struct things t = {.r = test_reactor(NULL)};
    t.port = test_listen(t.r, NULL, NULL, &things_ops, &t);
    static struct driver d;
    for (unsigned i = 0; i < 16; i++)
        d.echoes[i] = (struct test_echo){
            .fd = test_connect(t.port), .seed = i, .total = 256 * 1024, .send_piece = 3000};
    kr_timer timer;
    CHECK_OK(kr_timer_start(t.r, &timer, 0, 100000, drive, &d));
    storm(100);
    CHECK_EQ(kr_run(t.r), 0);
    storm(0);
    CHECK_OK(kr_timer_stop(t.r, timer));
    for (unsigned i = 0; i < 16; i++) {
        CHECK(test_echo_done(&d.echoes[i]));
        test_close(d.echoes[i].fd);
    }
    test_reactor_end(t.r, (struct test_levels){.listeners = 1});
}

/* Ours: a signal may end the wait of a kr_step, which then answers 0, never an error. */
TEST_EACH(signal_storm_fails_no_step) {
    struct kr_reactor *r = test_reactor(NULL);
    kr_timer timer;
    CHECK_OK(kr_timer_start(r, &timer, HOUR, 0, never, NULL));
    storm(200);
    for (int64_t until = tap_now_ns() + 100 * MS; tap_now_ns() < until;)
        CHECK_EQ(kr_step(r, 10 * MS), 0);
    storm(0);
    CHECK_OK(kr_timer_stop(r, timer));
    test_reactor_free(r);
}
