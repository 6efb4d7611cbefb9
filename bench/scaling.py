"""Cost against tokens, directions, layers and threads, drawn.

    python bench/scaling.py [--out out/scaling.svg] [--work FOLDER]

Runs `directrix bench` in the original notebook's sizes with one of them changed at a time, every point in a process of its
own, and draws the seconds and the peak memory of the index pass, and what every task reaches of the machine's f32 rate. Needs
`pip install -r bench/requirements.txt`.
"""
import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt

BINARY = Path(__file__).resolve().parent.parent / "target/release/directrix"
THREADS = os.cpu_count()
POINTS = {
    "stories": [8, 32, 64, 128],
    "directions": [4096, 8192, 16384],
    "layers": [2, 4, 6],
}


def bench(work, tasks, threads=THREADS, repeats=1, **changed):
    """The tasks in the origin's sizes with some changed; the fastest of some repeats."""
    sizes = ",".join(["origin", *(f"{name}={n}" for name, n in changed.items())])
    inputs = work / sizes
    command = [BINARY, "bench", "--sizes", sizes, "--inputs", inputs, "--threads", str(threads), "--json"]
    command += [part for task in tasks for part in ("--task", task)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(repeats)]
    return [min(same, key=lambda row: row["seconds"]) for same in zip(*runs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/scaling.svg"))
    parser.add_argument("--work", type=Path, help="folder for inputs, kept; 15 GB [default: a temporary one]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="directrix-scaling-") as temporary:
        work, found = args.work or Path(temporary), {}
        for name, points in POINTS.items():
            found[name] = []
            for n in points:
                [row] = bench(work, ["index"], repeats=2, **{name: n})
                found[name].append((n, row))
                print(name, n, row, flush=True)
        found["threads"] = [(n, bench(work, ["index"], threads=n, repeats=2)[0]) for n in range(1, THREADS + 1)]
        tasks = bench(work, ["product", "index", "ablate-last", "ablate-first", "ablate-everywhere", "joint", "cooccurrence",
                             "logit-attribution", "feature-attribution", "loss-recovered", "cosine"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(found, tasks, args.out)


def draw(found, tasks, out):
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"})
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    blue, orange = "#2a6fbb", "#d1742f"

    def line(ax, xs, ys, label, unit):
        ax.plot(xs, ys, "o-", color=blue)
        ax.set(xlabel=label, ylabel=unit, xlim=(0, 1.05 * max(xs)), ylim=(0, 1.08 * max(ys)))
    tokens = [row["units"] for _, row in found["stories"]]
    line(axes[0, 0], tokens, [row["seconds"] for _, row in found["stories"]], "tokens", "index pass, seconds")
    line(axes[0, 1], tokens, [row["peak_bytes"] / 1e9 for _, row in found["stories"]], "tokens", "peak memory, GB")
    for ax, name in ((axes[0, 2], "directions"), (axes[1, 0], "layers"), (axes[1, 1], "threads")):
        points = [(n, row["seconds"] / row["units"] * 1e3) for n, row in found[name]]
        if name == "threads":
            points = [(n, 1 / y) for n, y in points]
        line(ax, *zip(*points), f"{name} of each SAE" if name == "directions" else name,
             "index pass, tokens per ms" if name == "threads" else "index pass, ms per token")
    rates = [(row["task"], row["flop"] / row["seconds"] / 1e9) for row in tasks]
    ax, peak = axes[1, 2], rates[0][1]
    ax.barh([name for name, _ in rates[::-1]], [rate for _, rate in rates[::-1]], color=blue)
    ax.axvline(peak, color=orange)
    ax.text(peak, len(rates) / 2, " f32 product", color=orange, va="center")
    ax.set(xlabel="unavoidable GFLOP per second")
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
