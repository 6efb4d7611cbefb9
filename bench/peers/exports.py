"""What `directrix export` writes, beside what the libraries themselves give or read.

    pip install -r bench/requirements.txt
    pip install --no-deps sae-dashboard==0.8.0 dataclasses-json eindex-callum marshmallow mypy_extensions typing-inspect
    cargo build --release
    python bench/peers/exports.py --check

On stories of one length and a part of the shipped SAE, twice: as it is, with BOS left out; and with decoder rows of other lengths than
1, all positions counting. SAEDashboard's runner and converter make every panel, its random choice of examples replaced by ours. Neuronpedia's
rows are compared with these and with the columns of its tables, delphi's cache with the SAE's activations in the way its loader reads it, and
SAELens's store of activations loads the folder of `datasets`.
"""
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from sae_lens import SAE
from sae_lens.training.activations_store import ActivationsStore
from sae_dashboard import sequence_data_generator
from sae_dashboard.components_config import (
    ActsHistogramConfig, Column, FeatureTablesConfig, LogitsHistogramConfig, LogitsTableConfig, SequencesConfig)
from sae_dashboard.layout import SaeVisLayoutConfig
from sae_dashboard.neuronpedia.neuronpedia_converter import NeuronpediaConverter
from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch
from sae_dashboard.neuronpedia.neuronpedia_runner_config import NeuronpediaRunnerConfig
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from tokenizers import Tokenizer

from common import load_model

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "assets/tinystories-2l"
HOOK = "blocks.1.mlp.hook_post"
PROMPTS, LENGTH, DIRECTIONS = 48, 80, 300
TOLERANCE = 1.1e-3  # numbers are rounded to three digits, SAEDashboard's activations twice

FEATURE = """modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel vectorDefaultSteerStrength hookName
    topkCosSimIndices topkCosSimValues neuron_alignment_indices neuron_alignment_values neuron_alignment_l1 correlated_neurons_indices
    correlated_neurons_pearson correlated_neurons_l1 correlated_features_indices correlated_features_pearson correlated_features_l1 neg_str
    neg_values pos_str pos_values frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights
    logits_hist_data_bar_values decoder_weights_dist sourceSetName""".split()
ACTIVATION = """id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId dataSource dataIndex dfaValues
    dfaTargetIndex dfaMaxValue createdAt lossValues logitContributions binMin binMax binContains qualifyingTokenIndex""".split()


def evenly(x, k, bounds, buffer=None):
    """In place of a random choice: positions that fire within bounds, strongest first, spread evenly."""
    rows, columns = torch.where((bounds[0] <= x) & (x <= bounds[1]) & (x > 0))
    order = torch.argsort(-x[rows, columns], stable=True)
    n = len(order)
    chosen = order[[i * n // min(k, n) for i in range(min(k, n))]] if n else order
    return torch.stack([rows[chosen], columns[chosen]], dim=-1)


def directrix(*args):
    subprocess.run([ROOT / "target/release/directrix", *map(str, args)], check=True, stdout=subprocess.DEVNULL)


def dashboards(model, folder, tokens, ignored, texts):
    """SAEDashboard's batch of all directions, as its runner for Neuronpedia asks for it."""
    sequence_data_generator.random_range_indices = evenly
    sequences = SequencesConfig(stack_mode="stack-all", buffer=None, n_quantiles=5, top_acts_group_size=20, quantile_group_size=5)
    column = Column(sequences, ActsHistogramConfig(), LogitsHistogramConfig(), LogitsTableConfig(), FeatureTablesConfig(n_rows=3))
    cfg = SaeVisConfig(hook_point=HOOK, features=range(DIRECTIONS), minibatch_size_features=DIRECTIONS, ignore_tokens=ignored,
                       feature_centric_layout=SaeVisLayoutConfig(columns=[column]))
    data = SaeVisRunner(cfg).run(encoder=SAE.load_from_disk(folder), model=model, tokens=tokens)
    np_cfg = NeuronpediaRunnerConfig(sae_set=folder.name, sae_path="", outputs_dir="", n_prompts_total=len(tokens), layer=1,
                                     n_tokens_in_prompt=tokens.shape[1], model_id=MODEL.name, huggingface_dataset_path="")
    return json.loads(NeuronpediaConverter.convert_to_np_json(model, data, np_cfg, texts))


class Found:
    """How many numbers were compared, and the largest difference, by field."""

    def __init__(self):
        self.count, self.swapped, self.worst = 0, 0, {}

    def near(self, name, ours, theirs, tolerance=TOLERANCE):
        ours, theirs = np.atleast_1d(np.array(ours, float)), np.atleast_1d(np.array(theirs, float))
        assert ours.shape == theirs.shape, (name, ours, theirs)
        if ours.size:
            worst = np.abs(ours - theirs).max()
            assert worst <= tolerance, (name, worst, ours, theirs)
            self.worst[name] = max(self.worst.get(name, 0.0), worst)
        self.count += ours.size


def same_order(ours, theirs, values):
    """Two lists of names are the same but for those whose values are within what rounding hides; the last may be one not listed."""
    for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        close = [i for i, v in enumerate(values) if abs(v - values[place]) <= TOLERANCE]
        assert a == b or b in [ours[i] for i in close] or len(ours) - 1 in close, (ours, theirs, values)


def check_dashboard(found, ours, theirs, at_first, fires_anywhere):
    """`at_first` are the activations at each prompt's first position, by the texts behind it."""
    for name in ["neuron_alignment", "neg", "pos"]:
        label = f"{name}_indices" if name == "neuron_alignment" else f"{name}_str"
        found.near(f"{name}_values", ours[f"{name}_values"], theirs[f"{name}_values"])
        # numpy, through which SAEDashboard passes texts, drops what it takes for the end of one.
        mine = [name.rstrip("\0") if isinstance(name, str) else name for name in ours[label]]
        same_order(mine, theirs[label], theirs[f"{name}_values"])
    found.near("neuron_alignment_l1", ours["neuron_alignment_l1"], theirs["neuron_alignment_l1"])
    found.near("frac_nonzero", ours["frac_nonzero"], theirs["frac_nonzero"], 1.1e-5)
    for name in ["freq", "logits"]:
        bars, heights = f"{name}_hist_data_bar_values", f"{name}_hist_data_bar_heights"
        found.near(bars, ours[bars], theirs[bars])
        assert sum(ours[heights]) == sum(theirs[heights]), (heights, ours[heights], theirs[heights])
        # What lies on the edge of a bar may be in the next one.
        moved = np.abs(np.cumsum(ours[heights]) - np.cumsum(theirs[heights])).sum() if ours[heights] else 0
        assert moved <= 3, (heights, moved)
        found.count += len(ours[heights])
    assert ours["decoder_weights_dist"] == theirs["decoder_weights_dist"] and ours["vector"] == theirs["vector"] == []
    for name in ["n_prompts_total", "n_tokens_in_prompt"]:
        assert ours[name] == theirs[name]
    # SAEDashboard fills its first group with positions at which nothing fires, and never shows a first token, which it numbers -1.
    highest = lambda e: at_first[tuple(e["tokens"])] if e["qualifying_token_index"] < 0 else e["values"][e["qualifying_token_index"]]
    fires = [e for e in theirs["activations"] if highest(e) > 0]
    mine = ours["activations"]
    assert len(mine) == len(fires), (ours["feature_index"], len(mine), len(fires))
    for a, b in zip(mine, fires):
        for name in ["bin_min", "bin_max"]:
            found.near(name, a[name], b[name])
        found.near("bin_contains", a["bin_contains"], b["bin_contains"], 1.1e-5)
        own = slice(1, None) if b["qualifying_token_index"] < 0 else slice(None)
        same = a["tokens"][own] == b["tokens"] and a["qualifying_token_index"] == max(b["qualifying_token_index"], 0)
        if not same:  # Which of two equal ones comes first is not said.
            assert abs(a["values"][a["qualifying_token_index"]] - highest(b)) <= TOLERANCE, (ours["feature_index"], a, b)
            found.swapped += 1
            for twin in [e for e in fires if (e["tokens"], e["qualifying_token_index"]) == (a["tokens"], a["qualifying_token_index"])]:
                found.near("values", a["values"], twin["values"])
            continue
        found.near("values", a["values"][own], b["values"])
    check_correlated(found, "neurons", ours, theirs, -1 if fires_anywhere else 0)
    check_correlated(found, "features", ours, theirs, 0.02)


def check_correlated(found, of, ours, theirs, least):
    """Rows that are correlated more than `least`: SAEDashboard also lists what never changes, and directions that never fire with this one."""
    indices, pearson, cosine = [[panels[f"correlated_{of}_{name}"] for panels in (ours, theirs)] for name in ["indices", "pearson", "l1"]]
    kept = sum(p > least for p in pearson[1])
    found.near(f"pearson of {of}", pearson[0][:kept], pearson[1][:kept])
    same_order(indices[0][:kept], indices[1][:kept], pearson[1][:kept])
    theirs = dict(zip(indices[1], cosine[1]))
    both = [(c, theirs[i]) for i, c in zip(indices[0], cosine[0]) if i in theirs]
    found.near(f"cosine of {of}", [a for a, _ in both], [b for _, b in both])


def check_neuronpedia(folder, batch):
    source = folder / MODEL.name / f"1-{batch['sae_set']}"
    rows = lambda name: [json.loads(line) for path in sorted((source / name).glob("batch-*.jsonl.gz"), key=lambda p: int(p.name[6:-9]))
                         for line in gzip.decompress(path.read_bytes()).splitlines()]
    for name in ["release", "model", "sourceset", "source"]:
        json.loads((source / f"{name}.jsonl").read_text())
    features, activations = rows("features"), rows("activations")
    assert [set(row) for row in features] == [set(FEATURE)] * DIRECTIONS and all(set(row) == set(ACTIVATION) for row in activations)
    assert len({row["id"] for row in activations}) == len(activations) and all(len(row["id"]) == 25 for row in activations)
    at = iter(activations)
    for row, dashboard in zip(features, batch["features"], strict=True):
        shared = set(row) & set(dashboard) - {"vector"}
        assert len(shared) == 19 and all(row[name] == dashboard[name] for name in shared), shared
        highest = 0
        for example in dashboard["activations"]:
            activation = next(at)
            values = example["values"]
            highest = max(highest, *values)
            wanted = {"tokens": example["tokens"], "values": values, "index": dashboard["feature_index"], "maxValue": max(values),
                      "minValue": min(values), "maxValueTokenIndex": values.index(max(values)), "binMin": example["bin_min"],
                      "binMax": example["bin_max"], "binContains": example["bin_contains"],
                      "qualifyingTokenIndex": example["qualifying_token_index"], "layer": row["layer"], "modelId": row["modelId"]}
            assert {name: activation[name] for name in wanted} == wanted
        assert row["maxActApprox"] == row["vectorDefaultSteerStrength"] == highest and not row["hasVector"]
    assert next(at, None) is None
    return len(activations)


def check_delphi(found, folder, tokens, acts):
    """As delphi's `TensorBuffer.load`: `acts` are `[prompts, positions, directions]`."""
    module = folder / "latents" / HOOK
    width = -(-tokens.shape[1] // 32) * 32
    assert json.loads((module / "config.json").read_text())["cache_ctx_len"] == width
    padded = np.pad(tokens.numpy(), ((0, 0), (0, width - tokens.shape[1])))  # BOS is token 0
    read, ends = np.zeros_like(acts), []
    for path in module.glob("*.safetensors"):
        start, end = map(int, path.stem.split("_"))
        ends.append((start, end + 1))
        split = load_file(path)
        assert split["locations"].dtype == np.uint16 and split["activations"].dtype == np.float16
        assert (split["tokens"] == padded).all()
        prompt, position, direction = split["locations"].astype(np.int64).T
        read[prompt, position, direction + start] = split["activations"]
    ends.sort()
    assert ends[0][0] == 0 and ends[-1][1] == DIRECTIONS and all(a[1] == b[0] for a, b in zip(ends, ends[1:]))
    found.near("delphi", read / np.maximum(acts, 1), acts / np.maximum(acts, 1), 6e-4)


def check_datasets(found, folder, model, tokens, context):
    acts = model.run_with_cache(tokens, names_filter=HOOK)[1][HOOK]
    rows = tokens.shape[1] // context
    wanted = acts[:, :rows * context].reshape(-1, context, acts.shape[-1])
    dataset = datasets.load_from_disk(str(folder)).with_format("torch")
    found.near("datasets", dataset[HOOK][:].numpy(), wanted, 1e-4)
    assert (dataset["token_ids"][:] == tokens[:, :rows * context].reshape(-1, context)).all()
    store = ActivationsStore(
        model=model, dataset=datasets.Dataset.from_dict({"tokens": tokens.tolist()}), streaming=False, hook_name=HOOK, hook_head_index=None,
        context_size=context, d_in=acts.shape[-1], n_batches_in_buffer=2, total_training_tokens=64, store_batch_size_prompts=4,
        train_batch_size_tokens=8, prepend_bos=False, normalize_activations="none", device=torch.device("cpu"), dtype="float32",
        cached_activations_path=str(folder))
    batch, ids = store.get_raw_llm_batch()
    found.near("SAELens's store", batch.reshape(-1, acts.shape[-1]), wanted.reshape(-1, acts.shape[-1])[:len(batch.reshape(-1, acts.shape[-1]))], 1e-4)
    assert (ids.reshape(-1) == tokens[:, :rows * context].reshape(-1)[:ids.numel()]).all()


def text_of(tokenizer, token):
    """A token's text; the bytes of one that is only part of a character, escaped."""
    text = tokenizer.decode([token], skip_special_tokens=False)
    if "\ufffd" not in text:
        return text
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in seen]
    byte = {chr(b): b for b in seen} | {chr(256 + i): b for i, b in enumerate(others)}
    return "".join(f"\\x{byte[c]:02X}" for c in tokenizer.id_to_token(token))


def part_of_sae(folder, scaled):
    """The first directions of the shipped SAE, with decoder rows of other lengths if `scaled`."""
    tensors = {k: torch.from_numpy(v.copy()) for k, v in load_file(MODEL / "sae-l1/sae_weights.safetensors").items()}
    for name in ["W_dec", "b_enc", "threshold"]:
        tensors[name] = tensors[name][:DIRECTIONS]
    tensors["W_enc"] = tensors["W_enc"][:, :DIRECTIONS]
    if scaled:
        by = torch.linspace(0.5, 2, DIRECTIONS)
        tensors |= {"W_dec": tensors["W_dec"] * by[:, None], "W_enc": tensors["W_enc"] / by, "b_enc": tensors["b_enc"] / by,
                    "threshold": tensors["threshold"] / by}
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "sae_weights.safetensors")
    cfg = json.loads((MODEL / "sae-l1/cfg.json").read_text()) | {"d_sae": DIRECTIONS}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def check(root, model, tokens, texts, scaled):
    sae = part_of_sae(root / ("scaled" if scaled else "part"), scaled)
    corpus, index = root / "ids.jsonl", root / f"{sae.name}-index"
    corpus.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in tokens.tolist()))
    counted = ["--skip-first=0", "--include-last"] + ([] if scaled else ["--exclude=0"])
    directrix("index", "--model", MODEL, "--sae", sae, "--corpus", corpus, "--out", index, *counted)
    folders = {form: root / f"{sae.name}-{form}" for form in ["saedashboard", "neuronpedia", "delphi", "datasets"]}
    for form, folder in folders.items():
        directrix("export", "--to", form, "--index", index, "--out", folder, *(["--context=30"] if form == "datasets" and scaled else []))
    batches = [json.loads((folders["saedashboard"] / f"batch-{n}.json").read_text()) for n in range(-(-DIRECTIONS // 128))]
    for batch in batches:
        assert NeuronpediaDashboardBatch(**batch).to_dict() == batch
    batch = batches[0] | {"features": [f for batch in batches for f in batch["features"]]}
    theirs = dashboards(model, sae, tokens, set() if scaled else {0}, texts)
    found = Found()
    assert {k: v for k, v in batch.items() if k != "features"} == {k: v for k, v in theirs.items() if k != "features"}
    encoder = SAE.load_from_disk(sae)
    shown = encoder.W_dec.norm(dim=-1).numpy()  # what SAEDashboard multiplies activations with
    acts = encoder.encode(model.run_with_cache(tokens, names_filter=HOOK)[1][HOOK]).numpy()
    counts = np.ones(tokens.shape, bool) if scaled else (tokens != 0).numpy()
    behind = [tuple(texts[token] for token in row[1:]) for row in tokens.tolist()]
    for a, b in zip(batch["features"], theirs["features"], strict=True):
        assert set(a) == set(b)
        direction = a["feature_index"]
        at_first = dict(zip(behind, acts[:, 0, direction] * counts[:, 0] * shown[direction], strict=True))
        check_dashboard(found, a, b, at_first, (acts[..., direction] > 0).any())
    rows = check_neuronpedia(folders["neuronpedia"], batch)
    check_delphi(found, folders["delphi"], tokens, acts)
    check_datasets(found, folders["datasets"], model, tokens, 30 if scaled else LENGTH)
    worst = ", ".join(f"{name} {value:.1e}" for name, value in found.worst.items())
    print(f"{sae.name}: {DIRECTIONS} dashboards, {rows} examples ({found.swapped} equal ones swapped), {found.count} numbers agree; largest differences: {worst}")


if __name__ == "__main__":
    assert "--check" in sys.argv, __doc__
    torch.set_grad_enabled(False)
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    texts = {i: text_of(tokenizer, i) for i in range(tokenizer.get_vocab_size())}
    stories = (MODEL / "stories.txt").read_text().split("<|endoftext|>")
    rows = [[0, *tokenizer.encode(story.strip()).ids][:LENGTH] for story in stories]
    rows = [row for row in rows if len(row) == LENGTH][:PROMPTS]
    assert len(rows) == PROMPTS
    model = load_model(MODEL)
    with tempfile.TemporaryDirectory() as root:
        for scaled in [False, True]:
            check(Path(root), model, torch.tensor(rows), texts, scaled)
