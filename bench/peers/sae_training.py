"""SAE training on PyTorch and on SAELens: what `directrix train` is checked and timed against.

    python sae_training.py case DIR --objective l1       # write a case: settings, initial weights, batches
    python sae_training.py torch DIR OUT.json            # train it with plain PyTorch
    python sae_training.py saelens DIR OUT.json          # train it with SAELens's own trainer (speed and memory only)
    python sae_training.py matmul OUT.json               # the rate of one f32 matrix product
    python sae_training.py goldens [DIR]                 # regenerate the golden cases of crates/sae

Needs `pip install torch sae-lens safetensors`.
"""
import argparse
import json
import math
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

PENALTIES = ["l1", "sqrt", "pure_sqrt", "hoyer_square", "combined_hoyer_l1", "combined_hoyer_sqrt",
             "combined_hoyer_pure_sqrt", "hoyer_d", "hoyer_d_scaled_l1"]
OBJECTIVES = PENALTIES + ["topk", "batchtopk", "matryoshka", "jumprelu", "gated"]
TOPK = ["topk", "batchtopk", "matryoshka"]
EPS = torch.finfo(torch.float32).eps

# Coefficients per row; for the penalties summed over the batch they are divided by the batch.
COEFFICIENT = {"l1": [0.3], "sqrt": [0.3], "pure_sqrt": [0.3], "hoyer_square": [0.1], "combined_hoyer_l1": [0.2, 0.05],
               "combined_hoyer_sqrt": [0.2, 0.05], "combined_hoyer_pure_sqrt": [0.2, 0.05], "hoyer_d": [0.3],
               "hoyer_d_scaled_l1": [0.05], "topk": [], "batchtopk": [], "matryoshka": [], "jumprelu": [0.1], "gated": [0.3]}


# ---- cases ----

def synthetic(d_in, rows, gen):
    """Sparse non-negative mixtures of a random dictionary, plus a mean and a little noise."""
    atoms, active = 2 * d_in, max(3, d_in // 128)
    dictionary = F.normalize(torch.randn(atoms, d_in, generator=gen), dim=-1)
    which = torch.randint(atoms, (rows, active), generator=gen)
    codes = 0.5 + torch.rand(rows, active, generator=gen)
    x = F.embedding_bag(which, dictionary, mode="sum", per_sample_weights=codes)
    return x + 0.2 * torch.randn(d_in, generator=gen) + 0.02 * torch.randn(rows, d_in, generator=gen)


def initial(case, x, l0, gen):
    """Unit decoder rows, the encoder their transpose; biases such that about `l0` directions fire per row of `x`."""
    d_in, d_sae, spread = x.shape[1], case["widths"][-1], 0.05
    W_dec = F.normalize(torch.randn(d_sae, d_in, generator=gen), dim=-1)
    b_dec = x.mean(0)
    W_enc = W_dec.T.contiguous()
    b_enc = spread * torch.randn(d_sae, generator=gen)
    if l0:
        pre = W_dec @ (x - b_dec).T
        b_enc = -pre.topk(1 + round(len(x) * l0 / d_sae), dim=-1).values[:, -1]
    p = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    if case["objective"] == "jumprelu":
        p["log_threshold"] = torch.full((d_sae,), math.log(case["threshold"]))
    if case["objective"] == "gated":
        p |= {"b_gate": p.pop("b_enc"), "b_mag": b_enc.clone(), "r_mag": spread * torch.randn(d_sae, generator=gen)}
    return p


def write_case(out, objective, d_in=64, d_sae=256, batch=128, batches=2, steps=10, seed=0, l0=0, coefficient=None,
               data=None, widths=None, k_aux=None, penalty_over="sum", **settings):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    gen = torch.Generator().manual_seed(seed)
    x = synthetic(d_in, batches * batch, gen)
    if coefficient is None:
        per = batch if objective in PENALTIES and objective != "hoyer_d" and penalty_over == "sum" else 1
        coefficient = [c / per for c in COEFFICIENT[objective]]
    case = {"objective": objective, "coefficient": coefficient, "k": 50, "widths": widths or [d_sae // 4, d_sae // 2, d_sae],
            "bandwidth": 0.05, "threshold": 0.01, "penalty_over": penalty_over, "lr": 3e-4, "betas": [0.9, 0.99],
            "eps": 1e-8, "steps": steps, "batch": batch, "aux_coefficient": 1 / 32, "k_aux": k_aux or d_in // 2,
            "dead_after": 10_000_000} | settings
    (out / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    save_file(initial(case, x[:batch], l0, gen), out / "init.safetensors")
    save_file({"batches": x.view(batches, batch, d_in)}, out / "batches.safetensors")


def read_case(folder, dtype=torch.float32):
    """Settings, initial weights and batches; cases beside each other may share the batches of the folder above."""
    folder = Path(folder)
    batches = folder / "batches.safetensors"
    if not batches.exists():
        batches = folder.parent / batches.name
    weights = {k: v.to(dtype) for k, v in load_file(folder / "init.safetensors").items()}
    return json.loads((folder / "case.json").read_text()), weights, load_file(batches)["batches"].to(dtype)


# ---- plain PyTorch ----

def penalty(name, a, c, mean):
    """The nine penalties of non-negative activations `a`, over the batch. Silent entries get no gradient."""
    rows = a.shape[0] if mean else 1

    def l1(k):
        return k * a.sum() / rows

    def root():
        return torch.where(a > 0, a, 1).sqrt() * (a > 0)

    def sqrt(k):
        return k * torch.where(a < 1, root(), a).sum() / rows

    def pure_sqrt(k):
        return k * root().sum() / rows

    def hoyer(k):
        return k * (a.norm(p=1, dim=-1) / (a.norm(p=2, dim=-1) + EPS)).square().sum() / rows

    def hoyer_d(k):
        return k * a.sum() ** 2 / (a ** 2).sum() / a.shape[-1]

    return {"l1": lambda: l1(c[0]), "sqrt": lambda: sqrt(c[0]), "pure_sqrt": lambda: pure_sqrt(c[0]),
            "hoyer_square": lambda: hoyer(c[0]), "combined_hoyer_l1": lambda: l1(c[0]) + hoyer(c[1]),
            "combined_hoyer_sqrt": lambda: sqrt(c[0]) + hoyer(c[1]),
            "combined_hoyer_pure_sqrt": lambda: pure_sqrt(c[0]) + hoyer(c[1]),
            "hoyer_d": lambda: hoyer_d(c[0]), "hoyer_d_scaled_l1": lambda: hoyer_d(c[0]) * l1(1)}[name]()


class JumpReLU(torch.autograd.Function):
    """pre where it exceeds theta; the threshold's gradient is the straight-through estimate of a rectangle."""

    @staticmethod
    def forward(ctx, pre, theta, bandwidth):
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return pre * (pre > theta)

    @staticmethod
    def backward(ctx, g):
        pre, theta = ctx.saved_tensors
        near = (pre - theta).abs() < ctx.bandwidth / 2
        return g * (pre > theta), -(theta / ctx.bandwidth) * (g * near).sum(0), None


class Step(torch.autograd.Function):
    """1 where pre exceeds theta, with a gradient to theta only."""

    @staticmethod
    def forward(ctx, pre, theta, bandwidth):
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx, g):
        pre, theta = ctx.saved_tensors
        near = (pre - theta).abs() < ctx.bandwidth / 2
        return None, -(g * near).sum(0) / ctx.bandwidth, None


def largest(a, k):
    values, at = a.topk(min(k, a.shape[-1]), dim=-1)
    return torch.zeros_like(a).scatter(-1, at, values)


def mean_square(error):
    return error.pow(2).sum(-1).mean()


def objective(case, p, x, dead):
    """The terms of one step's loss, and the activations. `aux` is weighted: loss = fit + penalty + aux."""
    name = case["objective"]
    product = (x - p["b_dec"]) @ p["W_enc"]
    sparsity = aux = x.new_zeros(())
    if name == "gated":
        pi = product + p["b_gate"]
        acts = (pi > 0) * F.relu(product * p["r_mag"].exp() + p["b_mag"])
        sparsity = case["coefficient"][0] * F.relu(pi).sum(-1).mean()
        aux = mean_square(F.relu(pi) @ p["W_dec"].detach() + p["b_dec"].detach() - x)
    elif name == "jumprelu":
        pre, theta = product + p["b_enc"], p["log_threshold"].exp()
        acts = JumpReLU.apply(pre, theta, case["bandwidth"])
        sparsity = case["coefficient"][0] * Step.apply(pre, theta, case["bandwidth"]).sum(-1).mean()
    else:
        acts = positive = F.relu(product + p["b_enc"])
        if name == "topk":
            acts = largest(positive, case["k"])
        elif name in TOPK:
            acts = largest(positive.flatten(), case["k"] * len(x)).view_as(positive)
        else:
            sparsity = penalty(name, acts, case["coefficient"], case["penalty_over"] == "mean")
    recon = acts @ p["W_dec"] + p["b_dec"]
    fit = mse = mean_square(recon - x)
    if name == "matryoshka":
        for w in case["widths"][:-1]:
            fit = fit + mean_square(acts[:, :w] @ p["W_dec"][:w] + p["b_dec"] - x)
    if name in TOPK and dead.any():
        aux_acts = largest(positive * dead, case["k_aux"])
        aux = case["aux_coefficient"] * mean_square(aux_acts @ p["W_dec"] - (x - recon).detach())
    return {"loss": fit + sparsity + aux, "mse": mse, "penalty": sparsity, "aux": aux}, acts.detach()


def train(case, weights, batches):
    """Numbers of every step, and the trained weights."""
    p = {k: torch.nn.Parameter(v) for k, v in weights.items()}
    adam = torch.optim.Adam(p.values(), lr=case["lr"], betas=case["betas"], eps=case["eps"], fused=True)
    W_dec = p["W_dec"]
    silent = torch.zeros(len(W_dec), dtype=torch.long)  # rows since a direction fired
    threshold = None
    log = {k: [] for k in ("loss", "mse", "penalty", "aux", "l0", "threshold", "seconds")}
    for step in range(case["steps"]):
        start = time.perf_counter()
        x = batches[step % len(batches)]
        adam.zero_grad(set_to_none=True)
        terms, acts = objective(case, p, x, silent >= case["dead_after"])
        terms["loss"].backward()
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(-1, keepdim=True) * W_dec
            adam.step()
            W_dec /= W_dec.norm(dim=-1, keepdim=True)
        fires = acts > 0
        silent = torch.where(fires.any(0), 0, silent + len(x))
        if case["objective"] in ("batchtopk", "matryoshka"):
            lowest = torch.where(fires, acts, torch.inf).min().item()
            threshold = lowest if threshold is None else 0.99 * threshold + 0.01 * lowest
            log["threshold"].append(threshold)
        for k, v in terms.items():
            log[k].append(v.item())
        log["l0"].append(fires.sum().item() / len(x))
        log["seconds"].append(time.perf_counter() - start)
    return {k: v for k, v in log.items() if v}, {k: v.detach() for k, v in p.items()}


# ---- SAELens ----

def train_saelens(case, weights, batches):
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    d_in, d_sae = weights["W_enc"].shape
    if case["objective"] == "topk":
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=case["k"],
                                                    aux_loss_coefficient=case["aux_coefficient"]))
    elif case["objective"] in PENALTIES:
        per = 1 if case["penalty_over"] == "mean" else case["batch"]
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=d_in, d_sae=d_sae,
                                                            l1_coefficient=case["coefficient"][0] * per))
    else:
        sys.exit(f"no SAELens peer for {case['objective']}")
    sae.load_state_dict(weights)
    weights.clear()
    steps, rows = case["steps"], case["batch"]
    provider = (batches[i % len(batches)] for i in range(steps))
    trainer = SAETrainer(SAETrainerConfig(total_training_samples=steps * rows, train_batch_size_samples=rows, lr=case["lr"],
                                          lr_end=case["lr"], adam_beta1=case["betas"][0], adam_beta2=case["betas"][1]), sae, provider)
    log = {k: [] for k in ("loss", "mse", "penalty", "l0", "seconds")}
    for x in provider:  # the loop of SAETrainer.fit, timed
        start = time.perf_counter()
        out = trainer.step(x)
        trainer.n_training_steps += 1
        log["seconds"].append(time.perf_counter() - start)
        log["loss"].append(out.loss.item())
        log["mse"].append(out.losses["mse_loss"].item())
        log["penalty"].append(out.losses["l1_loss"].item() if "l1_loss" in out.losses else 0.0)
        log["l0"].append((out.feature_acts > 0).sum().item() / rows)
    return log, {k: v.detach() for k, v in sae.state_dict().items()}


def matmul(d_in, d_sae, batch, repeats=3):
    """FLOP/s of the encoder's product: [batch, d_in] x [d_in, d_sae], the median of `repeats` after a warm-up."""
    x, W, out = torch.randn(batch, d_in), torch.randn(d_in, d_sae), torch.empty(batch, d_sae)
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        torch.mm(x, W, out=out)
        seconds.append(time.perf_counter() - start)
    return {"flops_per_second": 2 * batch * d_in * d_sae / sorted(seconds[1:])[repeats // 2]}


# ---- goldens ----

# One seed, as all cases share their batches. Where a square root is penalised its unbounded slope makes long runs chaotic:
# those are short and mild.
GOLDEN = {"d_in": 16, "d_sae": 48, "batch": 32, "batches": 8, "steps": 200, "lr": 1e-3, "seed": 15}
GOLDEN_CASES = {name: {} for name in PENALTIES} | {"l1-mean": {"objective": "l1", "penalty_over": "mean"}}
GOLDEN_CASES |= {name: {"steps": 60, "coefficient": [0.003, 0.002]}
                 for name in ("sqrt", "pure_sqrt", "combined_hoyer_sqrt", "combined_hoyer_pure_sqrt")}
GOLDEN_CASES |= {"combined_hoyer_sqrt-long": {"objective": "combined_hoyer_sqrt", "lr": 1e-4, "coefficient": [0.003, 0.002]}}
GOLDEN_CASES |= {name: {"k": 4, "dead_after": 64, "k_aux": 8, "widths": [12, 24, 48]} for name in TOPK}
GOLDEN_CASES |= {"jumprelu": {"threshold": 0.1, "bandwidth": 0.2}, "gated": {}}


def drift(a, b):
    """The largest relative difference of two lists."""
    return max(abs(x - y) / max(abs(x), abs(y), 1e-12) for x, y in zip(a, b, strict=True))


def goldens(root):
    """Every golden case, trained in f32; refused where f64 goes another way, for then no implementation could follow."""
    print(f"{'case':26}{'l0 from':>8}{'to':>7}{'aux steps':>10}{'loss':>10}{'penalty':>10}{'l0':>10}{'weights':>10}")
    for name, settings in GOLDEN_CASES.items():
        folder = root / name
        write_case(folder, **GOLDEN | {"objective": name} | settings)
        shutil.move(folder / "batches.safetensors", root / "batches.safetensors")
        case, weights, batches = read_case(folder)
        log, final = train(case, weights, batches)
        wide_log, wide = train(*read_case(folder, torch.float64))
        del log["seconds"]
        drifts = {k: drift(log[k], wide_log[k]) for k in log}
        drifts["weights"] = max(((final[k] - wide[k]).abs().max() / wide[k].abs().max()).item() for k in final)
        aux = sum(v > 0 for v in log["aux"])
        print(f"{name:26}{log['l0'][0]:8.2f}{log['l0'][-1]:7.2f}{aux:10}"
              + "".join(f"{drifts[k]:10.1e}" for k in ("loss", "penalty", "l0", "weights")))
        losses = max(drifts[k] for k in ("loss", "mse", "penalty"))
        assert losses < 3e-4 if name.endswith("-long") else max(drifts.values()) < 2e-4, f"{name}: {drifts}"
        rounded = {k: [float(f"{v:.8g}") for v in values] for k, values in log.items()}
        (folder / "expected.json").write_text(json.dumps(rounded, separators=(",", ":")) + "\n")
        save_file(final, folder / "expected.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    c = commands.add_parser("case", argument_default=argparse.SUPPRESS)
    c.add_argument("out")
    c.add_argument("--objective", choices=OBJECTIVES, required=True)
    c.add_argument("--penalty-over", choices=["sum", "mean"])
    for flag in ("d-in", "d-sae", "batch", "batches", "steps", "seed", "k", "k-aux", "dead-after"):
        c.add_argument(f"--{flag}", type=int)
    for flag in ("l0", "lr", "eps", "bandwidth", "threshold", "aux-coefficient"):
        c.add_argument(f"--{flag}", type=float)
    c.add_argument("--coefficient", type=float, nargs="+")
    c.add_argument("--widths", type=int, nargs="+")
    for name in ("torch", "saelens"):
        c = commands.add_parser(name)
        c.add_argument("case")
        c.add_argument("out")
        c.add_argument("--threads", type=int, default=2)
        c.add_argument("--weights", help="also write the trained weights here")
    c = commands.add_parser("matmul")
    c.add_argument("out")
    c.add_argument("--threads", type=int, default=2)
    for flag, default in (("d-in", 4096), ("d-sae", 16384), ("batch", 4096)):
        c.add_argument(f"--{flag}", type=int, default=default)
    c = commands.add_parser("goldens")
    c.add_argument("out", nargs="?", type=Path,
                   default=Path(__file__).parents[2] / "crates/sae/tests/fixtures/training")
    args = vars(parser.parse_args())
    command, threads = args.pop("command"), args.pop("threads", 2)
    torch.set_num_threads(threads)
    if command == "case":
        write_case(**args)
    elif command == "goldens":
        goldens(args["out"])
    elif command == "matmul":
        out = args.pop("out")
        Path(out).write_text(json.dumps(matmul(**args)))
    else:
        log, weights = (train if command == "torch" else train_saelens)(*read_case(args["case"]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        log["peak_bytes"] = peak if sys.platform == "darwin" else 1024 * peak
        Path(args["out"]).write_text(json.dumps(log))
        if args["weights"]:
            save_file(weights, args["weights"])


if __name__ == "__main__":
    main()
