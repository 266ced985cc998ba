#!/usr/bin/env python3
"""example/proxy beside HAProxy: the same echo load through each, in turns.

Question: what CPU time does a proxy spend on a message that goes through it and comes back, and on a
          connection?
Load:     bench/load.c through the proxy to an epoll echo server (bench/peer/epoll.c); the proxy has a core to
          itself, client and echo server share the other.
Yardstick: as in bench/compare.py, whose rounds, ratios and warnings these are. A message of 64 KiB there and
          back is 128 KiB through the proxy; a churned connection is two connections of the proxy.

HAProxy runs in TCP mode with one thread, no logs and its defaults otherwise (bench's own haproxy.cfg, written
for each start)."""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import compare

CONFIG = """
global
    nbthread 1
    maxconn 4000
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen bench
    bind 127.0.0.1:%d
    server far 127.0.0.1:%d
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Proxy(compare.Server):
    """A proxy, and the echo server behind it."""

    def __init__(self, options, name, cell):
        self.far = subprocess.Popen([os.path.join(options.build, "bench", "epoll")],
                                    stdout=subprocess.PIPE, text=True,
                                    preexec_fn=lambda: os.sched_setaffinity(0, {options.cpus[1]}))
        self.far_port = int(self.far.stdout.readline().split()[-1])
        self.place = tempfile.TemporaryDirectory()
        try:
            super().__init__(options, name, cell)
        except compare.Failed:
            self.end_far()
            raise

    def command(self, options, name, cell):
        if name == "kreactor":
            return [os.path.join(options.build, "example", "proxy"), "0", "127.0.0.1:%d" % self.far_port]
        path = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if not path:
            raise compare.Failed("haproxy is not installed")
        self.haproxy_port = free_port()
        config = os.path.join(self.place.name, "haproxy.cfg")
        with open(config, "w") as file:
            file.write(CONFIG % (self.haproxy_port, self.far_port))
        return [path, "-db", "-q", "-f", config]

    def wait_ready(self, seconds):
        if not hasattr(self, "haproxy_port"):
            return super().wait_ready(seconds)
        until = time.monotonic() + seconds
        while not answers(self.haproxy_port):
            if self.process.poll() is not None or time.monotonic() > until:
                raise compare.Failed("haproxy did not listen")
            time.sleep(0.02)
        return self.haproxy_port

    def end_far(self):
        self.far.terminate()
        self.far.wait()
        self.far.stdout.close()
        self.place.cleanup()

    def stop(self):
        super().stop()
        self.end_far()


class Proxies(compare.Echo):
    description = __doc__
    servers = {"kreactor": None, "haproxy": None}
    quick_servers = full_servers = ["kreactor", "haproxy"]
    base = "haproxy"
    judged = "kreactor"
    quick = full = ["64x64x1", "64x65536x1", "churn64"]
    quick_rounds = 6
    quick_budget = 20
    full_budget = 120
    reach = [(cell, "haproxy", 1.00) for cell in full]
    results = "proxy.jsonl"
    title = "CPU time of %s's proxy to that of others"
    Server = Proxy


if __name__ == "__main__":
    sys.exit(compare.main(Proxies))
