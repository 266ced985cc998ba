#!/usr/bin/env python3
"""Holds the README against the tree. TAP on stdout.

The daemon it shows is the one that is built; each path it links to is there; its floor plan names every
file of lib/ and no other; each public function named in it is declared in a public header.
"""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLOOR = 5
ECHO_LINES_MOST = 60


def read(*path):
    with open(os.path.join(TOP, *path), encoding="utf-8") as file:
        return file.read()


def shows_the_daemon(text):
    shown = re.search(r"```c\n(.*?)```", text, re.S)
    if not shown or shown.group(1) != read("example", "echo.c"):
        return "the first C block is not example/echo.c"
    return ""


def daemon_is_short(_text):
    lines = read("example", "echo.c").count("\n")
    return "" if lines <= ECHO_LINES_MOST else "example/echo.c has %d lines" % lines


def links_lead_somewhere(text):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = [link for link in links if not os.path.exists(os.path.join(TOP, link))]
    if len(links) < 5:
        return "only %d links were found" % len(links)
    return "not there: " + ", ".join(missing) if missing else ""


def floor_plan_is_whole(text):
    plan = text[text.index("## The floor plan"):]
    named = set(re.findall(r"`([a-z_]+\.[ch])`", plan))
    there = {name for _, _, names in os.walk(os.path.join(TOP, "lib")) for name in names
             if name.endswith(".c") or name.endswith(".h")}
    # A header beside the source of the same name goes without saying.
    unnamed = {name for name in there - named if name[:-1] + "c" not in named}
    wrong = sorted(unnamed) + sorted(named - there)
    return "unnamed, or named and not there: " + ", ".join(wrong) if wrong else ""


def functions_exist(text):
    headers = "".join(read("include", "kreactor", name)
                      for name in sorted(os.listdir(os.path.join(TOP, "include", "kreactor"))))
    named = set(re.findall(r"`(kr_[a-z_]+)", text))
    missing = sorted(name for name in named if not re.search(r"\b%s\b" % name, headers))
    if len(named) < 8:
        return "only %d functions were found" % len(named)
    return "not declared: " + ", ".join(missing) if missing else ""


def main():
    text = read("README.md")
    checks = [shows_the_daemon, daemon_is_short, links_lead_somewhere, floor_plan_is_whole,
              functions_exist]
    failed = 0
    for number, check in enumerate(checks, 1):
        fault = check(text)
        print("%s %d - %s" % ("not ok" if fault else "ok", number, check.__name__))
        if fault:
            print("# " + fault)
        failed += bool(fault)
    print("# suite readme: ran %d cases, floor %d" % (len(checks), FLOOR))
    print("1..%d" % len(checks))
    return 1 if failed or len(checks) < FLOOR else 0


if __name__ == "__main__":
    sys.exit(main())
