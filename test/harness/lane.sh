#!/bin/sh
# Runs a suite, for test/run, and says how that went: "NAME STATUS SECONDS".
#
#   test/harness/lane.sh LOG_DIR NAME COMMAND...
#
# What it printed is in LOG_DIR/NAME.tap.
log_dir=$1
name=$2
shift 2
began=$(cut -d' ' -f1 /proc/uptime)
"$@" </dev/null >"$log_dir/$name.tap" 2>&1
status=$?
echo "$name $status $(echo "$began $(cut -d' ' -f1 /proc/uptime)" | awk '{ printf "%.1f", $2 - $1 }')"
