/* kreactor: an event-loop reactor on io_uring that daemons embed.
 *
 * This header includes all other headers but kreactor/sim.h, which is for tests. Each header can be
 * included alone. */
#ifndef KREACTOR_H
#define KREACTOR_H

#include <kreactor/addr.h>
#include <kreactor/conn.h>
#include <kreactor/connect.h>
#include <kreactor/detach.h>
#include <kreactor/drain.h>
#include <kreactor/dump.h>
#include <kreactor/forward.h>
#include <kreactor/lease.h>
#include <kreactor/listener.h>
#include <kreactor/post.h>
#include <kreactor/reactor.h>
#include <kreactor/sendfile.h>
#include <kreactor/sockopt.h>
#include <kreactor/stats.h>
#include <kreactor/timer.h>
#include <kreactor/types.h>
#include <kreactor/version.h>

#endif
