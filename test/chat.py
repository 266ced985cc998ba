#!/usr/bin/env python3
"""The chat of example/chat.c with the clients that people have, nc (OpenBSD's) and socat. TAP on stdout.

    test/chat.py CHAT

Each case has a chat of its own, which must end with status 0 and without a word at SIGTERM. What is
expected is waited for, never a time; a case that waits longer than 20 s (times TAP_DEADLINE_SCALE)
has failed. A member expects lines exactly: none is missing, none comes twice, none is out of order.
"""
import os
import select
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "harness"))
from cases import run_cases  # noqa: E402

CHAT = sys.argv[1]
DEADLINE = 20 * float(os.environ.get("TAP_DEADLINE_SCALE", "1"))
FLOOR = 9
LINE_MOST = 1024  # as in example/chat.c, with the newline
# nc goes on when the chat has ended the dialogue, and ends at its next word; socat ends, too.
NC = ["nc", "-N", "127.0.0.1", "PORT"]
SOCAT = ["socat", "-t0", "-", "TCP4:127.0.0.1:PORT"]
SOCAT_DEAF = ["socat", "-u", "-", "TCP4:127.0.0.1:PORT"]


class Member:
    """A client's process: what it is to write, and what it has printed."""

    def __init__(self, number, command, deaf):
        self.number = number
        self.deaf = deaf
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
        os.set_blocking(self.process.stdin.fileno(), False)
        self.feed = bytearray()
        self.taken = 0
        self.half_line = b""
        self.lines = []
        self.ended = False

    def say(self, text):
        self.feed += text.encode()

    def write(self):
        try:
            count = os.write(self.process.stdin.fileno(), self.feed[:65536])
            self.taken += count
            del self.feed[:count]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.feed.clear()

    def read(self):
        got = os.read(self.process.stdout.fileno(), 1 << 20)
        self.ended = not got
        *lines, self.half_line = (self.half_line + got).split(b"\n")
        self.lines += [line.decode() for line in lines]

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Room:
    """A chat and its members."""

    def __init__(self):
        self.deadline = time.monotonic() + DEADLINE
        self.server = subprocess.Popen([CHAT, "0"], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said = self.server.stdout.readline().decode().split()
        assert said[:2] == ["listening", "on"] and said[2].startswith("127.0.0.1:"), said
        self.port = said[2].split(":")[1]
        self.joined = 0
        self.members = []

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        try:
            if not failure:
                self.stop(signal.SIGTERM)
        finally:
            self.server.kill()
            for member in self.members:
                member.kill()

    def stop(self, number):
        self.server.send_signal(number)
        _, complaint = self.server.communicate(timeout=self.left())
        assert (self.server.returncode, complaint) == (0, b""), (self.server.returncode, complaint)

    def left(self):
        return max(0, self.deadline - time.monotonic())

    def until(self, condition, what):
        """Lets everyone write and read until the condition holds."""
        while not condition():
            readers = {m.process.stdout: m for m in self.members if not m.ended}
            writers = {m.process.stdin: m for m in self.members if m.feed}
            readable, writable, _ = select.select(readers, writers, [], self.left())
            assert readable or writable, "still waiting for " + what
            for file in readable:
                readers[file].read()
            for file in writable:
                writers[file].write()

    def expect(self, members, *lines):
        for m in members:
            self.until(lambda: len(m.lines) >= len(lines) or m.ended, "%d to hear %s" % (m.number, lines))
            assert m.lines[:len(lines)] == list(lines), "%d heard %s" % (m.number, m.lines[:9])
            del m.lines[:len(lines)]

    def join(self, *command, deaf=False):
        """Someone joins, and all who can hear are told."""
        self.joined += 1
        command = [word.replace("PORT", self.port) for word in command or NC]
        self.members.append(Member(self.joined, command, deaf))
        self.expect(self.hearers(), "* %d joined" % self.joined)
        return self.members[-1]

    def hearers(self):
        return [m for m in self.members if not m.deaf]

    def leave(self, member):
        self.members.remove(member)
        member.kill()


def a_line_goes_to_all():
    with Room() as room:
        members = [room.join(), room.join(*SOCAT), room.join()]
        for m in members:
            m.say("hello\n")
            room.expect(members, "%d: hello" % m.number)
        members[0].say("one\n\ntwo\n")
        room.expect(members, "1: one", "1: ", "1: two")


def a_line_in_pieces_comes_whole():
    with Room() as room:
        slow_hand, other = members = [room.join(), room.join()]
        slow_hand.say("hel")
        other.say("hello\n")
        room.expect(members, "2: hello")
        slow_hand.say("lo\nand mo")
        room.expect(members, "1: hello")
        slow_hand.say("re\n")
        room.expect(members, "1: and more")


def those_who_leave_are_told_of():
    with Room() as room:
        stays, says_good_bye, dies = [room.join() for _ in range(3)]
        says_good_bye.say("bye\n")
        room.expect(room.members, "2: bye")
        says_good_bye.process.stdin.close()
        room.expect([stays, dies], "* 2 left")
        room.until(lambda: says_good_bye.ended, "the end of the one who left")
        room.leave(says_good_bye)
        room.leave(dies)
        room.expect([stays], "* 3 left")
        room.join().say("still here?\n")
        room.expect(room.members, "4: still here?")


def a_line_may_be_so_long_and_no_longer():
    with Room() as room:
        listens, writes = room.join(), room.join()
        longest = "x" * (LINE_MOST - 1)
        writes.say(longest + "\n")
        room.expect(room.members, "2: " + longest)
        writes.say(longest + "y\n")
        room.expect([listens], "* 2 wrote too long a line")
        room.until(lambda: writes.ended, "the end of the one who wrote too long a line")


def a_line_without_an_end_is_dropped():
    with Room() as room:
        listens, writes = room.join(), room.join(*SOCAT)
        writes.say("hello\n" + "x" * (2 * LINE_MOST))
        room.expect([listens], "2: hello", "* 2 wrote too long a line")
        room.until(lambda: writes.ended, "the end of the one who wrote too long a line")


def check_story(member, speaker, said, slow):
    """Every line of the speaker's, in order, and once for each of the slow that it was."""
    told = [line for line in member.lines if line.startswith("*")]
    heard = [line for line in member.lines if not line.startswith("*")]
    assert sorted(told) == ["* %d was too slow" % m.number for m in slow], told
    assert len(heard) == said, "%d heard %d of %d lines" % (member.number, len(heard), said)
    for i, line in enumerate(heard):
        assert line.startswith("%d: line %07d " % (speaker.number, i)), line


def the_slow_are_dropped_and_hold_nobody_back():
    """One never reads, one stops: what their sockets do not take is queued up to a limit, then they are
    dropped. The others miss no line."""
    with Room() as room:
        speaker, listens, stops = [room.join() for _ in range(3)]
        never_reads = room.join(*SOCAT_DEAF, deaf=True)
        stops.signal(signal.SIGSTOP)
        stops.deaf = True
        slow, said = [stops, never_reads], 0
        while sum(line.startswith("*") for line in speaker.lines) < len(slow):
            assert said < 65536, "64 MiB were kept for the slow"
            for said in range(said + 1, said + 65):
                speaker.say("line %07d %s\n" % (said - 1, "x" * 1000))
            room.until(lambda: all(len(m.lines) >= said for m in room.hearers()), "%d lines" % said)
        for m in room.hearers():
            room.until(lambda: len(m.lines) == said + len(slow), "all lines at %d" % m.number)
            check_story(m, speaker, said, slow)
            m.lines.clear()
        stops.signal(signal.SIGCONT)
        room.until(lambda: stops.ended, "the end of one who was too slow")
        listens.say("all well?\n")
        room.expect(room.hearers(), "2: all well?")


def one_who_reads_nothing_is_not_listened_to():
    """64 MiB of lines are on offer. The chat takes what the echo of them finds room for, and the others
    can go on talking, until that has pushed the flooder out."""
    with Room() as room:
        speaker, listens = members = [room.join() for _ in range(2)]
        floods = room.join(*SOCAT_DEAF, deaf=True)
        floods.feed += ("x" * 1000 + "\n").encode() * 65536
        words = 0
        while "* 3 was too slow" not in listens.lines:
            words += 1
            word = "word %d %s" % (words, "x" * 1000)
            speaker.say(word + "\n")
            for m in members:
                room.until(lambda: "1: " + word in m.lines[-4096:], word)
        assert floods.taken < 64 << 20, "all of the flood was taken"
        for m in members:
            heard = [line for line in m.lines if line.startswith("1: ")]
            assert len(heard) == words, "%d heard %d of %d words" % (m.number, len(heard), words)


def a_signal_ends_it_in_peace():
    for number in signal.SIGINT, signal.SIGTERM:
        with Room() as room:
            members = [room.join(*SOCAT) for _ in range(3)]
            room.stop(number)
            for m in members:
                room.until(lambda: m.ended, "the end")
                assert not m.lines and not m.half_line, m.lines


def a_port_in_use_is_an_error_in_words():
    with Room() as room:
        second = subprocess.run([CHAT, room.port], capture_output=True, timeout=room.left())
        assert (second.returncode, second.stdout) == (1, b""), second
        assert second.stderr == b"chat: EADDRINUSE\n", second.stderr


CASES = [
    a_line_goes_to_all,
    a_line_in_pieces_comes_whole,
    those_who_leave_are_told_of,
    a_line_may_be_so_long_and_no_longer,
    a_line_without_an_end_is_dropped,
    the_slow_are_dropped_and_hold_nobody_back,
    one_who_reads_nothing_is_not_listened_to,
    a_signal_ends_it_in_peace,
    a_port_in_use_is_an_error_in_words,
]


if __name__ == "__main__":
    sys.exit(run_cases("chat", CASES, FLOOR))
