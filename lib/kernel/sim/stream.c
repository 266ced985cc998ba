/* TCP as far as a program can tell.
 *
 * Facts: what came before RST is read first, then -ECONNRESET, told once (observed on 6.18); after
 * FIN a RST is -EPIPE to sends and the plain end to receives (tcp_reset and tcp_fin,
 * net/ipv4/tcp_input.c: sk_err is EPIPE in CLOSE_WAIT, and SOCK_DONE lets receives see the end
 * only); close with unread bytes sends RST, not FIN (tcp_close, net/ipv4/tcp.c); who sends to an
 * end that is closed is answered RST, and so is who sends to one that is shut both ways, which is
 * told the same (tcp_rcv_state_process). */
#include "kernel/sim/stream.h"

#include "kernel/sim/request.h"

/* What goes to an end that nobody holds any more before its RST comes back. */
#define BLIND_WINDOW 65536u

static struct kr__sim_file *end_new(struct kr_sim *sim, const struct kr_addr *here,
                                    const struct kr_addr *there) {
    struct kr__sim_file *file = kr__sim_file_new(sim, KR__SIM_STREAM);
    file->stream.window = sim->window;
    file->stream.here = *here;
    file->stream.there = *there;
    file->stream.local = here->u.sa.sa_family == AF_UNIX;
    return file;
}

void kr__sim_stream_meet(struct kr__sim_file *file, struct kr__sim_file *far) {
    file->stream.phase = KR__SIM_JOINED;
    far->stream.phase = far->stream.told = KR__SIM_JOINED;
    file->stream.other = far;
    far->stream.other = file;
}

void kr__sim_stream_pair(struct kr_sim *sim, struct kr__sim_file *ends[2],
                         const struct kr_addr addrs[2]) {
    ends[0] = end_new(sim, &addrs[0], &addrs[1]);
    ends[1] = end_new(sim, &addrs[1], &addrs[0]);
    kr__sim_stream_meet(ends[0], ends[1]);
    ends[0]->stream.told = KR__SIM_JOINED;
}

struct kr__sim_file *kr__sim_stream_far(const struct kr__sim_file *file) {
    return end_new(file->sim, &file->stream.there, &file->stream.here);
}

size_t kr__sim_stream_room(const struct kr__sim_stream *s) {
    if (s->phase == KR__SIM_CALLING)
        return 0;
    if (!s->other)
        return BLIND_WINDOW;
    const struct kr__sim_stream *far = &s->other->stream;
    return far->window > far->size ? far->window - far->size : 0;
}

static bool is_urgent_next(const struct kr__sim_stream *s) {
    return s->urgent && s->urgent_at == s->taken;
}

/* tcp_poll, net/ipv4/tcp.c. */
static unsigned tcp_poll(struct kr__sim_stream *s, bool inlines) {
    bool closed = s->dead || s->phase == KR__SIM_FRESH;
    bool in = s->fin_in || s->shut_in || s->dead, out = s->fin_out || s->dead;
    unsigned mask = s->error || s->noted ? POLLERR : 0;
    if (closed || (in && out))
        mask |= POLLHUP;
    if (in)
        mask |= POLLIN | POLLRDNORM | POLLRDHUP;
    if (s->phase == KR__SIM_CALLING && !s->dead)
        return mask;
    if (s->urgent)
        mask |= POLLPRI;
    if (s->size > (is_urgent_next(s) && !inlines))
        mask |= POLLIN | POLLRDNORM;
    if (closed || out || kr__sim_stream_room(s))
        return mask | POLLOUT | POLLWRNORM;
    s->full = true;
    return mask;
}

unsigned kr__sim_stream_poll(struct kr__sim_file *file) {
    struct kr__sim_stream *s = &file->stream;
    return s->local ? kr__sim_local_poll(s) : tcp_poll(s, file->inlines);
}

/* The far end has read. TCP tells only whoever has met a full window (tcp_check_space,
 * net/ipv4/tcp_input.c), Unix sockets tell of each piece that was sent (sock_wfree,
 * net/core/sock.c). */
static void room_wake(struct kr__sim_file *file) {
    struct kr__sim_stream *s = &file->stream;
    if ((!s->local && !s->full) || !kr__sim_stream_room(s))
        return;
    s->full = false;
    kr__sim_wake(file, KR__SIM_WRITABLE);
    if (s->local && kr_sim_random(file->sim, 2))
        kr__sim_wake(file, KR__SIM_WRITABLE);
}

int kr__sim_stream_error(struct kr__sim_stream *s) {
    int error = s->error;
    s->error = 0;
    return error;
}

/* Zero-copy sends whose bytes were read up to `taken` hear of it. */
static void held_release(struct kr__sim_stream *s, uint64_t taken) {
    struct kr__link *link;
    while ((link = s->held.head.next) != &s->held.head) {
        struct kr__sim_request *notif = kr__container_of(link, struct kr__sim_request, waiting);
        if (notif->until > taken)
            return;
        kr__sim_notif_release(notif);
    }
}

/* The urgent byte is no byte of the stream, unless it is asked to be. */
static void urgent_skip(struct kr__sim_stream *s) {
    s->urgent = false;
    s->skipped = true;
    s->at++;
    s->size--;
    s->taken++;
}

/* A receive ends before the urgent byte. It begins with it, or skips it (tcp_recvmsg_locked,
 * net/ipv4/tcp.c; manage_oob, net/unix/af_unix.c). */
size_t kr__sim_stream_pass(struct kr__sim_file *file, size_t size) {
    struct kr__sim_stream *s = &file->stream;
    if (is_urgent_next(s) && size) {
        if (!file->inlines)
            urgent_skip(s);
        s->urgent = false;
    }
    return s->urgent ? kr__min_size(size, s->urgent_at - s->taken) : size;
}

size_t kr__sim_stream_take(struct kr__sim_file *file, char *data, size_t size) {
    struct kr__sim_stream *s = &file->stream;
    size = kr__sim_stream_pass(file, size);
    size = kr__min_size(size, s->size);
    memcpy(data, s->bytes + s->at, size);
    s->at += size;
    s->size -= size;
    s->taken += size;
    held_release(s, s->taken);
    if (s->other)
        room_wake(s->other);
    return size;
}

int64_t kr__sim_stream_recv_files(struct kr__sim_file *file, char *data, size_t size,
                                  struct kr__sim_gift **gift) {
    struct kr__sim_stream *s = &file->stream;
    *gift = NULL;
    if (s->local)
        return kr__sim_local_recv(file, data, size, gift);
    size_t got = s->size ? kr__sim_stream_take(file, data, size) : 0;
    if (got || s->size)
        return (int64_t)got;
    if (s->fin_in)
        return 0;
    if (s->error)
        return -kr__sim_stream_error(s);
    if (s->dead || s->shut_in)
        return 0;
    return s->phase == KR__SIM_FRESH ? -ENOTCONN : -EAGAIN;
}

int64_t kr__sim_stream_recv(struct kr__sim_file *file, char *data, size_t size) {
    struct kr__sim_gift *gift;
    int64_t got = kr__sim_stream_recv_files(file, data, size, &gift);
    kr__sim_gift_free(gift);
    return got;
}

void kr__sim_stream_give(struct kr__sim_file *far, const char *data, size_t size) {
    struct kr__sim_stream *s = &far->stream;
    if (s->at + s->size + size > s->room) {
        size_t wanted = kr__max_size(2 * (s->size + size), 256);
        char *bytes = kr__sim_alloc(wanted);
        if (s->size)
            memcpy(bytes, s->bytes + s->at, s->size);
        free(s->bytes);
        s->bytes = bytes;
        s->room = wanted;
        s->at = 0;
    }
    memcpy(s->bytes + s->at + s->size, data, size);
    s->size += size;
    kr__sim_wake(far, KR__SIM_READABLE);
}

void kr__sim_stream_die(struct kr__sim_file *file, int error) {
    struct kr__sim_stream *s = &file->stream;
    if (s->dead || s->phase == KR__SIM_FRESH)
        return;
    s->dead = true;
    if (s->call)
        kr__sim_event_drop(file->sim, s->call);
    s->call = NULL;
    held_release(s, UINT64_MAX);
    s->error = s->fin_in && error == ECONNRESET ? EPIPE : error;
    kr__sim_wake(file, KR__SIM_CHANGED);
}

int64_t kr__sim_stream_send_files(struct kr__sim_file *file, const char *data, size_t size,
                                  struct kr__sim_gift *gift) {
    if (file->stream.local)
        return kr__sim_local_send(file, data, size, gift);
    /* TCP takes them for granted (__sock_cmsg_send) */
    int64_t sent = kr__sim_stream_send(file, data, size);
    if (sent > 0)
        kr__sim_gift_free(gift);
    return sent;
}

int64_t kr__sim_stream_send(struct kr__sim_file *file, const char *data, size_t size) {
    struct kr__sim_stream *s = &file->stream;
    if (s->local)
        return kr__sim_local_send(file, data, size, NULL);
    if (s->error)
        return -kr__sim_stream_error(s);
    if (s->dead || s->fin_out || s->phase == KR__SIM_FRESH)
        return -EPIPE;
    s->full |= size > kr__sim_stream_room(s);
    if (size && !kr__sim_stream_room(s))
        return -EAGAIN;
    size = kr__min_size(size, kr__sim_stream_room(s));
    if (!s->other) {
        kr__sim_stream_die(file, ECONNRESET);
        return (int64_t)size;
    }
    if (s->other->stream.shut_in && s->other->stream.fin_out) {
        kr__sim_stream_die(s->other, ECONNRESET);
        kr__sim_stream_die(file, ECONNRESET);
        return (int64_t)size;
    }
    kr__sim_stream_give(s->other, data, size);
    return (int64_t)size;
}

/* An older one that was not read becomes a byte like others, but at the front of TCP's, where it is
 * dropped (tcp_check_urg, net/ipv4/tcp_input.c). */
static void urgent_mark(struct kr__sim_file *file) {
    struct kr__sim_stream *s = &file->stream;
    if (!s->local && is_urgent_next(s) && !file->inlines)
        urgent_skip(s);
    s->urgent = true;
    s->urgent_at = s->taken + s->size;
}

int64_t kr__sim_stream_urge(struct kr__sim_file *file, char byte) {
    struct kr__sim_stream *s = &file->stream;
    bool arrives = s->other && kr__sim_stream_room(s) && !s->error && !s->fin_out && !s->dead &&
                   !s->other->stream.shut_in;
    if (arrives)
        urgent_mark(s->other);
    return kr__sim_stream_send(file, &byte, 1);
}

void kr__sim_stream_note(struct kr__sim_file *file) {
    file->stream.noted = true;
    kr__sim_wake(file, POLLERR);
}

static void fin_send(struct kr__sim_file *file) {
    struct kr__sim_stream *s = &file->stream;
    if (s->fin_out || s->dead)
        return;
    s->fin_out = true;
    if (!s->other)
        return;
    s->other->stream.fin_in = true;
    kr__sim_wake(s->other, KR__SIM_CHANGED);
}

/* inet_shutdown, net/ipv4/af_inet.c; a connection that is over both ways is in TCP_CLOSE. */
int kr__sim_stream_shutdown(struct kr__sim_file *file, int how) {
    struct kr__sim_stream *s = &file->stream;
    if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR)
        return -EINVAL;
    if (s->local)
        return kr__sim_local_shutdown(file, how);
    if (s->phase == KR__SIM_CALLING && !s->dead) {
        kr__sim_stream_disconnect(file);
        return 0;
    }
    bool over = s->phase == KR__SIM_FRESH || s->dead || (s->fin_in && s->fin_out);
    if (how != SHUT_WR)
        s->shut_in = true;
    if (how != SHUT_RD)
        fin_send(file);
    kr__sim_wake(file, KR__SIM_CHANGED);
    return over ? -ENOTCONN : 0;
}

void kr__sim_stream_reset(struct kr__sim_file *file) {
    struct kr__sim_stream *s = &file->stream;
    if (s->dead || s->local)
        return;
    s->size = 0;
    kr__sim_stream_die(file, 0);
    if (s->other)
        kr__sim_stream_die(s->other, ECONNRESET);
}

/* tcp_disconnect, net/ipv4/tcp.c: what was not read is gone. */
void kr__sim_stream_disconnect(struct kr__sim_file *file) {
    struct kr__sim_stream *s = &file->stream;
    bool was_open = s->phase != KR__SIM_FRESH && !s->dead;
    if (s->call)
        kr__sim_event_drop(file->sim, s->call);
    if (s->other) {
        kr__sim_stream_die(s->other, ECONNRESET);
        s->other->stream.other = NULL;
    }
    held_release(s, UINT64_MAX);
    free(s->bytes);
    *s = (struct kr__sim_stream){
        .window = s->window,
        .here = s->here,
        .taken = s->taken,
        .fate = -1,
        .error = was_open ? ECONNRESET : 0,
    };
    kr__list_init(&s->held);
    kr__list_init(&s->gifts);
    kr__sim_wake(file, KR__SIM_CHANGED);
}

void kr__sim_stream_cut(struct kr__sim_file *file, int error) {
    struct kr__sim_file *other = file->stream.other;
    kr__sim_stream_die(file, error);
    if (other)
        kr__sim_stream_die(other, error);
}

/* The network may end a connection at any time that somebody looks at it. */
void kr__sim_stream_weather(struct kr__sim_file *file) {
    if (file->stream.local)
        return;
    if (kr__sim_chance(file->sim, KR_SIM_NET_TIMEOUT))
        kr__sim_stream_cut(file, ETIMEDOUT);
    if (kr__sim_chance(file->sim, KR_SIM_NET_RESET))
        kr__sim_stream_cut(file, ECONNRESET);
}

void kr__sim_stream_close(struct kr__sim_file *file) {
    struct kr__sim_stream *s = &file->stream;
    struct kr__sim_file *other = s->other;
    if (s->call)
        kr__sim_event_drop(file->sim, s->call);
    if (s->local)
        kr__sim_local_close(file);
    else if ((s->size || (file->resets && !(s->fin_in && s->fin_out))) && !s->dead && s->other)
        kr__sim_stream_die(s->other, ECONNRESET);
    else
        fin_send(file);
    if (other) {
        other->stream.other = NULL;
        room_wake(other);
    }
    held_release(s, UINT64_MAX);
    free(s->bytes);
    while (!kr__list_empty(&s->gifts))
        kr__sim_gift_free(kr__container_of(s->gifts.head.next, struct kr__sim_gift, link));
}
