"""A dozen idioms of TransformerLens and SAELens, each beside the same in Directrix.

    python python/examples/idioms.py            # writes port.ipynb, in which each pair is timed

The tests run every pair on tiny models of three families and compare what they find.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class Idiom(NamedTuple):
    """Two cells that find the same, in `found`."""

    title: str
    theirs: str
    ours: str
    note: str = ""


#: What a cell finds defined: `hooked`, `model` and `tokens` (`[batch, pos]`); `sae_lens_sae` and `sae` on `hook`; `answer`, a token.
IDIOMS = [
    Idiom(
        "Logits and losses",
        "logits, loss = hooked(tokens, return_type='both')\nfound = logits, loss",
        "logits, loss = model(tokens, return_type='both')\nfound = logits, loss",
    ),
    Idiom(
        "The loss of every token",
        "found = hooked(tokens, return_type='loss', loss_per_token=True)",
        "found = model(tokens, return_type='loss', loss_per_token=True)",
    ),
    Idiom(
        "A cache, and its short names",
        "_, cache = hooked.run_with_cache(tokens)\nfound = cache['post', 1], cache['pattern', 0], cache['blocks.0.hook_resid_pre']",
        "_, cache = model.run_with_cache(tokens)\nfound = cache['post', 1], cache['pattern', 0], cache['blocks.0.hook_resid_pre']",
    ),
    Idiom(
        "One hook point",
        "_, cache = hooked.run_with_cache(tokens, names_filter='blocks.0.mlp.hook_post')\nfound = cache['post', 0].mean((0, 1))",
        "_, cache = model.run_with_cache(tokens, return_type=None, names_filter='post0')\nfound = cache['post', 0].mean((0, 1))",
        "With `return_type=None` the run stops at the deepest hook point that is asked for: no later block, no logits.",
    ),
    Idiom(
        "A hook function",
        "def halve(value, hook):\n    return value * 0.5\n\n"
        "found = hooked.run_with_hooks(tokens, fwd_hooks=[('blocks.0.hook_mlp_out', halve)])",
        "def halve(value, hook):\n    return value * 0.5\n\n"
        "found = model.run_with_hooks(tokens, fwd_hooks=[('blocks.0.hook_mlp_out', halve)])",
        "Functions get numpy arrays of the same shapes. The run up to the hook point is made once more for each.",
    ),
    Idiom(
        "The same change as data",
        "def zero_head(value, hook):\n    value[:, -2, 1] = 0\n    return value\n\n"
        "found = hooked.run_with_hooks(tokens, fwd_hooks=[('blocks.1.attn.hook_z', zero_head)])",
        "zero_head = dx.Intervention.at_hook('blocks.1.attn.hook_z', 'zero', positions=-2, head=1)\n"
        "found = model.run_with_hooks(tokens, fwd_hooks=[zero_head])",
        "An `Intervention` is part of the one run.",
    ),
    Idiom(
        "Hooks in a `with`",
        "def first_only(pattern, hook):\n    pattern[:, 0] = 0\n    pattern[:, 0, :, 0] = 1\n    return pattern\n\n"
        "with hooked.hooks([('blocks.0.attn.hook_pattern', first_only)]):\n"
        "    _, cache = hooked.run_with_cache(tokens)\nfound = cache['resid_post', 1]",
        "def first_only(pattern, hook):\n    pattern[:, 0] = 0\n    pattern[:, 0, :, 0] = 1\n    return pattern\n\n"
        "with model.hooks([('blocks.0.attn.hook_pattern', first_only)]):\n"
        "    _, cache = model.run_with_cache(tokens)\nfound = cache['resid_post', 1]",
    ),
    Idiom(
        "Direct logit attribution",
        "_, cache = hooked.run_with_cache(tokens)\n"
        "stack, labels = cache.get_full_resid_decomposition(expand_neurons=False, pos_slice=-2, return_labels=True)\n"
        "found = cache.logit_attrs(stack, answer, pos_slice=-2)",
        "_, cache = model.run_with_cache(tokens)\n"
        "stack, labels = cache.get_full_resid_decomposition(pos_slice=-2, return_labels=True)\n"
        "found = cache.logit_attrs(stack, answer, pos_slice=-2)",
    ),
    Idiom(
        "The logit lens",
        "_, cache = hooked.run_with_cache(tokens)\n"
        "stack, labels = cache.accumulated_resid(apply_ln=True, pos_slice=-1, return_labels=True)\n"
        "found = stack @ hooked.W_U + hooked.b_U",
        "_, cache = model.run_with_cache(tokens)\n"
        "stack, labels = cache.accumulated_resid(apply_ln=True, pos_slice=-1, return_labels=True)\n"
        "found = stack @ model.W_U + model.b_U",
    ),
    Idiom(
        "What each head writes",
        "_, cache = hooked.run_with_cache(tokens)\nfound = cache.stack_head_results(layer=2, pos_slice=-1).norm(dim=-1)",
        "_, cache = model.run_with_cache(tokens)\n"
        "found = np.linalg.norm(cache.stack_head_results(layer=2, pos_slice=-1), axis=-1)",
    ),
    Idiom(
        "Weights",
        "found = hooked.W_E[answer] @ hooked.W_U, hooked.W_V[1, 0] @ hooked.W_O[1, 0], hooked.W_in[0]",
        "found = model.W_E[answer] @ model.W_U, model.W_V[1][0] @ model.W_O[1][0], model.W_in[0]",
    ),
    Idiom(
        "Activations of an SAE, and their reconstruction",
        "_, cache = hooked.run_with_cache(tokens, names_filter=hook)\n"
        "acts = sae_lens_sae.encode(cache[hook])\nfound = acts, sae_lens_sae.decode(acts)",
        "_, cache = model.run_with_cache(tokens, return_type=None, names_filter=hook)\n"
        "acts = sae.encode(cache[hook])\nfound = acts, sae.decode(acts)",
        "`encode_sparse` gives those alone that are not zero, as the parts of a `scipy.sparse.csr_array`.",
    ),
    Idiom(
        "The reconstruction in its place",
        "def reconstruct(value, hook):\n    return sae_lens_sae(value)\n\n"
        "found = hooked.run_with_hooks(tokens, return_type='loss', fwd_hooks=[(hook, reconstruct)])",
        "found = model.run_with_hooks(tokens, return_type='loss', fwd_hooks=[sae.reconstruct()])",
    ),
    Idiom(
        "Activation patching, every layer and position",
        "other = tokens.flip(0)\n"
        "_, clean = hooked.run_with_cache(tokens)\n"
        "found = np.zeros((2, tokens.shape[1]))\n"
        "for layer in range(2):\n"
        "    for position in range(tokens.shape[1]):\n"
        "        def patch(value, hook):\n"
        "            value[:, position] = clean[hook.name][:, position]\n"
        "            return value\n\n"
        "        logits = hooked.run_with_hooks(other, fwd_hooks=[(f'blocks.{layer}.hook_resid_pre', patch)])\n"
        "        found[layer, position] = (logits[:, -1, answer] - logits[:, -1, answer + 1]).mean()",
        "other = tokens.flip(0)\n"
        "_, clean = model.run_with_cache(tokens, None, ['resid_pre0', 'resid_pre1'])\n"
        "changes = [\n"
        "    dx.Intervention.at_hook(f'blocks.{layer}.hook_resid_pre', 'set', rows=clean['resid_pre', layer][:, position], positions=position)\n"
        "    for layer in range(2) for position in range(tokens.shape[1])\n"
        "]\n"
        "log_probs = model.log_probs_each(other, changes)\n"
        "found = (log_probs[:, :, answer] - log_probs[:, :, answer + 1]).mean(1).reshape(2, -1)",
        "All changes go on from one run, each from its position and layer on.",
    ),
    Idiom(
        "Ablating directions, one by one, on every prompt",
        "losses = []\n"
        "for direction in directions:\n"
        "    def ablate(value, hook):\n"
        "        acts = sae_lens_sae.encode(value)\n"
        "        value[:, -2] -= acts[:, -2, direction, None] * sae_lens_sae.W_dec[direction]\n"
        "        return value\n\n"
        "    changed, unchanged = [], []\n"
        "    for prompt in tokens:\n"
        "        unchanged.append(hooked(prompt[None], return_type='loss', loss_per_token=True)[0, -1])\n"
        "        with hooked.hooks([(hook, ablate)]):\n"
        "            changed.append(hooked(prompt[None], return_type='loss', loss_per_token=True)[0, -1])\n"
        "    losses.append(np.mean(changed) - np.mean(unchanged))\n"
        "found = np.array(losses)",
        "table = dx.ablate_each(model, sae, tokens, directions, only_active=False)\nfound = table['loss_increase']",
        "One call: prompts are run once, all ablations go on from there together, and each mean has its n and its interval.",
    ),
]

SETUP = """\
import sys, time
from pathlib import Path

import numpy as np
import torch
import directrix as dx

repository = next(folder for folder in Path.cwd().parents if (folder / 'bench' / 'peers').is_dir())
sys.path.insert(0, str(repository / 'bench' / 'peers'))
from common import load_model  # a local folder as a HookedTransformer
from sae_lens import SAE

torch.set_grad_enabled(False)
folder = repository / 'assets' / 'tinystories-2l'
hooked = load_model(folder)
model = dx.Model.from_pretrained('tinystories-2l')  # or dx.Model.from_transformer_lens(hooked)
sae_lens_sae = SAE.load_from_disk(str(folder / 'sae-l1'))
sae = dx.Sae.from_pretrained('tinystories-2l/sae-l1')
hook = sae.cfg.hook_name

story = 'Once upon a time, there was a little girl named Lily. She loved to play outside. One day, Lily said, "I like this big tree."'
tokens = torch.tensor(np.repeat(model.to_tokens(story), 8, axis=0))
tokens[4:, 1:6] = tokens[:4, 6:11]  # half of the prompts begin otherwise
answer = model.to_single_token('."')
fires = np.flatnonzero(sae.encode(model.run_with_cache(tokens[:1], None, hook)[1][hook])[0, -2] > 0)
directions = [int(direction) for direction in fires[:8]]"""

SETUP_END = """\
def seconds(cell):
    \"\"\"The shortest of five runs of a cell, and what it found.\"\"\"
    times = []
    for _ in range(5):
        start = time.perf_counter()
        exec(cell, globals())
        times.append(time.perf_counter() - start)
    return min(times), found


def flat(found):
    parts = found if isinstance(found, tuple) else (found,)
    return np.concatenate([np.asarray(part, dtype=np.float64).reshape(-1) for part in parts])


def compare(title, theirs, ours):
    (their_time, their_found), (our_time, our_found) = seconds(theirs), seconds(ours)
    one, two = flat(their_found), flat(our_found)
    assert one.shape == two.shape and (np.abs(one - two) <= 1e-4 * np.maximum(1, np.abs(one))).all()
    rows.append((title, 1e3 * their_time, 1e3 * our_time))
    print(f'theirs {1e3 * their_time:.1f} ms, ours {1e3 * our_time:.1f} ms: {their_time / our_time:.1f} times')


rows = []"""

SUMMARY = """\
from IPython.display import Markdown

lines = [f'| {title} | {theirs:.1f} | {ours:.1f} | {theirs / ours:.1f} |' for title, theirs, ours in rows]
Markdown('\\n'.join(['| idiom | TransformerLens, ms | Directrix, ms | times |', '|---|--:|--:|--:|', *lines]))"""


def notebook():
    """The notebook, without outputs."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    def text(source):
        return new_markdown_cell(source)

    cells = [
        text(
            "# A notebook of TransformerLens, ported\n\nEach pair of cells does the same: first on TransformerLens and SAELens, then on Directrix. "
            "Both are run five times on the same model, the shorter time counts, and what they find is compared to 1e-4 of max(1, |x|). "
            "The model is the shipped one of two layers; eight prompts are one batch.\n\n"
            "What a port changes: `import directrix as dx`, arrays are numpy's (`torch.from_dlpack` takes them without a copy), and loops over "
            "prompts and directions become one call."
        ),
        new_code_cell(SETUP),
        new_code_cell(SETUP_END),
        text(
            "Tokens are what they were.\n"
        ),
        new_code_cell("hooked_tokens = model.to_tokens(story)\nmodel.to_str_tokens(story)[:6], hooked_tokens.shape, model.to_single_token('.\"')"),
    ]
    for number, (title, theirs, ours, note) in enumerate(IDIOMS, 1):
        cells.append(text(f"## {number}. {title}" + (f"\n\n{note}" if note else "")))
        cells.append(new_code_cell(f"theirs = r'''\n{theirs}\n'''"))
        cells.append(new_code_cell(f"ours = r'''\n{ours}\n'''\ncompare({title!r}, theirs, ours)"))
    cells += [text("## All of them"), new_code_cell(SUMMARY)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


if __name__ == "__main__":
    import nbformat

    nbformat.write(notebook(), FOLDER / "port.ipynb")
