/* A reactor in a simulated world: the one file of it that knows the library above the door.
 *
 * Happy path: as kr_reactor_new, with that world behind the door. Failure: likewise; and a world
 * that has come to its end while somebody waits without end (-EDEADLK). */
#include "kernel/probe.h"
#include "kernel/sim/world.h"
#include "roof/reactor.h"

int kr_sim_reactor(struct kr_sim *sim, struct kr_reactor **ret, const struct kr_config *config) {
    if (!sim || !ret)
        return -EINVAL;
    return kr__reactor_new(ret, config, NULL, &sim->door, KR__CAPS_ALL);
}

int kr_sim_run_until(struct kr_sim *sim, struct kr_reactor *r, bool (*done)(void *arg), void *arg,
                     int64_t max_ns) {
    if (!sim || !r || max_ns < 0)
        return -EINVAL;
    int64_t until = kr__time_add(sim->now, max_ns);
    while (!done || !done(arg)) {
        if (sim->now >= until)
            return done ? -ETIMEDOUT : 0;
        int rc = kr_step(r, until - sim->now);
        if (rc < 0)
            return rc;
    }
    return 0;
}
