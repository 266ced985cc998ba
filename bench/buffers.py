#!/usr/bin/env python3
"""Receive bundles and incremental buffers, by hand on raw liburing, beside plain provided buffers.

Question: would IORING_RECVSEND_BUNDLE (Linux 6.10) or IOU_PBUF_RING_INC (6.12) make an echo cheaper?
Load:     bench/load.c on bench/peer/raw.c: small messages one at a time, small messages in a row, large ones.
Yardstick: as in bench/compare.py, whose rounds, ratios and warnings these are. What gains less than 3 % on
          every load is not worth a second way to own a buffer.

    plain          buffers as compare.py has chosen them for raw
    bundle         the same buffers; a recv may fill several, and what is queued goes out in one SENDMSG
    bundle-small   a sixteenth of the buffer's size, and as many more of them
    inc            the same memory in 8 buffers, each filled bit by bit
    inc-warm       no more memory than what is in flight needs
    inc-large      four times the memory

The load compares every byte of its warm-up with what it has sent, so a kernel that mixes them up (6.13.11 to
6.14.8 do, with bundles) is a measurement that failed."""
import sys

import compare


def plain(cell):
    words = compare.buffers(cell)
    return int(words[1]), int(words[3])


def options(count, size):
    return ["--bufs", str(count), "--bufsize", str(size)]


def small(cell):
    count, size = plain(cell)
    return options(count * 16, size // 16)


def inc(cell):
    count, size = plain(cell)
    return options(8, count * size // 8)


def inc_warm(cell):
    count, size = plain(cell)
    flight = cell["connections"] * cell["size"] * cell["depth"]
    return options(8, min(count * size // 8, max(4096, compare.power_of_two(2 * flight) // 8)))


def inc_large(cell):
    count, size = plain(cell)
    return options(8, count * size // 2)


RAW = {
    "plain": ([], compare.buffers),
    "bundle": (["--bundle"], compare.buffers),
    "bundle-small": (["--bundle"], small),
    "inc": (["--inc"], inc),
    "inc-warm": (["--inc"], inc_warm),
    "inc-large": (["--inc"], inc_large),
}


class Buffers(compare.Echo):
    description = __doc__
    servers = {name: ("raw", fixed, by_cell) for name, (fixed, by_cell) in RAW.items()}
    servers.update((name + "-defer", ("raw", fixed + ["--defer"], by_cell))
                   for name, (fixed, by_cell) in RAW.items())
    quick_servers = full_servers = list(RAW)
    base = "plain"
    judged = "bundle"
    quick = full = ["64x64x1", "64x64x16", "64x65536x1"]
    quick_rounds = 9
    quick_budget = 60
    full_budget = 400
    reach = []
    results = "buffers.jsonl"


if __name__ == "__main__":
    # Servers are looked up by their names.
    compare.SERVERS.update(Buffers.servers)
    sys.exit(compare.main(Buffers))
