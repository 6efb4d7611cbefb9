"""Attribution graphs against autograd, and their files against circuit-tracer's own data model.

    pip install -r bench/requirements.txt pydantic
    pip install --no-deps circuit-tracer==0.5.0
    cargo build --release -p directrix
    python bench/peers/graphs.py --check [--directrix target/release/directrix]

Of the tiny models with their SAEs on neurons, and of one with transcoders that are made here: `directrix circuits graph` without pruning.
The same model in TransformerLens, divisors of norms and attention patterns detached, the sites of the SAEs cut: the gradient of every
direction's activation and of the answer's logit (less the mean logit) where nodes write, times what they write, are the edges. The
file must be one that circuit-tracer's frontend accepts (`circuit_tracer.frontend.graph_models`).
"""
import argparse
import importlib.util
import json
import os
import subprocess
import tempfile
from importlib.metadata import distribution
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors.torch import load_file, save_file

from common import load_model

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "crates/model/tests/fixtures"
PROMPT, ANSWER = [5, 11, 2, 7, 40, 23, 9], 17
ACTIVE = 1e-5  # what is less may be rounding alone
TOLERANCE = 1e-4  # of the sum of a target's absolute edges, and 1


class Dictionary:
    """An SAE on neurons or a transcoder, from a folder of SAELens."""

    def __init__(self, folder):
        cfg, tensors = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
        self.W_enc, self.W_dec, self.b_enc, self.b_dec = (tensors[k].float() for k in ("W_enc", "W_dec", "b_enc", "b_dec"))
        self.reads = cfg["metadata"]["hook_name"]
        self.writes = cfg["metadata"].get("hook_name_out", self.reads)
        self.layer = int(self.writes.split(".")[1])
        self.subtract = cfg["apply_b_dec_to_input"]
        self.threshold = tensors.get("threshold", torch.zeros(self.W_enc.shape[1]))

    def pre(self, x):
        return (x - self.b_dec if self.subtract else x) @ self.W_enc + self.b_enc

    def encode(self, x):
        pre = self.pre(x)
        return torch.where(pre > self.threshold, pre.relu(), 0)


def make_transcoder(model, layer, folder):
    """Random numbers, written as SAELens writes a transcoder."""
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(layer)
    draw = lambda *shape: torch.randn(*shape, generator=random)
    d, n = model.cfg.d_model, 40
    save_file({"W_enc": 0.4 * draw(d, n), "W_dec": 0.3 * draw(n, d), "b_enc": 0.1 * draw(n), "b_dec": 0.1 * draw(d)},
              folder / "sae_weights.safetensors")
    cfg = {"architecture": "transcoder", "d_in": d, "d_out": d, "d_sae": n, "dtype": "float32", "device": "cpu",
           "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
           "metadata": {"hook_name": f"blocks.{layer}.ln2.hook_normalized", "hook_name_out": f"blocks.{layer}.hook_mlp_out",
                        "model_name": "tiny", "sae_lens_version": "6.54.12"}}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def expected(model, saes):
    """By target and source, the edge; nodes as circuit-tracer numbers them."""
    read, cut = {}, {}

    def see(value, hook):
        if hook.name.endswith(("hook_scale", "hook_pattern")):
            return value.detach()
        if hook.name in {"hook_embed", "hook_pos_embed"} | {sae.writes for sae in saes} | {sae.reads for sae in saes}:
            read[hook.name] = value
            if hook.name in {"hook_embed", "hook_pos_embed"} | {sae.writes for sae in saes}:
                cut[hook.name] = value.detach().clone().requires_grad_(True)
                return cut[hook.name]
        return value

    logits = model.run_with_hooks(torch.tensor([PROMPT]), fwd_hooks=[(lambda _: True, see)])[0, -1]
    sources = []  # id, hook, position, what is written
    for position, token in enumerate(PROMPT):
        sources.append((f"E_{token}_{position}", "hook_embed", position, read["hook_embed"][0, position].detach()))
        if "hook_pos_embed" in read:
            row = read["hook_pos_embed"].expand(1, -1, -1)[0, position].detach()
            sources.append((f"E_{model.cfg.d_vocab + position}_{position}", "hook_pos_embed", position, row))
    targets = [(f"{model.cfg.n_layers + 1}_{ANSWER}_{len(PROMPT) - 1}", logits[ANSWER] - logits.mean())]
    errors = []
    for sae in saes:
        x, written = read[sae.reads][0], read[sae.writes][0].detach()
        pre, acts = sae.pre(x), sae.encode(x).detach()
        for position, direction in (acts > ACTIVE).nonzero().tolist():
            name = f"{sae.layer}_{direction}_{position}"
            sources.append((name, sae.writes, position, acts[position, direction] * sae.W_dec[direction]))
            targets.append((name, pre[position, direction]))
        recon = acts @ sae.W_dec + sae.b_dec
        errors += [((sae.layer, position), sae.writes, position, written[position] - recon[position]) for position in range(len(PROMPT))]
    edges = {}
    for name, value in targets:
        leaves = list(cut.values())
        grads = dict(zip(cut, torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)))
        for source, hook, position, row in sources + errors:
            grad = grads[hook]
            if grad is not None:
                grad = grad.expand(1, len(PROMPT), -1)[0, position] if grad.shape[0] == 1 else grad[position]
                edges[name, source] = (grad @ row).item()
    return edges


def found(directrix, model, saes, folder):
    prompt = folder / "prompt.jsonl"
    prompt.write_text(json.dumps({"tokens": PROMPT + [ANSWER]}) + "\n")
    flags = [f"--sae={sae}" for sae in saes]
    subprocess.run([directrix, "circuits", "graph", "--model", model, *flags, "--prompts", prompt, "--out", folder / "out",
                    "--node-threshold=1", "--edge-threshold=1", "--top=1"], check=True, stdout=subprocess.DEVNULL)
    (path,) = [path for path in (folder / "out").glob("*.json") if path.name != "graph-metadata.json"]
    return json.loads(path.read_text()), json.loads((folder / "out/graph-metadata.json").read_text())


def frontend():
    """circuit-tracer's data model, without what the rest of the package needs."""
    path = distribution("circuit-tracer").locate_file("circuit_tracer/frontend/graph_models.py")
    spec = importlib.util.spec_from_file_location("graph_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(name, file, edges, models):
    graph = models.Model(**file)
    for link in graph.links:
        models.Link(**link)
    by_id = {node.node_id: node for node in graph.nodes}
    assert len(by_id) == len(graph.nodes), f"{name}: ids are not unique"
    for node in graph.nodes:
        layer, number, position = node.node_id.split("_")
        made = {
            "cross layer transcoder": lambda: models.Node.feature_node(int(layer), int(position), int(number)),
            "mlp reconstruction error": lambda: models.Node.error_node(int(node.layer), int(position)),
            "embedding": lambda: models.Node.token_node(int(position), int(number)),
            "logit": lambda: models.Node.logit_node(int(position), int(number), f"[{number}]", int(layer) - 1, True, node.token_prob),
        }.get(node.feature_type)
        if made:
            ours, theirs = node.model_dump(), made().model_dump()
            own = {"influence", "activation", "node_id"} | ({"clerp"} if node.feature_type != "logit" else set())
            different = {key for key in theirs if key not in own and ours[key] != theirs[key]}
            assert not different, f"{name}: {node} differs from circuit-tracer's in {different}"
    key = lambda node_id: ((int(by_id[node_id].layer), by_id[node_id].ctx_idx)
                           if by_id[node_id].feature_type == "mlp reconstruction error" else node_id)
    is_active = lambda node_id: (by_id[node_id].activation or 1) > ACTIVE
    ours = {(link["target"], key(link["source"])): link["weight"] for link in graph.links
            if is_active(link["source"]) and is_active(link["target"])}
    kept = {target for target, _ in ours}
    size = {target: 1 + sum(abs(x) for (t, _), x in edges.items() if t == target) for target in kept}
    worst = max(abs(ours.get(edge, 0) - x) / size[edge[0]] for edge, x in edges.items() if edge[0] in kept)
    unknown = [edge for edge in ours if edge not in edges]
    assert not unknown, f"{name}: autograd has no {unknown[:3]}"
    print(f"{name}: {len(ours)} edges into {len(kept)} nodes, largest difference {worst:.1e}", flush=True)
    assert len(kept) > 20 and worst < TOLERANCE, name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare; there is nothing else to do")
    parser.add_argument("--directrix", default=ROOT / "target/release/directrix", type=Path)
    args = parser.parse_args()
    models = frontend()
    for name in ("gpt2-tiny", "neo-tiny", "neox-tiny"):
        model = load_model(MODELS / name)
        for kind in ("SAEs", "transcoders"):
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)
                folders = sorted((MODELS / name).glob("sae-l*"))
                if kind == "transcoders":
                    folders = [make_transcoder(model, layer, folder / f"transcoder-{layer}") for layer in range(model.cfg.n_layers)]
                edges = expected(model, [Dictionary(path) for path in folders])
                file, listed = found(args.directrix, MODELS / name, folders, folder)
                assert [graph["slug"] for graph in listed["graphs"]] == [file["metadata"]["slug"]]
                compare(f"{name}, {kind}", file, edges, models)


if __name__ == "__main__":
    main()
