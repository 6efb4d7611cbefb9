"""What the tests share: fixtures of TransformerLens, the shipped model, and where other libraries are needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import directrix as dx

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("DIRECTRIX_SHARED", REPOSITORY.parent / "shared"))
FAMILIES = ("neo", "gpt2", "neox")


def fixture_folder(family: str) -> Path:
    folder = SHARED / "fixtures" / f"{family}-tiny"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}; DIRECTRIX_SHARED names where the fixtures are")
    return folder


@pytest.fixture(scope="session", params=FAMILIES)
def folder(request: pytest.FixtureRequest) -> Path:
    """A tiny checkpoint with two SAEs."""
    return fixture_folder(request.param)


@pytest.fixture(scope="session")
def model(folder: Path) -> dx.Model:
    return dx.Model.from_pretrained(str(folder))


@pytest.fixture(scope="session")
def hooked(folder: Path) -> Any:
    """The same as a HookedTransformer."""
    pytest.importorskip("transformer_lens")
    sys.path.insert(0, str(REPOSITORY / "bench" / "peers"))
    import torch
    from common import load_model

    torch.set_grad_enabled(False)
    return load_model(folder)


@pytest.fixture(scope="session")
def shipped() -> dx.Model:
    return dx.Model.from_pretrained()


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> dx.Index:
    """An index of some of the shipped stories."""
    return dx.open(limit=60).index(tmp_path_factory.mktemp("index") / "index")


def tokens_of(model: dx.Model, batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, model.cfg.d_vocab, (batch, length))


def close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Equal to `tolerance` of the larger of 1 and the value, as the design has it."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape
    with np.errstate(invalid="ignore"):
        off = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    off = np.where(found == expected, 0.0, off)  # Infinities.
    assert off.size == 0 or off.max() <= tolerance, f"largest difference {off.max()}"
