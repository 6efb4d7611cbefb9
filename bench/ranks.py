#!/usr/bin/env python3
"""How an index divides over ranks of MPI, at the original notebook's sizes: one process of two threads beside one and two ranks of one thread each.

    cargo build --release --workspace --features directrix/mpi
    bench/ranks.py                  # takes some minutes
    bench/ranks.py --train          # a training instead, beside its plan: what ranks exchange in it, and how long that takes

Whole processes, in turn. Efficiency is that of so many ranks: the time of one process with as many threads, divided by theirs.
"""
import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
D_IN, BATCH, STEPS, BUFFER = 4096, 4096, 15, 16_384
BINARY, TIMED = (ROOT / "target/release" / name for name in ("directrix", "directrix-bench"))


def run(command):
    start = time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start, done


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
        if args.train:
            flags = ["--objective", "topk", "--k", "50", "--expansion", "4", "--batch", BATCH, "--tokens", STEPS * BATCH, "--buffer", BUFFER,
                     "--context", "128", "--evaluate-every", "0"]
            for split in ("positions", "directions"):
                train = [*mpirun(2), BINARY, "train", *inputs, *flags, "--split", split, "--out", work / f"sae-{split}", "--threads", 1]
                _, planned = run([*train, "--plan=2", "--json"])
                plan = json.loads(planned.stdout)["plan"]
                over = next(over for over in plan["ranks"] if over["split"] == split)
                # The buffer is filled before the first step, and activations are exchanged then, too.
                given = plan["steps"] * over["given_bytes"] + BUFFER * 4 * D_IN / 2
                # The first rank is given what the others hold, to write it.
                given += plan["sae_bytes"] / 2 if split == "directions" else 0
                exchanged = given / plan["link"]
                seconds = plan["steps"] * over["step_seconds"] + BUFFER * plan["position_seconds"] / 2 + exchanged
                _, done = run(train)
                found = re.search(r"gave this one ([0-9.]+) MB; exchanges took ([0-9.]+) %, .* ([0-9.]+) % of ([0-9.]+) s", done.stderr)
                mb, share, waiting, took = map(float, found.groups())
                print(f"training by {split}, planned / found: {given / 1e6:.1f} / {mb:.1f} MB, {seconds:.1f} / {took:.1f} s, "
                      f"exchanges {100 * exchanged / seconds:.2f} / {share:.2f} % of the time, waiting {waiting:.1f} %")
            return
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


if __name__ == "__main__":
    main()
