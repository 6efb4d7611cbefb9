"""Models and SAEs of other libraries, in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _directrix
from ._directrix import DirectrixError

if TYPE_CHECKING:
    from .sae import Sae

_TYPES = {
    "torch.float32": "F32",
    "torch.float64": "F64",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.bool": "BOOL",
    "torch.uint8": "U8",
    "torch.int32": "I32",
    "torch.int64": "I64",
}
Steps = tuple[bool, bool, bool, bool]


def core_of_transformers(model: Any, tokenizer: Any, steps: Steps) -> _directrix.CoreModel:
    """Of a model of transformers: its configuration and state dict."""
    config = json.loads(model.config.to_json_string(use_diff=True))
    config["architectures"] = [type(model).__name__]
    name = model.config.name_or_path or type(model).__name__
    state = model.state_dict()
    try:
        # In memory, transformers 5 has names that it does not write.
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        pass
    else:
        state = revert_weight_conversion(model, state)
    return _core(name, config, state, tokenizer, steps)


def core_of_transformer_lens(model: Any) -> _directrix.CoreModel:
    """Of a HookedTransformer: its weights as they are now."""
    cfg = model.cfg
    state = model.state_dict()
    plain = {key: value for key, value in cfg.to_dict().items() if isinstance(value, (bool, int, float, str, list, type(None)))}
    config = {**plain, "architectures": ["HookedTransformer"], "model_type": "hooked_transformer"}
    return _core(cfg.model_name or "HookedTransformer", config, state, model.tokenizer, _processing(cfg, state))


def _processing(cfg: Any, state: Mapping[str, Any]) -> Steps:
    """How weights were processed, as far as they show it: `fold_ln`, `center_writing_weights`, `center_unembed`, `fold_value_biases`."""

    def is_centred(end: str, axis: int) -> bool:
        means = [(tensor.float().mean(axis).abs().max(), tensor.abs().max()) for name, tensor in state.items() if name.endswith(end)]
        return all(float(mean) <= 1e-5 * max(float(largest), 1e-30) for mean, largest in means)

    is_layer_norm = str(cfg.normalization_type).startswith("LN")
    centred = is_layer_norm and all(is_centred(name, -1) for name in ("W_E", "W_pos", "attn.W_O", "mlp.W_out"))
    values = [tensor for name, tensor in state.items() if name.endswith("b_V")]
    return (
        str(cfg.normalization_type).endswith("Pre"),
        centred,
        is_centred("W_U", -1),
        all(not bool(tensor.any()) for tensor in values),
    )


def core_of_saelens(sae: Any) -> _directrix.CoreSae:
    """Of an SAE of SAELens, by its own way of writing it."""
    name = (sae.cfg.metadata.get("sae_id") if getattr(sae.cfg, "metadata", None) is not None else None) or "sae"
    with TemporaryDirectory() as folder:
        sae.save_model(folder)
        return _directrix.CoreSae.load(folder, str(name))


def saelens_of(sae: Sae, device: str) -> Any:
    """An SAE of SAELens, by the folder that it reads."""
    from sae_lens import SAE

    with TemporaryDirectory() as folder:
        sae.save(folder)
        return SAE.load_from_disk(folder, device=device)


def _core(
    name: str, config: Mapping[str, Any], state: Mapping[str, Any], tokenizer: Any, steps: Steps
) -> _directrix.CoreModel:
    files = {"config.json": json.dumps(config)}
    if tokenizer is not None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise DirectrixError("the tokenizer is no fast one; give one of `AutoTokenizer.from_pretrained(…)`, or none")
        files["tokenizer.json"] = backend.to_str()
        files["tokenizer_config.json"] = json.dumps({"bos_token": tokenizer.bos_token})
    tensors, seen = [], set()
    for key, tensor in state.items():
        # Tied weights are one tensor under two names.
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if place in seen and tensor.numel() > 0:
            continue
        seen.add(place)
        tensors.append((key, _type(key, tensor), list(tensor.shape), _bytes(tensor)))
    return _directrix.CoreModel.of_tensors(name, files, tensors, list(steps))


def _type(name: str, tensor: Any) -> str:
    try:
        return _TYPES[str(tensor.dtype)]
    except KeyError:
        raise DirectrixError(f"{name} is of type {tensor.dtype}; there are {', '.join(_TYPES)}") from None


def _bytes(tensor: Any) -> npt.NDArray[np.uint8]:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: npt.NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return array
