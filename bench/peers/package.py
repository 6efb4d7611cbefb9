"""The cells of python/examples/closing_quote.ipynb, on the benchmark's inputs. No PyTorch: peak memory is the package's.

    python package.py INPUTS TASK OUT --units N [--threads N]
"""
import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


class Inputs:
    """What a task takes: `prompts`, and `opened` on a corpus of stories; both cut to `units`."""

    def __init__(self, folder: Path, scratch: Path, units: int):
        import directrix as dx
        spec = json.loads((folder / "inputs.json").read_text())
        self.scratch = scratch
        self.directions, self.joint, self.above = (spec[k] for k in ("directions", "joint", "above"))
        self.tokens = sum(map(len, spec["stories"][:units]))
        stories = scratch / "stories.jsonl"
        stories.write_text("".join(json.dumps({"tokens": ids}) + "\n" for ids in spec["stories"][:units]))
        self.opened = dx.open(folder / "model", [folder / "sae-0", folder / "sae-1"], stories)
        self.model, self.saes = self.opened.model, self.opened.saes
        self.prompts = self.model.to_prompts(spec["prompts"][:units])
        self.site_mean = load_file(folder / "site_mean.safetensors")["mean"]
        # A first pass, which is not timed.
        self.model(spec["prompts"][0][:8])


def columns(table, *names):
    return np.stack([np.asarray(table[name]) for name in names], -1)


# ---- cells: `dx` is the package, `x` the inputs ----

def index(dx, x):
    # The notebook's maxima are of every position but the last.
    index = x.opened.index(x.scratch / "index", skip_first=0)
    return {f"maximum.{i}": index.maxima(i) for i in (0, 1)}, {"tokens": x.tokens}


def top_tokens(dx, x):
    index = x.opened.index(x.scratch / "index")
    tensors = {}
    for i, sae in enumerate(x.saes):
        table = dx.top_tokens(index, i)
        for name, column in ((f"count.{i}", "occurrences"), (f"count_of_top.{i}", "token_occurrences")):
            tensors[name] = np.zeros(sae.cfg.d_sae)
            tensors[name][table["direction"]] = table[column]
    return tensors, {"tokens": x.tokens}


def answers(dx, x):
    return {"acts": dx.answer_activations(x.model, x.saes[1], x.prompts).to_dense()}, {}


def pair_effects(dx, x):
    index = x.opened.index(x.scratch / "index", skip_first=0)
    pair = [int(np.argmax(index.directions(i)["prompts"])) for i in (0, 1)]
    names = ("loss", "loss_first_ablated", "loss_second_ablated", "second_activation", "second_activation_first_ablated")
    return {"effects": columns(dx.pair_effects(x.model, *x.saes, index, [pair], prompts=len(index)), *names)[0]}, {}


def ablate_last(dx, x):
    singles = dx.single_ablations(x.model, x.saes[1], x.prompts, x.directions, above=0.0)
    # The notebook's means are over all prompts: where a direction is not active, ablating it does nothing.
    return {"increases": np.nan_to_num(singles["loss_increase"]) * singles["n"] / len(x.prompts)}, {}


def ablate_everywhere(dx, x, n=4):
    tables = [dx.ablate(x.model, x.saes[0], x.prompts, direction, everywhere=True, only_active=False).prompts
              for direction in x.directions[:n]]
    return {"losses": np.stack([columns(table, "loss", "loss_ablated") for table in tables], 1)}, {}


def joint(dx, x):
    effects = dx.answer_effects(x.model, x.saes[1].ablate(x.joint), x.prompts).effects
    names = ("log_prob", "logit", "rank")
    return {"ranks": np.stack([columns(effects, *names), columns(effects, *(f"{name}_changed" for name in names))], 1)}, {}


def at_mean(dx, x):
    mean = dx.Intervention.at_hook(x.saes[1].cfg.hook_name, "set", rows=x.site_mean[None], positions=-2)
    answers = range(len(x.prompts)), -2, [tokens[-1] for tokens in x.prompts]
    before = x.model(x.prompts)[answers]
    with x.model.hooks([mean]):
        return {"logits": np.stack([before, x.model(x.prompts)[answers]], -1)}, {}


def loss_recovered(dx, x):
    losses = dx.answer_losses(x.model, x.saes[1], x.prompts, x.joint, mean=x.site_mean).losses
    return {"losses": columns(losses, "original", "mean", "zero", "directions", "sae")}, {}


def boosts(dx, x):
    return {"log_probs": columns(dx.log_prob_boosts(x.model, x.saes[1], x.prompts, x.directions[0]), "on", "off").T}, {}


def cooccurrence(dx, x):
    table = dx.cooccurrence(x.model, *x.saes, x.prompts, above=x.above)
    rows = columns(table, "prompt", "position", "first", "second", "ablated", "activation")
    return {"rows": rows}, {"pairs": len(table)}


def logit_attribution(dx, x):
    return {"components": np.asarray(dx.logit_attribution(x.model, x.prompts)["mean"])}, {}


def remainder(dx, x):
    return {"parts": np.asarray(dx.remainder(x.model, x.saes[1], x.prompts, answer=x.prompts[0][-1])["mean"])}, {}


def feature_attribution(dx, x):
    table = dx.attribution_to_direction(x.model, x.saes[1], x.prompts, x.directions[0])
    return {"components": np.asarray(table["mean"])}, {}


def cosine(dx, x):
    pairs = dx.cosine_pairs(x.model, *x.saes, k=10)
    return {"values": np.asarray(pairs["cosine"]), "pairs": columns(pairs, "first", "second")}, {}


TASKS = {
    "index": index,
    "top-tokens": top_tokens,
    "cosine": cosine,
    "pair-effects": pair_effects,
    "cooccurrence": cooccurrence,
    "logit-attribution": logit_attribution,
    "answers": answers,
    "ablate-last": ablate_last,
    "remainder": remainder,
    "feature-attribution": feature_attribution,
    "joint": joint,
    "at-mean": at_mean,
    "loss-recovered": loss_recovered,
    "boosts": boosts,
    "ablate-everywhere": ablate_everywhere,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("out", help="OUT.safetensors and OUT.json are written")
    parser.add_argument("--units", type=int, required=True, help="how many stories or prompts")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    import directrix as dx
    with tempfile.TemporaryDirectory(prefix="directrix-bench-") as scratch:
        inputs = Inputs(args.inputs, Path(scratch), args.units)
        start = time.perf_counter()
        tensors, facts = TASKS[args.task](dx, inputs)
        seconds = time.perf_counter() - start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = {"task": args.task, "units": args.units, "seconds": seconds} | facts | {"peak_bytes": peak}
    tensors = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    save_file(tensors, f"{args.out}.safetensors")
    Path(f"{args.out}.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
