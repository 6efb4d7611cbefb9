"""Golden activations of SAELens's inference architectures, for crates/sae/tests/golden.rs.

    pip install torch sae-lens safetensors
    python bench/peers/sae_architectures.py

Random SAEs on the first MLP of the tiny GPT-Neo of the model's fixtures, as SAELens folders with the activations that
SAELens itself gives for prompt 0.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE

ROOT = Path(__file__).parents[2] / "crates"
OUT = ROOT / "sae/tests/fixtures/architectures"
HOOK = "blocks.0.mlp.hook_post"
D_SAE = 64

x = load_file(ROOT / "model/tests/fixtures/neo-tiny/expected.safetensors")[f"cache.{HOOK}"]
d_in = x.shape[-1]
for seed, (name, config) in enumerate({
    "topk": {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": False},
    "topk-rescaled": {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
}.items()):
    gen = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=gen)
    t = {"W_enc": rand(d_in, D_SAE), "W_dec": rand(D_SAE, d_in), "b_dec": 0.1 * rand(d_in)}
    if name == "gated":
        t |= {"b_gate": 0.2 * rand(D_SAE), "b_mag": 0.2 * rand(D_SAE), "r_mag": 0.3 * rand(D_SAE)}
    else:
        t["b_enc"] = 0.2 * rand(D_SAE)
    if name == "jumprelu":
        t["threshold"] = 0.3 * rand(D_SAE).abs()
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(t, folder / "sae_weights.safetensors")
    shared = {"d_in": d_in, "d_sae": D_SAE, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
              "normalize_activations": "none", "reshape_activations": "none",
              "metadata": {"sae_lens_version": "6.54.12", "model_name": "neo-tiny", "hook_name": HOOK}}
    (folder / "cfg.json").write_text(json.dumps(config | shared, indent=1) + "\n")
    with torch.no_grad():
        sae = SAE.load_from_disk(str(folder))
        acts = sae.encode(x)
        save_file({"acts": acts.contiguous(), "recon": sae.decode(acts).contiguous()}, folder / "expected.safetensors")
    print(name, "L0", (acts > 0).float().sum(-1).mean().item())
