"""Cost against tokens, directions, layers and threads, drawn.

    python bench/scaling.py [--out out/scaling.svg] [--work FOLDER]

Runs `directrix-bench` in the original notebook's sizes with one of them changed at a time, every point in a process of its
own, and draws the seconds and the peak memory of the index pass, what every task reaches of the machine's f32 rate, and f32
products by number of rows under the machine's two roofs: that rate, and how fast it reads memory (Williams, Waterman and
Patterson 2009). Needs `pip install -r bench/requirements.txt`.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch

BINARY = Path(__file__).resolve().parent.parent / "target/release/directrix-bench"
THREADS = os.cpu_count()
BLUE, ORANGE = "#2a6fbb", "#d1742f"
WEIGHTS = (4096, 16384)  # of the encoder, and of the task `product`
POINTS = {
    "stories": [8, 32, 64, 128],
    "directions": [4096, 8192, 16384],
    "layers": [2, 4, 6],
}


def bench(work, tasks, threads=THREADS, repeats=1, **changed):
    """The tasks in the origin's sizes with some changed; the fastest of some repeats."""
    sizes = ",".join(["origin", *(f"{name}={n}" for name, n in changed.items())])
    inputs = work / sizes
    command = [BINARY, "--sizes", sizes, "--inputs", inputs, "--threads", str(threads), "--json"]
    command += [part for task in tasks for part in ("--task", task)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(repeats)]
    return [min(same, key=lambda row: row["seconds"]) for same in zip(*runs)]


def bytes_per_second():
    """How fast PyTorch's product with a vector reads a gigabyte that no cache holds: the best of five."""
    torch.set_num_threads(THREADS)
    matrix, vector, seconds = torch.ones(1 << 14, 1 << 14), torch.ones(1 << 14), []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ vector
        seconds.append(time.perf_counter() - start)
    return 4 * matrix.numel() / min(seconds)


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
                [row] = bench(work, ["index"], repeats=4, **{name: n})
                found[name].append((n, row))
                print(name, n, row, flush=True)
        found["threads"] = [(n, bench(work, ["index"], threads=n, repeats=4)[0]) for n in range(1, THREADS + 1)]
        tasks = bench(work, ["product", "index", "ablate-last", "ablate-first", "ablate-everywhere", "joint", "cooccurrence",
                             "logit-attribution", "feature-attribution", "loss-recovered", "cosine"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(found, tasks, bytes_per_second(), args.out)


def draw(found, tasks, bandwidth, out):
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"})
    figure, axes = plt.subplot_mosaic([["tokens", "memory", "directions", "layers"], ["threads", "tasks", "roofs", "roofs"]],
                                      figsize=(13, 6.4), layout="constrained")

    def line(name, points, label, unit):
        xs, ys = zip(*points)
        axes[name].plot(xs, ys, "o-", color=BLUE)
        axes[name].set(xlabel=label, ylabel=unit, xlim=(0, 1.05 * max(xs)), ylim=(0, 1.08 * max(ys)))
    line("tokens", [(row["units"], row["seconds"]) for _, row in found["stories"]], "tokens", "index pass, seconds")
    line("memory", [(row["units"], row["peak_bytes"] / 1e9) for _, row in found["stories"]], "tokens", "peak memory, GB")
    for name, label in (("directions", "directions of each SAE"), ("layers", "layers")):
        points = [(n, row["seconds"] / row["units"] * 1e3) for n, row in found[name]]
        line(name, points, label, "index pass, ms per token")
    points = [(n, row["units"] / row["seconds"] / 1e3) for n, row in found["threads"]]
    line("threads", points, "threads", "index pass, tokens per ms")
    axes["threads"].set_xticks([n for n, _ in points])
    products = [row for row in tasks if row["task"] == "product"]
    peak = rate(products[-1])
    rates = [(row["task"], rate(row)) for row in tasks if row["task"] != "product"][::-1]
    axes["tasks"].barh(*zip(*rates), color=BLUE)
    axes["tasks"].axvline(peak, color=ORANGE)
    axes["tasks"].text(peak, len(rates) / 2, " f32 product", color=ORANGE, va="center")
    axes["tasks"].set(xlabel="unavoidable GFLOP per second")
    roofs(axes["roofs"], products, peak, bandwidth / 1e9)
    figure.savefig(out, metadata={"Date": None})


def rate(row):
    return row["flop"] / row["seconds"] / 1e9


def roofs(ax, products, peak, bandwidth):
    """Products of some rows with the encoder's weights; `bandwidth` in GB/s."""
    inner, columns = WEIGHTS
    points = []
    for row in products:
        rows = row["units"]
        touched = 4 * (rows * inner + inner * columns + rows * columns)
        points.append((row["flop"] / touched, rate(row), rows))
    low, high = points[0][0] / 2, points[-1][0] * 4
    ax.loglog([low, peak / bandwidth, high], [low * bandwidth, peak, peak], color=ORANGE)
    ax.text(high, peak * 1.08, f"{peak:,.0f} GFLOP/s", color=ORANGE, ha="right")
    ax.text(low * 5, low * bandwidth * 7, f"{bandwidth:,.0f} GB/s ", color=ORANGE, ha="right")
    ax.loglog([x for x, *_ in points], [y for _, y, _ in points], "o", color=BLUE)
    for x, y, rows in points:
        ax.annotate(f"{rows:,} row{'s'[:rows > 1]}", (x, y), (6, -10), textcoords="offset points")
    ax.set(xlabel="floating-point operations per byte of the operands", ylabel="f32 product, GFLOP per second")


if __name__ == "__main__":
    main()
