#!/usr/bin/env python3
"""Compiles each C block of doc/recipes.md. TAP on stdout.

A block is a file as it stands. It is compiled with the compiler $CC, or gcc, in the C of the library and
with its warnings as errors, but without anything else that the library's own build defines. A block is
skipped if it includes a header of OpenSSL and the machine has none.
"""
import os
import re
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLOOR = 36
FLAGS = ("-std=gnu11 -O1 -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wvla -Werror"
         " -c -o /dev/null").split()
OPENSSL = "openssl/ssl.h"


def recipes():
    """(heading, C text) of each block; a recipe without one is none of these."""
    with open(os.path.join(TOP, "doc", "recipes.md"), encoding="utf-8") as file:
        text = file.read()
    heading = "(none)"
    for match in re.finditer(r"^### ([^\n]*)$|^```c\n(.*?)^```$", text, re.S | re.M):
        if match.group(1):
            heading = match.group(1)
        else:
            yield heading, match.group(2)


def compiles(path, include):
    command = [os.environ.get("CC", "gcc"), *FLAGS, "-I", include, path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.returncode == 0, run.stderr


def has_openssl(folder, include):
    path = os.path.join(folder, "openssl.c")
    with open(path, "w", encoding="utf-8") as file:
        file.write("#include <%s>\nint openssl;\n" % OPENSSL)
    return compiles(path, include)[0]


def main():
    include = os.path.join(TOP, "include")
    number = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (heading, text) in enumerate(recipes(), 1):
            name = re.sub(r"\W+", "_", heading.lower()).strip("_")
            path = os.path.join(folder, name + ".c")
            if OPENSSL in text and not has_openssl(folder, include):
                print("ok %d - %s # SKIP needs the header %s" % (number, name, OPENSSL))
                continue
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            good, errors = compiles(path, include)
            failed += not good
            print("%s %d - %s" % ("ok" if good else "not ok", number, name))
            for line in errors.splitlines():
                print("# " + line)
    print("# suite recipes: ran %d cases, floor %d" % (number, FLOOR))
    print("1..%d" % number)
    return 1 if failed or number < FLOOR else 0


if __name__ == "__main__":
    sys.exit(main())
