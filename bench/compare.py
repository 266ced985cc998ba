#!/usr/bin/env python3
"""Runs the echo servers of the bench against the load generator, in turns, and compares them.

Question: what CPU time does a server spend on a message, beside the others, under the same load?
Load:     bench/load.c, pinned to one core; the server is pinned to another.
Yardstick: medians over interleaved rounds. In each round of a cell every server is measured once,
          one directly after the other, and the order is rotated from round to round; the ratio of
          two servers is the median of their ratios within the rounds, so that slow drifts of the
          machine cancel. The spread printed is half the distance between the quartiles.

A cell is CONNECTIONSxSIZExDEPTH, or churnN for N connections at a time that connect, echo 64 bytes
and close, or idleN for the memory of N connections that do nothing. Each cell's servers are started
afresh. What could not be measured is listed as such, and the exit status is then 1. Results go to
BUILD/bench/results.jsonl, an object a line.

CPU ns/message is that of the server's process and of its core's ksoftirqd (see bench/record.c);
`busy` is the same as a share of the core. `held up` is how long, of the window, server or client
stood ready while something else had their core: where it is not near 0, look for a quieter hour.

Where it may, the server runs under SCHED_RR, for the sake of the accounting, not of the speed. On
a kernel that does not preempt itself, a process that wakes up on the server's core is charged with
the server's time from the wake-up until the server leaves the kernel, because the scheduler skips
the clock's update when a switch is due already (kernel/sched/core.c, rq_clock_skip_update). The
longer the system calls, the more goes astray: with a process beside it that only ticks, raw
io_uring at 512 connections seemed to take 3,700 ns a message instead of the true 4,800, and epoll
hardly less than it does. A real-time process is not preempted by such wake-ups.
"""
import argparse
import itertools
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time

ECHO = [(c, s, d) for s in (64, 4096, 65536) for d in (1, 16) for c in (1, 64, 512, 4000)]
FULL = ["%dx%dx%d" % cell for cell in ECHO] + ["churn64", "idle20000"]
QUICK = ["64x64x1", "512x64x1", "64x65536x1", "churn64", "idle5000"]
BASE = "kreactor-coop"
HELD_UP_MOST = 0.05


def power_of_two(at_least):
    return 1 << max(0, at_least - 1).bit_length()


def buffers(cell):
    """The receive buffers of the servers that have a ring of them: room for what a connection has
    in flight; two a connection, as one is being sent when the next comes in; and when they are
    large, few, as published buffers are used in turn and should stay warm."""
    if cell["mode"] == "idle":
        return ["--bufs", "64", "--bufsize", "2048"]
    flight = cell["size"] * cell["depth"]
    size = min(65536, max(2048, power_of_two(flight)))
    if size == 65536:
        count = 8
    else:
        count = min(2048, max(256, power_of_two(2 * cell["connections"])))
        count = max(8, min(count, (4 << 20) // size))
    return ["--bufs", str(count), "--bufsize", str(size)]


def none(_cell):
    return []


# name: program, its fixed arguments, its arguments by cell
SERVERS = {
    # kreactor runs on its defaults everywhere; its buffers are not chosen for the cell as raw's are.
    "kreactor-coop": ("server", ["--mode", "coop"], none),
    "kreactor-defer": ("server", ["--mode", "defer"], none),
    "kreactor-plain": ("server", ["--mode", "coop", "--table", "plain"], none),
    "raw": ("raw", [], buffers),
    "raw-defer": ("raw", ["--defer"], buffers),
    "epoll": ("epoll", [], none),
    "epoll-level": ("epoll", ["--level"], none),
    "libuv": ("uv", [], none),
    "libuv-docs": ("uv", ["--docs"], none),
    "libevent": ("event", [], none),
    "libevent-bufferevent": ("event", ["--bufferevent"], none),
    "libev": ("ev", [], none),
}
SEVEN = ["kreactor-coop", "kreactor-defer", "raw", "epoll", "libuv", "libevent", "libev"]

# What the project has set itself: cell, server, peer, the ratio of their CPU time at most.
REACH = [
    ("64x64x1", "raw", 1.03), ("512x64x1", "raw", 1.03),
    ("64x64x1", "epoll", 1.00), ("512x64x1", "epoll", 0.97),
    ("512x64x1", "libuv", 0.60), ("512x64x1", "libevent", 0.60),
    ("512x64x1", "libuv-docs", 0.60), ("512x64x1", "libevent-bufferevent", 0.60),
    ("64x65536x1", "epoll", 1.00), ("churn64", "epoll", 1.00),
]


FIELDS = ["rate", "mean_rate", "cpu_ns", "process_ns", "p50_us", "p99_us", "rss_kib", "idle_bytes",
          "server_busy", "client_idle", "held_up"]


class Failed(Exception):
    """Why something could not be measured."""


def most_idle():
    """As many connections as a server may have descriptors, less some for its own use."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 65536))
        limit = 65536
    except (OSError, ValueError):
        pass
    return limit - 256


def parse_cell(text):
    try:
        for mode in ("churn", "idle"):
            if text.startswith(mode):
                count = int(text[len(mode):])
                return {"name": text, "mode": mode, "size": 64, "depth": 1,
                        "connections": min(count, most_idle()) if mode == "idle" else count}
        connections, size, depth = (int(part) for part in text.split("x"))
        return {"name": text, "mode": "echo", "connections": connections, "size": size,
                "depth": depth}
    except ValueError:
        raise argparse.ArgumentTypeError(
            "a cell is like 512x64x1, churn64 or idle5000, not " + text)


def two_cores():
    """A core for the server and another, no hyper-thread of the first, for the client."""
    cpus = sorted(os.sched_getaffinity(0))
    server, siblings = cpus[0], {cpus[0]}
    try:
        path = "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % server
        with open(path) as file:
            for part in file.read().strip().split(","):
                ends = [int(end) for end in part.split("-")]
                siblings.update(range(ends[0], ends[-1] + 1))
    except OSError:
        pass
    others = [cpu for cpu in cpus if cpu not in siblings] or cpus[1:]
    if not others:
        sys.exit("compare: two cores are needed, one for the server and one for the client")
    return server, others[0]


def become_server(options):
    os.sched_setaffinity(0, {options.cpus[0]})
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def realtime_allowed():
    """Asks in a child, which ends at once."""
    child = os.fork()
    if child == 0:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


class Server:
    """A server process that listens."""

    def __init__(self, options, name, cell):
        command = self.command(options, name.rstrip("'"), cell)
        if not os.path.exists(command[0]):
            raise Failed("not built (%s is not there)" % command[0])
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: become_server(options))
        try:
            self.port = self.wait_ready(10)
        except Failed:
            self.stop()
            raise

    def command(self, options, name, cell):
        program, fixed, by_cell = SERVERS[name]
        return [os.path.join(options.build, "bench", program)] + fixed + by_cell(cell)

    def wait_ready(self, seconds):
        """Until it has said "listening PORT", or "listening on HOST:PORT"."""
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise Failed("did not listen within %d s" % seconds)
        words = self.process.stdout.readline().split()
        if not words or words[0] != "listening":
            self.process.kill()
            raise Failed("ended at its start: " + self.process.stderr.read().strip()[-300:])
        return int(words[-1].split(":")[-1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def run_load(options, server, cell, *more):
    """Runs the load generator; what it has measured."""
    command = [os.path.join(options.build, "bench", "load"), "--port", str(server.port),
               "--server", str(server.process.pid), "--connections", str(cell["connections"]),
               "--warm", str(warm_ms(options, cell)), "--measure", str(options.measure), *more]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=30 + options.measure / 1000, check=False,
                              preexec_fn=lambda: os.sched_setaffinity(0, {options.cpus[1]}))
    except subprocess.TimeoutExpired:
        raise Failed("the load generator did not end in time")
    if done.returncode:
        raise Failed(done.stderr.strip()[-300:] or "the load generator: %d" % done.returncode)
    return json.loads(done.stdout)


def measure(options, server, cell):
    """One window of load on one server."""
    return run_load(options, server, cell, "--mode", cell["mode"], "--size", str(cell["size"]),
                    "--depth", str(cell["depth"]))


def measure_calmly(options, server, cell, again):
    """A window in which something else had the cores is measured again, a bounded number of times.
    Only the scheduler's word decides on that, never the figures."""
    if server.process.poll() is not None:
        raise Failed("the server ended by itself with %d: %s" % (
            server.process.returncode, server.process.stderr.read().strip()[-300:]))
    window = options.bench.window
    for _ in range(options.calm):
        result = window(options, server, cell)
        if result.get("held_up", 0) <= HELD_UP_MOST:
            return result
        again[0] += 1
    return window(options, server, cell)


def warm_ms(options, cell):
    """Thousands of deep connections need longer until each has had its turn."""
    in_flight = cell["connections"] * cell["size"] * cell["depth"]
    return options.warm + min(1000, in_flight >> 18)


def rounds_of(options, cell):
    """A server's memory for idle connections is measured once, as it does not shrink again. The
    cells by which the project is judged are measured five times as often in the full run."""
    if cell["mode"] == "idle":
        return 1
    judged = cell["name"] in [reach[0] for reach in options.bench.reach]
    return options.rounds * 5 if judged and options.thorough else options.rounds


def quartiles(values):
    values = sorted(values)

    def at(share):
        place = (len(values) - 1) * share
        low = int(place)
        high = min(low + 1, len(values) - 1)
        return values[low] + (values[high] - values[low]) * (place - low)

    return at(0.25), at(0.5), at(0.75)


def too_large(cell):
    """Why a cell is beyond this machine, or None."""
    in_flight = cell["connections"] * cell["size"] * cell["depth"]
    with open("/proc/sys/net/ipv4/tcp_mem") as file:
        most = int(file.read().split()[2]) * os.sysconf("SC_PAGE_SIZE")
    if in_flight * 3 // 2 > most:
        return ("%.1f GiB in flight, and the kernel allows TCP %.1f GiB here (net.ipv4.tcp_mem)" %
                (in_flight / 2 ** 30, most / 2 ** 30))
    return None


def run_cell(options, cell, note, again):
    """All rounds of a cell, or as many as its share of the budget allows, but at least three.
    Returns rounds by server, and failures by server."""
    share = options.budget * rounds_of(options, cell) / sum(
        rounds_of(options, each) for each in options.cells)
    until = time.monotonic() + share
    servers, rounds, failures = {}, {name: [] for name in options.servers}, {}
    beyond = too_large(cell)
    if beyond:
        return rounds, {name: beyond for name in options.servers}
    try:
        for name in options.servers:
            try:
                servers[name] = options.bench.Server(options, name, cell)
            except Failed as error:
                failures[name] = str(error)
        for turn in range(rounds_of(options, cell)):
            if turn >= 3 and time.monotonic() > until:
                break
            names = [name for name in options.servers if name in servers]
            shift = turn % max(1, len(names))
            for name in names[shift:] + names[:shift]:
                note(cell, turn, name)
                try:
                    rounds[name].append(measure_calmly(options, servers[name], cell, again))
                except Failed as error:
                    failures[name] = "round %d: %s" % (turn + 1, error)
                    servers.pop(name).stop()
    finally:
        for server in servers.values():
            server.stop()
    return rounds, failures


def summarise(options, cell, rounds, failures):
    """The lines of results.jsonl for one cell."""
    base = options.base
    results = []
    for name in options.servers:
        result = {"server": name, "mode": cell["mode"], "connections": cell["connections"],
                  "size": cell["size"], "depth": cell["depth"], "rounds": len(rounds[name])}
        if name in failures:
            result["error"] = failures[name]
        else:
            for field in [f for f in FIELDS if f in rounds[name][0]]:
                low, middle, high = quartiles([r[field] for r in rounds[name]])
                result[field] = round(middle, 3)
                result[field + "_q1"], result[field + "_q3"] = round(low, 3), round(high, 3)
            measure_of = "idle_bytes" if cell["mode"] == "idle" else "cpu_ns"
            if base not in failures:
                pairs = zip(rounds[name], rounds[base])
                low, middle, high = quartiles([a[measure_of] / b[measure_of] for a, b in pairs])
                result.update(base=base, ratio=round(middle, 4), ratio_q1=round(low, 4),
                              ratio_q3=round(high, 4))
        results.append(result)
    return results


def spread(result, field):
    half = (result[field + "_q3"] - result[field + "_q1"]) / 2
    return 100 * half / result[field] if result[field] else 0.0


def print_idle(cell, results):
    asked = int(cell["name"][4:])
    print("\n%d idle connections, each after one echo%s" %
          (cell["connections"], "" if cell["connections"] == asked else
           " (RLIMIT_NOFILE does not allow %d)" % asked))
    print("  %-21s %16s %15s" % ("server", "bytes/connection", "resident KiB"))
    for r in results:
        if "error" in r:
            print("  %-21s NOT MEASURED: %s" % (r["server"], r["error"]))
        else:
            print("  %-21s %16.0f %15.0f" % (r["server"], r["idle_bytes"], r["rss_kib"]))
    sys.stdout.flush()


def cell_title(cell):
    if cell["mode"] == "churn":
        return "%d connections at a time, connect-echo-close, 64 B" % cell["connections"]
    return "%(connections)d connections, %(size)d B, depth %(depth)d" % cell


def print_cell(options, cell, results):
    if cell["mode"] == "idle":
        print_idle(cell, results)
        return
    if too_large(cell):
        print("\n%s\n  NOT MEASURED, for any server: %s" % (cell_title(cell), too_large(cell)))
        return
    print("\n%s   (%d rounds of %d ms)" % (cell_title(cell), max(r["rounds"] for r in results),
                                          options.measure))
    print("  %-21s %15s %17s %16s %15s %15s %15s %5s %7s" %
          ("server", "messages/s", "CPU ns/message", "to " + options.base, "p50 us", "p99 us",
           "peak KiB", "busy", "held up"))
    for r in results:
        if "error" in r:
            print("  %-21s NOT MEASURED: %s" % (r["server"], r["error"]))
            continue
        ratio = ("%.3f ±%4.1f%%" % (r["ratio"], spread(r, "ratio"))) if "ratio" in r else "-"
        print("  %-21s %9.0f ±%3.0f%% %10.0f ±%4.1f%% %16s %9.1f ±%3.0f%% %9.1f ±%3.0f%% "
              "%9.0f ±%3.0f%% %5.2f %6.0f%%" %
              (r["server"], r["rate"], spread(r, "rate"), r["cpu_ns"], spread(r, "cpu_ns"), ratio,
               r["p50_us"], spread(r, "p50_us"), r["p99_us"], spread(r, "p99_us"), r["rss_kib"],
               spread(r, "rss_kib"), r["server_busy"], 100 * r["held_up"]))
    sys.stdout.flush()


def print_reach(bench, measured):
    """The CPU time of `bench.judged` over the peer's, where both were measured."""
    lines = []
    for cell, peer, most in bench.reach:
        pair = measured.get(cell, {})
        if pair.get(peer) and pair.get(bench.judged):
            rounds = zip(pair[bench.judged], pair[peer])
            ratio = quartiles([a["cpu_ns"] / b["cpu_ns"] for a, b in rounds])[1]
            word = "reached" if ratio <= most else "not reached"
            lines.append("  %-12s to %-21s %.3f  (at most %.2f: %s)" %
                         (cell, peer, ratio, most, word))
    if lines:
        print("\n" + bench.title % bench.judged + " (median of the rounds' ratios)")
        print("\n".join(lines))


def stolen():
    """Seconds that the host took from this machine's cores, and all seconds of these."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:]]
    return ticks[7], sum(ticks[:8])


def print_disturbance(measured, again, stolen_before):
    taken, ticks = (after - before for after, before in zip(stolen(), stolen_before))
    print("\nThe host took %.1f %% of the cores' time meanwhile." % (100 * taken / max(1, ticks)))
    if again:
        print("%d windows were measured again, as other work had held them up by more than %.0f %%."
              % (again, 100 * HELD_UP_MOST))
    held_up = [r["held_up"] for pair in measured.values() for rs in pair.values() for r in rs
               if "held_up" in r]
    if held_up and quartiles(held_up)[1] > HELD_UP_MOST:
        print("Other work held servers and client up for %.0f %% of the usual window: these "
              "figures decide nothing." % (100 * quartiles(held_up)[1]))


def machine():
    model = "unknown CPU"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return "%s, %d cores, Linux %s" % (model, os.cpu_count(), os.uname().release)


def cores_alone():
    """Waits until no other run of this bench uses the cores; the name is taken until the end."""
    name = socket.socket(socket.AF_UNIX)
    told = False
    while True:
        try:
            name.bind("\0kreactor-bench")
            return name
        except OSError:
            if not told:
                print("another run of the bench has the cores; waiting for it", file=sys.stderr)
            told = True
            time.sleep(0.2)


def progress(options):
    total = sum(rounds_of(options, cell) for cell in options.cells) * len(options.servers)
    count = itertools.count(1)
    begin = time.monotonic()

    def note(cell, turn, name):
        text = "[%d/%d] %3.0f s  %s round %d  %s" % (next(count), total, time.monotonic() - begin,
                                                    cell["name"], turn + 1, name)
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K" + text)
        elif name == options.servers[0]:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    return note


def read_cells(parser, bench, options):
    names = options.cells.split(",") if options.cells else bench.quick if options.quick else bench.full
    try:
        return [bench.parse_cell(name) for name in names]
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))


def read_servers(parser, bench, options):
    listed = options.servers.split(",") if options.servers else (
        bench.quick_servers if options.quick else bench.full_servers)
    servers = []
    for name in listed:
        if name not in bench.servers:
            parser.error("no server is called " + name)
        while name in servers:
            name += "'"
        servers.append(name)
    return servers


def arguments(bench):
    parser = argparse.ArgumentParser(description=bench.description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="the meson build directory")
    parser.add_argument("--quick", action="store_true", help="the cells that matter most")
    parser.add_argument("--cells", help="comma-separated; default: all of them")
    parser.add_argument("--servers", help="comma-separated, of: " + ", ".join(bench.servers) +
                        "; one named twice is measured twice, which shows the noise")
    parser.add_argument("--base", default=bench.base, help="the server that ratios are to")
    parser.add_argument("--rounds", type=int,
                        help="default: %d if quick; else 7, and 35 where judged" % bench.quick_rounds)
    parser.add_argument("--budget", type=float,
                        help="seconds after which cells make do with fewer rounds")
    parser.add_argument("--calm", type=int, default=2,
                        help="how often a window that other work disturbed is measured again")
    parser.add_argument("--no-realtime", dest="realtime", action="store_false",
                        help="leave the servers to the ordinary scheduler")
    parser.add_argument("--warm", type=int, default=bench.warm_ms,
                        help="ms of warm-up before each window")
    parser.add_argument("--measure", type=int, help="ms of each window")
    options = parser.parse_args()
    options.bench = bench
    options.thorough = not options.quick and not options.rounds
    options.budget = options.budget or (bench.quick_budget if options.quick else bench.full_budget)
    options.rounds = options.rounds or (bench.quick_rounds if options.quick else 7)
    options.measure = options.measure or (100 if options.quick else 200)
    options.cells = read_cells(parser, bench, options)
    options.servers = read_servers(parser, bench, options)
    if options.base not in options.servers:
        options.base = options.servers[0]
    options.cpus = two_cores()
    options.realtime = options.realtime and realtime_allowed()
    return options


class Echo:
    """What is particular to this bench. bench/resp.py has another of these."""
    description = __doc__
    servers = SERVERS
    quick_servers = SEVEN
    full_servers = SEVEN + ["raw-defer", "libuv-docs", "libevent-bufferevent"]
    base = judged = BASE
    quick = QUICK
    full = FULL
    quick_rounds = 12
    quick_budget = 60
    full_budget = 1000
    warm_ms = 40
    reach = REACH
    results = "results.jsonl"
    title = "CPU time a message of %s to its peers'"
    Server = Server
    parse_cell = staticmethod(parse_cell)
    window = staticmethod(measure)
    print_cell = staticmethod(print_cell)


def main(bench):
    options = arguments(bench)
    alone = cores_alone()
    os.sched_setaffinity(0, {options.cpus[1]})
    print("%s; server on core %d (%s), client on core %d" %
          (machine(), options.cpus[0], "SCHED_RR" if options.realtime else "ordinary scheduling",
           options.cpus[1]))
    note = progress(options)
    stolen_before = stolen()
    measured, failed, again = {}, 0, [0]
    with open(os.path.join(options.build, "bench", bench.results), "w") as out:
        for cell in options.cells:
            rounds, failures = run_cell(options, cell, note, again)
            results = summarise(options, cell, rounds, failures)
            for result in results:
                out.write(json.dumps(result) + "\n")
            out.flush()
            if sys.stderr.isatty():
                sys.stderr.write("\r\033[K")
            bench.print_cell(options, cell, results)
            measured[cell["name"]] = {name: rounds[name] for name in rounds if name not in failures}
            failed += 0 if too_large(cell) else len(failures)
    print_reach(bench, measured)
    print_disturbance(measured, again[0], stolen_before)
    alone.close()
    if failed:
        print("%d measurements failed; see NOT MEASURED above." % failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Echo))
