#!/usr/bin/env python3
"""What a packed file costs a daemon in memory.

    memory.py --daemon target/release/daemon --client target/release/client --model DIR [--rows 2000000]
              [--characters 1000] [-- daemon flags]

Writes a CSV of rows that are all alike, packed with gzip (2,000,000 rows of 1,000 characters come to about 2 GB, and to
a few MB when packed), starts a daemon, uploads the file, asks for a dry run over its first rows, then for several at once,
and starts several jobs at once. Prints the daemon's resident memory after each step, and its peak. Linux, and the standard library alone.
"""

import argparse
import gzip
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write(path, rows, characters):
    text = ("many a word " * (characters // 12 + 1))[:characters]
    block = f"{text},good\n{text},bad\n" * 500
    with gzip.open(path, "wt", compresslevel=6) as file:
        file.write("text,label\n")
        for _ in range(rows // 1000):
            file.write(block)


def memory(daemon):
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    of = lambda name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024 / 1e6
    return of("VmRSS"), of("VmHWM")


def main():
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--daemon", required=True)
    parser.add_argument("--client", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--characters", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=100_000, help="rows of a dry run")
    parser.add_argument("--together", type=int, default=8, help="dry runs, and starts, at once")
    args = parser.parse_args(own)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv.gz"
        write(file, args.rows, args.characters)
        print(f"{args.rows} rows of {args.characters} characters: {file.stat().st_size / 1e6:.1f} MB packed")
        command = [args.daemon, "--listen", "127.0.0.1:0", "--device", "cpu", "--log", "warn"]
        command += ["--model", args.model, "--data-dir", f"{folder}/data", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
            try:
                address = daemon.stdout.readline().split()[-1]
                print(f"{'':24} {'resident':>9} {'peak':>9}   MB")
                show = lambda what: print(f"{what:24} {memory(daemon)[0]:9.0f} {memory(daemon)[1]:9.0f}", flush=True)
                show("started")
                client = [args.client, "--daemon", address]
                run = [*client, "train", "--train", str(file), "--dry-run", "--train-limit", str(args.limit)]
                start = [*client, "train", "--train", str(file), "--detach", "--train-limit", str(args.limit)]
                steps = [
                    ("uploaded", [[*client, "datasets", "upload", str(file)]]),
                    ("dry run", [run]),
                    (f"{args.together} dry runs", [run] * args.together),
                    (f"{args.together} starts", [start] * args.together),
                ]
                for what, commands in steps:
                    begun = time.monotonic()
                    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
                    clients = [subprocess.Popen(command, **pipes) for command in commands]
                    said = [client.communicate()[1] for client in clients]
                    show(f"{what} ({time.monotonic() - begun:.0f} s)")
                    for process, words in zip(clients, said):
                        if process.returncode != 0:
                            print(words.strip().splitlines()[-1])
            finally:
                daemon.terminate()


if __name__ == "__main__":
    main()
