#!/usr/bin/env python3
"""The file server of example/serve.c and clients that read at their own pace. TAP on stdout.

    test/serve.py SERVE

Each case has a server of its own, which must end with status 0 at SIGTERM. What is expected is waited for,
never a time; a case that waits longer than 60 s (times TAP_DEADLINE_SCALE) has failed. KR_TEST_FULL sends
2 GiB instead of 64 MiB."""
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "harness"))
from cases import run_cases  # noqa: E402

SERVE = sys.argv[1]
DEADLINE = 60 * float(os.environ.get("TAP_DEADLINE_SCALE", "1"))
SIZE = (2 << 30) if os.environ.get("KR_TEST_FULL") else (64 << 20)
FLOOR = 5


class Served:
    """A file of so many bytes, and its server."""

    def __init__(self, size):
        self.file = tempfile.NamedTemporaryFile()
        self.digest = hashlib.sha256()
        block = os.urandom(1 << 20)
        for at in range(0, size, len(block)):
            part = (block[at >> 20:] + block)[:min(len(block), size - at)]
            self.file.write(part)
            self.digest.update(part)
        self.file.flush()
        self.process = subprocess.Popen([SERVE, "0", self.file.name], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.port = int(self.process.stdout.readline().split()[-1])

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        try:
            if not failure:
                self.process.send_signal(signal.SIGTERM)
                _, complaint = self.process.communicate(timeout=DEADLINE)
                assert (self.process.returncode, complaint) == (0, b""), complaint
        finally:
            self.process.kill()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)

    def check(self, sock):
        """Reads to the end; it is the file."""
        digest = hashlib.sha256()
        while True:
            part = sock.recv(1 << 20)
            if not part:
                break
            digest.update(part)
        assert digest.digest() == self.digest.digest()
        sock.close()

    def resident(self):
        with open("/proc/%d/statm" % self.process.pid, encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def file_arrives_whole():
    with Served(SIZE) as served:
        served.check(served.connect())


def empty_file_is_an_end():
    with Served(0) as served:
        served.check(served.connect())


def clients_do_not_wait_for_each_other():
    with Served(8 << 20) as served:
        clients = [served.connect() for _ in range(20)]
        for sock in reversed(clients):
            served.check(sock)


def resting_clients_cost_little():
    """Not the file, and not 20 times the file."""
    with Served(SIZE) as served:
        served.check(served.connect())
        before = served.resident()
        clients = [served.connect() for _ in range(20)]
        for sock in clients:
            assert sock.recv(1000)
        assert served.resident() - before < SIZE // 2, served.resident() - before
        for sock in clients:
            sock.close()
        served.check(served.connect())


def missing_file_is_told():
    done = subprocess.run([SERVE, "0", "/nonexistent/file"], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=DEADLINE, check=False)
    assert done.returncode == 1 and b"No such file" in done.stderr, done


CASES = [
    file_arrives_whole,
    empty_file_is_an_end,
    clients_do_not_wait_for_each_other,
    resting_clients_cost_little,
    missing_file_is_told,
]


if __name__ == "__main__":
    sys.exit(run_cases("serve", CASES, FLOOR))
