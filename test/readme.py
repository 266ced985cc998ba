#!/usr/bin/env python3
"""Holds README.md and the documents in doc/ against the tree. TAP on stdout.

The README's first C block is the daemon that is built, and the README is short. Links lead somewhere,
headings included; paths and names of the library that are mentioned exist; lines have 100 columns at most,
tables aside. The floor plan in doc/architecture.md names every file of lib/ in its folder, and no other.
"""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLOOR = 9
README_LINES_MOST = 150
ECHO_LINES_MOST = 60
COLUMNS_MOST = 100
PLAN = "doc/architecture.md"
FOLDERS = "bench doc example include lib test tool".split()


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return file.read()


def documents():
    """path -> text, of all that is checked."""
    paths = ["README.md"] + ["doc/" + name for name in sorted(os.listdir(os.path.join(TOP, "doc")))
                             if name.endswith(".md")]
    return {path: read(path) for path in paths}


def with_contributing(texts):
    return {**texts, "CONTRIBUTING.md": read("CONTRIBUTING.md")}


def without_blocks(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def headers_text(folder):
    top = os.path.join(TOP, folder)
    paths = [os.path.join(path, name) for path, _, names in os.walk(top)
             for name in sorted(names) if name.endswith((".c", ".h"))]
    return "".join(read(os.path.relpath(path, TOP)) for path in sorted(paths))


def shows_the_daemon(texts):
    shown = re.search(r"^```c\n(.*?)^```$", texts["README.md"], re.S | re.M)
    if not shown or shown.group(1) != read("example/echo.c"):
        return "the first C block is not example/echo.c"
    return ""


def daemon_is_short(_texts):
    lines = read("example/echo.c").count("\n")
    return "" if lines <= ECHO_LINES_MOST else "example/echo.c has %d lines" % lines


def readme_is_short(texts):
    lines = texts["README.md"].count("\n")
    return "" if lines <= README_LINES_MOST else "README.md has %d lines" % lines


def lines_fit(texts):
    wide = ["%s:%d" % (path, number) for path, text in texts.items()
            for number, line in enumerate(text.splitlines(), 1)
            if len(line) > COLUMNS_MOST and not line.startswith("|")]
    return "too wide: " + ", ".join(wide) if wide else ""


def readme_names_its_commands(texts):
    missing = [command for command in ("./bench/run", "./test/run")
               if command not in texts["README.md"]]
    return "not named: " + ", ".join(missing) if missing else ""


def anchors(text):
    titles = re.findall(r"^#+ (.*)$", without_blocks(text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def leads_somewhere(source, link):
    path, _, anchor = link.partition("#")
    path = os.path.normpath(os.path.join(os.path.dirname(source), path)) if path else source
    if not os.path.exists(os.path.join(TOP, path)):
        return False
    return not anchor or anchor in anchors(read(path))


def links_lead_somewhere(texts):
    links = [(source, link) for source, text in with_contributing(texts).items()
             for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text)) if "://" not in link]
    missing = ["%s: %s" % found for found in links if not leads_somewhere(*found)]
    if len(links) < 60:
        return "only %d links were found" % len(links)
    return "not there: " + ", ".join(missing) if missing else ""


def paths_exist(texts):
    """A path in backquotes, from the top of the tree; patterns are skipped."""
    paths = {(source, path) for source, text in with_contributing(texts).items()
             for path in re.findall(r"`(?:\./)?((?:%s)/[^\s`]*)" % "|".join(FOLDERS), text)
             if not set(path) & set("*<>,|")}
    missing = sorted("%s: %s" % (source, path) for source, path in paths
                     if not os.path.exists(os.path.join(TOP, path)))
    # These are programs as the build names them.
    missing = [name for name in missing if not re.search(r": bench/(file|micro)$", name)]
    if len(paths) < 60:
        return "only %d paths were found" % len(paths)
    return "not there: " + ", ".join(missing) if missing else ""


def plan_of(text):
    """The files of lib/ that the floor plan names: the first cell of a row, below a folder's heading."""
    plan = text[text.index("\n## The floor plan\n"):]
    named, folder = [], None
    for line in plan.splitlines()[2:]:
        if line.startswith("## "):
            break
        heading = re.match(r"### `(lib/[\w/]*)`$", line)
        folder = heading.group(1) if heading else folder
        if line.startswith("|"):
            named += [folder + name for name in re.findall(r"`(\w+\.[ch])`", line.split("|")[1])]
    return named


def floor_plan_is_whole(texts):
    named = plan_of(texts[PLAN])
    there = {os.path.relpath(os.path.join(folder, name), TOP)
             for folder, _, names in os.walk(os.path.join(TOP, "lib")) for name in names
             if name.endswith((".c", ".h"))}
    # A header beside the source of the same name goes without saying.
    unnamed = {path for path in there - set(named) if path[:-1] + "c" not in named}
    twice = {path for path in named if named.count(path) > 1}
    wrong = sorted(unnamed | (set(named) - there) | twice)
    return "unnamed, named twice, or named and not there: " + ", ".join(wrong) if wrong else ""


def names_exist(texts):
    """kr_... and KR_... of the public headers, kr__... and KR__... of lib/; blocks are compiled elsewhere."""
    public, private = headers_text("include"), headers_text("lib")
    named = {(path, name) for path, text in texts.items()
             for name in re.findall(r"\b(?:kr|KR)_\w*[a-zA-Z0-9]\b", without_blocks(text))}
    missing = sorted("%s: %s" % (path, name) for path, name in named
                     if not re.search(r"\b%s\b" % name, private if name[2:4] == "__" else public))
    if len(named) < 100:
        return "only %d names were found" % len(named)
    return "not declared: " + ", ".join(missing) if missing else ""


def main():
    texts = documents()
    checks = [shows_the_daemon, daemon_is_short, readme_is_short, lines_fit,
              readme_names_its_commands, links_lead_somewhere, paths_exist, floor_plan_is_whole,
              names_exist]
    failed = 0
    for number, check in enumerate(checks, 1):
        fault = check(texts)
        print("%s %d - %s" % ("not ok" if fault else "ok", number, check.__name__))
        if fault:
            print("# " + fault)
        failed += bool(fault)
    print("# suite readme: ran %d cases, floor %d" % (len(checks), FLOOR))
    print("1..%d" % len(checks))
    return 1 if failed or len(checks) < FLOOR else 0


if __name__ == "__main__":
    sys.exit(main())
