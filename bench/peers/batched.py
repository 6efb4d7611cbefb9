"""The workflow as batched PyTorch on TransformerLens: many prompts or cases to a pass, nothing computed that isn't needed.

    python batched.py INPUTS TASK OUT [--threads N]
"""
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch.nn.utils.rnn import pad_sequence

import common

ROWS = 2048    # positions run and encoded at a time
CASES = 64     # (prompt, edit) pairs run at a time
LOGITS = 512   # positions unembedded at a time
END, ALL = slice(-1, None), slice(None)


# ---- corpus ----

def story_batches(stories):
    """Stories of similar length, right-padded: lengths, tokens, mask."""
    stories = sorted(stories, key=len, reverse=True)
    while stories:
        n = max(1, ROWS // len(stories[0]))
        batch, stories = stories[:n], stories[n:]
        lengths = torch.tensor([len(s) for s in batch])
        tokens = pad_sequence(batch, batch_first=True)
        yield lengths, tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def sites(x, tokens, mask):
    """What both SAEs read at the true positions, from one pass."""
    kept = {}

    def keep(value, hook):
        kept[hook.name] = value[mask]
        if hook.name == x.saes[-1].hook:  # nothing after it is read: one position is enough for the rest of the block
            return value[:, :1]
    x.model.run_with_hooks(tokens, stop_at_layer=x.saes[-1].layer + 1, fwd_hooks=[(sae.hook, keep) for sae in x.saes])
    return [kept[sae.hook] for sae in x.saes]


def story_maxima(acts, lengths):
    """[stories, directions], last positions left out."""
    return torch.stack([a[:-1].amax(0) for a in acts.split(lengths.tolist())])


def index(x):
    maximum = [torch.zeros(sae.directions) for sae in x.saes]
    for lengths, tokens, mask in story_batches(x.stories):
        for i, site in enumerate(sites(x, tokens, mask)):
            maximum[i] = torch.maximum(maximum[i], story_maxima(x.saes[i].encode(site), lengths).amax(0))
    return {f"maximum.{i}": m for i, m in enumerate(maximum)}, {"tokens": sum(map(len, x.stories))}


@dataclass
class Table:
    """One SAE's tables. Active entries are kept from the only pass, as the thresholds are known after it."""
    top: torch.Tensor        # [top, directions], unsorted
    entries: list            # per batch: (row * directions + direction, activation) of active entries; token and position of rows

    def add(self, acts, lengths, tokens, positions):
        stacked = torch.cat([self.top, story_maxima(acts, lengths)])
        self.top = stacked.topk(len(self.top), dim=0).values
        at = acts.flatten().nonzero().squeeze(1)
        self.entries.append((at.int(), acts.flatten()[at], tokens, positions))

    def finish(self, vocabulary, t):
        maximum, directions, bins = self.top[0], self.top.shape[1], t["bins"]
        histogram = torch.zeros(directions * bins, dtype=torch.long)
        keys = []
        for at, values, tokens, positions in self.entries:
            row, d = (at // directions).long(), (at % directions).long()
            m = maximum[d]
            part = torch.where(m > 0, values / m * bins, bins).long().clamp_(max=bins - 1)
            histogram += torch.bincount(d * bins + part, minlength=directions * bins)
            on = (values > t["share"] * m) & (positions[row] >= t["first_position"])
            keys.append(d[on] * vocabulary + tokens[row[on]])
        pairs, counts = torch.cat(keys).unique(return_counts=True)  # (direction, token) and how often
        return {"maximum": maximum, "histogram": histogram.view(directions, bins), "top": self.top.T,
                "count_by_direction": torch.bincount(pairs // vocabulary, counts, minlength=directions),
                "count_by_token": torch.bincount(pairs % vocabulary, counts, minlength=vocabulary)}


def tables(x):
    made = [Table(torch.zeros(x.tables["top"], sae.directions), []) for sae in x.saes]
    for lengths, tokens, mask in story_batches(x.stories):
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)[mask]
        for table, sae, site in zip(made, x.saes, sites(x, tokens, mask)):
            table.add(sae.encode(site), lengths, tokens[mask], positions)
    tensors = {f"{name}.{i}": tensor for i, table in enumerate(made)
               for name, tensor in table.finish(x.model.cfg.d_vocab, x.tables).items()}
    return tensors, {"tokens": sum(map(len, x.stories))}


# ---- ablations ----

def prompt_batches(prompts, n):
    """Prompts of equal length, up to `n` at a time: their numbers, tokens."""
    lengths = [len(p) for p in prompts]
    for length in sorted(set(lengths)):
        same = [i for i, l in enumerate(lengths) if l == length]
        for batch in (same[i:i + n] for i in range(0, len(same), n)):
            yield batch, torch.stack([prompts[i] for i in batch])


def only_at(model, positions):
    """Hook: what comes after the last layer's attention happens at `positions` only."""
    return [(f"blocks.{model.cfg.n_layers - 1}.hook_resid_mid", lambda value, hook: value[:, positions])]


def clean(model, sae, tokens, positions):
    """Final residuals of unedited prompts, and what edits of the SAE's site start from."""
    names = [f"blocks.{sae.layer}.{h}" for h in ("mlp.hook_post", "hook_resid_post")]
    with model.hooks(only_at(model, positions)):
        return model.run_with_cache(tokens, names_filter=names, stop_at_layer=model.cfg.n_layers)


def edited(model, sae, cache, new, positions):
    """Final residuals [prompt, case, position] when `new` [prompt, case, position, neuron] is put at the SAE's site.

    As the MLP's output is linear in the site, the change is added to the residual after the layer, and the pass starts there."""
    cases = new.shape[1]
    change = (new - cache[sae.hook][:, None, positions]) @ model.blocks[sae.layer].mlp.W_out
    residual = cache["resid_post", sae.layer].repeat_interleave(cases, 0)
    residual[:, positions] += change.flatten(0, 1)
    final = model.run_with_hooks(residual, start_at_layer=sae.layer + 1, stop_at_layer=model.cfg.n_layers,
                                 fwd_hooks=only_at(model, positions))
    return final.unflatten(0, (-1, cases))


def logits_of(model, final):
    """TransformerLens's own unembedding copies W_U at every call."""
    return model.ln_final(final) @ model.W_U + model.b_U


def losses_of(model, final, targets):
    """[..., position] from residuals [..., position, d_model]."""
    targets = targets.expand(final.shape[:-1])
    rows, answers = final.reshape(1, -1, final.shape[-1]).split(LOGITS, 1), targets.flatten().split(LOGITS)
    losses = [F.cross_entropy(logits_of(model, r)[0], a, reduction="none") for r, a in zip(rows, answers)]
    return torch.cat(losses).view(targets.shape)


def ablate(x, sae, directions, positions=END):
    """Every direction by itself, removed at `positions` of the prompts but for their last tokens, which are the answers."""
    losses = torch.empty(len(x.prompts), len(directions), 2)
    for batch, tokens in prompt_batches(x.prompts, max(1, CASES // len(directions))):
        targets = tokens[:, 1:][:, positions]
        final, cache = clean(x.model, sae, tokens[:, :-1], positions)
        site = cache[sae.hook][:, positions]
        acts = sae.encode_some(site, directions).transpose(1, 2)
        new = site[:, None] - acts[..., None] * sae.W_dec[directions][:, None]
        after = edited(x.model, sae, cache, new, positions)
        losses[batch, :, 0] = losses_of(x.model, final, targets).mean(-1, keepdim=True)
        losses[batch, :, 1] = losses_of(x.model, after, targets[:, None]).mean(-1)
    return {"losses": losses}, {}


def joint(x):
    sae = x.saes[1]
    ranks = torch.empty(len(x.prompts), 2, 3)
    for batch, tokens in prompt_batches(x.prompts, CASES):
        final, cache = clean(x.model, sae, tokens[:, :-1], END)
        site = cache[sae.hook][:, END]
        new = site - sae.encode_some(site, x.joint) @ sae.W_dec[x.joint]
        after = edited(x.model, sae, cache, new[:, None], END)
        logits = logits_of(x.model, torch.cat([final[:, None], after], 1)[:, :, 0])
        answer = logits.gather(-1, tokens[:, None, -1:].expand(-1, 2, 1))
        logprob = answer - logits.logsumexp(-1, keepdim=True)
        ranks[batch] = torch.cat([logprob, answer, (logits > answer).sum(-1, keepdim=True)], -1)
    return {"ranks": ranks}, {}


def loss_recovered(x):
    sae = x.saes[1]
    losses = torch.empty(len(x.prompts), 5)
    for batch, tokens in prompt_batches(x.prompts, CASES // 4):
        final, cache = clean(x.model, sae, tokens[:, :-1], END)
        site = cache[sae.hook][:, END]
        acts = sae.encode(site)
        new = torch.stack([x.site_mean.expand_as(site), torch.zeros_like(site),
                           site - acts[..., x.joint] @ sae.W_dec[x.joint], acts @ sae.W_dec + sae.b_dec], 1)
        after = edited(x.model, sae, cache, new, END)
        losses[batch] = losses_of(x.model, torch.cat([final[:, None], after], 1), tokens[:, None, -1:])[..., 0]
    return {"losses": losses}, {}


def gradient(x, at_once=16):
    """The derivative of the answer's log-probability by the first block's neurons, summed over positions."""
    hook, sums = "blocks.0.mlp.hook_post", torch.empty(len(x.prompts), x.model.cfg.d_mlp)
    for batch, tokens in prompt_batches(x.prompts, at_once):
        kept = []

        def keep(value, hook):
            kept.append(value.requires_grad_())
            return value
        with torch.enable_grad():
            normalized = []
            x.model.run_with_hooks(tokens[:, :-1], return_type=None, stop_at_layer=x.model.cfg.n_layers, fwd_hooks=[
                (hook, keep), (f"blocks.{x.model.cfg.n_layers - 1}.hook_resid_post", lambda v, hook: normalized.append(v[:, -1:]))])
            logits = x.model.unembed(x.model.ln_final(normalized[0]))[:, 0]
            answers = logits.log_softmax(-1).gather(1, tokens[:, -1:]).sum()
            sums[batch] = torch.autograd.grad(answers, kept)[0].sum(1)
    return {"gradients": sums}, {}


def cooccurrence(x, first_position=10):
    """Cases run from layer 0's end to layer 1's site, with the change of layer 0 added to the residual there."""
    model, (s0, s1) = x.model, x.saes
    W_out = model.blocks[s0.layer].mlp.W_out
    rows = []
    for batch, tokens in prompt_batches(x.prompts, CASES // 4):
        names = [s0.hook, f"blocks.{s0.layer}.hook_resid_post", s1.hook]
        _, cache = model.run_with_cache(tokens, names_filter=names, stop_at_layer=s1.layer + 1)
        base, second = s1.encode(cache[s1.hook][:, first_position:]).max(-1)
        acts = s0.encode(cache[s0.hook][:, first_position:])
        prompt, at, first = torch.where((acts > x.above) & (base > 0)[..., None])
        pos = at + first_position
        cases = torch.stack([torch.tensor(batch)[prompt], pos, first, second[prompt, at]], 1)
        removed, base = acts[prompt, at, first], base[prompt, at]
        for c in torch.arange(len(cases)).split(CASES):
            which = torch.arange(len(c))
            residual = cache["resid_post", s0.layer][prompt[c], :pos[c].max() + 1]
            residual[which, pos[c]] -= removed[c, None] * (s0.W_dec[first[c]] @ W_out)
            found = []

            def keep(value, hook):
                found.append(value[:, 0])
            hooks = [(f"blocks.{s1.layer}.hook_resid_mid", lambda value, hook: value[which, pos[c]][:, None]), (s1.hook, keep)]
            model.run_with_hooks(residual, start_at_layer=s0.layer + 1, stop_at_layer=s1.layer + 1, fwd_hooks=hooks)
            d = cases[c, 3]
            ablated = torch.relu(torch.einsum("ci,ic->c", found[0] - s1.b_dec, s1.W_enc[:, d]) + s1.b_enc[d])
            rows.append(torch.cat([cases[c], ablated[:, None], base[c, None]], 1))
    rows = torch.cat(rows)
    return {"rows": rows[rows[:, 0].argsort(stable=True)]}, {"count": len(rows)}


def edges_causal(x, n=4):
    """Of each ablation at every position of a prompt, the changes of all later directions where they are active, summed."""
    model, (s0, s1) = x.model, x.saes
    directions = x.directions[:n]
    removed_by = s0.W_dec[directions] @ model.blocks[s0.layer].mlp.W_out
    changes = torch.empty(len(x.prompts), n, s1.directions)
    for row, p in enumerate(x.prompts):
        names = [s0.hook, f"blocks.{s0.layer}.hook_resid_post", s1.hook]
        _, cache = model.run_with_cache(p[None], names_filter=names, stop_at_layer=s1.layer + 1)
        base = s1.encode(cache[s1.hook][0])
        acts = s0.encode_some(cache[s0.hook][0], directions)
        residual = (cache["resid_post", s0.layer] - acts.T[..., None] * removed_by[:, None]).contiguous()
        kept = []

        def keep(value, hook):
            kept.append(value)
            return value[:, :1]
        model.run_with_hooks(residual, start_at_layer=s0.layer + 1, stop_at_layer=s1.layer + 1, fwd_hooks=[(s1.hook, keep)])
        # Only what is active in the prompt is encoded again.
        on = (base > 0).any(0).nonzero().flatten()
        after = s1.encode_some(kept[0], on)
        changes[row] = 0
        changes[row][:, on] = ((after - base[:, on]) * (base[:, on] > 0)).sum(1)
    return {"changes": changes}, {}


def edges_attribution(x, n=4):
    """Gradients of each of a few later directions where they are active, times what every earlier active direction writes."""
    model, (s0, s1) = x.model, x.saes
    directions, W_out = x.directions[:n], model.blocks[s0.layer].mlp.W_out
    attributions = torch.zeros(len(x.prompts), n, s0.directions)
    for row, p in enumerate(x.prompts):
        kept = {}

        def keep(value, hook):
            if hook.name.endswith("resid_post"):
                value = value.detach().requires_grad_()
            kept[hook.name] = value
            return value
        before = f"blocks.{s0.layer}.hook_resid_post"
        with torch.enable_grad():
            hooks = [(name, keep) for name in (s0.hook, before, s1.hook)]
            model.run_with_hooks(p[None], stop_at_layer=s1.layer + 1, fwd_hooks=hooks)
            pre = s1.encode_some(kept[s1.hook][0], directions)
            position, d = (acts := s0.encode(kept[s0.hook][0].detach())).nonzero(as_tuple=True)
            writes, inverse = d.unique(return_inverse=True)
            writes = s0.W_dec[writes] @ W_out
            for i, total in enumerate(pre.sum(0)):
                gradient = torch.autograd.grad(total, kept[before], retain_graph=True)[0][0]
                added = acts[position, d] * (gradient[position] * writes[inverse]).sum(1)
                attributions[row, i].index_add_(0, d, added.detach())
    return {"attributions": attributions}, {}


# ---- attribution and weights ----

def components(x, prompts, layer, mlp_input, names):
    """Per batch: tokens, components [component, prompt, d_model] at the last position of the prompts but for their answers,
    and the cache."""
    names = ["hook_embed", "hook_pos_embed", *names]
    names += [f"blocks.{l}.{h}" for l in range(x.model.cfg.n_layers) for h in ("attn.hook_z", "hook_mlp_out")]
    for _, tokens in prompt_batches(prompts, CASES):
        with x.model.hooks(only_at(x.model, END)):
            _, cache = x.model.run_with_cache(tokens[:, :-1], names_filter=names, pos_slice=END, return_type=None)
        parts = cache.get_full_resid_decomposition(layer, mlp_input=mlp_input, apply_ln=True, expand_neurons=False)
        yield tokens, parts.squeeze(2), cache


def logit_attribution(x):
    total = 0
    for tokens, parts, _ in components(x, x.prompts, -1, False, ["ln_final.hook_scale"]):
        total += torch.einsum("cpd,pd->c", parts, x.model.tokens_to_residual_directions(tokens[:, -1]))
    return {"components": total / len(x.prompts)}, {}


def feature_attribution(x):
    sae, total = x.saes[1], 0
    column, W_in = sae.W_enc[:, x.directions[0]], x.model.blocks[sae.layer].mlp.W_in
    for _, parts, cache in components(x, x.prompts, sae.layer, True, [f"blocks.{sae.layer}.ln2.hook_scale", sae.hook]):
        read = (column * (cache[sae.hook][:, -1] > 0)) @ W_in.T  # the direction of each prompt's MLP input that it reads
        total += torch.einsum("cpd,pd->c", parts, read)
    return {"components": total / len(x.prompts)}, {}


def cosine(x, k=10, block=2048):
    """The matrix is made in blocks of rows; a block's highest are in the rows with the highest maxima."""
    s0, s1 = x.saes
    read = F.normalize(x.model.blocks[s1.layer].mlp.W_in @ s1.W_enc, dim=0)
    values, pairs = torch.empty(0), torch.empty(0, 2, dtype=torch.long)
    for start in range(0, s0.directions, block):
        written = F.normalize(s0.W_dec[start:start + block] @ x.model.blocks[s0.layer].mlp.W_out, dim=-1)
        c = written @ read
        rows = c.amax(1).topk(min(k, len(c))).indices
        found, at = c[rows].flatten().topk(k)
        values, order = torch.cat([values, found]).topk(k)
        pairs = torch.cat([pairs, torch.stack([start + rows[at // s1.directions], at % s1.directions], 1)])[order]
    return {"values": values, "pairs": pairs}, {}


def product(x, rows=2048, repeats=5):
    """The rate of the encoder's product."""
    with safe_open(x.folder / "sae-0/sae_weights.safetensors", "pt") as tensors:
        d_mlp, directions = tensors.get_slice("W_enc").get_shape()
    a, b, out = torch.randn(rows, d_mlp), torch.randn(d_mlp, directions), torch.empty(rows, directions)
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - start)
    return {}, {"flop_per_second": 2 * rows * d_mlp * directions / sorted(seconds[1:])[repeats // 2]}


TASKS = {
    "index": index,
    "tables": tables,
    "ablate-last": lambda x: ablate(x, x.saes[1], x.directions),
    "ablate-first": lambda x: ablate(x, x.saes[0], x.directions),
    "ablate-everywhere": lambda x: ablate(x, x.saes[0], x.directions[:4], ALL),
    "joint": joint,
    "cooccurrence": cooccurrence,
    "logit-attribution": logit_attribution,
    "feature-attribution": feature_attribution,
    "loss-recovered": loss_recovered,
    "gradient": gradient,
    "edges-causal": edges_causal,
    "edges-attribution": edges_attribution,
    "cosine": cosine,
    "product": product,
}

if __name__ == "__main__":
    args = common.parser(__doc__, TASKS).parse_args()
    with torch.inference_mode(args.task not in ("gradient", "edges-attribution")), torch.no_grad():
        common.run(TASKS, "batched", args)
