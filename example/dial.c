/* Says a line and prints the answer: `dial ADDRESS TEXT`, where ADDRESS is "127.0.0.1:80",
 * "[::1]:80", "unix:/run/socket" or "unix:@name". It ends its side behind the line, and ends when
 * the peer has. */
#include <kreactor.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)r;
    (void)conn;
    (void)user;
    return fwrite(data, 1, size, stdout);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    (void)conn;
    if (error < 0)
        fprintf(stderr, "dial: %s (%s)\n", kr_errname(error), kr_whyname(why));
    *(int *)user = error;
    kr_stop(r);
}

static const struct kr_conn_ops caller = {.on_data = on_data, .on_close = on_close};

/* All of it may be said before the connection stands. */
static int dial(struct kr_reactor *r, const char *where, const char *text, int *error) {
    struct kr_addr addr;
    kr_conn conn;
    int rc = kr_addr_parse(&addr, where);
    if (rc == 0)
        rc = kr_connect(r, &conn, &addr, NULL, &caller, error);
    if (rc == 0)
        rc = kr_conn_sendv(r, conn, (struct iovec[]){{(char *)text, strlen(text)}, {"\n", 1}}, 2);
    return rc < 0 ? rc : kr_conn_shutdown(r, conn);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s ADDRESS TEXT\n", argv[0]);
        return EXIT_FAILURE;
    }
    struct kr_reactor *r;
    struct kr_failure why;
    if (kr_reactor_new(&r, NULL, &why) < 0) {
        fprintf(stderr, "dial: %s: %s; %s\n", why.tried, why.cause, why.remedy);
        return EXIT_FAILURE;
    }
    int error = 0;
    int rc = dial(r, argv[1], argv[2], &error);
    if (rc < 0)
        fprintf(stderr, "dial: %s\n", kr_errname(rc));
    else
        rc = kr_run(r);
    kr_reactor_free(r);
    return rc < 0 || error < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
