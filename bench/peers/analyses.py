"""Golden analyses: what an index and its queries, pairs and ablations, and an evaluation must say of the tiny models, for the
tests of crates/index, crates/circuits and crates/sae.

    pip install -r bench/requirements.txt
    python bench/peers/analyses.py              # writes them
    python bench/peers/analyses.py --check      # compares them with what is written

Dense activations from TransformerLens, one prompt at a time, and the formulas as they stand in the docs; nothing is shared
with Directrix but the checkpoints. Nothing is random.
"""
import argparse
import json
import math
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from scipy.stats import t as student
from torch.nn.functional import cosine_similarity, normalize

from common import Sae, load_model

CRATES = Path(__file__).parents[2] / "crates"
MODELS = CRATES / "model/tests/fixtures"
TOLERANCE = 1e-4  # of max(1, |x|), between two runs of this script: machines differ, and ratios of small differences with them
BINS = 20
EVERY = 4  # direction is written of an index
# The tiny SAEs have pre-activations that are zero but for rounding. Counts are of activations above this; beside them stands
# at how many positions a pre-activation is as faint: a direction may be active there, or not.
FAINT = 1e-4


# ---- statistics ----

def estimate(values):
    """n, mean, standard error, half width of the 95 % interval."""
    n, mean = len(values), sum(values) / len(values)
    se = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return {"n": n, "mean": mean, "se": se, "half_width": student.ppf(0.975, n - 1).item() * se}


def mean(values):
    return sum(values) / len(values)


# ---- the model, one prompt at a time ----

class Case:
    def __init__(self, folder):
        expected = json.loads((folder / "expected.json").read_text())
        self.model = load_model(folder)
        self.prompts = expected["prompts"]
        self.saes = [Sae(folder / f"sae-l{layer}") for layer in expected["layers"]]
        self.directions = [expected[f"l{layer}.dirs"] for layer in expected["layers"]]
        self.cosine_pairs = expected["cosine_all.pairs"]
        hooks = [sae.hook for sae in self.saes]
        caches = [self.model.run_with_cache(torch.tensor([p]), names_filter=hooks)[1] for p in self.prompts]
        self.site = [[cache[sae.hook][0] for cache in caches] for sae in self.saes]
        self.acts = [[sae.encode(x) for x in site] for sae, site in zip(self.saes, self.site)]
        faint = [[((x - sae.b_dec) @ sae.W_enc + sae.b_enc).abs() <= FAINT for x in site]
                 for sae, site in zip(self.saes, self.site)]
        self.faint = [torch.cat(rows).sum(0) for rows in faint]
        self.clean = [self.log_probs(p) for p in self.prompts]

    def run(self, tokens, sae=None, change=None, see=None):
        """Logits, and what is at hook point `see`, with `change` made to the rows of the SAE's site."""
        seen = []
        hooks = [] if sae is None else [(sae.hook, lambda value, hook: change(value[0].clone())[None])]
        if see:
            hooks.append((see, lambda value, hook: seen.append(value[0].clone())))
        return self.model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=hooks)[0], *seen

    def log_probs(self, tokens, sae=None, change=None):
        return self.run(tokens, sae, change)[0].double().log_softmax(-1)

    def losses(self, tokens, sae=None, change=None):
        """The loss of predicting the next token, at every position but the last."""
        log_probs = self.log_probs(tokens, sae, change)
        return [-log_probs[i, token].item() for i, token in enumerate(tokens[1:])]


def subtracted(sae, direction, at):
    """Takes out what `direction` contributes at positions `at`."""
    def change(x):
        part = sae.encode(x)[:, direction, None] * sae.W_dec[direction]
        x[at] -= part[at]
        return x
    return change


def reconstructed(sae, direction, at):
    """The reconstruction without `direction`, at positions `at`."""
    def change(x):
        acts = sae.encode(x)
        acts[:, direction] = 0
        x[at] = (acts @ sae.W_dec + sae.b_dec)[at]
        return x
    return change


# ---- the index ----

def index(case, number, above=0.5, first=10, skip_last=True):
    prompts, acts = case.prompts, case.acts[number]
    all_acts = torch.cat(acts)
    counted = [a[:-1] if skip_last else a for a in acts]
    maxima = torch.stack([a.max(0).values for a in counted])
    maximum = maxima.max(0).values
    offsets = [sum(len(p) for p in prompts[:i]) for i in range(len(prompts))]
    position = [0] * len(maximum)
    for d in range(len(maximum)):
        best = max(((a[i, d].item(), -offset - i) for a, offset in zip(counted, offsets) for i in range(len(a))))
        position[d] = -best[1] if best[0] > 0 else 0
    bins = torch.zeros(len(maximum), BINS, dtype=torch.int32)
    for d, top in enumerate(maximum.tolist()):
        for value in all_acts[all_acts[:, d] > FAINT, d].tolist():
            bins[d, min(int(value / top * BINS), BINS - 1) if top > 0 else BINS - 1] += 1
    top_tokens = []  # direction, positions counted, the token that most of them hold, how many do
    for d in range(len(maximum)):
        tokens = [token for p, a in zip(prompts, acts) for i, token in enumerate(p)
                  if i >= first and a[i, d] > above * maximum[d]]
        if tokens:
            most = min(set(tokens), key=lambda token: (-tokens.count(token), token))
            top_tokens.append([d, len(tokens), most, tokens.count(most)])
    sums, active = all_acts.double().sum(0), (all_acts > FAINT).sum(0)
    directions = [{"direction": d, "maximum": maximum[d].item(), "maximum_position": position[d],
                   "prompts": sum((a[:, d] > FAINT).any().item() for a in acts), "active": active[d].item(),
                   "faint": case.faint[number][d].item(), "sum": sums[d].item(), "histogram": bins[d].tolist()}
                  for d in range(0, len(maximum), EVERY)]
    return {"directions": directions, "top_tokens": top_tokens}


def prompt_maxima(case, number, direction):
    """(prompt, position, activation) of every prompt in which it fires before the last position, strongest first."""
    found = [(i, *max(((j, v) for j, v in enumerate(a[:-1, direction].tolist())), key=lambda x: (x[1], -x[0])))
             for i, a in enumerate(case.acts[number])]
    return sorted((f for f in found if f[2] > 0), key=lambda f: (-f[2], f[0]))


def examples(case, number, k=3, low=0.2, high=0.8):
    rows = []
    for direction in range(0, case.saes[number].directions, 16):
        found = prompt_maxima(case, number, direction)
        top = found[0][2] if found else 0
        between = [f for f in found if low * top < f[2] <= high * top]
        spread = between if len(between) <= k else [between[i * len(between) // k] for i in range(k)]
        rows.append({"direction": direction, "top": found[:k], "interval": spread})
    return rows


def token_occurrences(case):
    tokens = [token for p in case.prompts for token in p]
    return sorted(([t, tokens.count(t)] for t in range(case.model.cfg.d_vocab)), key=lambda row: (-row[1], row[0]))


# ---- circuits ----

def changed_most(case, one):
    """The directions of the second SAE that gain and lose most when `one` is ablated where it is most active."""
    prompt, position, _ = prompt_maxima(case, 0, one)[0]
    _, site = case.run(case.prompts[prompt], case.saes[0], subtracted(case.saes[0], one, [position]), see=case.saes[1].hook)
    change = case.saes[1].encode(site)[position] - case.acts[1][prompt][position]
    return int(change.argmax()), int(change.argmin())


def pairs(case, k=3):
    """Each of both directions ablated alone, where the first is most active in the `k` prompts in which it is so most."""
    first, second = case.saes
    W_out, W_in = case.model.W_out[first.layer], case.model.W_in[second.layer]
    cosines = normalize(first.W_dec @ W_out, dim=-1) @ normalize(W_in @ second.W_enc, dim=0)
    chosen = [pair for pair in case.cosine_pairs if len(prompt_maxima(case, 0, pair[0])) >= 2][:4]
    chosen += [(one, two) for one in case.directions[0][:3] for two in changed_most(case, one)]
    rows = []
    for one, two in chosen:
        at = prompt_maxima(case, 0, one)[:k]
        loss, without_one, without_two, before, after = [], [], [], [], []
        for prompt, position, _ in at:
            tokens = case.prompts[prompt]
            loss.append(case.losses(tokens)[position])
            without_one.append(case.losses(tokens, first, subtracted(first, one, [position]))[position])
            without_two.append(case.losses(tokens, second, subtracted(second, two, [position]))[position])
            before.append(case.acts[1][prompt][position, two].item())
            _, site = case.run(tokens, first, subtracted(first, one, [position]), see=second.hook)
            after.append(second.encode(site)[position, two].item())
        change = estimate([b - a for a, b in zip(before, after)])
        rows.append({"first": one, "second": two, "cosine": cosines[one, two].item(), "n": len(at), "loss": mean(loss),
                     "loss_first_ablated": mean(without_one), "loss_second_ablated": mean(without_two),
                     "second_activation": mean(before), "second_activation_first_ablated": mean(after),
                     "activation_change": change["mean"], "activation_change_half_width": change["half_width"]})
    return rows


def increase(case, sae, prompt, change, at):
    tokens = case.prompts[prompt]
    return case.losses(tokens, sae, change)[at] - case.losses(tokens)[at]


def each(case, number):
    """Each of some directions ablated alone: means over prompts of the increase of the loss."""
    sae, n = case.saes[number], len(case.prompts)

    def row(direction, of_prompt):
        return {"direction": direction} | estimate([of_prompt(prompt) for prompt in range(n)])

    def at(position, direction, how):
        def of_prompt(prompt):
            i = position % len(case.prompts[prompt])
            return increase(case, sae, prompt, how(sae, direction, [i]), i)
        return row(direction, of_prompt)

    def everywhere(direction):
        def of_prompt(prompt):
            tokens = case.prompts[prompt]
            change = subtracted(sae, direction, list(range(len(tokens))))
            return mean(case.losses(tokens, sae, change)) - mean(case.losses(tokens))
        return row(direction, of_prompt)

    # The last one is seldom active: most of its prompts do not change.
    active = torch.cat(case.acts[number]).gt(FAINT).sum(0).tolist()
    directions = case.directions[number][:3] + [min((n, d) for d, n in enumerate(active) if n)[1]]
    return {"directions": directions, "before_answer": [at(-2, d, subtracted) for d in directions],
            "position": [at(3, d, subtracted) for d in directions],
            "reconstructed": [at(-2, d, reconstructed) for d in directions],
            "everywhere": [everywhere(d) for d in directions]}


def single_ablations(case, number, above=0.5, limit=3):
    """Each direction ablated before the answer, on the first prompts on which it is active there."""
    sae, rows = case.saes[number], []
    for direction in case.directions[number]:
        active = [i for i, a in enumerate(case.acts[number]) if a[-2, direction] > above][:limit]
        found = [increase(case, sae, i, subtracted(sae, direction, [-2]), -1) for i in active]
        if len(found) > 1:
            rows.append({"direction": direction} | estimate(found))
    return rows


# ---- evaluation ----

def evaluation(case, number):
    sae, prompts = case.saes[number], case.prompts
    x, acts = torch.cat(case.site[number]).double(), torch.cat(case.acts[number])
    recon = acts.double() @ sae.W_dec.double() + sae.b_dec
    error, around = (x - recon).square().sum(1), (x - x.mean(0)).square().sum(1)
    position = torch.cat([torch.arange(len(p)) for p in prompts])

    by_position = []
    first, last = 0, 0
    while first < max(map(len, prompts)):
        own = (position >= first) & (position <= last)
        by_position.append([first, min(last, max(map(len, prompts)) - 1), int(own.sum()), error[own].mean().item(),
                             1 - (error[own].sum() / around[own].sum()).item()])
        first, last = last + 1, 2 * last + 1 if last else 3

    losses, kl = {"clean": [], "reconstructed": [], "zeroed": []}, {"reconstructed": [], "zeroed": []}
    changes = {"clean": lambda x: x, "reconstructed": lambda x: sae.forward(x)[1], "zeroed": torch.zeros_like}
    for tokens, clean in zip(prompts, case.clean):
        for which, change in changes.items():
            log_probs = case.log_probs(tokens, sae, change)
            losses[which].append([-log_probs[i, t].item() for i, t in enumerate(tokens[1:])])
            if which in kl:
                kl[which] += (clean.exp() * (clean - log_probs)).sum(1)[:-1].tolist()

    def recovered(weight):
        """Of losses as means over `weight(prompt)`: the ratio, and its standard error by the delta method."""
        total = {which: [sum(of) * weight(of) for of in rows] for which, rows in losses.items()}
        a = [z - r for z, r in zip(total["zeroed"], total["reconstructed"])]
        b = [z - c for z, c in zip(total["zeroed"], total["clean"])]
        ratio, n = sum(a) / sum(b), len(a)
        se = math.sqrt(sum((x - ratio * y) ** 2 for x, y in zip(a, b)) / (n * (n - 1))) / abs(mean(b))
        return {"n": n, "value": ratio, "se": se, "half_width": student.ppf(0.975, n - 1).item() * se}

    by_token = {which: mean(sum(rows, [])) for which, rows in losses.items()}
    by_prompt = {which: mean([mean(of) for of in rows]) for which, rows in losses.items()}
    logits = (sae.W_dec.double() @ case.model.W_out[sae.layer].double()) @ case.model.W_U.double()
    off = logits - logits.mean(1, keepdim=True)
    kurtosis = off.pow(4).mean(1) / off.square().mean(1).square() - 3

    def spread(values):
        return {"n": len(values), "mean": values.mean().item(), "median": values.quantile(0.5).item(),
                "q05": values.quantile(0.05).item()}

    return {"active": (acts > FAINT).sum().item(), "faint": case.faint[number].sum().item(), "mse": error.mean().item(), "explained_variance": 1 - (error.sum() / around.sum()).item(),
            "cosine": cosine_similarity(x, recon).mean().item(), "norm_ratio": (recon.norm(dim=1).sum() / x.norm(dim=1).sum()).item(),
            "token_mean": by_token | {"recovered": recovered(lambda of: 1)},
            "prompt_mean": by_prompt | {"recovered": recovered(lambda of: 1 / len(of))},
            "kl_reconstructed": mean(kl["reconstructed"]), "kl_zeroed": mean(kl["zeroed"]),
            "by_position": by_position,
            "encoder_decoder_cosine": spread(cosine_similarity(sae.W_enc.T.double(), sae.W_dec.double())),
            "logit_kurtosis": spread(kurtosis)}


# ---- writing ----

def analyses(folder):
    """By the folder of the crate that reads it, what there is to write."""
    case = Case(folder)
    saes = range(len(case.saes))
    of_index = [{"default": index(case, i), "otherwise": index(case, i, above=0.25, first=3, skip_last=False),
                 "examples": examples(case, i)} for i in saes]
    of_circuits = [{"each": each(case, i), "single_ablations": single_ablations(case, i)} for i in saes]
    return {"index/tests/fixtures": {"token_occurrences": token_occurrences(case), "saes": of_index},
            "circuits/tests/fixtures": {"pairs": pairs(case), "saes": of_circuits},
            "sae/tests/fixtures/evaluation": {"saes": [evaluation(case, i) for i in saes]}}


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def compare(where, before, now):
    if isinstance(before, dict):
        assert before.keys() == now.keys(), where
        for key in before:
            compare(f"{where}.{key}", before[key], now[key])
    elif isinstance(before, list):
        assert len(before) == len(now), where
        for i, pair in enumerate(zip(before, now)):
            compare(f"{where}[{i}]", *pair)
    else:
        assert abs(before - now) <= TOLERANCE * max(1, abs(before)), f"{where}: {before}, now {now}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crates", type=Path, default=CRATES, help="folder to write to")
    parser.add_argument("--check", action="store_true", help="compare with what is there instead of writing it")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    for name in ("neo-tiny", "gpt2-tiny", "neox-tiny"):
        for folder, now in rounded(analyses(MODELS / name)).items():
            file = args.crates / folder / f"{name}.json"
            if args.check:
                compare(f"{folder} {name}", json.loads(file.read_text()), now)
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(now, separators=(",", ":")) + "\n")
        print(name)


if __name__ == "__main__":
    main()
