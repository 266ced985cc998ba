#!/usr/bin/env python3
"""Starts the echo daemon, has it echo a line, stops it with SIGTERM, and says what happened."""
import select
import signal
import socket
import subprocess
import sys


def main():
    daemon = subprocess.Popen([sys.argv[1], "0"], stdout=subprocess.PIPE, text=True)
    try:
        if not select.select([daemon.stdout], [], [], 10)[0]:
            sys.exit("the echo daemon did not listen within 10 s")
        words = daemon.stdout.readline().split()
        if not words:
            sys.exit("the echo daemon ended at its start")
        said = "hello, reactor\n"
        with socket.create_connection(("127.0.0.1", int(words[-1])), timeout=10) as client:
            client.sendall(said.encode())
            heard = client.makefile().readline()
        if heard != said:
            sys.exit("the echo daemon answered %r to %r" % (heard, said))
        daemon.send_signal(signal.SIGTERM)
        if daemon.wait(10) != 0:
            sys.exit("the echo daemon ended with %d" % daemon.returncode)
    finally:
        daemon.kill()
        daemon.wait()
    print("The echo daemon listened, echoed a line and stopped.")


if __name__ == "__main__":
    main()
