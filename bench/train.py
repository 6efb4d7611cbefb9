"""Times `directrix train` against PyTorch and SAELens, and checks that it trains the same.

    pip install torch sae-lens safetensors
    python bench/train.py            # the speed table: 4096 -> 16384, batches of 4096 (about half an hour on two cores)
    python bench/train.py --toy      # agreement with PyTorch only, every objective, minutes

Every run is a process of its own, one after the other, on the same case with the same number of threads. `floor` is the
time that the encoder's product alone takes in PyTorch, measured in the same rounds.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PEER = [sys.executable, str(ROOT / "bench/peers/sae_training.py")]
EXAMPLE = ["-q", "--workspace", "--example", "train_steps"]
OBJECTIVES = ["l1", "sqrt", "pure_sqrt", "hoyer_square", "combined_hoyer_l1", "combined_hoyer_sqrt",
              "combined_hoyer_pure_sqrt", "hoyer_d", "hoyer_d_scaled_l1", "topk", "batchtopk", "matryoshka", "jumprelu", "gated"]
TOY = {"d_in": 64, "d_sae": 256, "batch": 128, "timed": 9, "rounds": 1, "l0": 20, "k": 8, "lr": 1e-4,
       "objectives": OBJECTIVES, "who": ["torch", "ours"]}


def run(command, threads):
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
    subprocess.run([str(c) for c in command], cwd=ROOT, check=True, env=env)


def result(command, out, threads):
    run(command, threads)
    return json.loads(out.read_text())


def disagreement(ours, torch):
    """The largest relative difference of the losses."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours["loss"], torch["loss"], strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=4096)
    parser.add_argument("--d-sae", type=int, default=16384)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--timed", type=int, default=4, help="timed steps, after one warm-up")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--l0", type=float, default=50, help="directions firing per row at the start")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=1e-3, help="relative, between our losses and PyTorch's; five "
                        "times that where a square root is penalised, as its slope at 0 makes rounding matter")
    parser.add_argument("--objectives", nargs="+", default=["combined_hoyer_sqrt", "topk"], choices=OBJECTIVES)
    parser.add_argument("--who", nargs="+", default=["torch", "SAELens", "ours"], choices=["torch", "SAELens", "ours"])
    parser.add_argument("--toy", action="store_true", help="small sizes, every objective, agreement only")
    if parser.parse_known_args()[0].toy:
        parser.set_defaults(**TOY)
    args = parser.parse_args()

    if "ours" in args.who:
        run(["cargo", "build", "--release", *EXAMPLE], args.threads)
    sizes = ["--d-in", args.d_in, "--d-sae", args.d_sae, "--batch", args.batch]
    rates, runs, failed = [], {}, False
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        out = tmp / "out.json"
        for objective in args.objectives:
            case = tmp / "case"
            run([*PEER, "case", case, "--objective", objective, *sizes, "--batches", 2, "--steps", 1 + args.timed,
                 "--lr", args.lr, "--k", args.k, "--l0", 0 if "topk" in objective else args.l0], args.threads)
            command = {"torch": [*PEER, "torch", case, out, "--threads", args.threads],
                       "SAELens": [*PEER, "saelens", case, out, "--threads", args.threads],
                       "ours": [str(ROOT / "target/release/examples/train_steps"), case, out]}
            for _ in range(args.rounds):
                if not args.toy:
                    floor = result([*PEER, "matmul", out, *sizes, "--threads", args.threads], out, args.threads)
                    rates.append(floor["flops_per_second"])
                for who in args.who:
                    print(f"{objective}: {who}", file=sys.stderr)
                    runs.setdefault((objective, who), []).append(result(command[who], out, args.threads))

    if {"torch", "ours"} <= set(args.who):
        for objective in args.objectives:
            worst = max(map(disagreement, runs[objective, "ours"], runs[objective, "torch"]))
            agreed = worst < args.tolerance * (5 if "sqrt" in objective else 1)
            failed |= not agreed
            print(f"{objective}: losses within {worst:.1e} of PyTorch's{'' if agreed else ': TOO FAR'}")
    if not args.toy:
        rate = median(rates)
        floor = 2 * args.batch * args.d_in * args.d_sae / rate
        print(f"\n{args.d_in} -> {args.d_sae}, batches of {args.batch}, {args.threads} threads; "
              f"encoder product in PyTorch: {rate / 1e9:.0f} GFLOP/s, {floor:.2f} s\n")
        print("| objective | who | L0 | positions/s | ours is | peak memory | ours takes | of the floor |\n|---|---|---|---|---|---|---|---|")
        for (objective, who), rounds in runs.items():
            step = median(s for r in rounds for s in r["seconds"][1:])
            peak = max(r["peak_bytes"] for r in rounds)
            faster = smaller = ""
            if who != "ours" and (ours := runs.get((objective, "ours"))):
                faster = f"{step / median(s for r in ours for s in r['seconds'][1:]):.2f}x as fast"
                smaller = f"{max(r['peak_bytes'] for r in ours) / peak:.2f}x"
            print(f"| {objective} | {who} | {rounds[-1]['l0'][-1]:.0f} | {args.batch / step:.0f} | {faster} | "
                  f"{peak / 2**30:.2f} GiB | {smaller} | {floor / step:.0%} |")
    sys.exit(failed)


if __name__ == "__main__":
    main()
