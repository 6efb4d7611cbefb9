"""The workflow as a notebook does it: TransformerLens, one prompt at a time; full cache, full logits, SAEs always decode.

    python notebook.py INPUTS TASK OUT [--threads N]
"""
import torch
import torch.nn.functional as F

import common


def acts_of(model, sae, tokens):
    _, cache = model.run_with_cache(tokens, names_filter=sae.hook)
    acts, _ = sae.forward(cache[sae.hook][0])
    return acts


# ---- corpus ----

def max_activations(model, sae, stories):
    """Maximum per story and direction, last positions left out."""
    return torch.stack([acts_of(model, sae, s[None])[:-1].max(0).values for s in stories])


def index(x):
    tensors = {f"maximum.{i}": max_activations(x.model, sae, x.stories).max(0).values for i, sae in enumerate(x.saes)}
    return tensors, {"tokens": sum(map(len, x.stories))}


def histogram_of(acts, maximum, bins):
    """Counts of positive activations in `bins` equal parts of 0 to the maximum: [directions, bins]."""
    position, d = torch.where(acts > 0)
    values = acts[position, d]
    part = torch.where(maximum[d] > 0, values / maximum[d] * bins, bins).long().clamp(max=bins - 1)
    return torch.bincount(d * bins + part, minlength=acts.shape[1] * bins).view(-1, bins)


def tables(x):
    t, tensors = x.tables, {}
    for i, sae in enumerate(x.saes):
        per_story = max_activations(x.model, sae, x.stories)
        maximum = per_story.max(0).values
        threshold = t["share"] * maximum
        counts = torch.zeros(sae.directions, x.model.cfg.d_vocab, dtype=torch.int32)
        histogram = torch.zeros(sae.directions, t["bins"], dtype=torch.long)
        for story in x.stories:
            acts = acts_of(x.model, sae, story[None])
            histogram += histogram_of(acts, maximum, t["bins"])
            for pos in range(t["first_position"], len(story)):
                on = torch.argwhere(acts[pos] > threshold).flatten()
                counts[on, story[pos]] += 1
        top = per_story.topk(min(t["top"], len(per_story)), dim=0).values.T
        tensors |= {f"maximum.{i}": maximum, f"histogram.{i}": histogram, f"top.{i}": F.pad(top, (0, t["top"] - top.shape[1])),
                    f"count_by_direction.{i}": counts.sum(1, dtype=torch.int32),
                    f"count_by_token.{i}": counts.sum(0, dtype=torch.int32)}
        del counts
    return tensors, {"tokens": sum(map(len, x.stories))}


def top_tokens(x):
    """Positions above half of the maximum, and those of them on the commonest token. As in Directrix, the first ten positions and
    the last have no part in either."""
    tensors = {}
    for i, sae in enumerate(x.saes):
        maximum = torch.stack([acts_of(x.model, sae, s[None])[10:-1].max(0).values for s in x.stories]).max(0).values
        counts = torch.zeros(sae.directions, x.model.cfg.d_vocab, dtype=torch.int32)
        for story in x.stories:
            acts = acts_of(x.model, sae, story[None])
            for pos in range(10, len(story) - 1):
                on = torch.argwhere(acts[pos] > 0.5 * maximum).flatten()
                counts[on, story[pos]] += 1
        tensors |= {f"count.{i}": counts.sum(1, dtype=torch.int32), f"count_of_top.{i}": counts.max(1).values}
        del counts
    return tensors, {"tokens": sum(map(len, x.stories))}


def token_occurrences(x):
    counts = torch.zeros(x.model.cfg.d_vocab, dtype=torch.long)
    for story in x.stories:
        for token in story.tolist():
            counts[token] += 1
    return {"count": counts}, {}


def examples(x, n=8):
    """Activations in the story in which each of the strongest directions is strongest, the maxima of all stories known."""
    model, sae = x.model, x.saes[1]
    maxima = max_activations(model, sae, x.stories)
    x.ready()
    shown = [acts_of(model, sae, x.stories[maxima[:, d].argmax()][None])[:, d] for d in maxima.max(0).values.topk(n).indices]
    return {"values": torch.cat(shown)}, {"count": n}


def open_all(x):
    x.__dict__.pop("model"), x.__dict__.pop("saes")
    x.ready()
    return {"values": torch.cat([x.model.W_in[1][:4].flatten(), x.saes[1].W_dec[:4].flatten()])}, {}


def behaviour(x):
    x.ready()
    stories, prompts, answer = common.shipped_stories(x.units)
    return {"count": torch.tensor([len(stories), sum(map(len, stories)), len(prompts), sum(map(len, prompts)), answer])}, {}


def mean_site(x):
    sae, means = x.saes[1], []
    for p in x.prompts:
        _, cache = x.model.run_with_cache(p[None], names_filter=sae.hook)
        means.append(cache[sae.hook][0].mean(0))
    return {"mean": torch.stack(means).mean(0)}, {}


def pattern(x):
    """Of one head."""
    shown = []
    for p in x.prompts:
        _, cache = x.model.run_with_cache(p[None], names_filter="blocks.1.attn.hook_pattern")
        shown.append(cache["pattern", 1][0, 2])
    return {"patterns": torch.stack(shown)}, {}


def acts_in_prompts(x):
    """Of one direction, at every token."""
    sae, shown = x.saes[1], []
    for p in x.prompts:
        _, cache = x.model.run_with_cache(p[None], names_filter=sae.hook)
        shown.append(sae.encode_some(cache[sae.hook][0], x.directions[:1])[:, 0])
    return {"acts": torch.cat(shown)}, {}


# ---- ablations ----

def answer_acts(x):
    return torch.stack([acts_of(x.model, x.saes[1], p[None])[-2] for p in x.prompts])


def answers(x):
    """Activations before the answer."""
    return {"acts": answer_acts(x)}, {}


def active_directions(x):
    """Mean activations of directions above 0.17 of their maximum (here that before the answers) on 5 % of the prompts."""
    acts = answer_acts(x)
    x.ready()
    on = acts > 0.17 * acts.max(0).values
    mean = (acts * on).sum(0) / on.sum(0).clamp(min=1)
    mean[on.sum(0) < 0.05 * len(acts)] = 0
    return {"values": mean.topk(min(100, int((mean > 0).sum()))).values}, {"count": 1}


def coactivation(x):
    acts = answer_acts(x)
    x.ready()
    return {"correlations": torch.corrcoef((acts[:, x.directions] > 0.1).float().T)}, {"count": 1}


def ablation_hook(sae, directions, pos=None):
    def hook(value, hook):
        removed = sae.encode_some(value[0], directions) @ sae.W_dec[directions]
        if pos is None:
            value[:, :] -= removed
        else:
            value[:, pos] -= removed[pos]
        return value
    return [(sae.hook, hook)]


def ablation_loss(model, sae, tokens, directions, pos=None):
    """Loss before and after: of the token after position `pos`, or the mean over the prompt."""
    def loss():
        losses = model(tokens, return_type="loss", loss_per_token=True)[0]
        return losses.mean().item() if pos is None else losses[pos].item()
    before = loss()
    with model.hooks(ablation_hook(sae, directions, pos)):
        return before, loss()


def pair_effects(x):
    """What ablating either direction of a pair does where the first is most active; those that fire in the most stories."""
    acts = [[acts_of(x.model, sae, s[None])[:-1] for s in x.stories] for sae in x.saes]
    in_stories = [torch.stack([(a > 0).any(0) for a in of]).sum(0) for of in acts]
    one, other = (int((n == n.max()).nonzero()[0]) for n in in_stories)
    first, second, rows = *x.saes, []
    for story, a in zip(x.stories, acts[0]):
        if not (a[:, one] > 0).any():
            continue
        tokens, pos = story[None], int(a[:, one].argmax())
        loss, without_first = ablation_loss(x.model, first, tokens, [one], pos)
        _, without_second = ablation_loss(x.model, second, tokens, [other], pos)
        act = acts_of(x.model, second, tokens)[pos, other].item()
        with x.model.hooks(ablation_hook(first, [one], pos)):
            ablated = acts_of(x.model, second, tokens)[pos, other].item()
        rows.append([loss, without_first, without_second, act, ablated])
    return {"effects": torch.tensor(rows).mean(0)}, {}


def ablate(x, sae, directions, everywhere=False):
    losses = [[ablation_loss(x.model, sae, p[None], [d], None if everywhere else len(p) - 2) for d in directions]
              for p in x.prompts]
    return {"losses": torch.tensor(losses)}, {}


def ablate_joint(x):
    return {"losses": torch.tensor([ablation_loss(x.model, x.saes[1], p[None], x.joint, len(p) - 2) for p in x.prompts])}, {}


def ablate_positions(x):
    """At one position at a time, wherever a direction is active; it stops after as many."""
    model, sae, direction = x.model, x.saes[1], x.directions[:1]
    active = [torch.argwhere(acts_of(model, sae, p[None])[:-1, direction[0]] > 0).flatten().tolist() for p in x.prompts]
    x.ready()
    places = [(p, pos) for p, of in zip(x.prompts, active) for pos in of][:x.units]
    return {"losses": torch.tensor([ablation_loss(model, sae, p[None], direction, pos) for p, pos in places])}, {"count": len(places)}


def token_rank(model, sae, tokens, directions, answer, pos=-2):
    def measure():
        logits = model(tokens)[0, pos]
        return logits.log_softmax(-1)[answer].item(), logits[answer].item(), int((logits > logits[answer]).sum())
    before = measure()
    with model.hooks(ablation_hook(sae, directions, pos)):
        return before, measure()


def joint(x):
    return {"ranks": torch.tensor([token_rank(x.model, x.saes[1], p[None], x.joint, p[-1]) for p in x.prompts])}, {}


def loss_recovered(x):
    model, sae = x.model, x.saes[1]

    def put(f):
        def hook(value, hook):
            value[0, -2] = f(value[0, -2])
            return value
        return [(sae.hook, hook)]
    kinds = [[], put(lambda v: x.site_mean), put(lambda v: 0 * v), ablation_hook(sae, x.joint, -2),
             put(lambda v: sae.forward(v)[1])]
    losses = []
    for hooks in kinds:
        with model.hooks(hooks):
            losses.append([model(p[None], return_type="loss", loss_per_token=True)[0, -1].item() for p in x.prompts])
    return {"losses": torch.tensor(losses).T}, {}


def at_mean(x):
    """The answer's logit, and the same with the site before it at its mean."""
    def hook(value, hook):
        value[0, -2] = x.site_mean
        return value

    def logit(p):
        return x.model(p[None])[0, -2, p[-1]].item()
    logits = []
    for p in x.prompts:
        before = logit(p)
        with x.model.hooks([(x.saes[1].hook, hook)]):
            logits.append((before, logit(p)))
    return {"logits": torch.tensor(logits)}, {}


def boosts(x):
    """The log-probability of every token before the answer, with a direction and without."""
    model, sae, both = x.model, x.saes[1], []
    for p in x.prompts:
        on = model(p[None])[0, -2].log_softmax(-1)
        with model.hooks(ablation_hook(sae, x.directions[:1], -2)):
            both.append(torch.stack([on, model(p[None])[0, -2].log_softmax(-1)]))
    return {"log_probs": torch.stack(both).mean(0)}, {}


def gradient(x):
    """The derivative of the answer's log-probability by the first block's neurons, summed over positions."""
    hook, sums = "blocks.0.mlp.hook_post", []
    with torch.enable_grad():
        for p in x.prompts:
            kept = []

            def keep(value, hook):
                kept.append(value.requires_grad_())
                return value
            logits = x.model.run_with_hooks(p[None], fwd_hooks=[(hook, keep)])
            sums.append(torch.autograd.grad(logits[0, -2].log_softmax(-1)[p[-1]], kept)[0][0].sum(0))
    return {"gradients": torch.stack(sums)}, {}


def cooccurrence(x):
    """Its units are pairs: it stops after as many."""
    model, (s0, s1) = x.model, x.saes
    rows = []
    for n, p in enumerate(x.prompts):
        acts1, acts0 = acts_of(model, s1, p[None]), acts_of(model, s0, p[None])
        for pos in range(10, len(p)):
            second = acts1[pos].topk(10).indices[0].item()
            base = acts1[pos, second].item()
            for first in torch.argwhere(acts0[pos] > x.above).flatten().tolist() if base > 0 else []:
                if len(rows) == x.units:
                    return {"rows": torch.tensor(rows)}, {}
                with model.hooks(ablation_hook(s0, [first], pos)):
                    ablated = acts_of(model, s1, p[None])[pos, second].item()
                rows.append((n, pos, first, second, ablated, base))
    return {"rows": torch.tensor(rows)}, {"units": len(rows)}


def single_prompt(x):
    """Each first direction that is active at the last position ablated alone there; it stops after as many."""
    model, (s0, s1), p = x.model, x.saes, x.prompts[0]
    first_acts, second_acts = (acts_of(model, sae, p[None])[-1] for sae in x.saes)
    second, acts = second_acts.argmax(), []
    for first in torch.argwhere(first_acts > x.above).flatten().tolist()[:x.units]:
        with model.hooks(ablation_hook(s0, [first], len(p) - 1)):
            acts.append(acts_of(model, s1, p[None])[-1, second])
    return {"acts": torch.stack(acts)}, {"count": len(acts)}


def cooccurrence_pairs(x, n=2):
    """The mean change of those pairs that are at the most positions. Which these are is looked up before, and not timed."""
    model, (s0, s1) = x.model, x.saes
    places = {}
    for p in x.prompts:
        acts0, acts1 = (acts_of(model, sae, p[None]) for sae in x.saes)
        for pos in range(10, len(p)):
            second = acts1[pos].argmax().item()
            for first in torch.argwhere(acts0[pos] > x.above).flatten().tolist() if acts1[pos, second] > 0 else []:
                places.setdefault((first, second), []).append((p, pos, acts1[pos, second]))
    x.ready()
    rows = []
    for pair in sorted(places, key=lambda pair: (-len(places[pair]), pair))[:n]:
        changes = []
        for p, pos, base in places[pair]:
            with model.hooks(ablation_hook(s0, [pair[0]], pos)):
                changes.append(acts_of(model, s1, p[None])[pos, pair[1]] - base)
        rows.append((*pair, len(changes), torch.stack(changes).mean().item()))
    return {"pair_rows": torch.tensor(rows)}, {"count": int(sum(row[2] for row in rows))}


def edges_causal(x, n=4):
    """Of each ablation at every position of a prompt, the changes of all later directions where they are active, summed."""
    (s0, s1), rows = x.saes, []
    for p in x.prompts:
        for direction in x.directions[:n]:
            before = acts_of(x.model, s1, p[None])
            with x.model.hooks(ablation_hook(s0, [direction])):
                after = acts_of(x.model, s1, p[None])
            rows.append(((after - before) * (before > 0)).sum(0))
    return {"changes": torch.stack(rows).view(len(x.prompts), n, -1)}, {}


def edges_attribution(x, n=4):
    """Gradients of each of a few later directions where they are active, times what every earlier direction writes."""
    (s0, s1), rows = x.saes, []
    for p in x.prompts:
        for direction in x.directions[:n]:
            kept = {}

            def keep(value, hook):
                kept[hook.name] = value.requires_grad_() if hook.name == s0.hook else value
                return value
            with torch.enable_grad():
                x.model.run_with_hooks(p[None], fwd_hooks=[(s0.hook, keep), (s1.hook, keep)])
                total = s1.encode(kept[s1.hook][0])[:, direction].sum()
                gradient = torch.autograd.grad(total, kept[s0.hook])[0][0]
            with torch.no_grad():
                rows.append((s0.encode(kept[s0.hook][0]) * (gradient @ s0.W_dec.T)).sum(0))
    return {"attributions": torch.stack(rows).view(len(x.prompts), n, -1)}, {}


# ---- attribution and weights ----

def logit_attribution(x):
    """Of every component to the last token of each prompt."""
    out = []
    for p in x.prompts:
        answers, context = p[None, 1:], p[None, :-1]
        direction = x.model.tokens_to_residual_directions(answers)[0, -1]
        _, cache = x.model.run_with_cache(context)
        parts = cache.get_full_resid_decomposition(layer=-1, pos_slice=-1, expand_neurons=False)
        out.append(cache.apply_ln_to_stack(parts, layer=-1, pos_slice=-1).squeeze(1) @ direction)
    return {"components": torch.stack(out).mean(0)}, {}


def remainder(x):
    """Of the last SAE's site to one token, of its reconstruction, and of what is left."""
    model, sae, out = x.model, x.saes[1], []
    for p in x.prompts:
        _, cache = model.run_with_cache(p[None])
        site = cache[sae.hook][0, -2]
        written = torch.stack([site, sae.forward(site)[1]]) @ model.W_out[sae.layer]
        parts = torch.stack([written[0], written[1], written[0] - written[1]])
        out.append(cache.apply_ln_to_stack(parts, pos_slice=-2) @ model.W_U[:, x.prompts[0][-1]])
    return {"parts": torch.stack(out).mean(0)}, {}


def feature_attribution(x, inactive=0):
    """Of every component to one direction, through the neurons active at the position before the last."""
    model, sae, direction = x.model, x.saes[1], x.directions[0]
    out = []
    for p in x.prompts:
        _, cache = model.run_with_cache(p[None])
        parts = cache.get_full_resid_decomposition(sae.layer, mlp_input=True, apply_ln=True, expand_neurons=False, pos_slice=-2)
        neurons = parts.squeeze(1) @ model.W_in[sae.layer]
        neurons = torch.where(cache[sae.hook][0, -2] > 0, neurons, inactive)
        out.append(neurons @ sae.W_enc[:, direction])
    return {"components": torch.stack(out).mean(0)}, {}


def feature_attribution_mean(x):
    """The same; neurons that are not active contribute their mean over the positions of the prompts."""
    layer, means = x.saes[1].layer, []
    for p in x.prompts:
        _, cache = x.model.run_with_cache(p[None])
        parts = cache.get_full_resid_decomposition(layer, mlp_input=True, apply_ln=True, expand_neurons=False)
        means.append(parts[:, 0].mean(1) @ x.model.W_in[layer])
    return feature_attribution(x, torch.stack(means).mean(0))


def direction_attribution(x):
    """Of every direction to the answer by its weights, times its mean activation."""
    sae, acts = x.saes[1], answer_acts(x)
    x.ready()
    attribution = sae.W_dec @ x.model.W_out[sae.layer] @ x.model.W_U[:, x.prompts[0][-1]]
    return {"attribution": attribution, "scaled": attribution * acts.mean(0)}, {"count": 1}


def logit_boosts(x):
    """Of every token by each of a few directions, by the weights."""
    model, sae = x.model, x.saes[1]
    rows = [sae.W_dec[direction] @ model.W_out[sae.layer] @ model.W_U for direction in x.directions]
    return {"values": torch.stack(rows)}, {"count": len(rows)}


def cosine(x, k=10):
    model, (s0, s1) = x.model, x.saes
    written = F.normalize(s0.W_dec @ model.W_out[s0.layer], dim=-1)
    c = written @ F.normalize(model.W_in[s1.layer] @ s1.W_enc, dim=0)
    values, at = c.flatten().topk(k)
    return {"values": values, "pairs": torch.stack([at // c.shape[1], at % c.shape[1]], 1)}, {}


# ---- figures ----

def figures(x):
    """One of each kind that the notebook draws, as the text that a page draws. What is in them is random, and not compared."""
    import plotly.express as px
    make = torch.Generator().manual_seed(0)
    values = torch.randn(16_384, generator=make).numpy()
    names = [f"component {i}" for i in range(22)]
    cells = values[:576].reshape(24, 24)
    x.ready()
    drawn = [px.histogram(values, nbins=50, log_y=True), px.bar(x=names, y=values[:22], error_y=abs(values[:22])), px.imshow(cells),
             px.line(x=names, y=[values[:22], values[22:44], values[44:66]]), px.scatter(x=values[:1000], y=values[1000:2000])]
    texts = [figure.to_json() for figure in drawn]
    return {}, {"count": len(texts)}


TASKS = {
    "index": index,
    "tables": tables,
    "top-tokens": top_tokens,
    "answers": answers,
    "ablate-last": lambda x: ablate(x, x.saes[1], x.directions),
    "ablate-first": lambda x: ablate(x, x.saes[0], x.directions),
    "ablate-everywhere": lambda x: ablate(x, x.saes[0], x.directions[:4], everywhere=True),
    "joint": joint,
    "cooccurrence": cooccurrence,
    "logit-attribution": logit_attribution,
    "feature-attribution": feature_attribution,
    "loss-recovered": loss_recovered,
    "at-mean": at_mean,
    "boosts": boosts,
    "remainder": remainder,
    "pair-effects": pair_effects,
    "gradient": gradient,
    "edges-causal": edges_causal,
    "edges-attribution": edges_attribution,
    "cosine": cosine,
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

if __name__ == "__main__":
    common.run(TASKS, "notebook", common.parser(__doc__, TASKS).parse_args())
