#!/bin/sh
# Does this machine lack what a case was skipped for want of? Looks for itself, in another way than need.c.
#
#   test/harness/explain.sh REASON
#
# Status 0: it does. 1: it does not, or the reason is none that is known here; then the skip is a failure.
set -u

reason=$1

is_older_than() {
    [ "$(printf '%s\n' "$1" "$(uname -r | cut -d. -f1,2 | sed 's/[^0-9.].*//')" | sort -V | tail -1)" = "$1" ] &&
        [ "$(uname -r | cut -d. -f1,2)" != "$1" ]
}

# Bit $1 of the effective capabilities (linux/capability.h).
has_capability() {
    effective=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
    [ $((0x$effective >> $1 & 1)) -eq 1 ]
}

mounts() {
    unshare --mount --propagation unchanged sh -c \
        'mount --make-rprivate /proc && mount --bind /dev/null /proc/version'
}

destroys_sockets() {
    has_capability 12 && { zcat /proc/config.gz || cat "/boot/config-$(uname -r)"; } |
        grep -q '^CONFIG_INET_DIAG_DESTROY=y'
}

# Whether apt finds, and can bring, the package (test/kernels/run).
knows_image() {
    [ -n "$(apt-cache search --names-only "^linux-image-$1([-.+].*)?-cloud-amd64\$")" ]
}

fetches() {
    folder=$(mktemp -d)
    (cd "$folder" && apt-get -qq download "$1")
    status=$?
    rm -rf "$folder"
    return $status
}

are_installed() {
    dpkg-query -W "$@"
}

last() {
    echo "${reason##* }"
}

lacks() {
    case $reason in
    'needs the right to become other users') ! setpriv --reuid 200000 --regid 200000 --clear-groups true ;;
    'needs the right to mount') ! mounts ;;
    'needs the right to make a network namespace') ! unshare --net true ;;
    'needs IPv6 and a writable /proc/sys') ! [ -w /proc/sys/net/ipv6/bindv6only ] ;;
    'needs IPv6 on loopback') ! grep -q '^0\{31\}1 .* lo$' /proc/net/if_inet6 ;;
    'needs kernel '*) is_older_than "$(last)" ;;
    'needs the header '*) ! [ -e "/usr/include/$(last)" ] ;;
    'needs the program '*) ! command -v "$(last)" ;;
    'needs ss -K') ! destroys_sockets ;;
    'needs leave to read the kernel log') ! dmesg ;;
    'needs '[1-9]*' descriptors')
        count=${reason#needs }
        [ "$(ulimit -Hn)" != unlimited ] && [ "$(ulimit -Hn)" -lt "${count% *}" ]
        ;;
    'needs suites built for x86-64') [ "$(uname -m)" != x86_64 ] ;;
    'limits are of gcc '*) ! gcc --version | head -1 | grep -q " $(last)\$" ;;
    'limits are of liburing '*) ! pkg-config --exists "liburing = $(last)" ;;
    'cannot install: '*) ! are_installed ${reason#cannot install: } ;;
    'apt knows no cloud image of Linux '*) ! knows_image "$(last)" ;;
    'apt cannot fetch '*) ! fetches "$(last)" ;;
    *) false ;;
    esac
}

lacks >/dev/null 2>&1
