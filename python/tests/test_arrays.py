"""Numbers are handed over, not copied; and they outlive what they came from."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import directrix as dx
from conftest import tokens_of

GIGABYTE = 1 << 30


def peak_memory() -> int:
    """The most memory this process has had, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak is read from /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def test_a_capture_of_a_gigabyte_is_not_copied(shipped: dx.Model) -> None:
    positions, width = GIGABYTE // (4 * shipped.cfg.d_model), shipped.cfg.d_model
    tokens = tokens_of(shipped, positions // 256, 256)
    before = peak_memory()
    tracemalloc.start()
    _, cache = shipped.run_with_cache(tokens, return_type=None, names_filter="embed")
    values = cache["embed"]
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.nbytes == GIGABYTE and values.shape == (positions // 256, 256, width)
    # NumPy's own memory is traced: of the gigabyte, none is NumPy's.
    assert traced < GIGABYTE / 50
    # What the pass computes, and what it keeps of it.
    assert peak_memory() - before < 2.3 * GIGABYTE
    assert not values.flags.owndata
    address = values.ctypes.data
    assert values.reshape(-1, width).ctypes.data == np.from_dlpack(values).ctypes.data == address
    assert cache["hook_embed"].ctypes.data == dx.split(values.reshape(-1, width), dx.Prompts(tokens.reshape(-1).astype(np.uint32), [256] * len(tokens)))[0].ctypes.data == address


def test_torch_takes_arrays_where_they_lie(shipped: dx.Model) -> None:
    torch = pytest.importorskip("torch")
    _, cache = shipped.run_with_cache("Once upon a time")
    for value in (cache["post", 1], cache["pattern", 0]):
        tensor = torch.from_dlpack(value)
        assert tensor.data_ptr() == value.ctypes.data and torch.equal(tensor, torch.tensor(value))
    sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
    given = torch.tensor(cache["post", 1])
    assert np.array_equal(sae.encode(given), sae.encode(cache["post", 1]))
    assert np.array_equal(shipped(torch.tensor([[0, 1, 2]])), shipped([0, 1, 2]))


def test_weights_are_views_that_cannot_be_written_to() -> None:
    sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
    assert sae.W_dec.ctypes.data == sae.W_dec.ctypes.data
    assert sae.W_enc.shape == (sae.cfg.d_in, sae.cfg.d_sae) and not sae.W_enc.flags.owndata
    for numbers in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec, sae.threshold):
        with pytest.raises(ValueError, match="read-only|not writeable"):
            numbers[0] = 1


def test_arrays_live_longer_than_what_they_came_from() -> None:
    model = dx.Model.from_pretrained()
    sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
    _, cache = model.run_with_cache("Once upon a time")
    acts = sae.encode_sparse(cache[sae.cfg.hook_name])
    arrays = [model.W_E, model.W_Q[0], model.b_U, sae.W_enc, sae.b_dec, cache["post", 1], acts.data]
    copies = [array.copy() for array in arrays]
    del model, sae, cache, acts
    gc.collect()
    np.ones(1 << 22).sum()
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, copies, strict=True))


def test_inputs_may_be_of_any_real_type_and_layout() -> None:
    sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
    x = np.random.default_rng(0).normal(size=(6, sae.cfg.d_in)).astype(np.float16)
    expected = sae.encode(x.astype(np.float32))
    frozen = x.astype(np.float32)
    frozen.flags.writeable = False
    for given in (x, x.astype(np.float64), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], frozen, x.tolist(), frozen[::-1][::-1]):
        assert np.array_equal(sae.encode(given), expected)


def test_the_same_input_gives_the_same_bits(shipped: dx.Model) -> None:
    tokens = tokens_of(shipped, 4, 30, 9)
    whole = shipped(tokens)
    assert np.array_equal(whole, shipped(tokens))
    assert np.array_equal(whole[2:3], shipped(tokens[2:3]))
