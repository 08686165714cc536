#!/usr/bin/env python3
"""Compares a daemon that answers over gRPC with ONNX Runtime in process, in turn and in one run.

    compare_serving.py --bin target/release --encoder DIR --python PYTHON_WITH_ONNX
                       --data sst2:FOLDER:6400:128 imdb:FOLDER:1600:256 [--rounds 3] [--tei PROGRAM]

Each --data is NAME:FOLDER:ROWS:TOKENS. The first time, a daemon trains a model on the first ROWS of FOLDER/train.csv (one
epoch, TOKENS at most) and the checkpoint is downloaded; both stay in --cache. Then each round measures every case once on
either side, and the sides take turns in going first. A case is a file (FOLDER/test.csv) and a precision. Hone is called
through gRPC by `hone-bench load`, a process of its own on the same cores: --callers callers with --texts-per-call texts
in a call and the file in its order, then one caller with one text a call. The peer (serving_peer.py) has the texts
sorted by length and no network. bf16 is compared with the peer's fp32, since that has no bf16.

With --tei, text-embeddings-inference's `text-embeddings-router` (built with gRPC) serves the same checkpoint, with its
backends in turn, and the same load goes to both: `tei.v1.Predict/Predict` from --tei-callers callers. Its ONNX Runtime is the
library that ORT_DYLIB_PATH names if it was built to load one, and is needed then for candle too.

Prints tables in Markdown, in which a ratio above 1 says that Hone is faster, and writes every result with --out. Only
the standard library.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare import machine

PEER = Path(__file__).with_name("serving_peer.py")
PRECISIONS = ["fp32", "bf16", "int8"]
# What the peer computes in where Hone computes in the first.
AGAINST = {"auto": "fp32", "fp32": "fp32", "bf16": "fp32", "int8": "int8"}


class Failed(Exception):
    pass


class Data:
    """A file to train on, a file to answer, and what was made of them."""

    def __init__(self, given, cache):
        try:
            self.name, rest = given.split(":", 1)
            folder, rows, tokens = rest.rsplit(":", 2)
            self.rows, self.tokens = int(rows), int(tokens)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{given} is not NAME:FOLDER:ROWS:TOKENS") from None
        self.train, self.test = Path(folder) / "train.csv", Path(folder) / "test.csv"
        home = cache / f"{self.name}-{self.rows}-{self.tokens}"
        self.folder, self.checkpoint = home / "data", home / "checkpoint"


def run(command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}")
    return done.stdout


def result(command, what):
    """The JSON object that a measuring program prints."""
    for line in run(command).splitlines():
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and told.get("what") == what:
                return told
    raise Failed(f"{' '.join(map(str, command))} printed no result")


@contextlib.contextmanager
def daemon(args, data, *flags):
    """A running daemon: its address and its process."""
    command = [args.bin / "daemon", "--listen", "127.0.0.1:0", "--device", "cpu", "--log", "warn"]
    command += ["--threads", args.threads, "--model", args.encoder, "--data-dir", data.folder, *flags]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise Failed(f"{' '.join(map(str, command))} did not start")
        yield f"http://{line.split()[-1]}", process.pid
    finally:
        process.terminate()
        process.wait()


def prepare(args, data):
    """Trains and downloads what is served, if that was not done."""
    if data.checkpoint.exists():
        return
    print(f"training {data.name} on {data.rows} rows", file=sys.stderr)
    shutil.rmtree(data.folder.parent, ignore_errors=True)
    data.folder.parent.mkdir(parents=True)
    with daemon(args, data) as (address, _):
        client = [args.bin / "client", "--daemon", address]
        train = ["--train", data.train, "--train-limit", data.rows, "--max-length", data.tokens]
        run([*client, "train", "--name", data.name, *train, "--epochs", 1, "--precision", "fp32"])
        made = data.checkpoint.with_suffix(".part")
        run([*client, "models", "download", data.name, "--to", made])
        made.rename(data.checkpoint)


def precisions(args):
    """Those that this daemon can be asked for."""
    known = "--serve-precision" in run([args.bin / "daemon", "--help"])
    return args.precisions if known else ["auto"]


def flags(precision):
    return [] if precision == "auto" else ["--serve-precision", precision]


def load(args, address, pid, data, *rest):
    command = [args.bin / "examples/hone-bench", "load", "--address", address, "--pid", pid]
    return result([*command, "--texts", data.test, *rest], "load")


def limit(args):
    return ["--limit", args.limit] if args.limit else []


def hone(args, data, precision):
    called = ["--name", data.name]
    with daemon(args, data, *flags(precision)) as (address, pid):
        many = ["--callers", args.callers, "--texts-per-call", args.texts_per_call, "--passes", args.passes]
        many += limit(args)
        whole = load(args, address, pid, data, *called, *many)["closed"]
        one = ["--limit", args.alone, "--passes", 5, "--warm-up", 0.5]
        alone = load(args, address, pid, data, *called, *one)["closed"]
    if set(whole["codes"]) | set(alone["codes"]) != {"OK"}:
        raise Failed(f"calls have failed: {whole['errors']} {alone['errors']}")
    return {
        "texts_per_second": whole["texts_per_second"],
        "accuracy": whole["accuracy"],
        "alone_ms": alone["latency_ms"]["p50"],
        "own_cpu_share": whole["own_cpu_share"],
        "resident_bytes": whole["resident_bytes"]["after"],
        "calls": {"whole": whole, "alone": alone},
    }


def peer(args, data, precision):
    command = [args.python, PEER, "--model", data.checkpoint, "--texts", data.test, "--precision", precision]
    command += ["--threads", args.threads, "--max-length", data.tokens, "--passes", args.passes]
    command += ["--alone", args.alone, "--cache", args.cache / "onnx", *limit(args)]
    return result(command, "serving_peer")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def one_text_a_call(args):
    many = ["--callers", args.tei_callers, "--connections", 2, "--passes", args.passes, *limit(args)]
    return ["--protocol", "tei", *many]


def checked(told):
    """A closed loop in which every call was answered."""
    closed = told["closed"]
    if set(closed["codes"]) != {"OK"}:
        raise Failed(f"calls have failed: {closed['codes']} {closed['errors']}")
    return closed


def tei_folder(args, data, backend):
    """The checkpoint as text-embeddings-inference wants it: it has another place for the longest text, and computes with ONNX
    Runtime where it finds a model.onnx."""
    folder = data.folder.parent / f"tei-{backend}"
    if not folder.exists():
        made = folder.with_suffix(".part")
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(data.checkpoint, made)
        length = {"max_seq_length": data.tokens, "do_lower_case": False}
        (made / "sentence_bert_config.json").write_text(json.dumps(length))
        if backend == "ort":
            peer(argparse.Namespace(**{**vars(args), "limit": 1, "passes": 1, "alone": 1}), data, "fp32")
            digest = hashlib.sha256((made / "model.safetensors").read_bytes()).hexdigest()[:16]
            shutil.copy(args.cache / "onnx" / f"{digest}.fp32.onnx", made / "model.onnx")
        made.rename(folder)
    return folder


def tei(args, data, backend):
    port, metrics = free_port(), free_port()
    command = [args.tei, "--model-id", tei_folder(args, data, backend), "--port", port, "--hostname", "127.0.0.1"]
    command += ["--prometheus-port", metrics, "--auto-truncate", *args.tei_flags.split()]
    environment = {"LOG_LEVEL": "warn", **os.environ}
    with tempfile.TemporaryFile("w+") as said:
        command = [str(part) for part in command]
        process = subprocess.Popen(command, stdout=said, stderr=said, text=True, env=environment)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if process.poll() is not None:
                    said.seek(0)
                    last = "\n".join(said.read().strip().splitlines()[-5:])
                    raise Failed(f"{' '.join(command)} ended with {process.returncode}:\n{last}")
                time.sleep(0.1)
            else:
                raise Failed(f"{' '.join(command)} did not listen within a minute")
            return checked(load(args, f"http://127.0.0.1:{port}", process.pid, data, *one_text_a_call(args)))
        finally:
            process.terminate()
            process.wait()


def hone_beside_tei(args, data, precision):
    with daemon(args, data, *flags(precision)) as (address, pid):
        return checked(load(args, address, pid, data, *one_text_a_call(args)))


def cases(args, sets):
    """What is measured: a key, and a function for each side."""
    for data in sets:
        for precision in precisions(args):
            yield (
                (data.name, precision),
                {
                    "hone": lambda data=data, precision=precision: hone(args, data, precision),
                    "peer": lambda data=data, precision=precision: peer(args, data, AGAINST[precision]),
                },
            )
            if args.tei and precision in ("auto", "fp32"):
                for backend in args.tei_backends:
                    yield (
                        (data.name, f"tei {backend}"),
                        {
                            "hone": lambda data=data, precision=precision: hone_beside_tei(args, data, precision),
                            "peer": lambda data=data, backend=backend: tei(args, data, backend),
                        },
                    )


def measure(args, sets):
    """Results by case and side, a list each; a case that fails is given up."""
    results, sides = {}, ["hone", "peer"]
    todo = dict(cases(args, sets))
    for number in range(args.rounds):
        for case, measures in list(todo.items()):
            of_case = results.setdefault(case, {side: [] for side in sides})
            for side in sides if number % 2 == 0 else sides[::-1]:
                try:
                    told = measures[side]()
                except Failed as error:
                    print(f"{' '.join(case)} is left out: {error}", file=sys.stderr)
                    del todo[case], results[case]
                    break
                of_case[side].append(told)
                rate = told["texts_per_second"]
                print(f"round {number + 1}, {' '.join(case)}, {side}: {rate:.0f} texts/s", file=sys.stderr)
    return results


def median(results, *keys):
    values = []
    for one in results:
        for key in keys:
            one = one[key]
        values.append(one)
    return statistics.median(values)


def tables(results):
    lines = ["| data | precision | Hone, texts/s | accuracy | ONNX Runtime, texts/s | accuracy | ratio |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|"]
    alone = ["", "| data | precision | Hone, one caller | ONNX Runtime | ratio |", "|---|---|--:|--:|--:|"]
    beside = ["", "| data | peer | Hone, texts/s | accuracy | peer, texts/s | accuracy | ratio | p99 | peer, p99 |"]
    beside += ["|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    for (name, precision), sides in results.items():
        ours, theirs = (median(sides[side], "texts_per_second") for side in ("hone", "peer"))
        ratio = f"{ours / theirs:.2f}"
        right = [f"{median(sides[side], 'accuracy'):.4f}" for side in ("hone", "peer")]
        if precision.startswith("tei"):
            p99 = [f"{median(sides[side], 'latency_ms', 'p99'):.0f} ms" for side in ("hone", "peer")]
            both = f"{ours:,.0f} | {right[0]} | {theirs:,.0f} | {right[1]} | {ratio} | {p99[0]} | {p99[1]}"
            beside.append(f"| {name} | {precision} | {both} |")
            continue
        lines.append(f"| {name} | {precision} | {ours:,.0f} | {right[0]} | {theirs:,.0f} | {right[1]} | {ratio} |")
        ours, theirs = (median(sides[side], "alone_ms") for side in ("hone", "peer"))
        alone.append(f"| {name} | {precision} | {ours:.2f} ms | {theirs:.2f} ms | {theirs / ours:.2f} |")
    return "\n".join(lines + alone + (beside if len(beside) > 3 else []))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default="target/release", help="where daemon and client are")
    parser.add_argument("--encoder", type=Path, required=True, help="what models are trained from")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME:FOLDER:ROWS:TOKENS")
    parser.add_argument("--python", default=sys.executable, help="one that has onnxruntime and torch")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/hone-bench")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--callers", type=int, default=2)
    parser.add_argument("--texts-per-call", type=int, default=32)
    parser.add_argument("--limit", type=int, help="only the first rows of each test file")
    parser.add_argument("--passes", type=int, default=3, help="over the file, in each round")
    parser.add_argument("--alone", type=int, default=200, help="texts that are asked one at a time")
    parser.add_argument("--tei", type=Path, help="text-embeddings-router, built with gRPC")
    parser.add_argument("--tei-flags", default="", help="more of its flags")
    parser.add_argument("--tei-callers", type=int, default=64)
    parser.add_argument("--tei-backends", nargs="+", choices=["ort", "candle"], default=["ort"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write every result here, as JSON")
    args = parser.parse_args()
    try:
        sets = [Data(given, args.cache) for given in args.data]
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    about = machine()
    for data in sets:
        prepare(args, data)
    results = measure(args, sets)
    print(tables(results))
    if args.out:
        settings = {name: str(value) for name, value in vars(args).items()}
        every = {" ".join(case): sides for case, sides in results.items()}
        args.out.write_text(json.dumps({"machine": about, "settings": settings, "results": every}, indent=2) + "\n")


if __name__ == "__main__":
    main()
