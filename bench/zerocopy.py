#!/usr/bin/env python3
"""What loans cost that are sent without a copy in the kernel (kr_conn_opts.zerocopy_min), beside plain ones.

Question: what CPU time does a server spend on a KiB of large loans, with and without zerocopy_min?
Load:     bench/lender.c on a core of its own sends loans of one size on each of 8 connections, as fast as this
          process, on the other core, receives them and drops them.
Yardstick: as in bench/compare.py: interleaved rounds, medians of the ratios within the rounds, and half the
          distance between the quartiles as the spread.

    copy       zerocopy_min 0
    zerocopy   zerocopy_min 1: on a kernel >= 6.3 the library stops where the kernel copies all the same
    insist     the same, but the library is not told, and does not stop

Over loopback, and with --veth over a pair of virtual Ethernet devices to a network namespace of its own (needs
root). In both the kernel copies: what is received on the same machine must not lie in the sender's pages
(skb_orphan_frags_rx). So neither can show what a network card would gain: they show what it costs to
have asked in vain. The CPU time is that of the server's process (/proc/PID/schedstat) and, as `with softirq`, of
its core's ksoftirqd too."""
import argparse
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time

import compare

SIZES = [16384, 65536, 262144, 1048576]
VARIANTS = {"copy": [], "zerocopy": ["--zerocopy", "1"], "insist": ["--zerocopy", "1", "--insist"]}
CONNECTIONS = 8
CLONE_NEWNET = 0x40000000


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Loopback:
    name, host = "loopback", "127.0.0.1"

    def connect(self, port):
        return socket.create_connection((self.host, port), timeout=5)

    def end(self):
        pass


class Veth:
    """The server stays where it is; the client's sockets are made in a namespace at the other end of the pair."""
    name, host = "veth", "10.213.77.1"

    def __init__(self):
        self.far = "krbench%d" % os.getpid()
        near = "krb%d" % (os.getpid() % 100000)
        ip("netns", "add", self.far)
        try:
            ip("link", "add", near, "type", "veth", "peer", "name", "far", "netns", self.far)
            ip("addr", "add", self.host + "/30", "dev", near)
            ip("link", "set", near, "up")
            ip("-n", self.far, "addr", "add", "10.213.77.2/30", "dev", "far")
            ip("-n", self.far, "link", "set", "far", "up")
        except subprocess.CalledProcessError:
            self.end()
            raise

    def connect(self, port):
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/self/ns/net") as home, open("/run/netns/" + self.far) as far:
            if libc.setns(far.fileno(), CLONE_NEWNET) < 0:
                raise OSError(ctypes.get_errno(), "setns")
            try:
                return socket.create_connection((self.host, port), timeout=5)
            finally:
                libc.setns(home.fileno(), CLONE_NEWNET)

    def end(self):
        ip("netns", "del", self.far)


def cpu_ns(pid):
    with open("/proc/%d/schedstat" % pid) as file:
        return int(file.read().split()[0])


def ksoftirqd(core):
    done = subprocess.run(["pgrep", "-x", "ksoftirqd/%d" % core], stdout=subprocess.PIPE, text=True, check=False)
    return int(done.stdout) if done.stdout else None


class Lender:
    def __init__(self, options, path, size, variant):
        command = [os.path.join(options.build, "bench", "lender"), "--host", path.host, "--size", str(size)]
        self.process = subprocess.Popen(command + VARIANTS[variant], stdout=subprocess.PIPE, text=True,
                                        preexec_fn=lambda: compare.become_server(options))
        port = int(self.process.stdout.readline().split()[1])
        self.sockets = [path.connect(port) for _ in range(CONNECTIONS)]
        self.selector = selectors.DefaultSelector()
        for each in self.sockets:
            each.setblocking(False)
            self.selector.register(each, selectors.EVENT_READ)

    def drop(self, seconds, room):
        """Receives for so long; the bytes."""
        total, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            for key, _ in self.selector.select(0.1):
                total += key.fileobj.recv_into(room)
        return total

    def end(self):
        """Its last word: how many sends by zero-copy there were, and how many of these were copied."""
        for each in self.sockets:
            each.close()
        self.process.send_signal(signal.SIGTERM)
        words = self.process.stdout.read().split()
        self.process.wait()
        return int(words[1]), int(words[3])


def window(options, lender, room):
    """CPU ns a KiB: of the process, and with ksoftirqd's."""
    pids = [lender.process.pid] + ([options.softirq] if options.softirq else [])
    lender.drop(options.warm / 1000, room)
    before = [cpu_ns(pid) for pid in pids]
    began = time.monotonic()
    size = lender.drop(options.measure / 1000, room)
    spent = [cpu_ns(pid) - was for pid, was in zip(pids, before)]
    kib = size / 1024
    return spent[0] / kib, sum(spent) / kib, size / (time.monotonic() - began) / 1e6


def measure(options, path, size):
    room = bytearray(1 << 20)
    names = list(VARIANTS)
    lenders = {name: Lender(options, path, size, name) for name in names}
    rounds = {name: [] for name in names}
    try:
        for turn in range(options.rounds):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                rounds[name].append(window(options, lenders[name], room))
    finally:
        last_words = {name: lenders[name].end() for name in names}
    for name in names:
        show(path, size, name, rounds, last_words[name])


def show(path, size, name, rounds, last_words):
    columns = [compare.quartiles([r[i] for r in rounds[name]])[1] for i in range(3)]
    low, ratio, high = compare.quartiles([a[1] / b[1] for a, b in zip(rounds[name], rounds["copy"])])
    print("%-9s %8d  %-9s %8.1f %8.1f %8.3f ±%4.1f %% %8.0f %10d %8d" %
          (path.name, size, name, columns[0], columns[1], ratio, 50 * (high - low) / ratio, columns[2], *last_words))
    sys.stdout.flush()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="the meson build directory")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="of a loan, comma-separated")
    parser.add_argument("--veth", action="store_true", help="over a pair of virtual Ethernet devices, too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm", type=int, default=50, help="ms before each window")
    parser.add_argument("--measure", type=int, default=200, help="ms of each window")
    options = parser.parse_args()
    options.cpus = compare.two_cores()
    options.realtime = compare.realtime_allowed()
    options.softirq = ksoftirqd(options.cpus[0])
    return options


def main():
    options = arguments()
    alone = compare.cores_alone()
    os.sched_setaffinity(0, {options.cpus[1]})
    before = compare.stolen()
    print("%s; server on core %d, client on core %d; %d rounds of %d ms" %
          (compare.machine(), *options.cpus, options.rounds, options.measure))
    print("%-9s %8s  %-9s %8s %8s %17s %8s %10s %8s" %
          ("path", "loan", "sends by", "ns/KiB", "+softirq", "to copy", "MB/s", "zero-copy", "copied"))
    for path in [Loopback()] + ([Veth()] if options.veth else []):
        try:
            for size in options.sizes.split(","):
                measure(options, path, int(size))
        finally:
            path.end()
    compare.print_disturbance({}, 0, before)
    alone.close()


if __name__ == "__main__":
    main()
