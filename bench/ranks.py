#!/usr/bin/env python3
"""How an index divides over ranks of MPI, at the original notebook's sizes: one process of two threads beside one and two ranks of one thread each.

    cargo build --release --workspace --features directrix/mpi
    bench/ranks.py                  # takes some minutes
    bench/ranks.py --train          # a training too: what ranks exchange in it, and how long that takes

Whole processes, in turn. Efficiency is that of so many ranks: the time of one process with as many threads, divided by theirs.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BINARY, TIMED = (ROOT / "target/release" / name for name in ("directrix", "directrix-bench"))


def run(command):
    start = time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start, done.stderr


def mpirun(ranks):
    return ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", ranks]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=800, help="stories of the index [default: 800]")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    os.environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="directrix-ranks-") as folder:
        work = Path(folder)
        run([TIMED, "--sizes", "origin", "--inputs", work / "inputs", "--only-inputs"])
        spec, draw = json.loads((work / "inputs/inputs.json").read_text()), random.Random(0)
        stories = [draw.choice(spec["stories"]) for _ in range(args.stories)]
        corpus = work / "stories.jsonl"
        corpus.write_text("".join(json.dumps({"tokens": story}) + "\n" for story in stories))
        inputs = ["--model", work / "inputs/model", "--corpus", corpus]
        index = ["index", *inputs, "--sae", work / "inputs/sae-0", "--sae", work / "inputs/sae-1", "--out", work / "index"]
        ways = {"one process, 2 threads": ([], 2), "2 ranks, 1 thread each": (mpirun(2), 1), "1 rank, 1 thread": (mpirun(1), 1)}
        best = {}
        for _ in range(args.repeats):
            for name, (prefix, threads) in ways.items():
                shutil.rmtree(work / "index", ignore_errors=True)
                seconds, _ = run([*prefix, BINARY, *index, "--threads", threads])
                best[name] = min(best.get(name, seconds), seconds)
        print(f"{args.stories} stories, {sum(map(len, stories)):,} positions")
        for name, seconds in best.items():
            print(f"{name:25} {seconds:7.1f} s   {best['one process, 2 threads'] / seconds:.2f} of one process of 2 threads")
        print(f"efficiency of 2 ranks: {best['one process, 2 threads'] / best['2 ranks, 1 thread each']:.2f} beside 2 threads, "
              f"{best['1 rank, 1 thread'] / 2 / best['2 ranks, 1 thread each']:.2f} beside 1 rank")
        if args.train:
            flags = ["--objective", "topk", "--k", "50", "--expansion", "4", "--batch", "4096", "--tokens", "120k", "--buffer", "16k",
                     "--context", "128", "--evaluate-every", "0"]
            for split in ("positions", "directions"):
                train = ["train", *inputs, *flags, "--split", split, "--out", work / f"sae-{split}"]
                seconds, said = run([*mpirun(2), BINARY, *train, "--threads", 1])
                print(f"training by {split}: {seconds:.1f} s;", next(line for line in said.splitlines() if "other ranks" in line))


if __name__ == "__main__":
    main()
