/* An end of a Unix stream, as net/unix/af_unix.c has it.
 *
 * Facts: there is no FIN and no RST. An end that closes shuts the other one both ways, and if it
 * leaves bytes unread the other is told -ECONNRESET once, behind what has come (unix_release_sock);
 * a shutdown shuts this end one way and the other end the other way (unix_shutdown), and may be
 * done at any time. What was sent before stays to be read. A send to an end that takes no more is
 * -EPIPE. Who is not connected is told -ENOTCONN by a send and -EINVAL by a receive.
 *
 * Files go with the first byte of what they were sent with; who receives that byte has them, and
 * receives nothing of what was sent after (unix_stream_read_generic). A receive without room for
 * them closes them. An end may refuse them (SO_PASSRIGHTS, since 6.16), as one has it that came to
 * be from a listener that does: who sends any is told -EPERM, and nothing is sent. */
#include "kernel/sim/request.h"
#include "kernel/sim/stream.h"

static bool is_deaf(const struct kr__sim_stream *s) {
    return !s->other || s->other->stream.shut_in;
}

static bool is_writable(const struct kr__sim_stream *s) {
    if (s->phase == KR__SIM_FRESH || s->fin_out || s->error || is_deaf(s))
        return true;
    return kr__sim_stream_room(s);
}

/* unix_poll. */
unsigned kr__sim_local_poll(const struct kr__sim_stream *s) {
    unsigned mask = s->error ? POLLERR : 0;
    if (s->phase == KR__SIM_FRESH || (s->shut_in && s->fin_out))
        mask |= POLLHUP;
    if (s->shut_in)
        mask |= POLLIN | POLLRDNORM | POLLRDHUP;
    if (s->size) /* even if that is only the urgent byte, which a receive skips */
        mask |= POLLIN | POLLRDNORM;
    if (s->urgent)
        mask |= POLLPRI;
    return is_writable(s) ? mask | POLLOUT | POLLWRNORM | POLLWRBAND : mask;
}

static int64_t take(struct kr__sim_file *file, char *data, size_t size, struct kr__sim_gift **ret) {
    struct kr__sim_stream *s = &file->stream;
    size = kr__sim_stream_pass(file, size); /* what is skipped is nothing that files came with */
    struct kr__sim_gift *gift = kr__container_of(s->gifts.head.next, struct kr__sim_gift, link);
    if (kr__list_empty(&s->gifts))
        return (int64_t)kr__sim_stream_take(file, data, size);
    size_t got = kr__sim_stream_take(file, data, kr__min_size(size, gift->end - s->taken));
    if (s->taken > gift->at) {
        kr__link_off(&gift->link);
        *ret = gift;
    }
    return (int64_t)got;
}

int64_t kr__sim_local_recv(struct kr__sim_file *file, char *data, size_t size,
                           struct kr__sim_gift **gift) {
    struct kr__sim_stream *s = &file->stream;
    if (s->phase == KR__SIM_FRESH)
        return -EINVAL;
    int64_t got = s->size ? take(file, data, size, gift) : 0;
    if (got || s->size)
        return got;
    if (s->error)
        return -kr__sim_stream_error(s);
    return s->shut_in ? 0 : -EAGAIN;
}

/* unix_stream_sendmsg. */
int64_t kr__sim_local_send(struct kr__sim_file *file, const char *data, size_t size,
                           struct kr__sim_gift *gift) {
    struct kr__sim_stream *s = &file->stream;
    if (s->phase == KR__SIM_FRESH)
        return -ENOTCONN;
    if (s->fin_out)
        return -EPIPE;
    if (!size)
        return 0;
    if (s->error)
        return -kr__sim_stream_error(s);
    if (is_deaf(s))
        return -EPIPE;
    size = kr__min_size(size, kr__sim_stream_room(s));
    if (!size)
        return -EAGAIN;
    if (gift && s->other->refuses)
        return -EPERM;
    struct kr__sim_stream *far = &s->other->stream;
    if (gift) {
        gift->at = far->taken + far->size;
        gift->end = gift->at + size;
        kr__list_push(&far->gifts, &gift->link);
    }
    kr__sim_stream_give(s->other, data, size);
    return (int64_t)size;
}

static void shut(struct kr__sim_file *file, bool in, bool out) {
    file->stream.shut_in |= in;
    file->stream.fin_out |= out;
    kr__sim_wake(file, KR__SIM_CHANGED);
}

int kr__sim_local_shutdown(struct kr__sim_file *file, int how) {
    bool in = how != SHUT_WR, out = how != SHUT_RD;
    shut(file, in, out);
    if (file->stream.other)
        shut(file->stream.other, out, in);
    return 0;
}

void kr__sim_local_close(struct kr__sim_file *file) {
    struct kr__sim_file *other = file->stream.other;
    if (!other)
        return;
    if (file->stream.size)
        other->stream.error = ECONNRESET;
    shut(other, true, true);
}
