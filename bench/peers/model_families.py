"""Golden model families: what transformers and TransformerLens make of tiny random checkpoints of every family after GPT.

    pip install -r bench/requirements.txt
    python bench/peers/model_families.py --check          # compares `directrix capture` with both
    python bench/peers/model_families.py                  # writes the fixtures of crates/model/tests

Norm weights and biases are random and far from trivial; prompts are longer than windows and than the context before
scaling. Logits are compared with transformers', hook points on raw and on processed weights with TransformerLens's, which
has no biases in gated MLPs and scales rotations linearly only in blocks without a window: cases with such biases, or with
such windows, are compared with transformers alone.

Config files are those that transformers itself saves. `--transformers4 PYTHON` names an interpreter with transformers 4.57,
which saves them in the older form: both must give the same model. It needs no PyTorch.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "crates/model/tests/fixtures"
CONFIGS = REPOSITORY / "crates/model/tests/configs"
TOLERANCE = 1e-4  # of max(1, |x|)

CLASSES = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config",
           "gemma2": "Gemma2Config", "gemma3": "Gemma3TextConfig", "neox": "GPTNeoXConfig"}
ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
                 "qwen3": "Qwen3ForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM",
                 "neox": "GPTNeoXForCausalLM"}
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
LINEAR = dict(rope_type="linear", factor=3.0)

# Small enough for fixtures, and larger.
SIZES = [
    dict(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
         num_key_value_heads=2, max_position_embeddings=64),
    dict(vocab_size=100, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
         num_key_value_heads=3, max_position_embeddings=64),
]

# By name: the family, its choices, the base and scaling of rotary positions. The first of a family is its fixture.
CASES = {
    "llama": ("llama", {}, 500.0, LLAMA3),
    "llama-plain": ("llama", dict(num_key_value_heads=None, tie_word_embeddings=True), 10000.0, None),
    "llama-biases": ("llama", dict(attention_bias=True, head_dim=6), 10000.0, LINEAR),
    "llama-mlp-biases": ("llama", dict(attention_bias=True, mlp_bias=True, hidden_act="gelu"), 10000.0, None),
    "llama-yarn": ("llama", dict(num_key_value_heads=1), 300.0, YARN),
    "llama-yarn-mscale": ("llama", {}, 300.0, dict(YARN, mscale=0.7, mscale_all_dim=1.3, beta_fast=8.0, beta_slow=2.0,
                                                   truncate=False)),
    "llama-yarn-attention-factor": ("llama", {}, 10000.0, dict(YARN, attention_factor=1.7)),
    "mistral": ("mistral", dict(sliding_window=3), 10000.0, None),
    "mistral-no-window": ("mistral", dict(sliding_window=None, head_dim=10), 1e6, None),
    "qwen2": ("qwen2", dict(use_sliding_window=True, sliding_window=4, max_window_layers=1, tie_word_embeddings=True),
              1e4, YARN),
    "qwen2-no-window": ("qwen2", dict(sliding_window=4, max_window_layers=0), 1e6, None),
    "qwen2-layer-types": ("qwen2", dict(use_sliding_window=True, sliding_window=5, layer_types="alternating"), 1e4, None),
    "qwen3": ("qwen3", dict(head_dim=6), 1e4, LINEAR),
    "qwen3-window-biases": ("qwen3", dict(head_dim=8, attention_bias=True, use_sliding_window=True, sliding_window=3,
                                          max_window_layers=1), 1e6, None),
    "gemma2": ("gemma2", dict(head_dim=6, query_pre_attn_scalar=9, sliding_window=3, attn_logit_softcapping=2.0,
                              final_logit_softcapping=3.0), 1e4, None),
    "gemma2-no-caps": ("gemma2", dict(head_dim=8, query_pre_attn_scalar=16, sliding_window=5, attn_logit_softcapping=None,
                                      final_logit_softcapping=None, attention_bias=True), 1e4, None),
    "gemma2-untied": ("gemma2", dict(head_dim=8, sliding_window=4, tie_word_embeddings=False), 300.0, LINEAR),
    "gemma3": ("gemma3", dict(head_dim=6, query_pre_attn_scalar=9, sliding_window=3, layer_types="alternating"),
               1e6, LINEAR),
    "gemma3-pattern": ("gemma3", dict(head_dim=8, query_pre_attn_scalar=4, sliding_window=5, sliding_window_pattern=3,
                                      final_logit_softcapping=4.0), 1e6, None),
    "gemma3-ignored-cap": ("gemma3", dict(head_dim=8, sliding_window=5, attn_logit_softcapping=1.0,
                                          layer_types="alternating"), 1e5, None),
    "neox": ("neox", {}, 10000.0, None),
    "neox-whole": ("neox", dict(partial=1.0, use_parallel_residual=False, hidden_act="gelu_new"), 500.0, None),
    "neox-linear": ("neox", dict(attention_bias=False), 500.0, LINEAR),
}


def config(case, size, generation):
    """The configuration of a case, in the words of transformers 4 or 5."""
    import transformers
    family, own, base, scaling = CASES[case]
    chosen = dict(SIZES[size], **own)
    layers = chosen["num_hidden_layers"]
    if chosen.get("layer_types") == "alternating":
        chosen["layer_types"] = [("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)]
    share = chosen.pop("partial", 0.5)
    if family == "neox":
        del chosen["num_key_value_heads"]
        if generation == 4:
            chosen.update(rotary_pct=share, rotary_emb_base=base, rope_scaling=scaling)
        else:
            rope = dict(rope_type="default", rope_theta=base, partial_rotary_factor=share)
            chosen["rope_parameters"] = rope | (scaling or {})
    elif family == "gemma3" and generation == 5:
        window, full = dict(rope_type="default", rope_theta=200.0), dict(rope_type="default", rope_theta=base)
        chosen["rope_parameters"] = dict(sliding_attention=window, full_attention=full | (scaling or {}))
    elif generation == 5:
        chosen["rope_parameters"] = dict(rope_type="default", rope_theta=base) | (scaling or {})
    else:
        chosen["rope_theta"] = base
        if scaling:
            chosen["rope_scaling"] = scaling
        if family == "gemma3":
            chosen["rope_local_base_freq"] = 200.0
    made = getattr(transformers, CLASSES[family])(**chosen)
    made.architectures = [ARCHITECTURES[family]]
    return made


def write_configs(folder, generation):
    """The configurations of all cases, and of every family as it is by default."""
    import transformers
    for case in CASES:
        for size in range(len(SIZES)):
            config(case, size, generation).save_pretrained(folder / f"{case}-{size}")
    for family, name in CLASSES.items():
        default = getattr(transformers, name)()
        default.architectures = [ARCHITECTURES[family]]
        default.save_pretrained(folder / family)


def random_model(case, size, seed):
    """A model whose weights are random, and such that bfloat16 holds them."""
    import torch
    from transformers import AutoModelForCausalLM
    torch.manual_seed(seed)
    made = config(case, size, 5)
    model = AutoModelForCausalLM.from_config(made, attn_implementation="eager", dtype=torch.float32).eval()
    for name, weight in model.named_parameters():
        is_gemma = CASES[case][0].startswith("gemma")
        if "norm" in name and name.endswith("weight"):
            weight.copy_(torch.randn_like(weight) * 0.4 + (0.0 if is_gemma else 1.0))
        elif name.endswith("bias"):
            weight.copy_(torch.randn_like(weight) * 0.3)
        elif "embed" in name:
            weight.copy_(torch.randn_like(weight) * (0.3 if is_gemma else 1.0))
        else:
            weight.copy_(torch.randn_like(weight) * 1.1 / weight.shape[-1] ** 0.5)
        weight.copy_(weight.bfloat16().float())
    return model


def save(model, folder):
    import torch
    from transformers import AutoModelForCausalLM
    narrow = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    narrow.load_state_dict({name: weight.bfloat16() for name, weight in model.state_dict().items()})
    narrow.save_pretrained(folder)


def random_prompts(model, seed, lengths):
    import torch
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(model.config.vocab_size, (n,), generator=generator).tolist() for n in lengths]


def as_hooked(model, processed):
    """The model as a HookedTransformer; None where there is no such one."""
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import gemma, llama, mistral, neox, qwen2, qwen3
    hf = model.config
    family = hf.model_type
    heads, d = hf.num_attention_heads, hf.hidden_size
    if family == "gpt_neox":
        rope = hf.rope_parameters
        if rope["rope_type"] != "default" or not hf.attention_bias:
            return None
        own = dict(normalization_type="LN", eps=hf.layer_norm_eps, d_head=d // heads, rotary_base=rope["rope_theta"],
                   rotary_dim=int(rope["partial_rotary_factor"] * d / heads), parallel_attn_mlp=hf.use_parallel_residual)
    else:
        if getattr(hf, "mlp_bias", False):
            return None
        d_head = getattr(hf, "head_dim", None) or d // heads
        keys = hf.num_key_value_heads
        own = dict(normalization_type="RMS", eps=hf.rms_norm_eps, rotary_dim=d_head, gated_mlp=True, final_rms=True,
                   d_head=d_head, n_key_value_heads=None if keys == heads else keys)
        rope = hf.rope_parameters
        if family == "gemma3_text":
            own["rotary_base_local"] = rope["sliding_attention"]["rope_theta"]
            rope = rope["full_attention"]
        own["rotary_base"] = rope["rope_theta"]
        if rope["rope_type"] == "llama3":
            own.update(use_NTK_by_parts_rope=True, NTK_by_parts_factor=rope["factor"],
                       NTK_original_ctx_len=rope["original_max_position_embeddings"],
                       NTK_by_parts_low_freq_factor=rope["low_freq_factor"],
                       NTK_by_parts_high_freq_factor=rope["high_freq_factor"])
        elif rope["rope_type"] == "yarn":
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
            own.update(use_yarn_rope=True, yarn_factor=rope["factor"],
                       yarn_attention_factor=ROPE_INIT_FUNCTIONS["yarn"](hf)[1],
                       yarn_beta_fast=rope.get("beta_fast", 32.0), yarn_beta_slow=rope.get("beta_slow", 1.0),
                       yarn_original_max_position_embeddings=rope["original_max_position_embeddings"],
                       yarn_truncate=rope.get("truncate", True))
        elif rope["rope_type"] == "linear":
            own["rotary_scaling_factor"] = rope["factor"]
        of_all = "sliding_attention" if family == "mistral" and hf.sliding_window else "full_attention"
        kinds = getattr(hf, "layer_types", None) or [of_all] * hf.num_hidden_layers
        if "sliding_attention" in kinds and family != "gemma3_text" and rope["rope_type"] == "linear":
            return None  # TransformerLens scales only blocks that see all positions
        if "sliding_attention" in kinds:
            own.update(use_local_attn=True, window_size=hf.sliding_window,
                       attn_types=["local" if kind == "sliding_attention" else "global" for kind in kinds])
        if family.startswith("gemma"):
            own.update(use_normalization_before_and_after=True, attn_scale=hf.query_pre_attn_scalar ** 0.5,
                       output_logits_soft_cap=hf.final_logit_softcapping or -1.0,
                       attn_scores_soft_cap=(hf.attn_logit_softcapping or -1.0) if family == "gemma2" else -1.0)
        own["use_qk_norm"] = family in ("qwen3", "gemma3_text")
    act = getattr(hf, "hidden_activation", None) or hf.hidden_act
    cfg = HookedTransformerConfig(
        d_model=d, n_heads=heads, d_mlp=hf.intermediate_size, n_layers=hf.num_hidden_layers,
        n_ctx=hf.max_position_embeddings, d_vocab=hf.vocab_size, act_fn=act, positional_embedding_type="rotary",
        rotary_adjacent_pairs=False, device="cpu",
        original_architecture=hf.architectures[0], **own)
    convert = {"gpt_neox": neox.convert_neox_weights, "llama": llama.convert_llama_weights,
               "mistral": mistral.convert_mistral_weights, "qwen2": qwen2.convert_qwen2_weights,
               "qwen3": qwen3.convert_qwen3_weights, "gemma2": gemma.convert_gemma_weights,
               "gemma3_text": gemma.convert_gemma_weights}[family]
    state = {name: weight.clone() for name, weight in convert(model, cfg).items()}
    if getattr(hf, "attention_bias", False) and family != "gpt_neox":  # which no conversion of TransformerLens takes
        mark = "" if cfg.n_key_value_heads is None else "_"
        for layer, block in enumerate(model.model.layers):
            attention, at = block.self_attn, f"blocks.{layer}.attn."
            state[at + "b_Q"] = attention.q_proj.bias.reshape(heads, -1).clone()
            state[at + f"{mark}b_K"] = attention.k_proj.bias.reshape(hf.num_key_value_heads, -1).clone()
            state[at + f"{mark}b_V"] = attention.v_proj.bias.reshape(hf.num_key_value_heads, -1).clone()
            state[at + "b_O"] = attention.o_proj.bias.clone()
    hooked = HookedTransformer(cfg)
    # As `from_pretrained` has it.
    centred = processed and cfg.output_logits_soft_cap <= 0
    hooked.load_and_process_state_dict(state, fold_ln=processed, center_writing_weights=processed, center_unembed=centred,
                                       fold_value_biases=processed)
    return hooked.eval()


def hook_points(hooked, tokens, with_inputs=True):
    """Every hook point at one prompt, a row a position; and the logits."""
    import torch
    hooked.set_use_attn_result(True)
    hooked.set_use_hook_mlp_in(True)
    hooked.set_use_split_qkv_input(False)
    logits, cache = hooked.run_with_cache(torch.tensor([tokens]))
    found = dict(cache.items())
    if with_inputs:  # which give norms a head of their own
        hooked.set_use_split_qkv_input(True)
        inputs = lambda name: name.endswith(("q_input", "k_input", "v_input"))
        found.update(hooked.run_with_cache(torch.tensor([tokens]), names_filter=inputs)[1].items())
    def rows(name, value):
        if "_norm." in name:  # [positions × heads, width]
            return value.reshape(len(tokens), -1)
        value = value[0]
        if name.endswith(("attn_scores", "pattern")):
            value = value.transpose(0, 1)
        return value.reshape(len(tokens), -1)
    return {name: rows(name, value) for name, value in found.items()}, logits[0]


def difference(expected, found):
    import torch
    same = expected == found  # infinities
    delta = (expected - found).abs() / expected.abs().clamp(min=1)
    return torch.where(same, torch.zeros_like(delta), delta).nan_to_num(nan=float("inf")).max().item()


def captured(binary, folder, prompts, arguments):
    from safetensors.torch import load_file
    with tempfile.TemporaryDirectory() as out:
        file, given = Path(out) / "found.safetensors", Path(out) / "prompts.jsonl"
        given.write_text("".join(json.dumps({"tokens": tokens}) + "\n" for tokens in prompts))
        command = [binary, "capture", "--model", folder, "--prompts", given, "--out", file, "--logits", *arguments]
        run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"{folder}: {run.stderr}")
        return load_file(file), run.stderr


def embedding_by_another_name(folder):
    """Leaves `lm_head.weight` alone of what is tied in a checkpoint; the model that transformers makes of that."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM
    weights = load_file(folder / "model.safetensors")
    (embedding,) = [name for name in weights if name.endswith(("embed_tokens.weight", "embed_in.weight"))]
    head = "embed_out.weight" if embedding.endswith("embed_in.weight") else "lm_head.weight"
    save_file({head if name == embedding else name: weight for name, weight in weights.items()},
              folder / "model.safetensors", {"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def check_case(case, size, seed, binary, folder, older):
    import torch
    model = random_model(case, size, seed)
    save(model, folder)
    prompts = random_prompts(model, seed, [23, 1, 40])
    worst = {}
    def compare(what, expected, found):
        delta = difference(expected, found)
        worst[what.split(".")[0]] = max(worst.get(what.split(".")[0], 0.0), delta)
        assert delta <= TOLERANCE, f"{case} size {size} seed {seed}, {what}: {delta}"
    for processed in (False, True):
        found, said = captured(binary, folder, prompts, ["--hook", "all"] + ([] if processed else ["--no-processing"]))
        hooked = as_hooked(model, processed)
        for number, tokens in enumerate(prompts):
            first, last = (found["offsets"][number + i].item() for i in (0, 1))
            logits = model(torch.tensor([tokens])).logits[0]
            if not processed:
                compare("transformers.logits", logits, found["logits"][first:last])
            elif model.config.model_type == "gpt_neox" or not getattr(model.config, "final_logit_softcapping", None):
                shift = (logits - found["logits"][first:last]).mean(-1, keepdim=True)
                compare("transformers.shifted", logits - shift, found["logits"][first:last])
            else:
                compare("transformers.logits", logits, found["logits"][first:last])
            if hooked is None:
                continue
            expected, own_logits = hook_points(hooked, tokens)
            compare("hooked.logits", own_logits, found["logits"][first:last])
            for hook, value in expected.items():
                here = found[hook][first:last]
                if hook.endswith(("attn_scores", "pattern")):
                    here = here[:, :, :len(tokens)]
                compare(f"hooks{'_processed' if processed else ''}.{hook}", value, here.reshape(len(tokens), -1))
            ours = {name for name in found if name.startswith(("hook_", "blocks.", "ln_final"))}
            extra = {name for name in ours - set(expected) if not name.endswith("hook_attn_in")}
            assert not extra, f"{case}: TransformerLens has no {sorted(extra)}"
    if model.config.tie_word_embeddings:
        loaded = embedding_by_another_name(folder)
        found, _ = captured(binary, folder, prompts, ["--no-processing"])
        for tokens, first, last in zip(prompts, found["offsets"], found["offsets"][1:]):
            compare("head_alone.logits", loaded(torch.tensor([tokens])).logits[0], found["logits"][first:last])
        save(model, folder)
    if older:
        before, _ = captured(binary, folder, prompts, ["--no-processing"])
        shutil.copy(older / f"{case}-{size}" / "config.json", folder / "config.json")
        after, _ = captured(binary, folder, prompts, ["--no-processing"])
        assert torch.equal(before["logits"], after["logits"]), f"{case}: another model by the configuration of transformers 4"
    return worst


def check(binary, older):
    for case in CASES:
        worst = {}
        for size in range(len(SIZES)):
            for seed in (1, 2, 3):
                with tempfile.TemporaryDirectory() as folder:
                    found = check_case(case, size, seed, binary, Path(folder), older)
                worst = {what: max(worst.get(what, 0.0), found.get(what, 0.0)) for what in {*worst, *found}}
        print(f"{case:28}", " ".join(f"{what} {delta:.1e}" for what, delta in sorted(worst.items())), flush=True)


def fixture(family, older):
    import torch
    from safetensors.torch import save_file
    folder = FIXTURES / f"{family}-tiny"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = random_model(family, 0, 7)
    save(model, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if older:
        shutil.copy(older / f"{family}-0" / "config.json", folder / "config-4.json")
    prompts = random_prompts(model, 7, [5, 12, 6])
    hooked = as_hooked(model, True)
    hooks, logits = hook_points(hooked, prompts[0], with_inputs=False)
    skipped = ("hook_result", "hook_mlp_in", "hook_resid_pre")
    by_head = lambda value: value.reshape(len(value), model.config.num_attention_heads, -1).transpose(0, 1)
    tensors = {f"cache.{name}": by_head(value) if name.endswith(("attn_scores", "pattern")) else value
               for name, value in hooks.items() if not name.endswith(skipped)}
    for name, value in hooked.state_dict().items():
        if not name.endswith((".mask", ".IGNORE", ".rotary_sin", ".rotary_cos")):
            tensors[f"weight.{name}"] = value
    tensors["logits"] = logits
    tensors["loss_per_token"] = hooked(torch.tensor([prompts[0]]), return_type="loss", loss_per_token=True)[0]
    tensors["logits_raw"] = model(torch.tensor([prompts[0]])).logits[0]
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, folder / "expected.safetensors")
    (folder / "expected.json").write_text(json.dumps({"prompts": prompts}) + "\n")
    print(family, sum(file.stat().st_size for file in folder.iterdir()), "bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the command instead of writing fixtures")
    parser.add_argument("--directrix", type=Path, default=REPOSITORY / "target/release/directrix", help="the command")
    parser.add_argument("--transformers4", help="Python interpreter with transformers 4.57")
    parser.add_argument("--configs", type=Path, help=argparse.SUPPRESS)  # what the older transformers is asked for
    args = parser.parse_args()
    if args.configs:
        return write_configs(args.configs, 4)
    import torch
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        older = None
        if args.transformers4:
            older = Path(made) / "4"
            subprocess.run([args.transformers4, __file__, "--configs", older], check=True)
        if args.check:
            return check(args.directrix, older)
        for family in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"):
            fixture(family, older)
        # Every family as it is by default, as both generations save it.
        newer = Path(made) / "5"
        write_configs(newer, 5)
        CONFIGS.mkdir(exist_ok=True)
        for family in CLASSES:
            for generation, folder in (("5", newer), ("4", older)):
                if folder:
                    shutil.copy(folder / family / "config.json", CONFIGS / f"{family}-{generation}.json")


if __name__ == "__main__":
    sys.exit(main())
