#include "harness/life.h"

#include <errno.h>
#include <stdlib.h>

struct house house;

void life_close(struct kr_reactor *r, struct life *life, enum kr_close how) {
    CHECK_OK(kr_conn_close(r, life->conn, how));
    life->closing = true;
    CHECK_ERR(kr_conn_send(r, life->conn, "x", 1), EPIPE);
    void *room;
    CHECK_ERR(kr_conn_reserve(r, life->conn, 1, &room), EPIPE);
    CHECK_ERR(kr_conn_pause(r, life->conn), EPIPE);
    CHECK_ERR(kr_conn_resume(r, life->conn), EPIPE);
}

void life_happens(struct kr_reactor *r, kr_conn conn, struct life *life, enum event event) {
    CHECK_EQ(conn.bits, life->conn.bits);
    CHECK_EQ(life->events[CLOSE], 0u);
    CHECK(event == CLOSE || !life->closing);
    CHECK(event == OPEN || life->events[OPEN] == 1);
    life->events[event]++;
    if (house.close_in != (int)event)
        return;
    if (house.close_others) {
        for (unsigned i = 0; i < house.count; i++) {
            struct life *other = &house.lives[i];
            if (other != life && !other->closing && !other->events[CLOSE])
                life_close(r, other, house.how);
        }
    } else if (event == CLOSE) {
        CHECK_OK(kr_conn_close(r, conn, house.how));
    } else {
        life_close(r, life, house.how);
    }
}

void house_open(struct kr_reactor *r, kr_conn conn, void *user) {
    CHECK(user == &house);
    CHECK_LT(house.count, LIVES);
    struct life *life = &house.lives[house.count++];
    *life = (struct life){.conn = conn};
    CHECK_OK(kr_conn_set_user(r, conn, life));
    if (house.greeting) {
        char *bytes = calloc(1, house.greeting);
        CHECK(bytes != NULL);
        test_pattern(bytes, house.greeting, 1, 0);
        CHECK_OK(kr_conn_send(r, conn, bytes, house.greeting));
        free(bytes);
    }
    life_happens(r, conn, life, OPEN);
}

size_t house_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    struct life *life = user;
    life->bytes += size;
    if (house.echo)
        CHECK_OK(kr_conn_send(r, conn, data, size));
    life_happens(r, conn, life, DATA);
    return size;
}

size_t house_keep_all(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    UNUSED(data, size);
    life_happens(r, conn, user, DATA);
    return 0;
}

void house_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    life_happens(r, conn, user, END);
}

static void house_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    life_happens(r, conn, user, DRAIN);
}

static void house_timeout(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which) {
    CHECK_EQ(which, KR_DEADLINE_IDLE);
    life_happens(r, conn, user, TIMEOUT);
}

void house_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct life *life = user;
    life_happens(r, conn, life, CLOSE);
    CHECK(kr_conn_user(r, conn) == user);
    CHECK_ERR(kr_conn_send(r, conn, "x", 1), EPIPE);
    life->error = error;
    life->why = why;
    house.closed++;
}

const struct kr_conn_ops house_ops = {
    .on_open = house_open,
    .on_data = house_data,
    .on_eof = house_eof,
    .on_writable = house_drain,
    .on_timeout = house_timeout,
    .on_close = house_close,
};

const struct kr_conn_ops house_plain_ops = {.on_open = house_open,
                                            .on_data = house_data,
                                            .on_writable = house_drain,
                                            .on_close = house_close};

void house_init(void) {
    house = (struct house){.close_in = EVENTS};
}

void life_check_closed(struct kr_reactor *r, unsigned i, int error, enum kr_why why) {
    struct life *life = &house.lives[i];
    TEST_UNTIL(r, life->events[CLOSE] > 0);
    CHECK_EQ(life->error, error);
    CHECK_EQ(life->why, why);
    CHECK_EQ(life->events[CLOSE], 1u);
    CHECK_ERR(kr_conn_send(r, life->conn, "x", 1), ESTALE);
    CHECK_ERR(kr_conn_close(r, life->conn, KR_CLOSE_RESET), ESTALE);
    CHECK_ERR(kr_conn_pause(r, life->conn), ESTALE);
    CHECK(kr_conn_user(r, life->conn) == NULL);
    CHECK_EQ(kr_conn_queued(r, life->conn), 0u);
}

int house_open_one(struct kr_reactor *r, uint16_t port) {
    unsigned before = house.count;
    int fd = test_connect(port);
    TEST_UNTIL(r, house.count == before + 1);
    return fd;
}

int house_open_stalled(struct kr_reactor *r, uint16_t port) {
    unsigned before = house.count;
    house.greeting = 8 << 20;
    int fd = test_connect_sized(port, 0, 4096);
    TEST_UNTIL(r, house.count == before + 1);
    house.greeting = 0;
    kr_conn conn = house.lives[before].conn;
    test_settle(r);
    CHECK_GT(kr_conn_queued(r, conn), 0u);
    return fd;
}
