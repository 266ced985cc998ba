/* What passes: patterns, in spans, as far as each side has got. */
#include "random/random.h"

void stream_add(struct link *l, struct span span) {
    struct span *last = l->span_count ? &l->spans[l->span_count - 1] : NULL;
    if (!span.size && !span.grows)
        return;
    if (last && !last->grows && !span.grows && last->seed == span.seed &&
        last->from + last->size == span.from) {
        last->size += span.size;
        return;
    }
    CHECK_LT(l->span_count, SPANS);
    l->spans[l->span_count++] = span;
}

/* Beside bytes that are forwarded the program's own would come who knows where. */
bool stream_may_send(const struct link *l) {
    bool grows = l->span_count && l->spans[l->span_count - 1].grows;
    return !grows && l->span_count < SPANS - 2 && !l->stranger;
}

void stream_next(struct link *l, void *data, size_t size) {
    test_pattern(data, size, l->out_seed, l->out_at);
}

void stream_sent(struct link *l, size_t size) {
    stream_add(l, (struct span){.seed = l->out_seed, .from = l->out_at, .size = size});
    l->out_at += size;
}

void stream_forward(struct link *from, struct link *to) {
    stream_add(to, (struct span){.seed = from->in_seed, .from = from->in_taken, .grows = true});
}

static void span_pop(struct link *l) {
    l->span_count--;
    memmove(l->spans, l->spans + 1, l->span_count * sizeof *l->spans);
    l->span_got = 0;
}

void stream_forwarded(struct link *from, struct link *to, uint64_t moved) {
    struct span *last = &to->spans[to->span_count - 1];
    CHECK(to->span_count && last->grows);
    last->grows = false;
    last->size = moved;
    from->in_taken += moved;
    CHECK_LE(from->in_taken, from->in_sent);
    if (from->in_shown < from->in_taken)
        from->in_shown = from->in_taken;
    if (to->span_count == 1) {
        CHECK_LE(to->span_got, moved);
        if (to->span_got == moved)
            span_pop(to);
    } else if (moved == 0) {
        to->span_count--;
    }
}

void stream_shown(struct link *l, const void *data, size_t size) {
    trace(l->w, "link %u: shown %zu at %llu, of %llu", l->index, size,
          (unsigned long long)l->in_taken, (unsigned long long)l->in_sent);
    CHECK_LE(l->in_taken + size, l->in_sent);
    test_pattern_check(data, size, l->in_seed, l->in_taken);
    l->in_shown = l->in_taken + size;
}

void stream_received(struct link *l, const void *data, size_t size) {
    const char *at = data;
    while (size) {
        CHECK(l->span_count); /* bytes that nobody sent */
        const struct span *s = &l->spans[0];
        uint64_t left = s->grows ? UINT64_MAX : s->size - l->span_got;
        size_t part = size < left ? size : (size_t)left;
        test_pattern_check(at, part, s->seed, s->from + l->span_got);
        at += part;
        size -= part;
        l->span_got += part;
        if (!s->grows && l->span_got == s->size)
            span_pop(l);
    }
}

void stream_check_whole(const struct link *l) {
    if (l->got_end && l->delivered && l->span_count)
        FAIL("link %u: %u spans are lost, the first of %llu, %llu received", l->index, l->span_count,
             (unsigned long long)l->spans[0].size, (unsigned long long)l->span_got);
}
