#!/bin/sh
# Builds and runs programs of embedders, each from scratch, against an install of this very tree into a
# temporary prefix. Prints TAP; the floor is the number of cases below. A case passes only if every
# command in it succeeds; what it printed is shown if it fails.
#
#   test/consumer/run.sh
set -u

floor=19
top=$(cd "$(dirname "$0")/../.." && pwd)
here=$top/test/consumer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 99' INT TERM

cc=${CC:-gcc}
cxx=${CXX:-g++}
count=0
failed=0
prefix=$work/prefix
lib=$prefix/lib
strict='-Wall -Wextra -Werror -pedantic'

# check NAME FUNCTION: the function runs in a shell of its own that stops at the first failure.
check() {
    count=$((count + 1))
    (set -eu; "$2") >"$work/log" 2>&1 </dev/null
    if [ $? -eq 0 ]; then
        echo "ok $count - $1"
    else
        failed=$((failed + 1))
        echo "not ok $count - $1"
        sed 's/^/#   /' "$work/log"
    fi
}

pc() {
    PKG_CONFIG_PATH=$lib/pkgconfig pkg-config "$@"
}

public_headers() {
    (cd "$top/include" && find . -name '*.h' | sed 's,^\./,,' | sort)
}

# The names of all functions that these public headers declare.
declared_functions() {
    (cd "$top/include" && cat "$@") |
        python3 -c '
import re, sys
text = re.sub(r"/\*.*?\*/", " ", sys.stdin.read(), flags=re.S)
for name in sorted(set(re.findall(r"\bKR_API\b[^;{]*?\b(kr_\w+)\s*\(", text))):
    print(name)'
}

install_both() {
    meson setup "$work/build" "$top" --prefix="$prefix" --libdir=lib -Dbuildtype=release \
        -Ddefault_library=both -Dtests=disabled -Dbench=disabled -Dexamples=disabled -Dtools=enabled
    meson compile -C "$work/build"
    meson install -C "$work/build" --no-rebuild
}

# Every public header is installed, and nothing else.
headers_installed() {
    public_headers >"$work/source-headers"
    (cd "$prefix/include" && find . -name '*.h' | sed 's,^\./,,' | sort) >"$work/installed-headers"
    diff "$work/source-headers" "$work/installed-headers"
    test "$(wc -l <"$work/installed-headers")" -ge 9
}

# The user of the shared library need not know liburing; the user of the static one must link it.
pkg_config_names_liburing_privately() {
    pc --exists --print-errors 'kreactor >= 0.1'
    pc --print-requires-private kreactor | grep liburing
    pc --libs kreactor | grep -e -lkreactor
    if pc --libs kreactor | grep uring; then return 1; fi
    pc --static --libs kreactor | grep -e -luring
}

# One version in the build, in the .pc file and in the headers.
versions_agree() {
    number=$(printf '#include <kreactor/version.h>\nKR_VERSION_MAJOR.KR_VERSION_MINOR.KR_VERSION_PATCH\n' |
        $cc -E -P $(pc --cflags kreactor) - | tail -1 | tr -d ' ')
    test "$number" = "$(pc --modversion kreactor)"
}

shared_program() {
    $cc -std=c11 $strict "$here/consumer.c" -o "$work/shared" $(pc --cflags --libs kreactor)
    LD_LIBRARY_PATH=$lib ldd "$work/shared" | grep "libkreactor.so.0.1 => $lib/"
    LD_LIBRARY_PATH=$lib "$work/shared"
}

# An install that has the archive only.
static_prefix() {
    rm -rf "$work/static"
    cp -r "$prefix" "$work/static"
    rm "$work/static"/lib/libkreactor.so*
}

static_program() {
    static_prefix
    $cc -std=c11 $strict "$here/consumer.c" -o "$work/static-program" \
        $(pc --define-variable=prefix="$work/static" --static --cflags --libs kreactor)
    if ldd "$work/static-program" | grep kreactor; then return 1; fi
    "$work/static-program"
}

# No shared library at all.
fully_static_program() {
    static_prefix
    $cc -static -std=c11 $strict "$here/consumer.c" -o "$work/fully-static" \
        $(pc --define-variable=prefix="$work/static" --static --cflags --libs kreactor)
    "$work/fully-static"
}

# A copy without what git does not carry, as a wrap would bring it.
subproject() {
    rm -rf "$work/embedder"
    mkdir -p "$work/embedder/subprojects/kreactor"
    cp "$here/subproject/meson.build" "$here/consumer.c" "$work/embedder"
    (cd "$top" && tar cf - --exclude=./build* --exclude=./.git .) |
        tar xf - -C "$work/embedder/subprojects/kreactor"
    meson setup "$work/embedder/build" "$work/embedder" --wrap-mode=nodownload
    meson compile -C "$work/embedder/build"
    "$work/embedder/build/consumer"
}

# As a subproject it builds the library, and no test, benchmark, example or tool.
subproject_builds_the_library_only() {
    test -e "$work/embedder/build/build.ninja"
    programs=$(find "$work/embedder/build" -type f -perm -u+x ! -name '*.so*' ! -path '*/meson-private/*')
    echo "$programs"
    test "$programs" = "$work/embedder/build/consumer"
}

cpp_program() {
    public_headers | sed 's/.*/#include <&>/' | cat - "$here/consumer.cpp" >"$work/all.cpp"
    test "$(grep -c '^#include <kreactor' "$work/all.cpp")" -ge 10
    $cxx -std=c++17 $strict "$work/all.cpp" -o "$work/cpp" $(pc --cflags --libs kreactor)
    LD_LIBRARY_PATH=$lib "$work/cpp"
}

# Each header stands alone, whatever the user includes or does not include before it.
headers_alone() {
    headers=0
    for header in $(public_headers); do
        echo "$header with $1"
        printf '#include <%s>\n#include <%s>\nint kreactor_test;\n' "$header" "$header" |
            $1 -std=c11 $strict -fsyntax-only $(pc --cflags kreactor) -x c -
        headers=$((headers + 1))
    done
    test $headers -ge 9
}

headers_alone_gcc() {
    headers_alone gcc
}

headers_alone_clang() {
    headers_alone clang
}

# What the preprocessor sees of all headers names no type of liburing and no file of its or of io_uring.
headers_show_no_liburing() {
    public_headers | sed 's/.*/#include <&>/' | $cc -std=c11 -E $(pc --cflags kreactor) -x c - >"$work/seen"
    grep -q kr_reactor_new "$work/seen"
    if grep -n -e liburing -e 'io_uring' -e '\<__kernel_timespec' "$work/seen"; then return 1; fi
}

needs_only_libc_and_liburing() {
    ldd "$lib/libkreactor.so.0.1" | awk '{ print $1 }' | sort >"$work/needs"
    cat "$work/needs"
    grep -q '^liburing\.so\.2$' "$work/needs"
    if grep -v -e '^linux-vdso\.so' -e '^liburing\.so' -e '^libc\.so' -e '/ld-linux' "$work/needs"; then
        return 1
    fi
}

# Before 1.0 both carry the minor version, which may break the interface.
soname() {
    minor=0.$(pc --modversion kreactor | cut -d. -f2)
    readelf -d "$lib/libkreactor.so" | grep SONAME | grep -F "[libkreactor.so.$minor]"
    nm -D --defined-only "$lib/libkreactor.so" | grep "kr_reactor_new@@KREACTOR_$minor\$"
}

exported_functions() {
    nm -D --defined-only "$lib/$1.so.0.1" | awk '$2 != "A" { sub("@.*", "", $3); print $3 }' | sort
}

# The shared library shows what the headers declare, no more and no less; the one for tests also what
# the simulated kernel's header declares.
exports_what_is_declared() {
    declared_functions $(public_headers | grep -v 'kreactor/sim\.h') >"$work/declared"
    exported_functions libkreactor >"$work/exported"
    diff "$work/declared" "$work/exported"
    test "$(wc -l <"$work/declared")" -ge 30
}

sim_exports_what_is_declared() {
    declared_functions $(public_headers) >"$work/declared"
    exported_functions libkreactor_sim >"$work/exported"
    diff "$work/declared" "$work/exported"
    test "$(wc -l <"$work/declared")" -ge 50
}

doctor() {
    LD_LIBRARY_PATH=$lib "$prefix/bin/kreactor-doctor"
}

# The installed tool starts a reactor in both modes, and explains a refusal.
doctor_finds_it_well() {
    doctor >"$work/doctor"
    grep -x 'COOP: works' "$work/doctor"
    grep -x 'DEFER: works' "$work/doctor"
}

doctor_explains() {
    if (ulimit -n 40; doctor) >"$work/doctor"; then
        return 1
    fi
    grep 'COOP: refused: .* EMFILE' "$work/doctor"
    grep 'remedy: raise it (ulimit -n' "$work/doctor"
}

check install_into_a_prefix install_both
check headers_are_installed headers_installed
check pkg_config_names_liburing_privately pkg_config_names_liburing_privately
check versions_agree versions_agree
check shared_program_runs shared_program
check static_program_runs static_program
check fully_static_program_runs fully_static_program
check subproject_runs subproject
check subproject_builds_the_library_only subproject_builds_the_library_only
check cpp17_program_runs cpp_program
check headers_stand_alone_gcc headers_alone_gcc
check headers_stand_alone_clang headers_alone_clang
check headers_show_no_liburing headers_show_no_liburing
check shared_library_needs_libc_and_liburing_only needs_only_libc_and_liburing
check soname_and_symbols_carry_the_minor_version soname
check exported_symbols_are_those_declared exports_what_is_declared
check doctor_finds_it_well doctor_finds_it_well
check doctor_explains_a_refusal doctor_explains
check exported_symbols_of_sim_are_those_declared sim_exports_what_is_declared

echo "# suite consumer: ran $count cases, floor $floor"
echo "1..$count"
[ "$failed" -eq 0 ] && [ "$count" -ge "$floor" ]
