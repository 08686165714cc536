#!/usr/bin/env python3
"""Runs hone-bench and peer.py in turn on the same work and compares them.

    compare.py --model DIR --train CSV --file CSV [--rounds 3] [--threads 2] [--out results.json]
    compare.py --before PROGRAM ...

Each round runs every case once on either side, one process after the other, and the sides
take turns in going first, so that what else happens on the machine falls on both. A figure
is the median of the rounds. Prints a table in Markdown, in which a ratio above 1 says that
Hone is faster or smaller, and writes every result with --out. Only the standard library.

Cases: step (16 x 128 tokens), epoch, evaluate, classify, each in fp32 and bf16; --only chooses, for
example `--only step/fp32 epoch/fp32`. With --before, the other side is not PyTorch but an earlier
build of hone-bench: what a change has cost or won. A case that one side cannot run is left out of the
table with a word on standard error.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

PEER = Path(__file__).with_name("peer.py")
SIDES = ["hone", "peer"]
LOWER, HIGHER = "lower", "higher"

# What a row of the table shows: the key, its name, a unit, a factor to that unit, and
# whether lower or higher is better.
SHOWN = {
    "step": [
        ("seconds_median", "step", "ms", 1e3, LOWER),
        ("forward", "step: forward", "ms", 1e3, LOWER),
        ("backward", "step: backward", "ms", 1e3, LOWER),
        ("optimizer", "step: clip and AdamW", "ms", 1e3, LOWER),
        ("peak_rss_bytes", "step: peak memory", "MB", 1e-6, LOWER),
        ("peak_gpu_bytes", "step: peak memory of the GPU", "MB", 1e-6, LOWER),
    ],
    "epoch": [
        ("samples_per_second", "epoch", "samples/s", 1, HIGHER),
        ("peak_rss_bytes", "epoch: peak memory", "MB", 1e-6, LOWER),
    ],
    "classify": [("seconds_median", "classify", "ms", 1e3, LOWER)],
    "evaluate": [
        ("samples_per_second", "evaluate", "samples/s", 1, HIGHER),
        ("peak_rss_bytes", "evaluate: peak memory", "MB", 1e-6, LOWER),
    ],
}
PRECISIONS = ["fp32", "bf16"]
CASES = [f"{what}/{precision}" for what in SHOWN for precision in PRECISIONS]


class RunFailed(Exception):
    pass


def arguments(case, args):
    """What both sides are called with."""
    what, precision = case.split("/")
    common = ["--model", args.model, "--precision", precision, "--threads", str(args.threads)]
    batch = ["--batch", str(args.batch)]
    rows = ["--max-length", str(args.max_length)]
    if what == "step":
        length = ["--length", str(args.length), "--steps", str(args.steps)]
        return [what, *common, *batch, *length]
    if what == "classify":
        return [what, *common, *batch, "--length", str(args.length)]
    if what == "epoch":
        return [what, *common, *batch, *rows, "--train", args.train, *limit(args.limit)]
    return [what, *common, *rows, "--file", args.file, *limit(args.evaluate_limit)]


def limit(rows):
    return ["--limit", str(rows)] if rows else []


def run(side, case, args):
    """The result of one process."""
    if side == "hone" or args.before:
        command = [args.hone if side == "hone" else args.before, *arguments(case, args), "--device", args.device]
    else:
        command = [args.python, str(PEER), *arguments(case, args), *(["--compile"] if args.compile else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise RunFailed(f"{command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RunFailed(f"{' '.join(command)} ended with {done.returncode}:\n{last}")
    what = case.split("/")[0]
    for line in done.stdout.splitlines():
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if isinstance(result, dict) and result.get("what") == what:
            return result
    raise RunFailed(f"{' '.join(command)} printed no result of {what}")


def measure(args):
    """Results by case and side, a list each; a case that fails is given up."""
    results = {case: {side: [] for side in SIDES} for case in args.only}
    for number in range(args.rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        for case in list(results):
            for side in order:
                try:
                    result = run(side, case, args)
                except RunFailed as error:
                    print(f"{case} is left out: {error}", file=sys.stderr)
                    del results[case]
                    break
                results[case][side].append(result)
                print(f"round {number + 1}, {case}, {side}: {json.dumps(result)}", file=sys.stderr)
    return results


def median(results, key):
    values = [result[key] for result in results if isinstance(result.get(key), (int, float))]
    return statistics.median(values) if values else None


def compare(results):
    """The rows of the table."""
    rows = []
    for case, sides in results.items():
        what, precision = case.split("/")
        for key, name, unit, factor, better in SHOWN[what]:
            hone, peer = (median(sides[side], key) for side in SIDES)
            if not hone or not peer:
                continue
            ratio = peer / hone if better == LOWER else hone / peer
            rows.append(
                {
                    "what": name,
                    "precision": precision,
                    "unit": unit,
                    "hone": hone * factor,
                    "peer": peer * factor,
                    "ratio": ratio,
                }
            )
    return rows


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows, peer):
    lines = [f"| what | precision | Hone | {peer} | ratio |", "|---|---|--:|--:|--:|"]
    for row in rows:
        hone, peer = (f"{number(row[side])} {row['unit']}" for side in SIDES)
        lines.append(f"| {row['what']} | {row['precision']} | {hone} | {peer} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def processor():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine():
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"processor": processor(), "cores": os.cpu_count(), "load_before": load}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="an encoder's folder")
    parser.add_argument("--train", help="CSV of text,label, for epoch")
    parser.add_argument("--file", help="CSV of text,label, for evaluate")
    parser.add_argument("--limit", type=int, default=1000, help="rows of --train (default 1000)")
    parser.add_argument("--evaluate-limit", type=int, help="rows of --file (default all)")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence in step")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu", help="Hone's; the peer takes a GPU where there is one")
    parser.add_argument("--compile", action="store_true", help="the peer with torch.compile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, metavar="CASE")
    parser.add_argument("--hone", default="target/release/hone-bench", help="the program hone-bench")
    parser.add_argument("--before", help="an earlier build of hone-bench, in the place of PyTorch")
    parser.add_argument("--python", default=sys.executable, help="one that has torch")
    parser.add_argument("--out", type=Path, help="write every result here, as JSON")
    args = parser.parse_args()
    for what, given in (("epoch", "train"), ("evaluate", "file")):
        if getattr(args, given) is None and any(case.startswith(what) for case in args.only):
            parser.error(f"--{given} is needed for {what}; or choose other cases with --only")

    about = machine()
    start = time.time()
    results = measure(args)
    rows = compare(results)
    print(table(rows, "before" if args.before else "PyTorch"))
    if args.out:
        settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}
        text = json.dumps(
            {
                "machine": about,
                "settings": settings,
                "started": start,
                "table": rows,
                "results": results,
            },
            indent=2,
        )
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0 if len(results) == len(args.only) else 1


if __name__ == "__main__":
    sys.exit(main())
