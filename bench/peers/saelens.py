"""What SAELens does of the workflow: encoding a corpus with SAEs it loads, batched, on TransformerLens.

    python saelens.py INPUTS index OUT [--threads N]

The rest has no counterpart there: its evaluation (`sae_lens.evals.get_recons_loss`) replaces the site at every position and
has no ablation of chosen directions or positions, no tables, and no attribution. Needs `pip install sae-lens` as well.
"""
import torch
from sae_lens import SAE

import common
from batched import story_batches, story_maxima


def index(x):
    hooks = [sae.cfg.metadata.hook_name for sae in x.saes]
    maximum = [torch.zeros(sae.cfg.d_sae) for sae in x.saes]
    for lengths, tokens, mask in story_batches(x.stories):
        _, cache = x.model.run_with_cache(tokens, names_filter=hooks, stop_at_layer=2)
        for i, (sae, hook) in enumerate(zip(x.saes, hooks)):
            maximum[i] = torch.maximum(maximum[i], story_maxima(sae.encode(cache[hook][mask]), lengths).amax(0))
    return {f"maximum.{i}": m for i, m in enumerate(maximum)}, {"tokens": sum(map(len, x.stories))}


TASKS = {"index": index}

if __name__ == "__main__":
    args = common.parser(__doc__, TASKS).parse_args()
    with torch.inference_mode():
        common.run(TASKS, "batched", args, read_sae=SAE.load_from_disk)
