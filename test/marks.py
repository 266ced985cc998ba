#!/usr/bin/env python3
"""Has every rare path of the library been taken by the suite that is to take it? TAP on stdout.

    test/marks.py LOG_DIR

The list is lib/base/mark.h; each suite has printed what it has come by into LOG_DIR/SUITE.tap."""
import glob
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def read_list():
    with open(os.path.join(TOP, "lib", "base", "mark.h"), encoding="utf-8") as file:
        text = file.read()
    return re.findall(r"^    X\((\w+), (\w+)\)", text, re.M)


def read_hits(log_dir):
    """{suite: {mark: count}}"""
    hits = {}
    for path in glob.glob(os.path.join(log_dir, "*.tap")):
        suite = os.path.basename(path)[:-len(".tap")]
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("# marks"):
                    words = line.split()[2:]
                    hits[suite] = dict(zip(words[::2], map(int, words[1::2])))
    return hits


def read_places():
    """How often each mark stands in the library's sources."""
    places = {}
    for top, _, names in os.walk(os.path.join(TOP, "lib")):
        for name in names:
            if not name.endswith((".c", ".h")) or name == "mark.h":
                continue
            with open(os.path.join(top, name), encoding="utf-8") as file:
                for mark in re.findall(r"\bkr__mark(?:_if)?\((\w+)", file.read()):
                    places[mark] = places.get(mark, 0) + 1
    return places


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    marks, hits, places = read_list(), read_hits(sys.argv[1]), read_places()
    names = [name for name, _ in marks]
    faults = [name for name in names if not places.get(name)] + \
             [name for name in places if name not in names]
    missed = [(name, suite) for name, suite in marks if not hits.get(suite, {}).get(name)]
    print("%s 1 - each_mark_of_the_list_stands_in_the_library" % ("not ok" if faults else "ok"))
    for name in faults:
        print("# in the list or in the library only: " + name)
    print("%s 2 - each_mark_is_hit_by_its_suite" % ("not ok" if missed or not marks else "ok"))
    for name, suite in missed:
        others = sorted(other for other in hits if name in hits[other])
        print("# %s does not come by %s; %s" % (suite, name, "these do: " + " ".join(others) if others
                                               else "none does"))
    print("# marks hit %d of %d" % (len(marks) - len(missed), len(marks)))
    print("1..2")
    return 1 if missed or faults or not marks else 0


if __name__ == "__main__":
    sys.exit(main())
