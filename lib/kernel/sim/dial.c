/* Connecting, and who answers.
 *
 * Happy path: the SYN arrives after its while, and both ends know each other. Failure: what was
 * said of the port, or a fault: refused, no answer, no way. A backlog that is full drops the SYN,
 * which is sent again (net/ipv4/tcp_input.c).
 *
 * Facts: a socket goes through SS_UNCONNECTED, SS_CONNECTING and SS_CONNECTED by its own calls of
 * connect only, whatever TCP does meanwhile: the first call after the handshake is told 0, the next
 * -EISCONN, one during it -EALREADY; a failure is told once and leaves a socket that may connect
 * anew (__inet_stream_connect, net/ipv4/af_inet.c). A SYN is given up after 131 s (tcp_syn_retries
 * and tcp_syn_linear_timeouts, Documentation/networking/ip-sysctl.rst; 127 s before kernel 6.5). */
#include "kernel/sim/peer.h"
#include "kernel/sim/remote.h"
#include "kernel/sim/request.h"
#include "kernel/sim/stream.h"

#define SECOND INT64_C(1000000000)
#define PATIENCE (131 * SECOND)
#define AFTER_NS 50000 /* where nothing was said of the port */

int kr__sim_socket(struct kr_sim *sim, int family) {
    if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
        return -EAFNOSUPPORT;
    struct kr__sim_file *file = kr__sim_file_new(sim, KR__SIM_STREAM);
    file->stream.local = family == AF_UNIX;
    file->stream.window = sim->window;
    file->stream.here.u.sa.sa_family = (sa_family_t)family;
    file->stream.here.size = family == AF_UNIX ? sizeof(sa_family_t) : 0; /* as yet */
    return kr__sim_fd_new(sim, file);
}

/* ---- the SYN arrives ---- */

static void joined(struct kr__sim_file *file, struct kr__sim_file *far, struct kr__list *queue) {
    kr__sim_stream_meet(file, far);
    kr__list_push(queue, &far->in_backlog);
    kr__sim_note(file->sim, "joined", kr_addr_port(&file->stream.there), 0, 0);
    kr__sim_wake(file, KR__SIM_CHANGED);
}

static void arrive(struct kr_sim *sim, void *arg);

/* Nobody answers, or the SYN was dropped: it is sent again, until patience ends. */
static void try_again(struct kr__sim_file *file, int64_t in_ns) {
    struct kr__sim_stream *s = &file->stream;
    if (file->sim->now >= s->called + PATIENCE)
        kr__sim_stream_die(file, ETIMEDOUT);
    else
        s->call = kr__sim_event_new(file->sim, in_ns, arrive, file);
}

/* At a listener of this very world. */
static void arrive_here(struct kr__sim_file *file) {
    struct kr__sim_file *listener = NULL;
    int rc = kr__sim_listener_choose(file->sim, &file->stream.there, &listener);
    if (rc == -EAGAIN) {
        try_again(file, SECOND);
    } else if (rc < 0) {
        kr__sim_stream_die(file, ECONNREFUSED);
    } else {
        joined(file, kr__sim_stream_far(file), &listener->listener.queue);
        file->stream.other->inlines = listener->inlines;
        listener->listener.queued++;
        kr__sim_wake(listener, KR__SIM_READABLE);
    }
}

static void arrive(struct kr_sim *sim, void *arg) {
    struct kr__sim_file *file = arg;
    struct kr__sim_stream *s = &file->stream;
    s->call = NULL;
    struct kr__sim_remote *remote = kr__sim_remote_find(sim, &s->there);
    if (s->fate < 0 && !remote) {
        arrive_here(file);
        return;
    }
    switch (s->fate >= 0 ? s->fate : (int)remote->answer) {
    case KR_SIM_ACCEPTS:
        joined(file, kr__sim_stream_far(file), &remote->queue);
        break;
    case KR_SIM_REFUSES:
        kr__sim_stream_die(file, ECONNREFUSED);
        break;
    case KR_SIM_IGNORES:
        try_again(file, s->called + PATIENCE - sim->now);
        break;
    default:
        kr__sim_stream_die(file, EHOSTUNREACH);
    }
}

/* ---- the call ---- */

/* What a fault makes of the call, an enum kr_sim_answer; -1: what was said of the port. */
static int fate_of(struct kr_sim *sim) {
    if (kr__sim_chance(sim, KR_SIM_CONNECT_REFUSED))
        return KR_SIM_REFUSES;
    if (kr__sim_chance(sim, KR_SIM_CONNECT_IGNORED))
        return KR_SIM_IGNORES;
    if (kr__sim_chance(sim, KR_SIM_CONNECT_UNREACHABLE))
        return kr_sim_random(sim, 2) ? KR_SIM_NO_HOST : KR_SIM_NO_NET;
    return -1;
}

/* tcp_v4_connect and tcp_v6_connect, net/ipv4/tcp_ipv4.c and net/ipv6/tcp_ipv6.c. */
static int address_take(struct kr__sim_stream *s, const struct sockaddr *to, size_t size) {
    int family = s->here.u.sa.sa_family;
    size_t least = family == AF_INET ? sizeof(struct sockaddr_in) : 24 /* SIN6_LEN_RFC2133 */;
    if (size < least)
        return -EINVAL;
    if (to->sa_family != family)
        return -EAFNOSUPPORT;
    s->there =
        (struct kr_addr){.size = family == AF_INET ? sizeof s->there.u.in : sizeof s->there.u.in6};
    memcpy(&s->there.u, to, kr__min_size(size, s->there.size));
    return 0;
}

static void source_take(struct kr_sim *sim, struct kr__sim_stream *s) {
    if (s->here.size)
        return;
    s->here = s->there; /* of one host */
    s->here.u.in.sin_port = htons(++sim->next_port);
}

/* Even loopback's answer, which comes before the call returns, is not looked at by it: the socket
 * is locked meanwhile (__inet_stream_connect). */
static int call(struct kr__sim_file *file, const struct sockaddr *to, size_t size) {
    struct kr_sim *sim = file->sim;
    struct kr__sim_stream *s = &file->stream;
    int rc = address_take(s, to, size);
    if (rc < 0)
        return rc;
    s->fate = fate_of(sim);
    const struct kr__sim_remote *remote = kr__sim_remote_find(sim, &s->there);
    if (s->fate == KR_SIM_NO_NET || (s->fate < 0 && remote && remote->answer == KR_SIM_NO_NET))
        return -ENETUNREACH;
    source_take(sim, s);
    s->phase = s->told = KR__SIM_CALLING;
    s->error = 0; /* tcp_connect_init, net/ipv4/tcp_output.c */
    s->called = sim->now;
    kr__sim_note(sim, "call", kr_addr_port(&s->there), (uint64_t)(int64_t)s->fate, 0);
    if (remote && !remote->after_ns)
        arrive(sim, file);
    else
        s->call = kr__sim_event_new(sim, remote ? remote->after_ns : AFTER_NS, arrive, file);
    return -EINPROGRESS;
}

/* The call has failed, which is told once. */
static int failed(struct kr__sim_file *file) {
    struct kr__sim_stream *s = &file->stream;
    int error = s->error ? s->error : ECONNABORTED;
    kr__sim_stream_disconnect(file);
    return -error;
}

/* ---- Unix sockets ---- */

/* The queue that the far end is put into, or -errno. */
static int door_find(struct kr_sim *sim, struct kr__sim_stream *s, struct kr__list **queue,
                     struct kr__sim_file **listener) {
    const int refusals[] = {
        [KR_SIM_REFUSES] = -ECONNREFUSED,
        [KR_SIM_IGNORES] = -EAGAIN,
        [KR_SIM_NO_HOST] = -ENOENT,
        [KR_SIM_NO_NET] = -ENOENT,
    };
    struct kr__sim_remote *remote = kr__sim_remote_find(sim, &s->there);
    int answer = s->fate >= 0 ? s->fate : remote ? (int)remote->answer : -1;
    if (answer >= 0 && answer != KR_SIM_ACCEPTS)
        return refusals[answer];
    if (remote) {
        *queue = &remote->queue;
        return 0;
    }
    int rc = kr__sim_listener_choose(sim, &s->there, listener);
    *queue = rc < 0 ? NULL : &(*listener)->listener.queue;
    return rc;
}

/* unix_stream_connect, net/unix/af_unix.c: it is done at once, or not at all. */
static int dial_local(struct kr__sim_file *file, const struct sockaddr *to, size_t size) {
    struct kr__sim_stream *s = &file->stream;
    bool good = size > sizeof to->sa_family && size <= sizeof s->there.u.un;
    if (!good || to->sa_family != AF_UNIX)
        return -EINVAL;
    struct kr_addr before = s->there;
    s->there = (struct kr_addr){.size = (socklen_t)size};
    memcpy(&s->there.u, to, size);
    s->fate = fate_of(file->sim);
    struct kr__list *queue = NULL;
    struct kr__sim_file *listener = NULL;
    int rc = door_find(file->sim, s, &queue, &listener);
    if (rc == 0 && s->phase == KR__SIM_JOINED)
        rc = -EISCONN;
    if (rc < 0) {
        s->there = before;
        return rc;
    }
    s->told = KR__SIM_JOINED;
    joined(file, kr__sim_stream_far(file), queue);
    if (listener) {
        file->stream.other->refuses = listener->refuses;
        s->other->inlines = listener->inlines;
        listener->listener.queued++;
        kr__sim_wake(listener, KR__SIM_READABLE);
    }
    return 0;
}

int kr__sim_dial(struct kr__sim_file *file, const struct sockaddr *to, size_t size) {
    struct kr__sim_stream *s = &file->stream;
    if (s->local)
        return dial_local(file, to, size);
    if (size < sizeof to->sa_family)
        return -EINVAL;
    if (to->sa_family == AF_UNSPEC) {
        kr__sim_stream_disconnect(file);
        return 0;
    }
    if (s->told == KR__SIM_JOINED)
        return -EISCONN;
    if (s->told == KR__SIM_FRESH)
        return call(file, to, size);
    if (s->dead)
        return failed(file);
    if (s->phase == KR__SIM_CALLING)
        return -EALREADY;
    s->told = KR__SIM_JOINED;
    return 0;
}
