"""Every idiom of the port notebook finds the same on TransformerLens and here, on every family."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import directrix as dx
from conftest import REPOSITORY, close, tokens_of

sys.path.insert(0, str(REPOSITORY / "python" / "examples"))
from idioms import FOLDER, IDIOMS, Idiom, notebook


@pytest.mark.parametrize("idiom", IDIOMS, ids=[idiom.title for idiom in IDIOMS])
def test_an_idiom_finds_the_same(idiom: Idiom, folder: Path, model: dx.Model, hooked: Any) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    import torch

    sae = dx.Sae.from_pretrained(folder / "sae-l0")
    hook = sae.cfg.hook_name
    tokens = torch.tensor(tokens_of(model, 2, 9, 8))
    _, cache = model.run_with_cache(tokens, None, hook)
    fires = np.flatnonzero((sae.encode(cache[hook])[:, -2] > 0).any(0))
    given = {
        "hooked": hooked,
        "model": model,
        "tokens": tokens,
        "sae": sae,
        "sae_lens_sae": sae_lens.SAE.load_from_disk(str(folder / "sae-l0")),
        "hook": hook,
        "answer": 3,
        "directions": [int(direction) for direction in fires[:3]],
    }
    found = []
    for cell in (idiom.theirs, idiom.ours):
        names = {**given, "np": np, "torch": torch, "dx": dx}
        exec(cell, names)
        found.append(names["found"])
    theirs, ours = (of if isinstance(of, tuple) else (of,) for of in found)
    assert len(theirs) == len(ours)
    for one, other in zip(theirs, ours, strict=True):
        close(other, one)


def test_the_port_notebook_holds_these_idioms() -> None:
    nbformat = pytest.importorskip("nbformat")
    kept = nbformat.read(FOLDER / "port.ipynb", as_version=4)
    assert [cell.source for cell in kept.cells] == [cell.source for cell in notebook().cells]
    assert all(cell.outputs for cell in kept.cells if cell.cell_type == "code" and cell.source.startswith("ours"))
