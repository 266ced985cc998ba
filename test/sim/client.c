/* The clients of the storm: each connects, sends its stream in pieces, reads back what comes, and
 * knows what that must be. A rude one goes early, closing or resetting; the others end their
 * sending and read to the end of the stream. */
#include "kernel/sim/peer.h"
#include "sim/storm.h"

#include <errno.h>

#define MS INT64_C(1000000)
#define PIECE_MAX 8192u
#define REST_MAX (200 * MS)
#define PATIENCE 200 /* acts of a client in which nothing moved on: a wedge */
#define PATIENT_REST (1000 * MS)

unsigned char stream_byte(uint32_t id, uint64_t at) {
    if (at < 4)
        return (unsigned char)(id >> 8 * at);
    uint64_t z = (id * UINT64_C(0x9e3779b97f4a7c15)) ^ (at * UINT64_C(0xbf58476d1ce4e5b9));
    return (unsigned char)((z ^ (z >> 29)) * UINT64_C(0x94d049bb133111eb) >> 56);
}

/* The session that served it, if its first bytes were ever consumed. */
static const struct session *session_of(const struct client *c) {
    for (unsigned i = 0; i < c->storm->session_count; i++) {
        const struct session *x = &c->storm->sessions[i];
        if (x->consumed >= 4 && x->id == c->id)
            return x;
    }
    return NULL;
}

static void over(struct client *c, bool reset) {
    int rc = reset ? kr_sim_reset(c->storm->sim, c->peer) : kr_sim_close(c->storm->sim, c->peer);
    MUST(rc == 0);
    c->over = true;
    c->storm->over++;
}

/* Whether the network itself has cut it off, of which the server need not know yet. */
static bool network_cut(const struct client *c) {
    const struct kr_sim *sim = c->storm->sim;
    return c->failed &&
           (kr_sim_fault_hits(sim, KR_SIM_NET_TIMEOUT) || kr_sim_fault_hits(sim, KR_SIM_NET_RESET));
}

static void ended(struct client *c, int error) {
    if (error)
        mark(c->storm, MARK_peer_reset);
    c->failed |= error != 0;
    over(c, false);
}

/* A client that went on to the end has all that it sent, unless the server, or the world, cut it
 * off. */
static void client_check(const struct client *c) {
    const struct session *served = session_of(c);
    if (c->storm->scenario->proxy || c->got == c->total || c->rude || !served || served->cut ||
        network_cut(c))
        return;
    storm_fail(__FILE__, __LINE__, "client %u got %llu of %llu bytes, and nobody cut it off", c->id,
               (unsigned long long)c->got, (unsigned long long)c->total);
}

void clients_check(const struct storm *s) {
    for (unsigned i = 0; i < s->client_count; i++)
        client_check(&s->clients[i]);
}

/* Whose stream it gets, when at least the first four bytes are there. */
static const struct client *source_of(const struct client *c) {
    for (unsigned i = 0; i < c->storm->client_count; i++) {
        if (c->storm->clients[i].id == c->from)
            return &c->storm->clients[i];
    }
    storm_fail(__FILE__, __LINE__, "client %u got the stream of %u, whom nobody knows", c->id,
               c->from);
}

/* An end without an error is that of the whole stream, unless somebody cut it. */
static void check_whole(const struct client *c) {
    if (!c->storm->scenario->proxy || c->got < 4 || c->storm->closed_any || c->storm->ending)
        return;
    const struct client *from = source_of(c);
    if (c->failed || from->rude || from->failed || network_cut(c) || network_cut(from) ||
        c->got == from->total)
        return;
    storm_fail(__FILE__, __LINE__, "client %u got %llu of %llu bytes of %u, and nobody cut it off",
               c->id, (unsigned long long)c->got, (unsigned long long)from->total, from->id);
}

/* What comes back is its own file. */
static int64_t receive(struct client *c, unsigned char *piece, size_t size) {
    struct kr_sim *sim = c->storm->sim;
    if (c->file < 0 || likely(c->storm, 200))
        return kr_sim_recv(sim, c->peer, piece, size);
    int fds[GIFT_MAX];
    unsigned count;
    int64_t got = kr_sim_recv_fds(sim, c->peer, piece, size, fds, GIFT_MAX, &count);
    for (unsigned i = 0; i < count; i++) {
        mark(c->storm, MARK_fds_back);
        MUST(kr_sim_fd_same(sim, fds[i], c->file));
        MUST_NOT_FAIL(kr_sim_fd_close(sim, fds[i]));
    }
    return got;
}

static int64_t deliver(struct client *c, const unsigned char *piece, size_t size) {
    struct storm *s = c->storm;
    if (!likely(s, s->scenario->fds))
        return kr_sim_send(s->sim, c->peer, piece, size);
    int fds[GIFT_MAX];
    for (unsigned i = 0; i < GIFT_MAX; i++)
        fds[i] = c->file;
    return kr_sim_send_fds(s->sim, c->peer, piece, size, fds, 1 + (unsigned)below(s, GIFT_MAX));
}

static bool take(struct client *c) {
    unsigned char piece[PIECE_MAX];
    size_t most = c->storm->scenario->slow ? 512 : sizeof piece;
    int64_t got = receive(c, piece, some(c->storm, most));
    if (got == -EAGAIN)
        return false;
    if (got <= 0) {
        MUST(got == 0 || got == -ECONNRESET || got == -ETIMEDOUT || got == -EPIPE);
        if (got == 0)
            check_whole(c);
        c->heard = got == 0 && c->storm->scenario->proxy && !c->shut;
        if (!c->heard)
            ended(c, (int)got);
        return true;
    }
    for (int64_t i = 0; i < got; i++, c->got++) {
        if (c->storm->scenario->proxy && c->got < 4)
            c->from |= (uint32_t)piece[i] << 8 * c->got;
        else if (piece[i] != stream_byte(c->from, c->got))
            storm_fail(__FILE__, __LINE__, "client %u: byte %llu is wrong", c->id,
                       (unsigned long long)c->got);
    }
    MUST(c->got < 4 || c->got <= source_of(c)->sent);
    return true;
}

/* An urgent byte is the next one of the stream where the server's socket takes it for that. Else it
 * comes beside the stream, one at a time: of two unread ones the older would be in it. */
static bool urge(struct client *c) {
    struct kr_sim *sim = c->storm->sim;
    const struct kr__sim_file *at = kr__sim_peer_find(sim, c->peer)->file->stream.other;
    if (!at || c->sent >= c->total || (!at->inlines && at->stream.urgent))
        return false;
    int64_t sent = kr_sim_urge(sim, c->peer, stream_byte(c->id, c->sent));
    if (sent != 1)
        return false;
    mark(c->storm, MARK_urged);
    c->sent += at->inlines;
    return true;
}

static bool give(struct client *c) {
    if (c->shut)
        return false;
    if (likely(c->storm, c->storm->scenario->urgent) && urge(c))
        return true;
    if (c->sent == c->total) {
        MUST_NOT_FAIL(kr_sim_shutdown(c->storm->sim, c->peer));
        c->shut = true;
        return true;
    }
    unsigned char piece[PIECE_MAX];
    uint64_t left = c->total - c->sent;
    size_t size = some(c->storm, left < sizeof piece ? left : sizeof piece);
    for (size_t i = 0; i < size; i++)
        piece[i] = stream_byte(c->id, c->sent + i);
    int64_t sent = deliver(c, piece, size);
    if (sent == -EPERM) /* it is being closed, and refuses descriptors */
        return false;
    if (sent < 0) {
        MUST(sent == -EAGAIN || sent == -EPIPE || sent == -ECONNRESET || sent == -ETIMEDOUT);
        c->shut = c->failed = sent != -EAGAIN;
        return c->shut;
    }
    c->sent += (uint64_t)sent;
    return sent > 0;
}

static void act(struct kr_sim *sim, void *arg);

static void act_later(struct client *c) {
    struct storm *s = c->storm;
    int64_t rest = (int64_t)some(s, (uint64_t)(likely(s, s->scenario->lazy) ? REST_MAX : MS));
    if (c->idle_acts > 20)
        rest = PATIENT_REST;
    MUST_NOT_FAIL(kr_sim_at(s->sim, rest, act, c));
}

static void begin(struct client *c) {
    struct storm *s = c->storm;
    struct kr_addr addr = storm_address(c->local);
    int rc = kr_sim_connect_to(s->sim, &c->peer, &addr);
    MUST(rc == 0 || rc == -EAGAIN || rc == -ECONNREFUSED);
    if (rc < 0)
        return;
    c->connected = true;
    size_t window = 100 + some(s, s->scenario->slow ? 4096 : 65536);
    MUST_NOT_FAIL(kr_sim_window(s->sim, c->peer, window, 100 + some(s, 65536)));
}

static bool move(struct client *c) {
    if (c->rude && c->sent >= c->quits_at) {
        over(c, likely(c->storm, 512));
        return true;
    }
    bool moved = false;
    if (likely(c->storm, 768))
        moved = give(c);
    if (c->heard && c->shut) {
        ended(c, 0);
        return true;
    }
    if (!c->over && !c->heard && likely(c->storm, c->storm->scenario->slow ? 300 : 768))
        moved |= take(c);
    return moved;
}

/* A client may wait for a place while the server reads what one that is over has left: 2 bytes a
 * turn where a buffer has 2 bytes, and the clock may leap in every turn. Bytes that the server
 * receives are therefore progress too. What clients send is limited, so a wedge is still found.
 * idle_acts does not count them: clients rest by it, and seeds would be other runs. */
static void check_wedge(struct client *c) {
    uint64_t progress = c->storm->moves + c->storm->before.bytes_in;
    c->vain_acts = progress != c->seen_progress ? 0 : c->vain_acts + 1;
    c->seen_progress = progress;
    if (c->vain_acts > PATIENCE)
        storm_fail(
            __FILE__, __LINE__,
            "a wedge: nothing moves, client %u waits since %u acts, sent %llu got %llu of %llu",
            c->id, c->vain_acts, (unsigned long long)c->sent, (unsigned long long)c->got,
            (unsigned long long)c->total);
}

static void act(struct kr_sim *sim, void *arg) {
    (void)sim;
    struct client *c = arg;
    bool moved = false;
    if (c->connected)
        moved = move(c);
    else
        begin(c);
    c->storm->moves += moved;
    c->idle_acts = c->storm->moves != c->seen_moves ? 0 : c->idle_acts + 1;
    c->seen_moves = c->storm->moves;
    check_wedge(c);
    if (!c->over)
        act_later(c);
}

/* In scenarios with messages a stream is a whole number of them: see server.c. */
static void client_make(struct storm *s, struct client *c, uint32_t id) {
    *c = (struct client){.storm = s, .id = id, .total = 4 + some(s, s->scenario->bytes)};
    c->from = s->scenario->proxy ? 0 : id;
    c->rude = likely(s, s->scenario->rude);
    c->local = all_local(s) || (some_local(s) && likely(s, s->scenario->local));
    c->quits_at = below(s, c->total + 1);
    c->file = -1;
    if (s->scenario->fds)
        c->file = kr_sim_file(s->sim, "file", 4);
}

/* What was sent to those who are still there, and not received, holds files too. */
void clients_end(struct storm *s) {
    for (unsigned i = 0; i < s->client_count; i++) {
        struct client *c = &s->clients[i];
        if (c->file < 0)
            continue;
        MUST_NOT_FAIL(kr_sim_fd_close(s->sim, c->file));
        if (c->connected && !c->over)
            MUST_NOT_FAIL(kr_sim_close(s->sim, c->peer));
    }
}

void clients_start(struct storm *s) {
    s->client_count = (unsigned)some(s, s->scenario->clients);
    bool burst = likely(s, 300);
    for (unsigned i = 0; i < s->client_count; i++) {
        client_make(s, &s->clients[i], (uint32_t)(i + 1 + (below(s, 1u << 20) << 8)));
        int64_t when = burst ? 0 : (int64_t)some(s, (uint64_t)(50 * MS));
        MUST_NOT_FAIL(kr_sim_at(s->sim, when, act, &s->clients[i]));
    }
}
