"""What the workflow peers share: inputs, timing, output."""
import argparse
import json
import re
import resource
import time
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

ASSETS = Path(__file__).resolve().parents[2] / "assets/tinystories-2l"
CONTAINS, ENDS_WITH = 'said, "', '."'


def shipped_stories(limit: int):
    """The shipped stories as tokens, and those that show the behaviour, cut after the answer."""
    tokenizer = Tokenizer.from_file(str(ASSETS / "tokenizer.json"))
    bos = json.loads((ASSETS / "config.json").read_text())["bos_token_id"]
    texts = [text.strip() for text in (ASSETS / "stories.txt").read_text().split("<|endoftext|>")]
    encode = lambda text: torch.tensor([bos, *tokenizer.encode(text, add_special_tokens=False).ids])
    [answer] = tokenizer.encode(ENDS_WITH, add_special_tokens=False).ids
    stories, prompts = [], []
    for text in [text for text in texts if text][:limit]:
        stories.append(encode(text))
        start = text.find(CONTAINS)
        end = text.find(ENDS_WITH, start + len(CONTAINS)) if start >= 0 else -1
        prompt = encode(text[:end + len(ENDS_WITH)]) if end >= 0 else []
        if len(prompt) > 1 and prompt[-1] == answer:
            prompts.append(prompt)
    return stories, prompts, answer


class Sae:
    """acts = relu((x - b_dec) W_enc + b_enc); reconstruction = acts W_dec + b_dec."""

    def __init__(self, folder: Path):
        tensors = load_file(folder / "sae_weights.safetensors")
        self.W_enc, self.W_dec, self.b_enc, self.b_dec = (tensors[k].float() for k in ("W_enc", "W_dec", "b_enc", "b_dec"))
        self.layer = int(re.search(r"blocks\.(\d+)\.mlp\.hook_post", (folder / "cfg.json").read_text())[1])
        self.hook = f"blocks.{self.layer}.mlp.hook_post"
        self.directions = self.W_enc.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def encode_some(self, x: Tensor, directions) -> Tensor:
        return torch.relu((x - self.b_dec) @ self.W_enc[:, directions] + self.b_enc[directions])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As in the notebook: always decodes."""
        acts = self.encode(x)
        return acts, acts @ self.W_dec + self.b_dec


def load_model(folder: Path, processed: bool = True):
    """A local Hugging Face model as a HookedTransformer, processed as `from_pretrained` does by default."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import gpt2, neo, neox
    from transformers import AutoModelForCausalLM

    source = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    hf = json.loads((folder / "config.json").read_text())
    family = hf["architectures"][0]
    if family == "GPTNeoForCausalLM":
        convert, d, heads = neo.convert_neo_weights, hf["hidden_size"], hf["num_heads"]
        own = dict(d_mlp=hf.get("intermediate_size") or 4 * d, n_layers=hf["num_layers"], n_ctx=hf["max_position_embeddings"],
                   eps=hf["layer_norm_epsilon"], act_fn=hf["activation_function"], attn_types=source.config.attention_layers,
                   use_attn_scale=False, use_local_attn=True, window_size=hf["window_size"])
    elif family == "GPT2LMHeadModel":
        convert, d, heads = gpt2.convert_gpt2_weights, hf["n_embd"], hf["n_head"]
        own = dict(d_mlp=hf.get("n_inner") or 4 * d, n_layers=hf["n_layer"], n_ctx=hf["n_positions"],
                   eps=hf["layer_norm_epsilon"], act_fn=hf["activation_function"])
    elif family == "GPTNeoXForCausalLM":
        convert, d, heads = neox.convert_neox_weights, hf["hidden_size"], hf["num_attention_heads"]
        # Transformers 5 keeps the share in an object of its own.
        share = hf["rotary_pct"] if "rotary_pct" in hf else hf["rope_parameters"]["partial_rotary_factor"]
        own = dict(d_mlp=hf["intermediate_size"], n_layers=hf["num_hidden_layers"], n_ctx=hf["max_position_embeddings"],
                   eps=hf["layer_norm_eps"], act_fn=hf["hidden_act"], positional_embedding_type="rotary",
                   rotary_dim=int(share * d / heads), rotary_adjacent_pairs=False,
                   parallel_attn_mlp=hf["use_parallel_residual"])
    else:
        from model_families import as_hooked

        return as_hooked(source, processed)
    cfg = HookedTransformerConfig(d_model=d, d_head=d // heads, n_heads=heads, d_vocab=hf["vocab_size"],
                                  normalization_type="LN", device="cpu", **own)
    model = HookedTransformer(cfg)
    model.load_and_process_state_dict(convert(source, cfg), fold_ln=processed, center_writing_weights=processed,
                                      center_unembed=processed, fold_value_biases=processed)
    return model.eval()


class Inputs:
    """One task's inputs: `stories` and `prompts` (1-D token tensors) are cut to the units this peer is to do."""

    def __init__(self, folder: Path, task: str, peer: str, read_sae=Sae, units: int | None = None):
        spec = json.loads((folder / "inputs.json").read_text())
        self.folder, self.read_sae = folder, read_sae
        self.units = units or spec["units"].get(task, {}).get(peer, 1)
        self.stories = [torch.tensor(ids) for ids in spec["stories"][:self.units]]
        self.prompts = [torch.tensor(ids) for ids in spec["prompts"][:self.units]]
        self.directions, self.joint, self.above, self.tables = (spec[k] for k in ("directions", "joint", "above", "tables"))

    @cached_property
    def model(self):
        return load_model(self.folder / "model")

    @cached_property
    def saes(self) -> list[Sae]:
        return [self.read_sae(self.folder / f"sae-{i}") for i in (0, 1)]

    @cached_property
    def site_mean(self) -> Tensor:
        return load_file(self.folder / "site_mean.safetensors")["mean"]

    def load(self):
        """Everything a task reads, and a first pass, so that neither is timed."""
        self.model(self.prompts[0][None, :8])
        self.saes, self.site_mean
        self.ready()

    def ready(self):
        """From here on a task is timed: called by those that first make what other cells have made."""
        self.start = time.perf_counter()


def peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def parser(doc: str, tasks: dict) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("task", choices=tasks)
    parser.add_argument("out", help="OUT.safetensors and OUT.json are written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--units", type=int, help="how many stories, prompts or pairs [default: what the inputs say]")
    return parser


def run(tasks: dict, peer: str, args: argparse.Namespace, read_sae=Sae):
    """Runs a task: a function from inputs to its tensors and further facts (among them "units", if not those asked for)."""
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    inputs = Inputs(args.inputs, args.task, peer, read_sae, args.units)
    inputs.ready() if args.task == "product" else inputs.load()
    tensors, facts = tasks[args.task](inputs)
    seconds = time.perf_counter() - inputs.start
    facts = {"task": args.task, "units": inputs.units, "seconds": seconds} | facts | {"peak_bytes": peak_bytes()}
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, f"{args.out}.safetensors")
    Path(f"{args.out}.json").write_text(json.dumps(facts) + "\n")
