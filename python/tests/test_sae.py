"""SAEs give what SAELens gives, and go there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import directrix as dx
from conftest import close, tokens_of


@pytest.fixture(scope="module", params=["standard", "topk", "jumprelu", "gated"])
def saelens(request: pytest.FixtureRequest) -> Any:
    """A random SAE of SAELens, of each architecture."""
    sae_lens = pytest.importorskip("sae_lens")
    import torch

    torch.set_grad_enabled(False)
    classes = {"standard": "StandardSAE", "topk": "TopKSAE", "jumprelu": "JumpReLUSAE", "gated": "GatedSAE"}
    made = getattr(sae_lens, classes[request.param])
    more = {"k": 5} if request.param == "topk" else {}
    metadata = sae_lens.saes.sae.SAEMetadata(hook_name="blocks.0.mlp.hook_post")
    sae = made(getattr(sae_lens, classes[request.param] + "Config")(d_in=24, d_sae=60, metadata=metadata, **more))
    torch.manual_seed(0)
    for name, parameter in sae.named_parameters():
        scale = 0.1 if name.startswith("b_") else 0.3
        parameter.data = torch.rand_like(parameter) * 0.2 if name == "threshold" else torch.randn_like(parameter) * scale
    return sae


def test_encoding_and_decoding_are_those_of_saelens(saelens: Any) -> None:
    import torch

    sae = dx.Sae.from_saelens(saelens)
    x = np.random.default_rng(0).normal(size=(2, 7, 24)).astype(np.float32)
    acts = sae.encode(x)
    close(acts, saelens.encode(torch.tensor(x)))
    assert 0 < (acts != 0).mean() < 1
    close(sae.decode(acts), saelens.decode(torch.tensor(acts)))
    close(sae(x), saelens(torch.tensor(x)))
    close(sae.W_enc, saelens.W_enc)
    close(sae.W_dec, saelens.W_dec)


def test_an_sae_goes_to_saelens_and_back(saelens: Any) -> None:
    sae = dx.Sae.from_saelens(saelens)
    back = dx.Sae.from_saelens(sae.to_saelens())
    assert type(sae.to_saelens()) is type(saelens)
    x = np.random.default_rng(1).normal(size=(5, 24)).astype(np.float32)
    assert np.array_equal(sae.encode(x), back.encode(x))
    assert sae.cfg.hook_name == back.cfg.hook_name == "blocks.0.mlp.hook_post"


def test_sparse_activations_are_the_parts_of_a_csr_array(shipped: dx.Model) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
    _, cache = shipped.run_with_cache("Once upon a time", None, sae.cfg.hook_name)
    x = cache[sae.cfg.hook_name]
    acts = sae.encode_sparse(x)
    csr = sparse.csr_array((acts.data, acts.indices, acts.indptr), acts.shape)
    assert np.array_equal(csr.toarray(), sae.encode(x)[0])
    assert np.shares_memory(csr.data, acts.data)
    assert np.array_equal(sae.decode(acts), sae.decode(sae.encode(x))[0])
    assert np.array_equal(acts.to_dense(), csr.toarray())


def test_ablating_takes_out_what_a_direction_contributes(folder: Path, model: dx.Model) -> None:
    sae = dx.Sae.from_pretrained(folder / "sae-l0")
    tokens = tokens_of(model, 2, 6, 7)
    _, cache = model.run_with_cache(tokens, None, sae.cfg.hook_name)
    acts = sae.encode(cache[sae.cfg.hook_name])
    direction = int(acts[:, -2].sum(0).argmax())

    def ablate(value: Any, hook: Any) -> Any:
        value[:, -2] -= acts[:, -2, direction, None] * sae.W_dec[direction]
        return value

    def reconstruct(value: Any, hook: Any) -> Any:
        return sae(value)

    for data, function in ((sae.ablate(direction, positions=-2), ablate), (sae.reconstruct(), reconstruct)):
        close(model.run_with_hooks(tokens, fwd_hooks=[data]), model.run_with_hooks(tokens, fwd_hooks=[(sae.cfg.hook_name, function)]))
    assert not np.array_equal(model(tokens), model.run_with_hooks(tokens, fwd_hooks=[sae.ablate(direction)]))


def test_an_sae_is_written_and_read(tmp_path: Path) -> None:
    sae = dx.Sae.from_pretrained("tinystories-2l/sae-l0")
    sae.save(tmp_path / "sae", model_name="tinystories-2l")
    again = dx.Sae.from_pretrained(tmp_path / "sae")
    assert np.array_equal(sae.W_dec, again.W_dec) and sae.cfg.hook_name == again.cfg.hook_name
