#!/usr/bin/env python3
"""Whole models: GPT-2 small and Pythia-70m in their sizes, with random weights, and one SAE of 24,576 or 32,768 directions on
the residual stream; what indexing a corpus, ablating directions one by one and training take with TransformerLens and SAELens,
and with Directrix.

    bench/models.py                      # minutes on two cores
    bench/models.py --toy                # agreement at toy sizes: a minute; times mean nothing there
    bench/models.py --model pythia-70m --documents 100

Every number is of a whole process, with what it imports and loads; beside them stands what the peer takes for the work alone.
Peak memory is the process's. Of an ablation Directrix makes two controls as well, which the peer does not.

Needs `pip install -r bench/requirements.txt`.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
BINARY = BENCH.parent / "target/release/directrix"
sys.path.insert(0, str(BENCH / "peers"))
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}

TOLERANCE = 1e-4  # of max(1, |x|), as everywhere
POSITIONS = 1024  # that the peer looks at together, about
ABLATED = 30
PROMPTS, PROMPT = 100, 64

MODELS = {
    "gpt2-small": dict(config="GPT2Config", cls="GPT2LMHeadModel", hook="blocks.8.hook_resid_pre", layer=8, d_sae=24_576,
                       options=dict(), d_model=768, vocabulary=50_257),
    "pythia-70m": dict(config="GPTNeoXConfig", cls="GPTNeoXForCausalLM", hook="blocks.4.hook_resid_pre", layer=4,
                       d_sae=32_768, d_model=512, vocabulary=50_304,
                       options=dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=8,
                                    vocab_size=50_304, max_position_embeddings=2048, use_parallel_residual=True)),
}
TOY = {
    "gpt2-small": dict(options=dict(n_embd=48, n_layer=10, n_head=4, vocab_size=300), d_sae=256, d_model=48, vocabulary=300),
    "pythia-70m": dict(options=dict(hidden_size=48, intermediate_size=96, num_hidden_layers=6, num_attention_heads=3,
                                    vocab_size=300, max_position_embeddings=256), d_sae=256, d_model=48, vocabulary=300),
}


# ---- inputs ----

def make(folder, spec, documents, length):
    """A model, an SAE of which about 50 directions fire at a position, documents and prompts of random tokens."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from common import load_model

    torch.manual_seed(0)
    config = getattr(transformers, spec["config"])(**spec["options"])
    model = getattr(transformers, spec["cls"])(config)
    # Initial weights say next to nothing: these are larger.
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 3
    model.save_pretrained(folder / "model")
    vocabulary, d, d_sae = spec["vocabulary"], spec["d_model"], spec["d_sae"]
    documents = torch.randint(vocabulary, (documents, length)).tolist()
    # Real documents differ in length.
    documents = [tokens[: length - (7 * i) % (length // 2)] for i, tokens in enumerate(documents)]
    prompts = torch.randint(vocabulary, (PROMPTS, PROMPT)).tolist()
    for name, rows in [("documents", documents), ("prompts", prompts)]:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
    with torch.inference_mode():
        hooked = load_model(folder / "model")
        x = torch.cat([hooked.run_with_cache(torch.tensor([p]), names_filter=spec["hook"], stop_at_layer=spec["layer"] + 1)[1]
                       [spec["hook"]][0] for p in prompts[:32]])
        w_dec = torch.nn.functional.normalize(torch.randn(d_sae, d), dim=1)
        b_dec = x.mean(0)
        pre = (x - b_dec) @ w_dec.T
        b_enc = -pre.quantile(1 - min(0.2, 50 / d_sae), dim=0)
        density = (pre + b_enc > 0).float().mean(0)
    sae = folder / "sae"
    sae.mkdir()
    save_file({"W_enc": w_dec.T.contiguous(), "W_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec}, sae / "sae_weights.safetensors")
    cfg = {"architecture": "standard", "d_in": d, "d_sae": d_sae, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
           "normalize_activations": "none", "reshape_activations": "none",
           "metadata": {"sae_lens_version": "6.54.12", "model_name": "x", "hook_name": spec["hook"],
                        "model_from_pretrained_kwargs": {"center_writing_weights": True}}}
    (sae / "cfg.json").write_text(json.dumps(cfg))
    (folder / "directions.json").write_text(json.dumps(sorted(density.topk(ABLATED).indices.tolist())))


# ---- the peer, in a process of its own ----

def read(folder, name):
    return [json.loads(line)["tokens"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def padded(rows):
    import torch

    lengths = [len(row) for row in rows]
    tokens = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, :len(row)] = torch.tensor(row)
    return tokens, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def peer_index(model, sae, spec, folder):
    """Maximum and density of every direction, last positions left out; ours keeps every activation and token counts as well."""
    import torch

    rows, batch, held = read(folder, "documents"), [], []
    for row in rows:
        if batch and sum(map(len, batch)) + len(row) > POSITIONS:
            held.append(batch)
            batch = []
        batch.append(row)
    maximum, count, seen = torch.zeros(spec["d_sae"]), torch.zeros(spec["d_sae"]), 0
    for batch in [*held, batch]:
        tokens, mask = padded(batch)
        _, cache = model.run_with_cache(tokens, names_filter=spec["hook"], stop_at_layer=spec["layer"] + 1)
        counted = mask & mask.roll(-1, 1)
        counted[:, -1] = False
        acts = sae.encode(cache[spec["hook"]][counted])
        maximum = torch.maximum(maximum, acts.amax(0))
        count += (acts > 0).sum(0)
        seen += len(acts)
    return {"maximum": maximum.tolist(), "density": (count / seen).tolist()}


def peer_ablate(model, sae, spec, folder):
    """What taking out each direction at the position before the last does to the loss of the last token, over the prompts in
    which it fires; every direction resumes at the SAE's block."""
    import torch

    tokens = torch.tensor(read(folder, "prompts"))
    _, cache = model.run_with_cache(tokens, names_filter=spec["hook"], stop_at_layer=spec["layer"] + 1)
    resid = cache[spec["hook"]]

    def losses(resid):
        # The unembedding of all positions at once would take gigabytes.
        parts = [model(part, start_at_layer=spec["layer"])[:, -2] for part in resid.split(16)]
        return -torch.cat(parts).log_softmax(-1).gather(1, tokens[:, -1:])[:, 0]
    clean, acts = losses(resid), sae.encode(resid[:, -2])
    found = {}
    for direction in json.loads((folder / "directions.json").read_text()):
        active = acts[:, direction] > 0
        if active.any():
            changed = resid[active].clone()
            changed[:, -2] -= acts[active, direction, None] * sae.W_dec[direction]
            parts = [model(part, start_at_layer=spec["layer"])[:, -2] for part in changed.split(16)]
            loss = -torch.cat(parts).log_softmax(-1).gather(1, tokens[active, -1:])[:, 0]
            found[direction] = (loss - clean[active]).mean().item()
    return found


def peer(task, spec, folder, out, threads):
    import torch
    from sae_lens import SAE

    from common import load_model

    torch.set_num_threads(threads)
    with torch.inference_mode():
        model, sae = load_model(folder / "model"), SAE.load_from_disk(folder / "sae")
        start = time.perf_counter()
        found = {"index": peer_index, "ablate": peer_ablate}[task](model, sae, spec, folder)
        out.write_text(json.dumps({"seconds": time.perf_counter() - start, "found": found}))


# ---- both ----

def timed(command):
    start = time.perf_counter()
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command}\n{said}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


def ours_index(folder, out, threads):
    command = [BINARY, "index", "--model", folder / "model", "--sae", folder / "sae", "--corpus", folder / "documents.jsonl",
               "--skip-first", 0, "--no-bos", "--out", out / "index", "--threads", threads]
    return timed(command)


def maxima(folder, out, spec):
    """Of some directions of the index: maximum and density."""
    found = {}
    for direction in range(0, spec["d_sae"], max(1, spec["d_sae"] // 50)):
        command = [BINARY, "direction", direction, "--index", out / "index", "--json"]
        said = json.loads(subprocess.run([str(part) for part in command], check=True, capture_output=True).stdout)
        found[direction] = (said["maximum"], said["density"])
    return found


def ours_ablate(folder, out, threads):
    directions = ",".join(map(str, json.loads((folder / "directions.json").read_text())))
    command = [BINARY, "ablate", "--model", folder / "model", "--sae", folder / "sae", "--prompts", folder / "prompts.jsonl",
               "--no-bos", "--each", "--directions", directions, "--out", out / "ablate", "--threads", threads]
    return timed(command)


def effects(out):
    table = next((out / "ablate").rglob("*.csv"))
    with table.open() as file:
        return {int(row["direction"]): float(row["loss increase"]) for row in csv.DictReader(file) if row["loss increase"]}


def worst(pairs):
    return max(abs(a - b) / (TOLERANCE * max(1, abs(b))) for a, b in pairs)


def measure(name, args, work):
    spec = MODELS[name] | (TOY[name] if args.toy else {})
    folder, out = work / name, work / f"{name}-out"
    folder.mkdir()
    out.mkdir()
    this = [sys.executable, __file__, "--model", name, "--work", work, "--threads", args.threads, "--documents", args.documents]
    this += ["--toy"] if args.toy else []
    # In a process of its own: a child's peak begins at what its parent holds.
    timed([*this, "--peer", "make"])
    rows = []
    for task, ours in [("index", ours_index), ("ablate", ours_ablate)]:
        print(f"… {name}: {task}", file=sys.stderr, flush=True)
        theirs = timed([*this, "--peer", task])
        found, mine = json.loads((out / f"{task}.json").read_text()), ours(folder, out, args.threads)
        if task == "index":
            pairs = [(a, b) for d, own in maxima(folder, out, spec).items()
                     for a, b in zip(own, (found["found"]["maximum"][d], found["found"]["density"][d]))]
        else:
            own = effects(out)
            assert set(own) == set(map(int, found["found"])), "other directions fire"
            pairs = [(own[int(d)], effect) for d, effect in found["found"].items()]
        rows.append((name, task, theirs, found["seconds"], mine, worst(pairs)))
    return rows


def training(args):
    for name in args.model:
        spec = MODELS[name]
        print(f"\n{name}: a step of training at the SAE's sizes (bench/train.py)\n", flush=True)
        subprocess.run([sys.executable, BENCH / "train.py", "--d-in", str(spec["d_model"]), "--d-sae", str(spec["d_sae"]),
                        "--timed", "3", "--rounds", "2", "--threads", str(args.threads), "--objectives", "topk",
                        "--who", "SAELens", "ours"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="a model; give it once for each [default: all]")
    parser.add_argument("--toy", action="store_true", help="toy sizes, for agreement")
    parser.add_argument("--documents", type=int, default=120, help="documents of up to 256 tokens that are indexed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-training", action="store_true", help="leave training out")
    parser.add_argument("--peer", choices=["make", "index", "ablate"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.model = args.model or list(MODELS)
    if args.peer:
        [name] = args.model
        spec = MODELS[name] | (TOY[name] if args.toy else {})
        folder = args.work / name
        if args.peer == "make":
            return make(folder, spec, 12 if args.toy else args.documents, 40 if args.toy else 256)
        return peer(args.peer, spec, folder, args.work / f"{name}-out" / f"{args.peer}.json", args.threads)
    if not BINARY.exists():
        parser.error(f"{BINARY} is missing; make it with `cargo build --release`")
    with tempfile.TemporaryDirectory(prefix="directrix-models-") as work:
        rows = [row for name in args.model for row in measure(name, args, Path(work))]
    print("| model | task | TransformerLens + SAELens, s | its work alone, s | Directrix, s | x | x, work alone | memory, MB | "
          "Directrix, MB | share | disagreement |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, task, (theirs, their_memory), alone, (mine, memory), differ in rows:
        print(f"| {name} | {task} | {theirs:.1f} | {alone:.1f} | {mine:.1f} | {theirs / mine:.1f} | {alone / mine:.1f} | "
              f"{their_memory:,.0f} | {memory:,.0f} | {memory / their_memory:.2f} | {differ:.2f} |")
    print(f"\nDisagreement: the largest difference, as a share of what is tolerated ({TOLERANCE:g} of max(1, |x|)).", flush=True)
    if not (args.toy or args.no_training):
        training(args)
    if any(row[-1] > 1 for row in rows):
        sys.exit("outputs disagree")


if __name__ == "__main__":
    main()
