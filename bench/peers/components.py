"""Golden values of parts of the model exchanged, of directions set, kept and compared, for the tests of crates/circuits.

    pip install -r bench/requirements.txt
    python bench/peers/components.py              # writes them
    python bench/peers/components.py --check      # compares them with what is written

Patching is TransformerLens's own (`transformer_lens.patching`), the rest hooks and plain formulas, one prompt at a time; the assignment
is SciPy's. Nothing is shared with Directrix but the checkpoints. Nothing is random.
"""
import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize
from transformer_lens import patching

from analyses import CRATES, MODELS, Case, compare, estimate, mean, rounded

TO = 1.5  # what directions are set to
LEAST = 0.1


# ---- patching ----

def pairs_of(case):
    """Prompts without their answer, and the same with two tokens changed; the other answer is the next token's number."""
    vocabulary, pairs = case.model.cfg.d_vocab, []
    for i, prompt in enumerate(case.prompts[:4]):
        clean, answer = prompt[:-1], prompt[-1]
        changed = {2 + i: 1, 5 + i: 3}
        corrupted = [(token + changed.get(at, 0)) % vocabulary for at, token in enumerate(clean)]
        pairs.append({"clean": clean, "corrupted": corrupted, "answers": [answer, (answer + 1) % vocabulary]})
    return pairs


def patched(case):
    model = case.model
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    total, direct, positions, differences = {}, {}, {}, []
    for pair in pairs_of(case):
        clean, corrupted = (torch.tensor([pair[which]]) for which in ("clean", "corrupted"))
        one, other = pair["answers"]

        def metric(logits):
            return logits[0, -1, one] - logits[0, -1, other]

        (logits, cache), (other_logits, other_cache) = model.run_with_cache(clean), model.run_with_cache(corrupted)
        base = metric(logits)
        differences.append([base.item(), metric(other_logits).item()])

        def run(hook, change):
            def edit(value, hook):
                change(value)
                return value
            return model.run_with_hooks(clean, fwd_hooks=[(hook, edit)])

        def straight(difference):
            def add(value):
                value[0, -1] += difference
            return (metric(run(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", add)) - base).item()

        def all_positions(name, hook):
            effect = metric(run(hook, lambda value: value.copy_(other_cache[hook]))) - base
            total.setdefault(name, []).append(effect.item())
            direct.setdefault(name, []).append(straight(other_cache[hook][0, -1] - cache[hook][0, -1]))

        for layer in layers:
            for name, hook in [(f"{layer}_resid_pre", "hook_resid_pre"), (f"{layer}_attn_out", "hook_attn_out"),
                               (f"{layer}_mlp_out", "hook_mlp_out")]:
                all_positions(name, f"blocks.{layer}.{hook}")
        # TransformerLens runs what it calls corrupted, and takes values from what it calls clean: the other way round.
        effects = patching.get_act_patch_attn_head_out_all_pos(model, clean, other_cache, metric)
        for layer in layers:
            z, other_z = cache[f"blocks.{layer}.attn.hook_z"], other_cache[f"blocks.{layer}.attn.hook_z"]
            for head in heads:
                total.setdefault(f"L{layer}H{head}", []).append((effects[layer, head] - base).item())
                written = (other_z - z)[0, -1, head] @ model.W_O[layer, head]
                direct.setdefault(f"L{layer}H{head}", []).append(straight(written))
        for part, patch in [("resid_pre", patching.get_act_patch_resid_pre), ("attn_out", patching.get_act_patch_attn_out),
                            ("mlp_out", patching.get_act_patch_mlp_out)]:
            effects = patch(model, clean, other_cache, metric) - base
            for layer in layers:
                for position in range(clean.shape[1]):
                    key = (f"{layer}_{part}", clean.shape[1] - position)
                    positions.setdefault(key, []).append(effects[layer, position].item())
    parts = [{"component": name, "direct": mean(direct[name])} | estimate(of) for name, of in total.items()]
    return {"pairs": pairs_of(case), "differences": differences, "parts": parts,
            "positions": [{"component": name, "from_end": end, "n": len(of), "effect": mean(of)}
                          for (name, end), of in positions.items()]}


# ---- mean-ablation ----

def mean_ablated(case):
    """Each part replaced by its mean, over positions and then prompts of the first four, before the answer."""
    model, sae = case.model, case.saes[-1]
    directions = case.directions[-1][:2]
    rows = []

    def at_end(tokens, hooks):
        seen = []
        hooks = hooks + [(sae.hook, lambda value, hook: seen.append(value[0, -1]))]
        logits = model.run_with_hooks(torch.tensor([tokens[:-1]]), fwd_hooks=hooks)[0, -1].double()
        acts = sae.encode(seen[0])[directions].tolist()
        return [-logits.log_softmax(-1)[tokens[-1]].item(), *acts]

    before = [at_end(tokens, []) for tokens in case.prompts]
    caches = [model.run_with_cache(torch.tensor([tokens]))[1] for tokens in case.prompts[:4]]
    for layer in range(model.cfg.n_layers):
        parts = [(f"L{layer}H{head}", "attn.hook_z", head) for head in range(model.cfg.n_heads)]
        for name, hook, head in parts + [(f"{layer}_attn_out", "hook_attn_out", None), (f"{layer}_mlp_out", "hook_mlp_out", None)]:
            hook = f"blocks.{layer}.{hook}"
            value = torch.stack([cache[hook][0].mean(0) for cache in caches]).mean(0)

            def replace(at, hook, value=value, head=head):
                if head is None:
                    at[:] = value
                else:
                    at[:, :, head] = value[head]
                return at

            after = [at_end(tokens, [(hook, replace)]) for tokens in case.prompts]
            changes = [[a - b for a, b in zip(x, y)] for x, y in zip(after, before)]
            rows.append({"component": name, "changes": [mean([change[i] for change in changes]) for i in (1, 2)]}
                        | estimate([change[0] for change in changes]))
    return {"directions": directions, "rows": rows}


# ---- directions set, and kept ----

def changed(case, number):
    sae = case.saes[number]
    directions = case.directions[number][:3]
    site_mean = torch.stack([x.mean(0) for x in case.site[number][:4]]).mean(0)
    basis = torch.linalg.qr(sae.W_dec[directions].double().T).Q
    project = (basis @ basis.T).float()

    def acts_set(x):
        acts = sae.encode(x)
        acts[:, directions] = TO
        return acts

    changes = {
        "set": lambda x: x + (acts_set(x) - sae.encode(x)) @ sae.W_dec,
        "reconstruct_set": lambda x: acts_set(x) @ sae.W_dec + sae.b_dec,
        "keep_zero": lambda x: x @ project,
        "keep_mean": lambda x: site_mean + (x - site_mean) @ project,
    }
    losses = {}
    for name, change in changes.items():
        def at_answer(x):
            x[-2] = change(x)[-2]
            return x
        losses[name] = [case.losses(tokens, sae, at_answer)[-1] for tokens in case.prompts]
    return {"directions": directions, "losses": losses}


# ---- dictionaries ----

def similar(case, number, k=5):
    sae = case.saes[number]
    encoder, decoder = normalize(sae.W_enc.T.double()), normalize(sae.W_dec.double())
    rows = {}
    for name, one, other in [("decoder and decoder", decoder, decoder), ("encoder and encoder", encoder, encoder),
                             ("encoder and decoder", encoder, decoder)]:
        cosines = one @ other.T
        off = ~torch.eye(len(cosines), dtype=torch.bool)
        within = off.triu() if one is other else off
        values = cosines[within]
        rows[name] = {"mean": values.mean().item(), "sd": values.std(correction=0).item(),
                      "top": values.sort(descending=True).values[:k].tolist(),
                      "nearest": cosines.masked_fill(~off, -2).max(1).values.tolist()}
    rows["own"] = (encoder * decoder).sum(1).tolist()
    return rows


def matched(case):
    """The decoders of both SAEs as if of one site: the largest sum of cosines over one-to-one matchings of those above LEAST."""
    one, other = (normalize(sae.W_dec.double()) for sae in case.saes[:2])
    cosines = one @ other.T
    worth = torch.where(cosines > LEAST, cosines, 0.0)
    rows, columns = linear_sum_assignment(worth.numpy(), maximize=True)
    chosen = worth[rows, columns]
    return {"least": LEAST, "sum": chosen.sum().item(), "pairs": int((chosen > 0).sum())}


def components(folder):
    case = Case(folder)
    saes = range(len(case.saes))
    return {"patching": patched(case), "mean_ablation": mean_ablated(case), "changes": [changed(case, i) for i in saes],
            "to": TO, "similarity": [similar(case, i) for i in saes], "matching": matched(case)}


def compare_texts(where, before, now):
    """As `compare`, which knows numbers only."""
    if isinstance(before, dict):
        assert before.keys() == now.keys(), where
        for key in before:
            compare_texts(f"{where}.{key}", before[key], now[key])
    elif isinstance(before, list):
        assert len(before) == len(now), where
        for i, pair in enumerate(zip(before, now)):
            compare_texts(f"{where}[{i}]", *pair)
    elif isinstance(before, str):
        assert before == now, where
    else:
        compare(where, before, now)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crates", type=Path, default=CRATES, help="folder to write to")
    parser.add_argument("--check", action="store_true", help="compare with what is there instead of writing it")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    for name in ("neo-tiny", "gpt2-tiny", "neox-tiny"):
        now = rounded(components(MODELS / name))
        file = args.crates / "circuits/tests/fixtures/components" / f"{name}.json"
        if args.check:
            compare_texts(name, json.loads(file.read_text()), now)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(now, separators=(",", ":")) + "\n")
        print(name)


if __name__ == "__main__":
    main()
