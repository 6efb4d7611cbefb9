"""Models and caches give what TransformerLens gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import directrix as dx
from conftest import close, tokens_of


@pytest.mark.parametrize(("batch", "length", "seed"), [(1, 12, 0), (3, 7, 1), (2, 1, 2)])
def test_logits_losses_and_every_hook_point_are_those_of_transformer_lens(
    model: dx.Model, hooked: Any, batch: int, length: int, seed: int
) -> None:
    import torch

    tokens = tokens_of(model, batch, length, seed)
    (logits, loss), cache = model.run_with_cache(tokens, return_type="both") if length > 1 else ((model(tokens), None), model.run_with_cache(tokens)[1])
    expected, expected_cache = hooked.run_with_cache(torch.tensor(tokens))
    close(logits, expected)
    assert set(cache) == set(expected_cache)
    for name, value in cache.items():
        close(value, expected_cache[name])
    if length > 1:
        close(loss, hooked(torch.tensor(tokens), return_type="loss"))
        close(model(tokens, "loss", loss_per_token=True), hooked(torch.tensor(tokens), return_type="loss", loss_per_token=True))


def test_weights_are_those_of_transformer_lens_in_their_shapes(model: dx.Model, hooked: Any) -> None:
    for name in ("W_E", "W_U", "b_U", "W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "W_in", "W_out", "b_in", "b_out"):
        close(np.asarray(getattr(model, name)), getattr(hooked, name).detach())
    close(model.W_out[1], hooked.W_out[1].detach())
    close(model.W_out[-1], hooked.W_out[-1].detach())
    assert model.W_Q.shape == tuple(hooked.W_Q.shape)
    state = hooked.state_dict()
    for name, value in model.state_dict().items():
        close(value, state[name])


def test_decompositions_are_those_of_transformer_lens(model: dx.Model, hooked: Any) -> None:
    import torch

    tokens = tokens_of(model, 2, 9, 3)
    _, cache = model.run_with_cache(tokens)
    _, expected = hooked.run_with_cache(torch.tensor(tokens))
    for apply_ln in (False, True):
        for pos_slice in (None, -2, (1, 4), [0, 3]):
            common: dict[str, Any] = {"apply_ln": apply_ln, "pos_slice": pos_slice, "return_labels": True}
            for mode in ("all", "mlp", "attn"):
                compare(cache.decompose_resid(mode=mode, **common), expected.decompose_resid(mode=mode, **common))
            compare(cache.stack_head_results(**common), expected.stack_head_results(layer=-1, **common))
            compare(cache.stack_head_results(1, **common), expected.stack_head_results(1, **common))
            if pos_slice is None and not apply_ln:
                mid = "resid_mid" in str(list(expected))
                compare(cache.accumulated_resid(incl_mid=mid, **common), expected.accumulated_resid(incl_mid=mid, **common))
            compare(cache.accumulated_resid(apply_ln=apply_ln, return_labels=True), expected.accumulated_resid(apply_ln=apply_ln, return_labels=True))
            for expand in (False, True):
                found = cache.get_full_resid_decomposition(expand_neurons=expand, **common)
                compare(found, expected.get_full_resid_decomposition(layer=-1, expand_neurons=expand, **common))
    found = cache.get_full_resid_decomposition(1, mlp_input=True, apply_ln=True, return_labels=True)
    compare(found, expected.get_full_resid_decomposition(1, mlp_input=True, apply_ln=True, expand_neurons=False, return_labels=True))
    stack, expected_stack = cache.decompose_resid(), expected.decompose_resid()
    for answer, other in ((3, None), (tokens, None), (3, 5)):
        given = [None if of is None else torch.tensor(of) if isinstance(of, np.ndarray) else of for of in (answer, other)]
        close(cache.logit_attrs(stack, answer, other), expected.logit_attrs(expected_stack, *given))


def compare(found: Any, expected: Any) -> None:
    assert found[1] == expected[1]
    close(found[0], expected[0])


def test_names_are_those_of_transformer_lens(shipped: dx.Model) -> None:
    utils = pytest.importorskip("transformer_lens.utils")
    for key in [("embed",), ("k", 6, "a"), ("pre", 2), ("normalized", 27, "ln2"), ("k6",), ("scale4ln1",), ("pre5",), ("post", 1, "mlp"), ("resid_pre", 0), ("pattern", 1, "attn"), ("attn", 1), ("scale",), ("mlp_out", 3), ("attn_out", 1), ("result", 0, "attn")]:
        assert dx.get_act_name(*key) == utils.get_act_name(*key)
    _, cache = shipped.run_with_cache("Once upon a time")
    for key in [("post", 1), ("post", 1, "mlp"), ("post", -1), "post1", "blocks.1.mlp.hook_post"]:
        assert cache[key] is cache["blocks.1.mlp.hook_post"]


def test_functions_change_runs_as_in_transformer_lens(model: dx.Model, hooked: Any) -> None:
    import torch

    tokens, d = tokens_of(model, 2, 8, 4), model.cfg.d_model
    bias = np.random.default_rng(1).normal(size=d).astype(np.float32)

    def halve(value: Any, hook: Any) -> Any:
        return value * 0.5

    def in_place(value: Any, hook: Any) -> None:
        value[:, -2] = 0

    def look_at_the_first(value: Any, hook: Any) -> Any:
        value[:, 1, :, :] = 0
        value[:, 1, :, 0] = 1
        return value

    def mean_of_the_batch(value: Any, hook: Any) -> Any:
        value[:] = value.mean(0)
        return value

    def shift(value: Any, hook: Any) -> Any:
        return value + (torch.tensor(bias) if isinstance(value, torch.Tensor) else bias)

    for hooks in (
        [("blocks.1.mlp.hook_post", halve)],
        [("blocks.0.mlp.hook_post", in_place), ("blocks.1.hook_resid_pre", shift), ("blocks.1.hook_resid_pre", halve)],
        [("blocks.0.attn.hook_pattern", look_at_the_first)],
        [("hook_embed", mean_of_the_batch)],
        [(lambda name: name.endswith("hook_z"), halve)],
        [("ln_final.hook_scale", halve)],
        [("blocks.1.attn.hook_q", halve), ("blocks.0.attn.hook_attn_scores", halve)],
    ):
        close(model.run_with_hooks(tokens, fwd_hooks=hooks), hooked.run_with_hooks(torch.tensor(tokens), fwd_hooks=hooks))
        with model.hooks(hooks), hooked.hooks(hooks):
            logits, cache = model.run_with_cache(tokens)
            expected, expected_cache = hooked.run_with_cache(torch.tensor(tokens))
        close(logits, expected)
        close(cache["resid_post", -1], expected_cache["resid_post", model.cfg.n_layers - 1])
    close(model(tokens), hooked(torch.tensor(tokens)))


def test_interventions_do_what_functions_do(model: dx.Model) -> None:
    tokens = tokens_of(model, 3, 6, 5)
    hook, row = "blocks.0.mlp.hook_post", np.linspace(-1, 1, model.cfg.d_mlp, dtype=np.float32)

    def same(intervention: dx.Intervention, function: Any) -> None:
        found = model.run_with_hooks(tokens, fwd_hooks=[intervention])
        assert np.array_equal(found, model.run_with_hooks(tokens, fwd_hooks=[(hook, function)]))

    def at(positions: Any, change: Any) -> Any:
        def function(value: Any, hook: Any) -> Any:
            value[:, positions] = change(value[:, positions])
            return value

        return function

    make = dx.Intervention.at_hook
    same(make(hook, "zero"), at(slice(None), lambda x: x * 0))
    same(make(hook, "zero", positions=-2), at(-2, lambda x: x * 0))
    same(make(hook, "set", rows=row[None], positions=[1, 3]), at([1, 3], lambda x: x * 0 + row))
    same(make(hook, "add", rows=row[None], positions=0), at(0, lambda x: x + row))
    same(make(hook, "scale", by=1.5), at(slice(None), lambda x: x * np.float32(1.5)))


def test_a_ragged_batch_gives_each_prompt_what_it_gives_alone(shipped: dx.Model) -> None:
    texts = ["Once upon a time", "The", 'Tim said, "I like it."']
    prompts = shipped.to_tokens(texts)
    assert isinstance(prompts, dx.Prompts) and len(set(prompts.lengths)) == 3

    def half(value: Any, hook: Any) -> Any:
        return value * 0.5

    for hooks in ([], [("pattern0", half)], [("post1", half)]):
        with shipped.hooks(hooks):
            (logits, losses), cache = shipped.run_with_cache(texts, "both", loss_per_token=True)
            alone = [shipped.run_with_cache(text, "both", loss_per_token=True) for text in texts]
        for i, of_one in enumerate(dx.split(logits, prompts)):
            assert np.array_equal(of_one, alone[i][0][0][0])
        assert np.array_equal(losses, np.concatenate([one[0][1][0] for one in alone]))
        for i, of_one in enumerate(dx.split(cache["resid_post", 0], prompts)):
            assert np.array_equal(of_one, alone[i][1]["resid_post", 0][0])
        pattern = dx.split(cache["pattern", 1], prompts)[1]
        assert np.array_equal(pattern[:, :, : prompts.lengths[1]], alone[1][1]["pattern", 1][0].transpose(1, 0, 2))


def test_tokens_and_texts(shipped: dx.Model) -> None:
    tokens = shipped.to_tokens('Tim said, "Yes."')
    assert tokens.dtype == np.int64 and tokens.shape[0] == 1
    assert shipped.to_string(tokens[0, 1:]) == 'Tim said, "Yes."'
    assert "".join(shipped.to_str_tokens('Tim said, "Yes."')[1:]) == 'Tim said, "Yes."'
    assert shipped.to_single_str_token(shipped.to_single_token('."')) == '."'
    bos = shipped.tokenizer.bos_token_id
    assert tokens[0, 0] == bos and shipped.to_tokens("Tim", prepend_bos=False)[0, 0] != bos
    assert (shipped.to_tokens("<|endoftext|>Tim") == bos).sum() == 1
    assert np.array_equal(shipped.to_prompts("Tim").tokens, shipped.to_tokens("Tim")[0])


def test_a_run_computes_what_is_asked_for(shipped: dx.Model) -> None:
    out, cache = shipped.run_with_cache("Once upon a time", return_type=None, names_filter=["post0", "blocks.1.hook_resid_pre"])
    assert out is None and list(cache) == ["blocks.0.mlp.hook_post", "blocks.1.hook_resid_pre"]
    with pytest.raises(KeyError, match="was not captured"):
        cache["post", 1]
    out, cache = shipped.run_with_cache("Once upon a time", names_filter=lambda name: name.endswith("hook_scale"), remove_batch_dim=True)
    assert all(value.shape[-1] == 1 and value.ndim == 2 for value in cache.values())


def test_generating_is_the_same_again_and_steered_by_directions(shipped: dx.Model) -> None:
    text = shipped.generate("Once upon a time", 20, seed=3)
    assert text == shipped.generate("Once upon a time", 20, seed=3) and "Once upon a time" in text
    greedy = shipped.generate(shipped.to_tokens("Once upon a time"), 1, temperature=0)
    assert greedy[0, -1] == shipped("Once upon a time")[0, -1].argmax()
    sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
    steered = shipped.generate("Once upon a time", 20, seed=3, interventions=[sae.set([1001], 30.0)])
    assert steered != text


def test_many_changes_at_once_are_each_alone(model: dx.Model, folder: Any) -> None:
    tokens = tokens_of(model, 3, 7, 10)
    _, cache = model.run_with_cache(tokens[::-1].copy())
    make, sae = dx.Intervention.at_hook, dx.Sae.from_pretrained(folder / "sae-l0")
    rows = cache["resid_pre", 1][:, 2:4].reshape(-1, model.cfg.d_model)
    changes: list[Any] = [
        make("blocks.1.hook_resid_pre", "set", rows=rows, positions=[2, 3]),
        make("blocks.0.mlp.hook_post", "zero", positions=-1),
        make("blocks.0.mlp.hook_post", "scale", by=2.0),
        [make("hook_embed", "zero", positions=3), make("blocks.1.attn.hook_z", "zero", head=0)],
        make("blocks.0.attn.hook_pattern", "scale", by=0.5, head=1),
        make("ln_final.hook_normalized", "add", rows=np.ones((1, model.cfg.d_model), np.float32), positions=-2),
        [],
        sae.ablate([1, 2, 3]),
        sae.reconstruct(positions=-2),
        sae.set(4, 2.0, positions=[1, 2]),
    ]
    for position in (-1, -2, [0, 3, 5]):
        found = model.log_probs_each(tokens, changes, position)
        assert found.shape == (len(changes), 3, model.cfg.d_vocab)
        at = np.broadcast_to(np.asarray(position), 3) % 7
        for change, log_probs in zip(changes, found, strict=True):
            logits = model.run_with_hooks(tokens, fwd_hooks=change if isinstance(change, list) else [change])
            expected = logits[np.arange(3), at].astype(np.float64)
            expected -= np.log(np.exp(expected - expected.max(-1, keepdims=True)).sum(-1, keepdims=True)) + expected.max(-1, keepdims=True)
            close(log_probs, expected)


def test_many_changes_that_cannot_be_are_refused(shipped: dx.Model) -> None:
    make, sae = dx.Intervention.at_hook, dx.Sae.from_pretrained("tinystories-2l/sae-l1")
    hook, width = "blocks.1.mlp.hook_post", shipped.cfg.d_mlp
    for changes, position, message in (
        ([make(hook, "zero")], -99, "99|positions"),
        ([make(hook, "zero", positions=50)], -1, "50"),
        ([make(hook, "set", rows=np.zeros((2, width), np.float32))], -1, "2 rows"),
        ([make(hook, "set", rows=np.zeros((9, width), np.float32))], -1, "9 rows"),
        ([sae.ablate(3, positions=[0, 2])], -1, "one position"),
        ([sae.ablate(3, positions=50)], -1, "50|no position"),
        ([[sae.ablate(3), make(hook, "zero")]], -1, "together"),
    ):
        with pytest.raises(dx.DirectrixError, match=message):
            shipped.log_probs_each("Once upon a time", changes, position)
    assert shipped.log_probs_each("Once upon a time", []).shape == (0, 1, shipped.cfg.d_vocab)
    with pytest.raises(dx.DirectrixError):
        shipped.log_probs_each([[]], [make(hook, "zero")])
