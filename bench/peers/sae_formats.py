"""SAEs as every library stores them, and what it makes of random rows, for crates/sae/tests/stored.rs.

    pip install torch numpy safetensors sae-lens dictionary-learning eai-sparsify
    pip install --no-deps llamascopium==2.0.0b34
    python bench/peers/sae_formats.py           # writes the committed ones
    python bench/peers/sae_formats.py --check   # several seeds and sizes, read, encoded, decoded and written again by the
                                                # example `sae_formats` of directrix-sae; what it writes is read by the libraries

A case is a folder and beside it FOLDER.safetensors: rows `x`, activations `acts`, reconstructions `recon`, as the library
itself gives them: sae_lens 6.54, which reads Llama Scope and Goodfire as well, dictionary_learning 0.1, sparsify 1.3,
llamascopium 2.0. superposition, OpenAI, Gemma Scope and the transcoders of Llama Scope are by their formulas. `cases.json` says where each case must be found to be.
"""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.saes.sae import SAEMetadata
# What the next two import and this has no use for.
for module in ["nnsight", "wandb", "zstandard", "natsort", "simple_parsing.helpers", "bitsandbytes", "schedulefree"]:
    sys.modules.setdefault(module, MagicMock(__spec__=None))
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
from sparsify.config import SparseCoderConfig
from sparsify.sparse_coder import SparseCoder
for module in ["cattrs", "json_repair", "openai", "pydantic_settings", "pymongo", "pymongo.database", "tomlkit"]:
    sys.modules.setdefault(module, MagicMock(__spec__=None))
llamascopium = ModuleType("llamascopium")
llamascopium.__path__ = list(importlib.util.find_spec("llamascopium").submodule_search_locations)
sys.modules["llamascopium"] = llamascopium
from llamascopium.models.sae import SAEConfig
from llamascopium.models.sparse_dictionary import SparseDictionary
from dictionary_learning import dictionary as dl
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary

ROOT = Path(__file__).parents[2]
OUT = ROOT / "crates/sae/tests/fixtures/formats"
torch.set_grad_enabled(False)


class Cases:
    def __init__(self, root: Path, seed: int, d_in: int, d_sae: int):
        self.root, self.d_in, self.d_sae, self.found = root, d_in, d_sae, []
        self.generator = torch.Generator().manual_seed(seed)

    def rand(self, *shape) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def randomise(self, module: torch.nn.Module):
        for name, p in module.named_parameters():
            scale = 0.3 if "b_" in name or "bias" in name or "r_mag" in name else 1.0
            p.data = scale * self.rand(*p.shape) if "thresh" not in name else 0.5 * self.rand(*p.shape) + 0.3

    def add(self, folder: str, encode, reads: str, writes: str | None = None, x=None, told=False):
        x = 2 * self.rand(7, self.d_in) if x is None else x
        acts, recon = encode(x)
        flat = lambda t: t.reshape(len(x), -1).float().contiguous().clone()
        save_file({"x": flat(x), "acts": flat(acts), "recon": flat(recon)}, self.root / f"{folder}.safetensors")
        self.found.append({"folder": folder, "reads": reads, "writes": writes or reads, "told": told})

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def both(sae):
    return lambda x: (sae.encode(x), sae(x))


def sae_lens(c: Cases):
    hook, out = "blocks.1.mlp.hook_post", "blocks.1.hook_mlp_out"

    def make(name, architecture, training=False, metadata=None, **options):
        cls, cfg = (get_sae_training_class if training else get_sae_class)(architecture)
        transcodes = "transcoder" in architecture
        metadata = metadata or {"hook_name": hook} | ({"hook_name_out": out} if transcodes else {})
        if transcodes:
            options |= {"d_out": c.d_in - 1, "apply_b_dec_to_input": False}
        sae = cls(cfg(d_in=c.d_in, d_sae=c.d_sae, metadata=SAEMetadata(**metadata), **options))
        c.randomise(sae)
        if "topk_threshold" in dict(sae.named_buffers()):
            sae.topk_threshold.fill_(1.25)
        sae.save_model(c.folder(name))
        return sae

    for norm in ["none", "constant_norm_rescale", "layer_norm"]:
        for architecture, options in [("standard", {}), ("gated", {}), ("jumprelu", {}), ("topk", {"k": 4}),
                                      ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True})]:
            applies = norm != "constant_norm_rescale"
            name = f"sae_lens/{architecture}{'-rescaled' if len(options) > 1 else ''}-{norm}"
            make(name, architecture, normalize_activations=norm, apply_b_dec_to_input=applies, **options)
            c.add(name, both(SAE.load_from_disk(c.root / name)), hook)
    for norm in ["none", "layer_norm"]:
        for architecture in ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]:
            name = f"sae_lens/{architecture}-{norm}"
            make(name, architecture, normalize_activations=norm)
            c.add(name, both(SAE.load_from_disk(c.root / name)), hook, out)
    name, z = "sae_lens/hook_z", "blocks.0.attn.hook_z"
    make(name, "jumprelu", metadata={"hook_name": z}, reshape_activations="hook_z")
    c.add(name, both(SAE.load_from_disk(c.root / name)), z, x=2 * c.rand(7, 2, c.d_in // 2))

    for architecture, options in [
        ("standard", {}), ("gated", {}), ("jumprelu", {}), ("topk", {"k": 4}), ("batchtopk", {"k": 4.5}),
        ("batchtopk", {"k": 4, "rescale_acts_by_decoder_norm": False}),
        ("matryoshka_batchtopk", {"k": 4, "matryoshka_widths": [c.d_sae // 2, c.d_sae]}),
    ]:
        for scaled in [False, True]:
            name = f"sae_lens/trained-{architecture}{'-plain' if 'rescale_acts_by_decoder_norm' in options else ''}{'-scaled' if scaled else ''}"
            norm = {"normalize_activations": "expected_average_only_in"} if scaled else {}
            sae = make(name, architecture, training=True, **options, **norm)
            if scaled:
                (c.root / name / "activation_scaler.json").write_text('{"scaling_factor": 0.75, "whitening": null}\n')
                sae.fold_activation_norm_scaling_factor(0.75)
            with tempfile.TemporaryDirectory() as folder:
                sae.save_inference_model(folder)
                c.add(name, both(SAE.load_from_disk(folder)), hook)

    # What older versions wrote, and keys that count for nothing.
    flat = {"d_in": c.d_in, "d_sae": c.d_sae, "dtype": "float32", "device": "cpu", "hook_layer": 1, "hook_head_index": None}
    old = {
        "old-2": ("standard", {"hook_point": hook, "hook_point_layer": 1, "normalize_activations": False}),
        "old-3-topk": ("topk", {"hook_name": hook, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}),
        "old-5-topk": ("topk", {"architecture": "topk", "hook_name": hook, "activation_fn": "topk",
                                "activation_fn_kwargs": {"k": 3}, "normalize_activations": "none"}),
        "old-5-jumprelu": ("jumprelu", {"architecture": "jumprelu", "hook_name": hook, "apply_b_dec_to_input": False,
                                        "k": 2, "rescale_acts_by_decoder_norm": True}),
        "keys-jumprelu": ("jumprelu", {"architecture": "jumprelu", "k": 2, "rescale_acts_by_decoder_norm": True,
                                       "activation_fn": "topk", "activation_fn_kwargs": {"k": 1},
                                       "metadata": {"sae_lens_version": "6.0.0", "hook_name": hook}}),
    }
    for name, (architecture, cfg) in old.items():
        name = f"sae_lens/{name}"
        make(name, architecture, **({"k": 3} if architecture == "topk" else {}))
        (c.root / name / "cfg.json").write_text(json.dumps(flat | cfg, indent=1) + "\n")
        c.add(name, both(SAE.load_from_disk(c.root / name)), hook)


def superposition(c: Cases):
    w = {"W_enc": c.rand(c.d_in, c.d_sae), "W_dec": c.rand(c.d_sae, c.d_in), "b_enc": c.rand(c.d_sae), "b_dec": c.rand(c.d_in)}
    for name, cfg, hook in [("mlp", {"act": "mlp.hook_post", "head_idx": None}, "blocks.1.mlp.hook_post"),
                            ("head", {"act": "attn.hook_z", "head_idx": 1}, "head 1 of blocks.1.attn.hook_z")]:
        folder = c.folder(f"superposition/{name}")
        torch.save(w, folder / "291_cool-name.pt")
        (folder / "291_cool-name.json").write_text(json.dumps({"layer": 1, "d_in": c.d_in, "reg": "l1"} | cfg) + "\n")

        def encode(x):
            acts = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
            return acts, acts @ w["W_dec"] + w["b_dec"]

        c.add(f"superposition/{name}", encode, hook)


def dictionary_learning(c: Cases):
    def write(name, dictionary, trainer=None, buffer=None, wrap=None):
        folder = c.folder(f"dictionary_learning/{name}")
        config = {"trainer": {"dict_class": type(dictionary).__name__, "activation_dim": c.d_in, "dict_size": c.d_sae,
                              "layer": 2, "lm_name": "m", "submodule_name": "resid_post_layer_2"} | (trainer or {})}
        if buffer:
            config["buffer"] = buffer
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        torch.save(wrap(dictionary.state_dict()) if wrap else dictionary.state_dict(), folder / "ae.pt")
        return folder

    group_sizes = [c.d_sae // 4, c.d_sae - c.d_sae // 4]
    for name, make in {
        "standard": lambda: dl.AutoEncoder(c.d_in, c.d_sae),
        "new": lambda: dl.AutoEncoderNew(c.d_in, c.d_sae),
        "gated": lambda: dl.GatedAutoEncoder(c.d_in, c.d_sae),
        "jumprelu": lambda: dl.JumpReluAutoEncoder(c.d_in, c.d_sae),
        "topk": lambda: AutoEncoderTopK(c.d_in, c.d_sae, 3),
        "batchtopk": lambda: BatchTopKSAE(c.d_in, c.d_sae, 3),
        "batchtopk-unset": lambda: BatchTopKSAE(c.d_in, c.d_sae, 3),
        "matryoshka": lambda: MatryoshkaBatchTopKSAE(c.d_in, c.d_sae, 3, group_sizes),
    }.items():
        ae = make()
        c.randomise(ae)
        if hasattr(ae, "threshold") and "unset" not in name and name != "jumprelu":
            ae.threshold.fill_(1.5)
        folder = write(name, ae, {"k": 3} if hasattr(ae, "k") else {}, {"io": "out", "d_submodule": c.d_in})
        loaded, _ = load_dictionary(str(folder), None)
        encode = lambda x, loaded=loaded: (acts := loaded.encode(x), loaded.decode(acts))
        c.add(f"dictionary_learning/{name}", encode, "blocks.2.hook_resid_post")

    # As `backup_steps` leaves it, on activations divided by a factor.
    ae = BatchTopKSAE(c.d_in, c.d_sae, 3)
    c.randomise(ae)
    ae.threshold.fill_(0.4)
    optimizer = torch.optim.Adam(ae.parameters())
    ae.encoder.weight.grad = torch.ones_like(ae.encoder.weight)
    optimizer.step()
    wrap = lambda state: {"step": 7, "ae": state, "optimizer": optimizer.state_dict(), "config": {"k": 3}, "norm_factor": 3.5}
    write("unfinished", ae, {"k": 3, "submodule_name": "gpt_neox.layers.2.mlp"}, wrap=wrap)
    ae.scale_biases(3.5)
    c.add("dictionary_learning/unfinished", lambda x: (acts := ae.encode(x), ae.decode(acts)), "blocks.2.hook_mlp_out")
    ae = dl.AutoEncoderNew(c.d_in, c.d_sae)
    c.randomise(ae)
    write("nameless", ae, {"submodule_name": None})
    c.add("dictionary_learning/nameless", lambda x: (acts := ae.encode(x), ae.decode(acts)), "blocks.2.hook_resid_mid", told=True)


def sparsify(c: Cases):
    for name, reads, writes, cfg in [
        ("plain/layers.10", "blocks.10.hook_resid_post", None, {}),
        ("skip/h.5.attn", "blocks.5.hook_attn_out", None, {"skip_connection": True}),
        ("transcode/gpt_neox.layers.3", "blocks.3.hook_resid_pre", "blocks.3.hook_resid_post", {"transcode": True}),
        ("skip-transcode/layers.3.mlp", "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out",
         {"transcode": True, "skip_connection": True}),
    ]:
        sae = SparseCoder(c.d_in, SparseCoderConfig(num_latents=c.d_sae, k=4, **cfg))
        c.randomise(sae)
        sae.save_to_disk(c.folder(f"sparsify/{name}"))
        sae = SparseCoder.load_from_disk(c.root / f"sparsify/{name}")

        def encode(x):
            top, indices, _ = sae.encode(x)
            return torch.zeros(len(x), c.d_sae).scatter_(-1, indices, top), sae(x).sae_out

        c.add(f"sparsify/{name}", encode, reads, writes, told=name.endswith("layers.3.mlp"))


def gemma_scope(c: Cases):
    def weights(dtype=np.float32):
        w = {"W_enc": c.rand(c.d_in, c.d_sae), "W_dec": c.rand(c.d_sae, c.d_in), "b_enc": 0.3 * c.rand(c.d_sae),
             "b_dec": 0.3 * c.rand(c.d_in), "threshold": 0.5 * c.rand(c.d_sae).abs()}
        return {name: t.numpy().astype(dtype) for name, t in w.items()}

    def formula(w, root=1.0, skip=None):
        t = {name: torch.from_numpy(a).float() for name, a in w.items()}

        def encode(x):
            pre = x @ t["W_enc"] / root + t["b_enc"]
            acts = torch.relu(pre) * (pre > t["threshold"])
            return acts, acts @ t["W_dec"] * root + t["b_dec"] + (0 if skip is None else x @ skip)

        return encode

    for name, save, dtype, lower, reads, writes in [
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", np.savez, np.float32, False, "blocks.20.hook_resid_post", None),
        ("gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_9", np.savez_compressed, np.float64, False, "blocks.3.hook_mlp_out", None),
        ("gemma-scope-9b-it-att/layer_4/width_16k/average_l0_9", np.savez, np.float16, False, "blocks.4.attn.hook_z", None),
        ("gemma-scope-2b-pt-transcoders/layer_7/width_16k/average_l0_9", np.savez, np.float32, True,
         "blocks.7.ln2.hook_normalized", "blocks.7.hook_mlp_out"),
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", np.savez, np.float32, False, "hook_embed", None),
    ]:
        folder, w = c.folder(f"gemma_scope/{name}"), weights(dtype)
        save(folder / "params.npz", **{name.lower() if lower else name: a for name, a in w.items()})
        c.add(f"gemma_scope/{name}", formula(w, np.sqrt(c.d_in) if "embedding" in name else 1.0), reads, writes)
    for name, reads, writes, config, told in [
        ("resid_post/layer_20_width_16k_l0_small", "blocks.20.hook_resid_post", None, None, False),
        ("attn_out_all/layer_2_width_16k_l0_small", "blocks.2.attn.hook_z", None, {"hf_hook_point_in": "model.layers.2.self_attn.o_proj.input"}, False),
        ("transcoder/layer_9_width_16k_l0_small_affine", "blocks.9.ln2.hook_normalized", "blocks.9.hook_mlp_out",
         {"hf_hook_point_in": "model.layers.9.pre_feedforward_layernorm.output",
          "hf_hook_point_out": "model.layers.9.post_feedforward_layernorm.output", "affine_connection": True}, True),
    ]:
        folder, w = c.folder(f"gemma_scope_2/{name}"), weights()
        skip = c.rand(c.d_in, c.d_in) if "affine" in name else None
        stored = {name.lower(): torch.from_numpy(a) for name, a in w.items()}
        save_file(stored | ({} if skip is None else {"affine_skip_connection": skip}), folder / "params.safetensors")
        if config:
            (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu", "model_name": "m"} | config) + "\n")
        c.add(f"gemma_scope_2/{name}", formula(w, skip=skip), reads, writes, told=told)


def openai(c: Cases):
    for name, activation, k in [("resid_post_mlp/8.pt", "TopK", 4), ("mlp_post_act/3.pt", "ReLU", None)]:
        w = {"pre_bias": 0.3 * c.rand(c.d_in), "encoder.weight": c.rand(c.d_sae, c.d_in), "latent_bias": 0.3 * c.rand(c.d_sae),
             "decoder.weight": c.rand(c.d_in, c.d_sae), "stats_last_nonzero": torch.zeros(c.d_sae, dtype=torch.long)}
        place, file = name.split("/")
        state = w | {"activation": activation, "activation_state_dict": {"k": k, "postact_fn": "ReLU"} if k else {}}
        torch.save(state, c.folder(f"openai/{place}") / file)

        def encode(x):
            mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
            mean, std, eps = (mean, std, 1e-5) if k else (0.0, 1.0, 0.0)
            pre = ((x - mean) / (std + eps) - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
            if k:
                top = pre.topk(k, dim=-1)
                pre = torch.zeros_like(pre).scatter_(-1, top.indices, top.values)
            acts = torch.relu(pre)
            return acts, (acts @ w["decoder.weight"].T + w["pre_bias"]) * std + mean

        hook = "blocks.8.hook_resid_post" if k else "blocks.3.mlp.hook_post"
        c.add(f"openai/{place}", encode, hook)


def openmoss(c: Cases):
    hook, out = "blocks.2.hook_resid_post", "blocks.2.hook_mlp_out"
    for name, hooks, told, cfg in [
        ("relu", (hook, hook), False, {"act_fn": "relu", "norm_activation": "dataset-wise"}),
        ("token-wise", (hook, hook), False, {"act_fn": "relu", "norm_activation": "token-wise", "use_decoder_bias": False}),
        ("jumprelu", (hook, hook), False, {"act_fn": "jumprelu", "norm_activation": "dataset-wise"}),
        ("jumprelu-plain", (hook, hook), False,
         {"act_fn": "jumprelu", "norm_activation": "inference", "sparsity_include_decoder_norm": False}),
        ("topk", (hook, hook), False, {"act_fn": "topk", "top_k": 4, "norm_activation": "dataset-wise"}),
        ("topk-plain", (hook, hook), False,
         {"act_fn": "topk", "top_k": 4, "norm_activation": "inference", "sparsity_include_decoder_norm": False}),
        ("transcoder", ("blocks.2.ln2.hook_normalized", out), False, {"act_fn": "jumprelu", "norm_activation": "dataset-wise"}),
        ("transcoder-told", ("blocks.2.resid_mid_after_ln", out), True, {"act_fn": "topk", "top_k": 3, "norm_activation": "dataset-wise"}),
    ]:
        reads, writes = hooks
        sae = SparseDictionary.from_config(SAEConfig(
            sae_type="sae", d_model=c.d_in, expansion_factor=c.d_sae / c.d_in, hook_point_in=reads, hook_point_out=writes, **cfg))
        assert sae.cfg.d_sae == c.d_sae
        c.randomise(sae)
        if sae.cfg.norm_activation == "dataset-wise":
            sae.set_dataset_average_activation_norm({reads: 4.5} | {writes: 4.5 if reads == writes else 7.25})
        folder = c.folder(f"openmoss/{name}")
        sae.save_checkpoint(str(folder / "sae_weights.safetensors"))
        sae.cfg.save_hyperparameters(folder)
        sae = SparseDictionary.from_pretrained(str(folder))

        def encode(x):
            batch = {reads: x, writes: x}
            scaled, factors = sae.normalize_activations(batch, return_scale_factor=True)
            acts = sae.encode(scaled[reads])
            recon = sae.denormalize_activations({writes: sae.decode(acts)}, {writes: factors[writes]})[writes]
            # Directrix's are of decoder rows of length 1 there.
            counted = sae.cfg.act_fn == "topk" and sae.cfg.sparsity_include_decoder_norm
            return acts * sae.decoder_norm() if counted else acts, recon

        c.add(f"openmoss/{name}", encode, "blocks.2.ln2.hook_normalized" if told else reads, writes, told=told)


def by_sae_lens(loader, folder: Path, name: str, factor=None):
    """What `SAE.from_pretrained` makes of a folder that stands in for the hub."""
    def local(repo_id, filename, subfolder=None, **_):
        return str(folder / (f"{subfolder}/{filename}" if subfolder else filename))

    with patch.object(loaders, "hf_hub_download", local):
        cfg, state, _ = loader("m", name, device="cpu", cfg_overrides={"dtype": "float32"})
    cfg = loaders.handle_config_defaulting(cfg)
    sae_class, config_class = get_sae_class(cfg["architecture"])
    sae = sae_class(config_class.from_dict(cfg))
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    if factor:
        sae.fold_activation_norm_scaling_factor(factor)
    return sae


def llama_scope(c: Cases):
    for name, hooks, norms in [("Llama3_1-8B-Base-L5R-8x", ("blocks.5.hook_resid_post",) * 2, (3.5, 3.5)),
                               ("Llama3_1-8B-Base-L7TC-8x", ("blocks.7.ln2.hook_normalized", "blocks.7.hook_mlp_out"), (3.5, 1.75))]:
        folder = c.folder(f"llama_scope/{name}")
        (folder / "checkpoints").mkdir(exist_ok=True)
        w = {"encoder.weight": c.rand(c.d_sae, c.d_in), "encoder.bias": 0.3 * c.rand(c.d_sae),
             "decoder.weight": c.rand(c.d_in, c.d_sae), "decoder.bias": 0.3 * c.rand(c.d_in)}
        save_file(w, folder / "checkpoints/final.safetensors")
        params = {
            "device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16", "hook_point_in": hooks[0], "hook_point_out": hooks[1],
            "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False, "expansion_factor": 8, "d_model": c.d_in,
            "d_sae": c.d_sae, "bias_init_method": "all_zero", "act_fn": "jumprelu", "jump_relu_threshold": 0.75390625,
            "norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": norms[0], "out": norms[1]},
            "decoder_exactly_fixed_norm": False, "sparsity_include_decoder_norm": True, "use_glu_encoder": False,
            "init_decoder_norm": 0.5, "init_encoder_norm": None, "init_encoder_with_decoder_transpose": True, "lp": 1,
            "l1_coefficient": 8e-05, "l1_coefficient_warmup_steps": 78125, "top_k": 50, "k_warmup_steps": 78125,
            "use_batch_norm_mse": True, "use_ghost_grads": False, "tp_size": 1, "ddp_size": 1,
        }
        (folder / "hyperparams.json").write_text(json.dumps(params, indent=1) + "\n")
        sae = by_sae_lens(loaders.llama_scope_sae_huggingface_loader, folder.parent, name, c.d_in**0.5 / norms[0])
        c.add(f"llama_scope/{name}", lambda x: (sae.encode(x), sae(x) * norms[1] / norms[0]), *hooks)


def goodfire(c: Cases):
    for repo, name, layer in [("Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth", 19),
                              ("Goodfire/Llama-3.3-70B-Instruct-SAE-l50", "Llama-3.3-70B-Instruct-SAE-l50.pt", 50)]:
        folder = c.folder(f"goodfire/{repo.split('/')[1]}")
        w = {"encoder_linear.weight": c.rand(c.d_sae, c.d_in), "encoder_linear.bias": 0.3 * c.rand(c.d_sae),
             "decoder_linear.weight": c.rand(c.d_in, c.d_sae), "decoder_linear.bias": 0.3 * c.rand(c.d_in)}
        torch.save(w, folder / name)

        def loader(_, name, device, cfg_overrides):
            return loaders.get_goodfire_huggingface_loader(
                repo, name, device, cfg_overrides=cfg_overrides | {"d_in": c.d_in, "d_sae": c.d_sae})

        sae = by_sae_lens(loader, folder, name)
        c.add(f"goodfire/{folder.name}", both(sae), f"blocks.{layer}.hook_resid_post")


def write(root: Path, seed: int, d_in: int, d_sae: int) -> list[dict]:
    torch.manual_seed(seed)
    cases = Cases(root, seed, d_in, d_sae)
    for library in [sae_lens, superposition, dictionary_learning, sparsify, gemma_scope, openai, openmoss, llama_scope, goodfire]:
        library(cases)
    return cases.found


WORST = [0.0]


def near(found, wanted, what):
    """Equal to 1e-5 of the largest number of the row, as exact as sums in float32 are."""
    assert found.shape == wanted.shape, (what, found.shape, wanted.shape)
    worst = ((found - wanted).abs() / wanted.abs().amax(-1, keepdim=True).clamp(min=1)).max().item()
    assert worst <= 1e-5, (what, worst)
    WORST[0] = max(WORST[0], worst)


if "--check" in sys.argv:
    subprocess.run(["cargo", "build", "--release", "-q", "--workspace", "--example", "sae_formats"], cwd=ROOT, check=True)
    count = written = 0
    program = ROOT / "target/release/examples/sae_formats"
    with tempfile.TemporaryDirectory() as root:
        for seed, (d_in, d_sae) in enumerate([(6, 9), (16, 40), (64, 300), (48, 1000)]):
            base = Path(root) / str(seed)
            for case in write(base, 100 + seed, d_in, d_sae):
                folder, wanted = base / case["folder"], load_file(base / f"{case['folder']}.safetensors")
                out = Path(f"{folder}.read")
                place = [case["reads"], case["writes"]] if case["told"] else []
                subprocess.run([program, folder, f"{folder}.safetensors", out, *place], check=True)
                for name in ["acts", "recon"]:
                    near(load_file(out / "found.safetensors")[name], wanted[name], (seed, case["folder"], name))
                count += 1
                x, lens, dictionary = wanted["x"], out / "sae_lens", out / "dictionary_learning"
                if (lens / "cfg.json").exists():
                    sae = SAE.load_from_disk(lens)
                    y = x.reshape(len(x), 2, -1) if sae.cfg.reshape_activations == "hook_z" else x
                    near(sae.encode(y), wanted["acts"], (seed, case["folder"], "written for sae_lens"))
                    near(sae(y).reshape(len(x), -1), wanted["recon"], (seed, case["folder"], "written for sae_lens"))
                    written += 1
                if (dictionary / "config.json").exists():
                    torch.load(dictionary / "ae.pt", weights_only=True)
                    ae, _ = load_dictionary(str(dictionary), None)
                    near(ae.encode(x), wanted["acts"], (seed, case["folder"], "written for dictionary_learning"))
                    near(ae.decode(ae.encode(x)), wanted["recon"], (seed, case["folder"], "written for dictionary_learning"))
                    written += 1
    print(count, "SAEs agree,", written, "of what was written of them; largest difference", WORST[0])
else:
    found = write(OUT, 0, 6, 10)
    (OUT / "cases.json").write_text(json.dumps(found, indent=1) + "\n")
    print(len(found), "cases")
