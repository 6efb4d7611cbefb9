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
        self.scratch, self.units = scratch, units
        self.directions, self.joint, self.above = (spec[k] for k in ("directions", "joint", "above"))
        self.tokens = sum(map(len, spec["stories"][:units]))
        stories = scratch / "stories.jsonl"
        stories.write_text("".join(json.dumps({"tokens": ids}) + "\n" for ids in spec["stories"][:units]))
        self.open = lambda: dx.open(folder / "model", [folder / "sae-0", folder / "sae-1"], stories)
        self.opened = self.open()
        self.model, self.saes = self.opened.model, self.opened.saes
        self.prompts = self.model.to_prompts(spec["prompts"][:units])
        self.site_mean = load_file(folder / "site_mean.safetensors")["mean"]
        # A first pass, which is not timed.
        self.model(spec["prompts"][0][:8])
        self.ready()

    def ready(self):
        """From here on a task is timed: called by those that first make what other cells have made."""
        self.start = time.perf_counter()

    def index(self, **options):
        return self.opened.index(self.scratch / "index", **options)


def columns(table, *names):
    return np.stack([np.asarray(table[name]) for name in names], -1)


# ---- cells: `dx` is the package, `x` the inputs ----

def index(dx, x):
    # The notebook's maxima are of every position but the last.
    index = x.index(skip_first=0)
    return {f"maximum.{i}": index.maxima(i) for i in (0, 1)}, {"tokens": x.tokens}


def top_tokens(dx, x):
    index = x.index()
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
    index = x.index(skip_first=0)
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
    return {"rows": rows}, {"count": len(table)}


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


def token_occurrences(dx, x):
    index = x.index()
    x.ready()
    table, counts = dx.token_occurrences(index), np.zeros(x.model.cfg.d_vocab)
    counts[table["token"]] = table["count"]
    return {"count": counts}, {}


def examples(dx, x, n=8):
    index = x.index(skip_first=0)
    x.ready()
    strongest = np.argsort(-index.maxima(1), kind="stable")[:n].tolist()
    shown = [index.on_prompt(d, index.top_examples(d, 1, 1)["prompt"][0], 1) for d in strongest]
    return {"values": np.concatenate(shown)}, {"count": n}


def open_all(dx, x):
    x.opened = x.model = x.saes = None
    x.ready()
    opened = x.open()
    values = [opened.model.W_in[1][:4].ravel(), opened.saes[1].W_dec[:4].ravel()]
    return {"values": np.concatenate(values)}, {}


def behaviour(dx, x):
    opened = dx.open(limit=x.units)
    x.ready()
    stories, found = opened.prompts(), dx.behaviour_prompts(opened, 'said, "', '."')
    lengths = [len(stories), sum(map(len, stories)), len(found.prompts), sum(map(len, found.prompts)), found.answer]
    return {"count": np.array(lengths)}, {}


def mean_site(dx, x):
    return {"mean": dx.mean_site(x.model, x.saes[1], x.prompts)}, {}


def pattern(dx, x):
    shown = []
    for prompt in x.prompts:
        _, cache = x.model.run_with_cache(prompt, return_type=None, names_filter="pattern1")
        shown.append(cache["pattern", 1][0, 2])
    return {"patterns": np.stack(shown)}, {}


def acts_in_prompts(dx, x):
    sae = x.saes[1]
    _, cache = x.model.run_with_cache(x.prompts, return_type=None, names_filter=sae.cfg.hook_name)
    acts = [sae.encode(values)[:, x.directions[0]] for values in dx.split(cache[sae.cfg.hook_name].reshape(-1, sae.cfg.d_in), x.prompts)]
    return {"acts": np.concatenate(acts)}, {}


def active_directions(dx, x):
    acts = dx.answer_activations(x.model, x.saes[1], x.prompts)
    maxima = acts.to_dense().max(0)
    x.ready()
    return {"values": np.asarray(dx.active_directions(acts, maxima)["mean_activation"])}, {"count": 1}


def coactivation(dx, x):
    acts = dx.answer_activations(x.model, x.saes[1], x.prompts)
    x.ready()
    return {"correlations": dx.coactivation(acts, x.directions)}, {"count": 1}


def ablate_joint(dx, x):
    table = dx.ablate(x.model, x.saes[1], x.prompts, x.joint, only_active=False).prompts
    return {"losses": -columns(table, "log_prob", "log_prob_ablated")}, {}


def ablate_positions(dx, x):
    direction = x.directions[0]
    _, cache = x.model.run_with_cache(x.prompts, return_type=None, names_filter=x.saes[1].cfg.hook_name)
    rows = dx.split(cache[x.saes[1].cfg.hook_name].reshape(-1, x.saes[1].cfg.d_in), x.prompts)
    active = [np.flatnonzero(x.saes[1].encode(values)[:-1, direction] > 0) for values in rows]
    x.ready()
    prompts = x.prompts.select(np.repeat(np.arange(len(active)), [len(of) for of in active]).tolist())
    table = dx.ablate(x.model, x.saes[1], prompts, direction, position=np.concatenate(active).tolist()).prompts
    return {"losses": -columns(table, "log_prob", "log_prob_ablated")}, {"count": len(table)}


def single_prompt(dx, x):
    first_sae, second_sae = x.saes
    hooks = [sae.cfg.hook_name for sae in x.saes]
    _, cache = x.model.run_with_cache(x.prompts[0], return_type=None, names_filter=hooks)
    first_acts, second_acts = (sae.encode(cache[hook])[0, -1] for sae, hook in zip(x.saes, hooks))
    second, acts = int(second_acts.argmax()), []
    for first in np.flatnonzero(first_acts > x.above)[:x.units].tolist():
        with x.model.hooks([first_sae.ablate(first, positions=-1)]):
            _, changed = x.model.run_with_cache(x.prompts[0], return_type=None, names_filter=hooks[1])
        acts.append(second_sae.encode(changed[hooks[1]])[0, -1, second])
    return {"acts": np.array(acts)}, {"count": len(acts)}


def cooccurrence_pairs(dx, x):
    table = dx.cooccurrence_pairs(x.model, *x.saes, x.prompts, above=x.above)
    return {"pair_rows": columns(table, "first", "second", "n", "difference")}, {"count": int(np.sum(table["n"]))}


def feature_attribution_mean(dx, x):
    table = dx.attribution_to_direction(x.model, x.saes[1], x.prompts, x.directions[0], inactive="mean")
    return {"components": np.asarray(table["mean"])}, {}


def direction_attribution(dx, x):
    acts = dx.answer_activations(x.model, x.saes[1], x.prompts)
    x.ready()
    table = dx.direction_attribution(x.model, x.saes[1], answer=int(x.prompts[0][-1]), acts=acts)
    return {name: np.asarray(table[name]) for name in ("attribution", "scaled")}, {"count": 1}


def logit_boosts(dx, x):
    rows = [dx.logit_boosts(x.model, x.saes[1], direction)["boost"] for direction in x.directions]
    return {"values": np.stack(rows)}, {"count": len(rows)}


def figures(dx, x):
    values = np.random.default_rng(0).standard_normal(16_384).astype(np.float32)
    names = [f"component {i}" for i in range(22)]
    x.ready()
    drawn = [dx.histogram(values, log=True), dx.bars(names, values[:22], abs(values[:22])), dx.heatmap(values[:576].reshape(24, 24)),
             dx.line(names, {i: values[22 * i:22 * i + 22] for i in range(3)}), dx.scatter(values[:1000], values[1000:2000])]
    texts = [json.dumps(figure._repr_mimebundle_()) for figure in drawn]
    return {}, {"count": len(texts)}


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
    "open": open_all,
    "behaviour": behaviour,
    "token-occurrences": token_occurrences,
    "examples": examples,
    "mean-site": mean_site,
    "pattern": pattern,
    "acts-in-prompts": acts_in_prompts,
    "active-directions": active_directions,
    "coactivation": coactivation,
    "ablate-joint": ablate_joint,
    "ablate-positions": ablate_positions,
    "single-prompt": single_prompt,
    "cooccurrence-pairs": cooccurrence_pairs,
    "feature-attribution-mean": feature_attribution_mean,
    "direction-attribution": direction_attribution,
    "logit-boosts": logit_boosts,
    "figures": figures,
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
        tensors, facts = TASKS[args.task](dx, inputs)
        seconds = time.perf_counter() - inputs.start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = {"task": args.task, "units": args.units, "seconds": seconds} | facts | {"peak_bytes": peak}
    tensors = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    save_file(tensors, f"{args.out}.safetensors")
    Path(f"{args.out}.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
