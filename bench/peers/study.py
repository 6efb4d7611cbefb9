"""The study of the shipped model (studies/closing-quote.toml) as a notebook does it, on the first stories of its corpus.

    python study.py STORIES OUT [--threads N]

OUT.json has the seconds, OUT.safetensors what was found. The search for co-occurring directions is left out: one prompt at a time
it takes an hour by itself.
"""
import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import common
import notebook


class ThresholdSae(common.Sae):
    """JumpReLU: pre-activations above a threshold of their direction's own."""

    def __init__(self, folder):
        super().__init__(folder)
        self.threshold = common.load_file(folder / "sae_weights.safetensors")["threshold"].float().relu()

    def encode(self, x):
        pre = (x - self.b_dec) @ self.W_enc + self.b_enc
        return pre * (pre > self.threshold)

    def encode_some(self, x, directions):
        pre = (x - self.b_dec) @ self.W_enc[:, directions] + self.b_enc[directions]
        return pre * (pre > self.threshold[directions])


def study(x, stories, prompts, answer):
    model, sae = x.model, x.saes[0]
    # What every direction fires on: maxima, token counts, histograms.
    found = notebook.tables(x)[0]
    maximum = found["maximum.0"]
    # Directions active before the answer, and what ablating each does.
    acts = torch.stack([notebook.acts_of(model, sae, p[None])[-2] for p in prompts])
    on = acts > 0.17 * maximum
    mean = (acts * on).sum(0) / on.sum(0).clamp(min=1)
    mean[on.sum(0) < 0.05 * len(prompts)] = 0
    active = mean.topk(min(100, int((mean > 0).sum()))).indices
    increase = {}
    for d in active.tolist():
        losses = [notebook.ablation_loss(model, sae, p[None], [d], len(p) - 2)
                  for p, a in zip(prompts, acts[:, d]) if a > 0.1][:200]
        if losses:
            increase[d] = sum(after - before for before, after in losses) / len(losses)
    top = sorted(increase, key=increase.get, reverse=True)[:5]
    # Them together, and who writes the answer and drives the first of them.
    x.prompts, x.joint, x.directions = prompts, top, top
    joint = torch.tensor([notebook.token_rank(model, sae, p[None], top, answer) for p in prompts[:200]])
    dla = notebook.logit_attribution(x)[0]["components"]
    x.saes = [x.saes[1], sae]
    notebook.feature_attribution(x), notebook.loss_recovered(x)
    x.saes = x.saes[::-1]
    cosines = notebook.cosine(x)[0]["values"]
    return {"active": active, "joint": joint, "dla": dla, "cosines": cosines,
            "single_directions": torch.tensor(list(increase)), "single_increases": torch.tensor(list(increase.values()))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stories", type=int)
    parser.add_argument("out")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    stories, prompts, answer = common.shipped_stories(args.stories)
    x = argparse.Namespace(stories=stories, tables={"bins": 20, "top": 10, "share": 0.5, "first_position": 10})
    x.model = common.load_model(common.ASSETS)
    x.saes = [ThresholdSae(common.ASSETS / f"sae-l{i}") for i in (0, 1)]
    site = x.saes[0].hook
    sites = [x.model.run_with_cache(p[None], names_filter=site)[1][site][0].mean(0) for p in prompts[:20]]
    x.site_mean = torch.stack(sites).mean(0)
    start = time.perf_counter()
    tensors = study(x, stories, prompts, answer)
    facts = {"seconds": time.perf_counter() - start, "stories": len(stories), "prompts": len(prompts),
             "peak_bytes": common.peak_bytes()}
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, f"{args.out}.safetensors")
    Path(f"{args.out}.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
