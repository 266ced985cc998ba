#!/usr/bin/env python3
"""The proxy of example/proxy.c between the clients and servers that people have, nc (OpenBSD's) and
socat. TAP on stdout.

    test/proxy.py PROXY

Each case has a proxy of its own, which must end with status 0 at SIGTERM. What is expected is waited for,
never a time; a case that waits longer than 60 s (times TAP_DEADLINE_SCALE) has failed. KR_TEST_FULL sends a
GiB each way instead of 32 MiB."""
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "harness"))
from cases import run_cases  # noqa: E402

PROXY = sys.argv[1]
DEADLINE = 60 * float(os.environ.get("TAP_DEADLINE_SCALE", "1"))
SIZE = (1 << 30) if os.environ.get("KR_TEST_FULL") else (32 << 20)
FLOOR = 9


class Proxy:
    def __init__(self, server, listen="0", complaint=b""):
        self.complaint = complaint
        self.process = subprocess.Popen([PROXY, listen, server], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said = self.process.stdout.readline().decode().split()
        assert said[:2] == ["listening", "on"], said
        self.address = said[2]
        self.port = said[2].split(":")[-1]

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        try:
            if not failure:
                self.process.send_signal(signal.SIGTERM)
                _, complaint = self.process.communicate(timeout=DEADLINE)
                assert (self.process.returncode, complaint) == (0, self.complaint), complaint
        finally:
            self.process.kill()

    def connect(self):
        return socket.create_connection(("127.0.0.1", int(self.port)), timeout=DEADLINE)


def listening(family=socket.AF_INET, address=("127.0.0.1", 0)):
    server = socket.socket(family)
    server.settimeout(DEADLINE)
    server.bind(address)
    server.listen()
    return server


def name_of(server):
    return "127.0.0.1:%d" % server.getsockname()[1]


def to_the_end(sock):
    parts = []
    while True:
        part = sock.recv(65536)
        if not part:
            return b"".join(parts)
        parts.append(part)


def accept(server):
    sock, _ = server.accept()
    sock.settimeout(DEADLINE)
    return sock


def a_session_of_nc_and_socat():
    """socat serves what it is told with `rev`, line by line; nc ends its side when its input ends, and
    hears the answer to the last line all the same."""
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "socket")
        socat = subprocess.Popen(["socat", "UNIX-LISTEN:" + path + ",fork", "EXEC:rev"],
                                 stderr=subprocess.DEVNULL)
        try:
            while not os.path.exists(path):
                assert socat.poll() is None, "socat has ended"
            with Proxy("unix:" + path) as proxy:
                for text in b"hello\nworld\n", b"a\n" * 5000:
                    said = subprocess.run(["nc", "-N", "127.0.0.1", proxy.port], input=text,
                                          capture_output=True, timeout=DEADLINE, check=True).stdout
                    lines = [line[::-1] for line in text.split(b"\n")[:-1]]
                    assert said.split(b"\n")[:-1] == lines, said[:200]
        finally:
            socat.kill()
            socat.wait()


def the_client_may_end_first():
    with listening() as server, Proxy(name_of(server)) as proxy:
        with proxy.connect() as client, accept(server) as far:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert to_the_end(far) == b"question"
            for _ in range(3): # the other direction lives on
                far.sendall(b"answer")
                assert client.recv(6, socket.MSG_WAITALL) == b"answer"
            far.shutdown(socket.SHUT_WR)
            assert to_the_end(client) == b""


def the_server_may_end_first():
    with listening() as server, Proxy(name_of(server)) as proxy:
        with proxy.connect() as client, accept(server) as far:
            far.sendall(b"banner")
            far.shutdown(socket.SHUT_WR)
            assert to_the_end(client) == b"banner"
            for _ in range(3):
                client.sendall(b"report")
                assert far.recv(6, socket.MSG_WAITALL) == b"report"
            client.shutdown(socket.SHUT_WR)
            assert to_the_end(far) == b""


def pour(sock, chunk, count, close):
    for _ in range(count):
        sock.sendall(chunk)
    if close:
        sock.shutdown(socket.SHUT_WR)


def drink(sock, sums, key):
    digest = hashlib.sha256()
    while True:
        part = sock.recv(1 << 18)
        if not part:
            break
        digest.update(part)
    sums[key] = digest.hexdigest()


def much_passes_both_ways():
    """With checksums, at once in both directions."""
    chunks = [os.urandom(1 << 20), os.urandom(1 << 20)]
    want = [hashlib.sha256(), hashlib.sha256()]
    count = SIZE >> 20
    for digest, chunk in zip(want, chunks):
        for _ in range(count):
            digest.update(chunk)
    with listening() as server, Proxy(name_of(server)) as proxy:
        with proxy.connect() as client, accept(server) as far:
            sums = {}
            threads = [threading.Thread(target=pour, args=(client, chunks[0], count, True)),
                       threading.Thread(target=pour, args=(far, chunks[1], count, True)),
                       threading.Thread(target=drink, args=(far, sums, 0)),
                       threading.Thread(target=drink, args=(client, sums, 1))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sums == {0: want[0].hexdigest(), 1: want[1].hexdigest()}, sums


def what_is_said_before_the_server_answers_is_not_lost():
    """The server's backlog is its own affair: the client may talk, and end, before it is accepted."""
    with listening() as server, Proxy(name_of(server)) as proxy:
        with proxy.connect() as client:
            client.sendall(b"x" * 300000)
            client.shutdown(socket.SHUT_WR)
            with accept(server) as far:
                assert to_the_end(far) == b"x" * 300000


def a_reset_passes():
    with listening() as server, Proxy(name_of(server)) as proxy:
        with proxy.connect() as client:
            far = accept(server)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            far.close()
            try:
                assert client.recv(1) is None, "not reset"
            except ConnectionResetError:
                pass


def a_server_that_refuses_is_told_by_a_reset():
    with listening() as server:
        nobody = name_of(server)
    with Proxy(nobody, complaint=b"proxy: the server cannot be reached: ECONNREFUSED\n") as proxy:
        for _ in range(3):
            try:
                with proxy.connect() as client:  # may fail: the reset may come before it returns
                    assert client.recv(1) is None, "not reset"
            except ConnectionResetError:
                pass


def many_at_once():
    with listening() as server, Proxy(name_of(server)) as proxy:
        server.listen(256)
        clients = [proxy.connect() for _ in range(200)]
        far = [accept(server) for _ in clients]
        for i, client in enumerate(clients):
            client.sendall(b"%06d" % i)
        said = sorted(sock.recv(6, socket.MSG_WAITALL) for sock in far)
        assert said == [b"%06d" % i for i in range(len(clients))], said[:5]
        for sock in far + clients:
            sock.close()


def bad_arguments_are_explained():
    for args in [], ["0"], ["0", "nonsense"], ["x:y", "127.0.0.1:1"]:
        run = subprocess.run([PROXY] + args, capture_output=True, timeout=DEADLINE)
        assert run.returncode == 1 and run.stderr.startswith(b"usage: "), run


CASES = [
    a_session_of_nc_and_socat,
    the_client_may_end_first,
    the_server_may_end_first,
    much_passes_both_ways,
    what_is_said_before_the_server_answers_is_not_lost,
    a_reset_passes,
    a_server_that_refuses_is_told_by_a_reset,
    many_at_once,
    bad_arguments_are_explained,
]


if __name__ == "__main__":
    sys.exit(run_cases("proxy", CASES, FLOOR))
