"""Models of other libraries in memory give what they give there."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import directrix as dx
from conftest import REPOSITORY, close, fixture_folder, tokens_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}


def made(name: str, seed: int) -> Any:
    """A random model of transformers, its norms and biases far from trivial."""
    torch.set_grad_enabled(False)
    torch.manual_seed(seed)
    configs = {
        "gpt2": lambda: transformers.GPT2Config(vocab_size=64, n_embd=16, n_head=4, n_layer=2, n_positions=64),
        "neox": lambda: transformers.GPTNeoXConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        "llama": lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=2),
        "tied": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
        "qwen3": lambda: transformers.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=4),
        "gemma2": lambda: transformers.Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=4, sliding_window=5, query_pre_attn_scalar=4),
    }
    model = transformers.AutoModelForCausalLM.from_config(configs[name]()).eval()
    model.config.architectures = [type(model).__name__]
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "tied", "qwen3", "gemma2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_transformers_in_memory_gives_its_logits(name: str, dtype: str) -> None:
    source = made(name, 1).to(getattr(torch, dtype))
    expected = source.float()
    for steps in ({}, {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}):
        model = dx.Model.from_transformers(source, **steps)
        tokens = tokens_of(model, 2, 11, 5)
        found = torch.tensor(model(tokens)).log_softmax(-1)
        close(found, expected(torch.tensor(tokens)).logits.log_softmax(-1))


@pytest.mark.parametrize("name", ["neo", "gpt2", "neox", "llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("processed", [True, False])
def test_a_hooked_transformer_in_memory_gives_what_it_gives(name: str, processed: bool) -> None:
    pytest.importorskip("transformer_lens")
    sys.path.insert(0, str(REPOSITORY / "bench" / "peers"))
    from common import load_model
    from model_families import as_hooked

    torch.set_grad_enabled(False)
    has_fixture = name in ("neo", "gpt2", "neox")
    hooked = load_model(fixture_folder(name), processed) if has_fixture else as_hooked(made(name, 2), processed)
    model = dx.Model.from_transformer_lens(hooked)
    assert model.cfg.fold_ln == processed == model.cfg.normalization_type.endswith("Pre")
    if has_fixture:
        assert model.cfg.center_writing_weights == model.cfg.center_unembed == processed
        assert model.cfg.fold_value_biases == (not np.asarray(model.b_V).any())
    tokens = tokens_of(model, 2, 9, 6)
    expected, expected_cache = hooked.run_with_cache(torch.tensor(tokens))
    logits, cache = model.run_with_cache(tokens)
    close(logits, expected)
    assert set(cache) == set(expected_cache)
    for key, value in cache.items():
        # TransformerLens lays out what norms of queries and keys leave behind as rows of heads.
        close(value, expected_cache[key].reshape(value.shape) if "_norm." in key else expected_cache[key])
    for key, weight in model.state_dict().items():
        if not key.endswith("b_gate"):
            close(weight, hooked.state_dict()[key])


def test_a_changed_hooked_transformer_is_taken_as_it_is_now() -> None:
    pytest.importorskip("transformer_lens")
    sys.path.insert(0, str(REPOSITORY / "bench" / "peers"))
    from common import load_model

    torch.set_grad_enabled(False)
    hooked = load_model(fixture_folder("gpt2"))
    before = dx.Model.from_transformer_lens(hooked)
    hooked.blocks[0].mlp.W_in.data *= 2
    after = dx.Model.from_transformer_lens(hooked)
    tokens = tokens_of(after, 1, 5, 0)
    close(after(tokens), hooked(torch.tensor(tokens)))
    assert not np.allclose(before(tokens), after(tokens))
