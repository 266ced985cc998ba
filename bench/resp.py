#!/usr/bin/env python3
"""Runs example/resp and redis-server against redis-benchmark, in turns, and compares them.

Question: what CPU time does a server spend on a command, beside Redis, under the same load?
Load:     redis-benchmark, unchanged, pinned to one core; the server is pinned to another.
Yardstick: as in bench/compare.py, of which this is another run: interleaved rounds, the median of the
          rounds' ratios, windows that other work disturbed are measured again.

A cell is VERB-CONNECTIONSxSIZExDEPTH: get-50x64x16 is 50 connections with a pipeline of 16 each, that get
values of 64 bytes. Names are drawn from 100,000 (values from 16 KiB on: from 100), all of which are there
before a cell of GET begins.

How many commands a server has run in the window is what it says itself (INFO, total_commands_processed;
see bench/load_watch.c), and CPU ns/command is that of its process, all threads, and of its core's
ksoftirqd. Redis runs with --save "" --appendonly no --io-threads 1. The client sleeps when it has
nothing to do, so that whoever answers wakes it; with one command at a time on a connection, that and the
kernel's TCP are most of what either server costs. Results: BUILD/bench/resp.jsonl.
"""
import argparse
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import time

import compare

BASE = "redis-server"
JUDGED = "kreactor-resp"
SIZE_OF_FEW = 16384
FULL = ["%s-%s" % (verb, load) for load in ("50x64x1", "50x64x16", "50x65536x1", "50x65536x16",
                                           "1000x64x1", "1000x64x16") for verb in ("get", "set")]
QUICK = ["get-50x64x1", "set-50x64x1", "get-50x64x16", "set-50x64x16", "get-50x65536x1",
         "set-50x65536x1", "get-1000x64x1"]
REACH = [("%s-50x64x%d" % (verb, depth), BASE, most)
         for depth, most in ((1, 0.75), (16, 0.60)) for verb in ("get", "set")]


def parse_cell(text):
    try:
        verb, load = text.split("-")
        connections, size, depth = (int(part) for part in load.split("x"))
        if verb not in ("get", "set"):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError("a cell is like get-50x64x16, not " + text)
    return {"name": text, "mode": verb, "connections": connections, "size": size, "depth": depth,
            "names": 100 if size >= SIZE_OF_FEW else 100000}


def raise_limit():
    """Thousands of connections, for both sides."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))


def request(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def free_port():
    """One that the kernel gives to nobody by itself (net.ipv4.ip_local_port_range)."""
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def redis_server(build):
    """Debian's redis-tools has the server, too, without the link that gives it its name."""
    path = shutil.which("redis-server") or os.path.join(build, "bench", "redis-server")
    program = shutil.which("redis-check-rdb")
    if not os.path.exists(path) and program:
        os.symlink(program, path)
    return path


class Server(compare.Server):
    """A server that has what a cell's clients will get."""

    def __init__(self, options, name, cell):
        super().__init__(options, name, cell)
        try:
            if cell["mode"] == "get":
                self.fill(cell)
        except OSError as error:
            self.stop()
            raise compare.Failed("could not be filled: %s" % error)

    def command(self, options, name, cell):
        self.port = None
        if name == JUDGED:
            return [os.path.join(options.build, "example", "resp"), "0"]
        self.port = free_port()  # it cannot choose one itself
        return [redis_server(options.build), "--port", str(self.port), "--bind", "127.0.0.1", "--save",
                "", "--appendonly", "no", "--io-threads", "1", "--loglevel", "warning"]

    def wait_ready(self, seconds):
        if self.port is None:
            return super().wait_ready(seconds)
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self.port
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise compare.Failed("did not listen within %d s" % seconds)

    def fill(self, cell):
        """In bites, each of which is answered before the next."""
        value = b"x" * cell["size"]
        bite = max(1, (1 << 20) // cell["size"])
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as peer:
            for first in range(0, cell["names"], bite):
                names = range(first, min(first + bite, cell["names"]))
                peer.sendall(b"".join(request(b"SET", b"key:%012d" % i, value) for i in names))
                due = 5 * len(names)
                while due:
                    part = peer.recv(1 << 16)
                    if not part:
                        raise ConnectionResetError("it hung up")
                    due -= len(part)


def measure(options, server, cell):
    """One window of redis-benchmark on one server."""
    client = subprocess.Popen(
        ["redis-benchmark", "-p", str(server.port), "-t", cell["mode"], "-c", str(cell["connections"]),
         "-d", str(cell["size"]), "-P", str(cell["depth"]), "-r", str(cell["names"]), "-n",
         "2000000000", "-q"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {options.cpus[1]}))
    try:
        return compare.run_load(options, server, cell, "--mode", "watch", "--client", str(client.pid))
    finally:
        client.kill()
        client.wait()


def print_cell(options, cell, results):
    print("\n%s, %d connections, %d B, pipeline of %d   (%d rounds of %d ms)" %
          (cell["mode"].upper(), cell["connections"], cell["size"], cell["depth"],
           max(r["rounds"] for r in results), options.measure))
    print("  %-15s %17s %17s %16s %17s %5s %7s" %
          ("server", "commands/s", "CPU ns/command", "to " + options.base, "peak KiB", "busy", "held up"))
    for r in results:
        if "error" in r:
            print("  %-15s NOT MEASURED: %s" % (r["server"], r["error"]))
            continue
        ratio = ("%.3f ±%4.1f%%" % (r["ratio"], compare.spread(r, "ratio"))) if "ratio" in r else "-"
        print("  %-15s %11.0f ±%3.0f%% %10.0f ±%4.1f%% %16s %11.0f ±%3.0f%% %5.2f %6.0f%%" %
              (r["server"], r["rate"], compare.spread(r, "rate"), r["cpu_ns"],
               compare.spread(r, "cpu_ns"), ratio, r["rss_kib"], compare.spread(r, "rss_kib"),
               r["server_busy"], 100 * r["held_up"]))
    sys.stdout.flush()


class Resp:
    """What is particular to this bench."""
    description = __doc__
    servers = {JUDGED: None, BASE: None}
    quick_servers = full_servers = [BASE, JUDGED]
    base = BASE
    judged = JUDGED
    quick = QUICK
    full = FULL
    quick_rounds = 7
    quick_budget = 40
    full_budget = 200
    warm_ms = 100
    reach = REACH
    results = "resp.jsonl"
    title = "CPU time a command of %s to Redis's"
    Server = Server
    parse_cell = staticmethod(parse_cell)
    window = staticmethod(measure)
    print_cell = staticmethod(print_cell)


if __name__ == "__main__":
    if not shutil.which("redis-benchmark"):
        sys.exit("bench/resp.py: redis-benchmark is not here (Debian: redis-tools)")
    raise_limit()
    sys.exit(compare.main(Resp))
