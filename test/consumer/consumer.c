/* The smallest embedder: a reactor whose one timer stops it. Its status is 0 only if the timer
 * ran. */
#include <kreactor.h>

#include <stdio.h>

static void on_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    *(int *)user = 1;
    kr_stop(r);
}

int main(void) {
    if (kr_version() != KR_VERSION) {
        fprintf(stderr, "library %u, headers %u\n", kr_version(), (unsigned)KR_VERSION);
        return 1;
    }
    struct kr_reactor *r;
    struct kr_failure why;
    if (kr_reactor_new(&r, NULL, &why) < 0) {
        fprintf(stderr, "%s: %s: %s\n", why.tried, why.cause, why.remedy);
        return 1;
    }
    kr_timer timer;
    int fired = 0;
    int rc = kr_timer_start(r, &timer, 1000000, 0, on_timer, &fired);
    if (rc == 0)
        rc = kr_run(r);
    kr_reactor_free(r);
    return rc == 0 && fired ? 0 : 1;
}
