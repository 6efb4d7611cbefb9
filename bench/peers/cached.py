"""A cache of activations, read without Directrix.

    pip install -r bench/requirements.txt
    bench/peers/cached.py --check

Two processes fill a cache on the shipped model at once. `pyarrow` and `datasets` must read its files: every window once, its tokens those of the corpus, and
the values at each hook point those of TransformerLens.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as parquet
import torch
from common import load_model

ROOT = Path(__file__).parents[2]
HOOKS = ["blocks.0.mlp.hook_post", "blocks.1.hook_resid_pre"]
CONTEXT, WINDOWS = 96, 40


def fill(cache: Path) -> None:
    command = [ROOT / "target/release/directrix", "train", "--sweep", f"site={';'.join(HOOKS)}", "--objective", "topk", "--context", str(CONTEXT),
               "--tokens", "60k", "--buffer", "16k", "--cache", cache, "--out", cache.with_name("none")]
    parts = [subprocess.Popen([*command, "--fill", part]) for part in ("1/2", "2/2")]
    if any(part.wait() for part in parts):
        sys.exit("the cache was not filled")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="directrix-cached-") as folder:
        cache = Path(folder) / "cache"
        fill(cache)
        files = sorted(cache.glob("windows-*.parquet"))
        read = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train", cache_dir=folder)
        assert sorted(read["window"]) == list(range(len(read))), "windows are not there once each"
        widths = dict(json.loads(parquet.read_schema(files[0]).metadata[b"directrix"])["widths"])
        model, largest = load_model(ROOT / "assets/tinystories-2l"), 0.0
        rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
        assert len(rows) == len(read) > WINDOWS and len(files) > 1
        for row in rows[:: max(1, len(rows) // WINDOWS)]:
            tokens = row["tokens"]
            _, there = model.run_with_cache(torch.tensor([tokens]), names_filter=HOOKS)
            for hook in HOOKS:
                wanted = there[hook][0].numpy()
                found = np.array(row[hook], dtype=np.float32).reshape(len(tokens), widths[hook])
                largest = max(largest, float(np.abs(found - wanted).max()))
        assert largest < 1e-4, largest
        print(f"cached.py: {len(rows)} windows in {len(files)} files; largest difference from TransformerLens {largest:.1e}")


if __name__ == "__main__":
    main()
