"""Golden derivatives: what autograd says of TransformerLens's models, for crates/model/tests/gradients.rs.

    pip install -r bench/requirements.txt
    python bench/peers/gradients.py              # writes them
    python bench/peers/gradients.py --check      # compares them with what is written

Of the tiny models, processed: scalars at the last positions of one prompt (a logit difference, a log-probability, the mean loss, the
inner product of a row with a direction), and their derivatives by every hook point that autograd reaches, with divisors of norms
and attention patterns frozen (detached) or not. Of each derivative the inner product of every position's row with a direction of
cosines is written.
"""
import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch

from common import load_model

MODELS = Path(__file__).parents[2] / "crates/model/tests/fixtures"
TOLERANCE = 1e-4  # of max(1, |x|), between two runs of this script, perhaps on other machines
NAMES = ["gpt2-tiny", "neo-tiny", "neox-tiny", "llama-tiny", "qwen3-tiny", "gemma2-tiny"]
PROMPT = [5, 11, 2, 7, 40, 23, 9]
TOKENS = [3, 17]


def cosines(n):
    return torch.tensor([1.7 * i for i in range(n)], dtype=torch.float64).cos().float()


def scalars(model, values, logits):
    last = f"blocks.{model.cfg.n_layers - 1}.mlp.hook_post"
    losses = -logits[:-1].log_softmax(-1).gather(1, torch.tensor(PROMPT[1:])[:, None])
    row = values[last][0][0, -2]
    return {"logit_difference": logits[-1, TOKENS[0]] - logits[-1, TOKENS[1]], "log_prob": logits[-2].log_softmax(-1)[TOKENS[1]],
            "loss": losses.mean(), "along": row @ cosines(len(row))}


def derivatives(model, norms, patterns):
    """By scalar: its value, and by hook point a number for each position."""
    values = {}

    def see(value, hook):
        if norms and hook.name.endswith("hook_scale") or patterns and hook.name.endswith("hook_pattern"):
            value = value.detach()
        elif value.requires_grad and hook.name != "unembed.hook_out":  # which is what the scalars are of
            value.retain_grad()
            # The norm before attention is computed for queries, keys and values: its derivatives are summed.
            values.setdefault(hook.name, []).append(value)
        return value

    found = {}
    for name in ("logit_difference", "log_prob", "loss", "along"):
        values.clear()
        logits = model.run_with_hooks(torch.tensor([PROMPT]), fwd_hooks=[(lambda _: True, see)])[0]
        scalar = scalars(model, values, logits)[name]
        scalar.backward()
        rows = {}
        for hook, seen in values.items():
            grads = [value.grad for value in seen if value.grad is not None]
            if not grads:
                continue
            # Norms of queries and keys have rows of positions and heads.
            grad = sum(grads) if "_norm." in hook else sum(grads)[0]
            if hook.endswith(("attn_scores", "pattern")):  # [head, query, key]: what is not seen has none here
                grad = grad.tril().transpose(0, 1)
            grad = grad.reshape(len(PROMPT), -1)
            rows[hook] = (grad @ cosines(grad.shape[1])).tolist()
        found[name] = {"value": scalar.item(), "by": rows}
    return found


def all_of(name):
    model = load_model(MODELS / name)
    model.set_use_attn_result(True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    cases = [(norms, patterns) for norms in (False, True) for patterns in (False, True)]
    return {"prompt": PROMPT, "tokens": TOKENS, "cases": [
        {"norms": norms, "patterns": patterns, "scalars": derivatives(model, norms, patterns)} for norms, patterns in cases]}


def differences(a, b, path=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), f"{path}: {a.keys() ^ b.keys()}"
        return max((differences(a[k], b[k], f"{path}/{k}") for k in a), default=0.0)
    if isinstance(a, list):
        assert len(a) == len(b), path
        return max((differences(x, y, path) for x, y in zip(a, b)), default=0.0)
    return abs(a - b) / max(1, abs(b))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is written, and write nothing")
    args = parser.parse_args()
    worst = 0.0
    for name in NAMES:
        found, path = all_of(name), MODELS / name / "gradients.json"
        if args.check:
            worst = max(worst, differences(found, json.loads(path.read_text())))
        else:
            rounded = json.loads(json.dumps(found), parse_float=lambda x: float(f"{float(x):.6g}"))
            path.write_text(json.dumps(rounded, separators=(",", ":")) + "\n")
        print(name, path.stat().st_size, flush=True)
    if worst > TOLERANCE:
        raise SystemExit(f"the largest difference is {worst:.1e}, and {TOLERANCE:g} is allowed")
    print(f"largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
