"""Golden interventions: what TransformerLens's hooks do on the tiny models, for crates/model/tests/interventions.rs.

    pip install -r bench/requirements.txt
    python bench/peers/interventions.py              # writes them
    python bench/peers/interventions.py --check      # compares them with what is written

Edits at every hook point of the first and the last block, the kinds of edit in turn, in all columns of a row and in some, at
all positions and at some; rows of another prompt; several at once; on processed weights and on raw ones. Beside each case,
what comes of it: the loss at every position, and what the final LayerNorm gives at the last. A case without any effect is no
test and is drawn again. The draw is seeded with the model's name and its processing.
"""
import argparse
import json
import os
import random
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors.torch import load_file, save_file

from common import load_model

MODELS = Path(__file__).parents[2] / "crates/model/tests/fixtures"
END = "ln_final.hook_normalized"
TOLERANCE = 1e-5  # of max(1, |x|), between two runs of this script
HEADS = ("attn_in", "q_input", "k_input", "v_input", "hook_q", "hook_k", "hook_v", "rot_q", "rot_k", "hook_z", "hook_result",
         "q_norm.hook_normalized", "k_norm.hook_normalized")
BY_KEY = ("attn_scores", "pattern")
KINDS = ("zero", "set", "add", "scale", "project", "each")
PATCHED = ("hook_embed", "blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.attn.hook_v", "blocks.1.hook_mlp_out")
MODELS_EDITED = ("neo-tiny", "gpt2-tiny", "neox-tiny", "gemma2-tiny", "gemma3-tiny")
FEW = ("gemma2-tiny", "gemma3-tiny")  # models of which half of the edits are tried
NORMALISED = ("attn_in", "q_input", "k_input", "v_input", "scale", "normalized", "resid_mid", "mlp_in", "hook_z")


def listed(positions, n):
    """The positions, in order, that an intervention names in a prompt of `n`."""
    if positions == "all":
        return list(range(n))
    (kind, value), = positions.items()
    return {"at": lambda: value, "from": lambda: list(range(value, n)), "from_end": lambda: [n - value]}[kind]()


def edited(x, edit, i):
    """The numbers `x` of the `i`th edited position, after the edit."""
    if edit == "zero":
        return torch.zeros_like(x)
    (kind, value), = edit.items()
    if kind == "scale":
        return torch.where(x.isinf(), x, x * value)
    row = torch.tensor(value)
    row = row[i] if row.dim() == 2 else row
    return {"set": row, "add": x + row, "project": x - (x @ row) / (row @ row) * row}[kind]


def fwd_hook(intervention, n):
    positions, columns, edit = intervention["positions"], intervention["columns"], intervention["edit"]

    def by_key(value, hook):  # [1, head, query, key]: a row is what a query has up to its own position
        heads = range(value.shape[1]) if columns == "all" else [columns["head"]]
        for i, at in enumerate(listed(positions, value.shape[2])):
            for head in heads:
                value[0, head, at, :at + 1] = edited(value[0, head, at, :at + 1], edit, i)
        return value

    def by_position(value, hook):  # [1, position, ...]
        part = slice(None)
        if columns != "all":
            (kind, which), = columns.items()
            width = value.shape[-1]
            part = slice(which * width, (which + 1) * width) if kind == "head" else slice(which["start"], which["end"])
        rows = value.clone().reshape(n, -1)  # norms of queries and keys have rows of positions and heads
        for i, at in enumerate(listed(positions, len(rows))):
            rows[at, part] = edited(rows[at, part], edit, i)
        return rows.reshape(value.shape)

    return intervention["hook"], by_key if intervention["hook"].endswith(BY_KEY) else by_position


def outcome(model, tokens, interventions):
    """Losses at all positions but the last, and the final LayerNorm at the last."""
    hooks = [i["hook"] for i in interventions]
    model.set_use_attn_result(any(hook.endswith("result") for hook in hooks))
    if model.cfg.n_key_value_heads is None:
        model.set_use_attn_in(any(hook.endswith("attn_in") for hook in hooks))
    model.set_use_split_qkv_input(any(hook.endswith(("q_input", "k_input", "v_input")) for hook in hooks))
    model.set_use_hook_mlp_in(any(hook.endswith("mlp_in") for hook in hooks))
    end = []
    see = (END, lambda value, hook: end.append(value[0, -1].clone()))
    losses = model.run_with_hooks(torch.tensor([tokens]), return_type="loss", loss_per_token=True,
                                  fwd_hooks=[fwd_hook(i, len(tokens)) for i in interventions] + [see])
    return losses[0], end[0]


class Draw:
    """Draws cases for a model."""

    def __init__(self, model, prompts, seed):
        self.model, self.prompts, self.random = model, prompts, random.Random(seed)
        self.plain = [outcome(model, tokens, []) for tokens in prompts]
        for flag in ("attn_result", "split_qkv_input", "hook_mlp_in"):
            getattr(model, f"set_use_{flag}")(True)
        _, cache = model.run_with_cache(torch.tensor([prompts[0]]))
        by_position = lambda value: value.reshape(len(prompts[0]), -1, value.shape[-1])
        self.values = {name: by_position(value) if "_norm." in name else value[0] for name, value in cache.items()}
        caches = [model.run_with_cache(torch.tensor([tokens]), names_filter=list(PATCHED))[1] for tokens in prompts]
        self.patched = {hook: [cache[hook][0].flatten(1) for cache in caches] for hook in PATCHED}
        # Not both at once in TransformerLens, and the one not where heads share keys.
        for layer in range(model.cfg.n_layers if model.cfg.n_key_value_heads is None else 0):
            self.values[f"blocks.{layer}.hook_attn_in"] = self.values[f"blocks.{layer}.hook_q_input"]
        for name, value in self.values.items():  # with a head's own input, LayerNorm has a head's own numbers
            if "ln1" in name and value.dim() == 3:
                self.values[name] = value[:, 0]

    def hooks(self, layers):
        last = ("ln_final.hook_scale", END)
        blocks = [name for name in self.values if name.startswith(tuple(f"blocks.{layer}." for layer in layers))]
        return ["hook_embed"] + ["hook_pos_embed"] * ("hook_pos_embed" in self.values) + sorted(blocks) + list(last)

    def positions(self, n):
        some = sorted(self.random.sample(range(1, n - 1), 2))
        return self.random.choice(["all", {"at": some[:1]}, {"at": some}, {"from": some[1]}, {"from_end": 2}])

    def row(self, width, hook):
        """Random numbers as large as those there; few of them where there are many, so that the files stay small."""
        spread = self.values[hook].std().item()
        draw = lambda: round(self.random.gauss(0, 1.5 * spread), 1 if spread > 0.3 else 2)
        return [draw() if self.random.random() < 48 / width else 0 for _ in range(width)]

    def intervention(self, hook, n, kind, columns="all"):
        value = self.values[hook]
        width = 1 if hook.endswith(BY_KEY) else value[0].numel()
        if columns == "head":
            columns = {"head": self.random.randrange(value.shape[0 if hook.endswith(BY_KEY) else 1])}
            width = value.shape[-1]
        elif columns == "range":
            start = self.random.randrange(width // 2)
            columns = {"range": {"start": start, "end": start + width // 3}}
            width = width // 3
        positions, edit = self.positions(n), kind
        if kind == "scale":
            edit = {"scale": self.random.choice([-0.5, 0.25, 2.0])}
        elif kind == "each":
            positions = {"at": self.random.sample(range(1, n - 1), 2)}
            edit = {self.random.choice(["set", "add", "project"]): [self.row(width, hook) for _ in range(2)]}
        elif kind != "zero":
            row = self.row(width, hook)
            edit = {kind: [3.0 * abs(x) + 0.5 for x in row] if hook.endswith("scale") else row}
        return {"hook": hook, "positions": positions, "columns": columns, "edit": edit}

    def patch(self, hook, n, kind):
        """The rows of another prompt at the same positions, or the mean of all prompts."""
        prompts = self.patched[hook]
        if kind == "mean":
            rows, positions = torch.cat(prompts).mean(0), self.positions(n)
        else:
            other = self.random.choice(prompts)
            at = sorted(self.random.sample(range(1, min(n - 1, len(other))), 2))
            rows, positions = other[at], {"at": at}
        columns = "all"
        if hook.endswith(HEADS):
            width, head = self.values[hook].shape[-1], self.random.randrange(self.values[hook].shape[1])
            columns, rows = {"head": head}, rows[..., head * width:(head + 1) * width]
        return {"hook": hook, "positions": positions, "columns": columns, "edit": {"set": (rows * 1000).round().div(1000).double().tolist()}}

    def case(self, *choices):
        """One case of (hook, kind, columns) each, that changes something."""
        for _ in range(40):
            prompt = self.random.randrange(len(self.prompts))
            tokens = self.prompts[prompt]
            drawn = [(self.patch if rest[0] in ("patch", "mean") else self.intervention)(hook, len(tokens), *rest)
                     for hook, *rest in choices]
            found = outcome(self.model, tokens, drawn)
            change = max(((a - b).abs() / a.abs().clamp(min=1)).max().item() for a, b in zip(found, self.plain[prompt]))
            if all(x.isfinite().all() for x in found) and change > 1e-2:
                return {"prompt": prompt, "interventions": drawn}, found
        raise ValueError(f"no case of {choices} changes anything")

    def choices(self, hook):
        """The single interventions tried at a hook point, as (kind, columns): in the last block those not tried in the first."""
        if hook.endswith("scale"):
            return [("set",), ("add",), ("scale",)]
        if hook.endswith(BY_KEY):
            return [("zero",), ("scale",), ("zero", "head"), ("scale", "head")]
        part = "head" if hook.endswith(HEADS) else "range"
        if not hook.startswith("blocks."):
            return [(kind,) for kind in KINDS] + [(self.random.choice(KINDS), part)]
        return [(kind,) for kind in KINDS[0 if hook.startswith("blocks.0.") else 1::2]] + [(self.random.choice(KINDS), part)]

    def several(self):
        """Interventions at different places and twice at the same."""
        hooks = [h for h in self.hooks(range(self.model.cfg.n_layers))
                 if not h.endswith(("scale", "_input", "attn_in", *BY_KEY))]
        some = sorted(self.random.sample(hooks, 2))
        return [(hook, self.random.choice(["add", "scale", "project", "each"])) for hook in (*some, some[1])]


def cases(folder):
    prompts = json.loads((folder / "expected.json").read_text())["prompts"]
    prompts = sorted(prompts, key=len)[:4]
    made = {"prompts": prompts, "processed": [], "raw": []}
    tensors = {}
    for which in ("processed", "raw"):
        draw = Draw(load_model(folder, which == "processed"), prompts, f"{folder.name} {which}")
        layers = (0, draw.model.cfg.n_layers - 1)
        if which == "processed":
            every = 2 if folder.name in FEW else 1
            picks = [[(hook, *choice)] for hook in draw.hooks(layers) for choice in draw.choices(hook)[::every]]
            picks += [[(hook, kind)] for hook in PATCHED for kind in ("patch", "mean")]
            picks += [draw.several() for _ in range(6)]
        else:
            picks = [[(hook, *draw.random.choice(draw.choices(hook)))] for hook in draw.hooks(layers[1:])
                     if hook.endswith(NORMALISED)]
        drawn = [draw.case(*pick) for pick in picks]
        made[which] = [case for case, _ in drawn]
        tensors[f"{which}.losses"] = torch.cat([losses for _, (losses, _) in drawn])
        tensors[f"{which}.end"] = torch.stack([end for _, (_, end) in drawn])
    return made, tensors


def text(made):
    def lines(cases):
        return "[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]"
    return "{" + ",\n".join(f'"{key}":{lines(value)}' for key, value in made.items()) + "}\n"


def check(folder, made):
    """Does the cases that are written again."""
    written = load_file(folder / "interventions.safetensors")
    for which in ("processed", "raw"):
        model = load_model(folder, which == "processed")
        found = [outcome(model, made["prompts"][case["prompt"]], case["interventions"]) for case in made[which]]
        for key, again in ("losses", torch.cat([f[0] for f in found])), ("end", torch.stack([f[1] for f in found])):
            before = written[f"{which}.{key}"]
            delta = ((before - again).abs() / before.abs().clamp(min=1)).max().item()
            assert delta <= TOLERANCE, f"{folder.name} {which} {key}: {delta}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", type=Path, default=MODELS, help="folder of the tiny models")
    parser.add_argument("--only", nargs="+", help="models to make or compare")
    parser.add_argument("--check", action="store_true", help="compare with what is there instead of writing it")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    for name in args.only or MODELS_EDITED:
        folder = args.fixtures / name
        if args.check:
            made = json.loads((folder / "interventions.json").read_text())
            check(folder, made)
        else:
            made, tensors = cases(folder)
            (folder / "interventions.json").write_text(text(made))
            save_file(tensors, folder / "interventions.safetensors")
        print(name, {which: len(made[which]) for which in ("processed", "raw")}, "cases")


if __name__ == "__main__":
    main()
