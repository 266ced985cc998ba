#!/usr/bin/env python3
"""The server of example/resp.c with redis-cli and redis-benchmark, and beside Redis itself. TAP on stdout.

    test/resp/clients.py RESP

Each case has a server of its own, which must end with status 0 and without a word at SIGTERM. The same
bytes are sent to it and to a redis-server, and the same bytes must come back. What is expected is waited
for, never a time; a case that waits longer than 30 s (times TAP_DEADLINE_SCALE) has failed.
"""
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "harness"))
from cases import run_cases  # noqa: E402

RESP = sys.argv[1]
DEADLINE = 30 * float(os.environ.get("TAP_DEADLINE_SCALE", "1"))
FLOOR = 15
END = b"*2\r\n$4\r\nECHO\r\n$9\r\n<the end>\r\n"
END_ANSWER = b"$9\r\n<the end>\r\n"


class Server:
    """The example, at a port of the kernel's choice."""

    def __init__(self):
        self.deadline = time.monotonic() + DEADLINE
        self.process = subprocess.Popen([RESP, "0"], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said = self.process.stdout.readline().decode().split()
        assert said[:2] == ["listening", "on"] and said[2].startswith("127.0.0.1:"), said
        self.port = said[2].split(":")[1]

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        try:
            if not failure:
                self.stop(signal.SIGTERM)
        finally:
            self.process.kill()
            self.process.wait()

    def stop(self, number):
        self.process.send_signal(number)
        _, complaint = self.process.communicate(timeout=self.left())
        assert (self.process.returncode, complaint) == (0, b""), (self.process.returncode, complaint)

    def left(self):
        return max(0.001, self.deadline - time.monotonic())

    def connect(self):
        return socket.create_connection(("127.0.0.1", int(self.port)), timeout=self.left())

    def run(self, *command, said=b"", warns=False):
        """A client's output."""
        command = [word.replace("PORT", self.port) for word in command]
        done = subprocess.run(command, input=said, capture_output=True, timeout=self.left(), check=False)
        assert done.returncode == 0 and (warns or not done.stderr), (command, done)
        return done.stdout.decode()

    def cli(self, *words):
        return self.run("redis-cli", "-p", "PORT", *words).rstrip("\n")


class Redis:
    """A redis-server that listens on a socket in a directory of its own, and keeps nothing."""

    def __init__(self):
        self.deadline = time.monotonic() + DEADLINE
        self.directory = tempfile.mkdtemp()
        self.path = os.path.join(self.directory, "socket")
        # Debian's redis-tools has the server, too, as what redis-server would be a link to.
        program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly",
             "no", "--dir", self.directory], executable=program, stdout=subprocess.DEVNULL)

    def __enter__(self):
        while True:
            try:
                self.connect().close()
                return self
            except OSError:
                assert time.monotonic() < self.deadline and self.process.poll() is None, "no Redis"
                time.sleep(0.01)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory)

    def connect(self):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(max(0.001, self.deadline - time.monotonic()))
        peer.connect(self.path)
        return peer


def receive(peer, enough):
    """What comes until it is enough, or the end."""
    got = bytearray()
    while not enough(got):
        try:
            part = peer.recv(1 << 16)
        except ConnectionResetError:
            break
        if not part:
            break
        got += part
    return bytes(got)


def ask(server, said):
    """All answers on a fresh connection, with what was there before forgotten."""
    with server.connect() as peer:
        peer.sendall(b"FLUSHALL\r\n" + said + END)
        return receive(peer, lambda got: got.endswith(END_ANSWER))


def request(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def requests(*lines):
    """A request a line; the words are separated by space."""
    return b"".join(request(*line.split()) for line in lines)


def check_as_redis(said, server, redis):
    mine, theirs = ask(server, said), ask(redis, said)
    assert mine == theirs, "asked %r, answered %r, Redis %r" % (said[:300], mine[:600], theirs[:600])


def answers_are_those_of_redis(*scripts):
    with Server() as server, Redis() as redis:
        for said in scripts:
            check_as_redis(said, server, redis)


INT_MAX, INT_MIN = 2 ** 63 - 1, -2 ** 63


def strings_are_as_in_redis():
    answers_are_those_of_redis(
        requests("GET a", "SET a 1", "GET a", "SETNX a 2", "SETNX b 2", "GET b", "get B", "GeT b"),
        requests("MSET a 1 b 2 a 3", "MGET a b c", "MGET a a", "DEL a c", "DEL a", "EXISTS a b b c"),
        request("SET", b"k\0\r\n", b"v\0\r\n" * 100) + request("GET", b"k\0\r\n"),
        request("SET", "", "") + request("GET", "") + request("EXISTS", ""),
        request("SET", "big", b"x" * 300000) + requests("GET big", "GET big", "SET big 1", "GET big"),
        requests("INCR n", "INCR n", "GET n", "SET n %d" % (INT_MAX - 1), "INCR n", "INCR n", "GET n"),
        requests("SET n %d" % INT_MIN, "INCR n", "SET n abc", "INCR n", "SET n 01", "INCR n"),
        request("SET", "n", " 1") + requests("INCR n") + request("SET", "n", "") + requests("INCR n"),
        requests("SET n 9223372036854775808", "INCR n", "SET n -0", "INCR n", "SET n +1", "INCR n"))


def options_of_set_are_as_in_redis():
    answers_are_those_of_redis(
        requests("SET a 1 NX", "SET a 2 NX", "GET a", "SET a 3 XX", "GET a", "SET b 1 XX", "GET b"),
        requests("SET a 1 nx xx", "SET a 1 xx nx", "SET a 1 NX NX", "SET a 1 XX XX", "GET a"),
        requests("SET a 1 EX 100", "TTL a", "SET a 1 PX 100000", "TTL a", "SET a 2", "TTL a"),
        requests("SET a 1 EX 100 NX", "TTL a", "SET a 2 XX PX 50000", "TTL a", "GET a", "INCR a", "TTL a"),
        requests("SET a 1 EX", "SET a 1 PX", "SET a 1 EX 1 PX 1", "SET a 1 PX 1 EX 1", "SET a 1 XY"),
        requests("SET a 1 EX 0", "SET a 1 EX -1", "SET a 1 PX 0", "SET a 1 EX abc", "SET a 1 PX 1.5"),
        requests("SET a 1 EX %d" % INT_MAX, "SET a 1 EX 9223372036854775", "SET a 1 PX %d" % INT_MAX),
        requests("SET a 1 EX 9223372036854775808", "SET a 1 EX NX", "SET a 1 EX 5 EX 200", "TTL a"),
        requests("SET a 1 EX 100", "SETNX a 1", "TTL a", "MSET a 5", "TTL a", "SET a 1 NX EX abc"),
        requests("SET a 1 GET", "SET a 2 GET", "SET a 3 NX GET", "SET b 1 XX GET", "GET a", "SET c 1 NX GET", "GET c"),
        requests("SET a 1 EX 100", "SET a 2 KEEPTTL", "TTL a", "SET a 3 KEEPTTL GET", "TTL a", "SET a 4", "TTL a"),
        requests("SET b 1 KEEPTTL", "TTL b", "SET a 1 EX 5 KEEPTTL", "SET a 1 KEEPTTL PX 5", "SET a 1 KEEPTTL KEEPTTL"),
        requests("SET a 1 EXAT 1", "GET a", "TTL a", "SET a 1 PXAT 1", "EXISTS a", "SET a 1 EXAT 0", "SET a 1 PXAT -1"),
        requests("SET a 1 EXAT", "SET a 1 PXAT x", "SET a 1 EXAT 5 EX 5", "SET a 1 EXAT %d" % INT_MAX, "GET a"),
        request("SET", "big", b"x" * 300000) + request("SET", "big", b"y" * 300000, "GET") + requests("GET big"))


def expiry_is_as_in_redis():
    answers_are_those_of_redis(
        requests("EXPIRE a 10", "SET a 1", "TTL a", "TTL b", "EXPIRE a 100", "TTL a", "EXPIRE a 50", "TTL a"),
        requests("SET a 1", "EXPIRE a 0", "GET a", "TTL a", "SET a 1", "EXPIRE a -5", "EXISTS a"),
        requests("SET a 1", "EXPIRE a abc", "EXPIRE a %d" % INT_MAX, "EXPIRE a %d" % INT_MIN, "TTL a"),
        requests("SET a 1", "EXPIRE a 9223372036854775", "EXPIRE b %d" % INT_MAX, "EXPIRE a 5 ZZ", "TTL a"),
        requests("SET a 1 EX 100", "DEL a", "SET a 1", "TTL a", "EXPIRE a 10", "FLUSHALL", "TTL a"),
        requests("SET a 1", "EXPIRE a 10 XX", "EXPIRE a 10 GT", "EXPIRE a 10 LT", "TTL a", "EXPIRE a 20 LT", "TTL a"),
        requests("SET a 1", "EXPIRE a 10 NX", "EXPIRE a 20 NX", "TTL a", "EXPIRE a 20 XX", "TTL a", "EXPIRE a 5 GT"),
        requests("SET a 1 EX 50", "EXPIRE a 60 gt xx", "TTL a", "EXPIRE a 30 XX LT", "TTL a", "EXPIRE a -1 GT", "TTL a"),
        requests("SET a 1 EX 50", "EXPIRE a -1 LT", "TTL a", "EXPIRE b 5 NX", "EXPIRE a x NX", "EXPIRE a 5 NX NX"),
        requests("SET a 1", "EXPIRE a 5 NX XX", "EXPIRE a 5 GT LT", "EXPIRE a 5 NX GT LT", "EXPIRE a 5 NX YY", "TTL a"))


def errors_are_those_of_redis():
    long_word = "w" * 300
    answers_are_those_of_redis(
        requests("GET", "GET a b", "SET a", "SETNX a", "SETNX a 1 2", "DEL", "EXISTS", "INCR", "INCR a b"),
        requests("MGET", "MSET", "MSET a", "MSET a 1 b", "EXPIRE a", "EXPIRE", "TTL", "TTL a b", "ECHO"),
        requests("ECHO a b", "PING a b", "PING", "PING a", "ping", "FLUSHALL now", "FLUSHALL SYNC",
                 "FLUSHALL ASYNC", "FLUSHALL SYNC SYNC", "CONFIG", "CONFIG GET", "config get"),
        requests("NONSENSE", "nonsense a b", "SETX a 1", "G", long_word, "n " + long_word, "n a b " + long_word),
        requests("n " + " ".join("word%d" % i for i in range(50)), "n " + "x " * 200, "a " + "b" * 127 + " c d"),
        request("a\r\nb", "c\r\nd", "'") + request("") + request("", "") + request("n", ""),
        requests("CONFIG NONSENSE", "CONFIG NONSENSE a", "COMMAND NONSENSE", "config " + long_word))


def settings_are_those_that_clients_ask_for():
    answers_are_those_of_redis(
        requests("CONFIG GET save", "CONFIG GET appendonly", "config get sav?",
                 "CONFIG GET nonsense", "CONFIG GET nonsense save", "CONFIG GET proto-max-bulk-len"))


def lines_are_as_in_redis():
    answers_are_those_of_redis(
        b"PING\r\nPING\n  PING  \r\n\r\n\n \t \r\nPING\r\n",
        b"set a 'b c'\r\nget a\r\nset \"\\x61\" \"1\\n\"\r\nget a\r\nset a \"\"\r\nget a\r\n",
        b"echo a\"b\"\r\necho 'it\\'s'\r\necho \"\\\"\"\r\necho ''\r\necho \"\\xzz\\q\"\r\n",
        b"echo " + b"x" * 60000 + b"\r\n",
        b"ping\r\n*1\r\n$4\r\nPING\r\nping\r\n*0\r\n*-1\r\nping\r\n*1xx$4xxPING\rxping\r\n",
        b"*2\r\n$4\r\nECHO\r\n$3\r\nabcxx*1\r\n$4\r\nPING\rx")


def protocol_errors_are_those_of_redis():
    answers_are_those_of_redis(*(b"PING\r\n" + said + b"PING\r\n" for said in (
        b"*x\r\n", b"*\r\n", b"*2147483648\r\n", b"* 1\r\n", b"*01\r\n",
        b"*1\r\nPING\r\n", b"*1\r\n\r\n", b"*1\r\n\n\r\n",
        b"*1\r\n$-1\r\n", b"*1\r\n$x\r\n", b"*1\r\n$536870913\r\n", b"*1\r\n$\r\n", b"*1\r\n$01\r\n",
        b"echo \"a\r\n", b"echo 'a\r\n", b"echo \"a\"b\r\n",
        b"*" + b"1" * 70000, b"*1\r\n$" + b"1" * 70000, b"x" * 70000,
        b"quit\r\n", request("QUIT"), request("quit", "now"))))


def cut_anywhere_the_answers_are_the_same():
    """The first part has been read when a client that comes later is answered."""
    said = (requests("SET a 1", "GET a", "MSET b 2 c 3", "MGET a b c d", "NONSENSE x")
            + b"set 'a b' \"c\\x41\"\r\nget 'a b'\r\n" + request("SET", "big", b"x" * 5000)
            + requests("GET big"))
    with Server() as server, server.connect() as other:
        whole = ask(server, said)
        assert whole.count(b"+OK") == 5 and whole.count(b"x" * 5000) == 1, whole
        for cut in [*range(1, 300), *range(len(said) - 60, len(said))]:
            with server.connect() as peer:
                peer.sendall(b"FLUSHALL\r\n" + said[:cut])
                other.sendall(b"PING\r\n")
                receive(other, lambda got: got == b"+PONG\r\n")
                peer.sendall(said[cut:] + END)
                got = receive(peer, lambda got: got.endswith(END_ANSWER))
                assert got == whole, "cut at %d: %r" % (cut, got[:600])


def records_expire():
    with Server() as server:
        assert server.cli("SET", "a", "1", "PX", "50") == "OK"
        while server.cli("GET", "a") != "":
            assert server.left() > 0.001, "it is still there"
        assert server.cli("TTL", "a") == "-2"
        assert server.cli("SET", "b", "1", "PX", "50") == "OK"
        while "expired_keys:2" not in server.cli("INFO"):
            assert server.left() > 0.001, "it is still there, unasked"


def records_expire_at_a_date():
    with Server() as server:
        for option, unit in (("EXAT", 1), ("PXAT", 1000)):
            assert server.cli("SET", "a", "1", option, str(int((time.time() + 500) * unit))) == "OK"
            assert 500 - DEADLINE <= int(server.cli("TTL", "a")) <= 500


def redis_cli_knows_every_command():
    with Server() as server:
        for words, answer in (
                ("PING", "PONG"), ("ECHO hello", "hello"), ("SET a 1", "OK"), ("GET a", "1"),
                ("SETNX a 2", "0"), ("INCR a", "2"), ("MSET b 3 c 4", "OK"), ("MGET a b none", "2\n3\n"),
                ("EXISTS a b", "2"), ("EXPIRE a 100", "1"), ("TTL a", "100"), ("DEL a b", "2"),
                ("COMMAND COUNT", "17"), ("CONFIG GET save", "save\n"), ("FLUSHALL", "OK"),
                ("QUIT", "OK")):
            got = server.cli(*words.split())
            assert got == answer.rstrip("\n"), (words, got)
        info = server.cli("INFO")
        assert "total_commands_processed:17" in info and "connected_clients:1" in info, info
        names = server.cli("COMMAND").split("\n")
        assert "flushall" in names and "setnx" in names, names
        # As people use it: it asks for COMMAND DOCS and does without.
        typed = server.run("redis-cli", "-p", "PORT", said=b"set a 'b c'\nget a\nnonsense\n")
        assert typed.split("\n")[:2] == ["OK", "b c"] and "unknown command" in typed, typed


def redis_cli_fills_it_by_pipe():
    count = 20000
    said = b"".join(request("SET", "key:%d" % i, "value %d" % i) for i in range(count))
    with Server() as server:
        report = server.run("redis-cli", "-p", "PORT", "--pipe", said=said)
        assert "errors: 0, replies: %d" % count in report, report
        assert "db0:keys=%d,expires=0" % count in server.cli("INFO")
        assert server.cli("GET", "key:%d" % (count - 1)) == "value %d" % (count - 1)


def redis_benchmark_runs():
    runs = (["-t", "ping,set,get,incr,mset", "-n", "3000", "-c", "50", "-r", "1000"],
            ["-t", "set,get", "-n", "20000", "-c", "50", "-P", "16", "-r", "1000", "-d", "64"],
            ["-t", "set,get", "-n", "1000", "-c", "50", "-P", "4", "-d", "65536"],
            ["-t", "get", "-n", "2000", "-c", "200", "-k", "0"])
    with Server() as server:
        for options in runs:
            report = server.run("redis-benchmark", "-p", "PORT", "--csv", *options, warns="-k" in options)
            lines = report.strip().split("\n")
            assert lines[0].startswith('"test","rps"') and len(lines) > 1, report
            assert all(float(line.split('","')[1]) > 0 for line in lines[1:]), report


def a_signal_ends_it_in_peace():
    for number in signal.SIGINT, signal.SIGTERM:
        with Server() as server:
            idle, asks = server.connect(), server.connect()
            asks.sendall(b"PING\r\n*2\r\n$4\r\nECHO\r\n$100000\r\nxyz")
            assert receive(asks, lambda got: got == b"+PONG\r\n") == b"+PONG\r\n"
            server.stop(number)
            for peer in idle, asks:
                assert receive(peer, lambda got: False) == b""
                peer.close()


def a_port_in_use_is_an_error_in_words():
    with Server() as server:
        second = subprocess.run([RESP, server.port], capture_output=True, timeout=server.left(), check=False)
        assert (second.returncode, second.stdout) == (1, b""), second
        assert second.stderr == b"resp: listen: EADDRINUSE\n", second.stderr


CASES = [
    strings_are_as_in_redis,
    options_of_set_are_as_in_redis,
    expiry_is_as_in_redis,
    errors_are_those_of_redis,
    settings_are_those_that_clients_ask_for,
    lines_are_as_in_redis,
    protocol_errors_are_those_of_redis,
    cut_anywhere_the_answers_are_the_same,
    records_expire,
    records_expire_at_a_date,
    redis_cli_knows_every_command,
    redis_cli_fills_it_by_pipe,
    redis_benchmark_runs,
    a_signal_ends_it_in_peace,
    a_port_in_use_is_an_error_in_words,
]


def main():
    if not shutil.which("redis-cli"):
        print("1..1\nok 1 - resp_with_its_clients # SKIP needs the program redis-cli")
        return 0
    return run_cases("resp-clients", CASES, FLOOR)


if __name__ == "__main__":
    sys.exit(main())
