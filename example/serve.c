/* Sends a file to whoever connects: `serve PORT PATH`. Port 0 lets the kernel choose.
 * Try `nc 127.0.0.1 PORT`. What the peer says is not listened to. */
#include <kreactor.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct kr_reactor *reactor;

static void on_signal(int signal) {
    (void)signal;
    kr_stop(reactor);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)r;
    (void)conn;
    (void)user;
    (void)data;
    return size;
}

/* One descriptor does for all: it is read at offsets. The close waits for the file, and for the
 * peer's end. */
static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    const int *fd = user;
    int rc = kr_conn_send_file(r, conn, *fd, 0, KR_FILE_END, NULL, NULL);
    kr_conn_close(r, conn, rc < 0 ? KR_CLOSE_RESET : KR_CLOSE_LINGER);
}

static const struct kr_conn_ops sender = {.on_open = on_open, .on_data = on_data};

static int fail(const char *what, int error) {
    fprintf(stderr, "serve: %s: %s\n", what, kr_errname(error));
    return EXIT_FAILURE;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s PORT PATH\n", argv[0]);
        return EXIT_FAILURE;
    }
    int fd = open(argv[2], O_RDONLY | O_CLOEXEC);
    struct kr_failure why;
    if (fd < 0) {
        perror(argv[2]);
        return EXIT_FAILURE;
    }
    if (kr_reactor_new(&reactor, NULL, &why) < 0) {
        fprintf(stderr, "serve: %s: %s; %s\n", why.tried, why.cause, why.remedy);
        return EXIT_FAILURE;
    }
    struct kr_addr addr;
    kr_listener listener;
    int rc = kr_addr_ip(&addr, "127.0.0.1", (uint16_t)atoi(argv[1]));
    if (rc == 0)
        rc = kr_listen(reactor, &listener, &addr, NULL, &sender, &fd);
    if (rc < 0)
        return fail("listen", rc);
    kr_listener_addr(reactor, listener, &addr);
    printf("listening on port %u\n", kr_addr_port(&addr));
    fflush(stdout);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    rc = kr_run(reactor);
    kr_reactor_free(reactor);
    close(fd);
    return rc < 0 ? fail("run", rc) : EXIT_SUCCESS;
}
