"""What a run captured, and how the residual stream is taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ._arrays import Floats
from ._directrix import DirectrixError
from ._names import get_act_name, known

if TYPE_CHECKING:
    from .model import Model

#: A position, some, a slice, or all.
PosSlice: TypeAlias = "int | slice | Sequence[int] | tuple[int, int] | None"


class ActivationCache(Mapping[str, Floats]):
    """Values by hook point: `cache["blocks.1.mlp.hook_post"]`, `cache["post", 1]`, `cache["post", 1, "mlp"]`, `cache["embed"]`.

    Shapes are TransformerLens's, `[batch, pos, …]`, or `[pos, …]` without the batch. Decompositions are of the model's final residual stream
    where `layer` is left out, and of what block `layer` reads otherwise; components come first.
    """

    def __init__(self, values: dict[str, Floats], model: Model, has_batch_dim: bool = True) -> None:
        self.cache_dict = values
        self.model = model
        self.has_batch_dim = has_batch_dim

    def __getitem__(self, key: Any) -> Floats:
        name = get_act_name(*key) if isinstance(key, tuple) else get_act_name(key)
        if isinstance(key, tuple) and len(key) > 1 and isinstance(key[1], int) and key[1] < 0:
            name = get_act_name(key[0], self.model.cfg.n_layers + key[1], *key[2:])
        if name in self.cache_dict:
            return self.cache_dict[name]
        known(name, self.model.hook_points)
        raise KeyError(f"{name} was not captured; name it in `names_filter`, or leave that out")

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache_dict)

    def __len__(self) -> int:
        return len(self.cache_dict)

    def __repr__(self) -> str:
        return f"ActivationCache of {len(self)} hook points: {', '.join(self)}"

    def remove_batch_dim(self) -> ActivationCache:
        """The same without the axis of the batch, which must be of one prompt."""
        if not self.has_batch_dim:
            return self
        batch = next(iter(self.values())).shape[0] if len(self) else 1
        if batch != 1:
            raise DirectrixError(f"the batch is of {batch} prompts; its axis can be left out of one alone")
        return ActivationCache({name: value[0] for name, value in self.items()}, self.model, False)

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The residual stream before each block up to `layer`, `[components, …, d_model]`; with `apply_ln`, as the norm that reads the last
        would see each.
        """
        layer, final = self._layer(layer), self.model.cfg.n_layers
        parts, labels = [], []
        for block in range(layer + 1):
            if block == final:
                parts.append(self["resid_post", final - 1])
                labels.append("final_post")
                continue
            parts.append(self["resid_pre", block])
            labels.append(f"{block}_pre")
            if (incl_mid and block < layer) or (mlp_input and block == layer):
                parts.append(self["resid_mid", block])
                labels.append(f"{block}_mid")
        stack = np.stack([_at(part, pos_slice) for part in parts])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input, pos_slice, recompute_ln=layer == final)
        return (stack, labels) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """The residual stream as what embeddings, attention and MLPs wrote to it, `[components, …, d_model]`."""
        layer = self._layer(layer)
        parts, labels = self._embeddings() if incl_embeds else ([], [])
        for block in range(layer):
            if mode != "mlp":
                parts.append(self["attn_out", block])
                labels.append(f"{block}_attn_out")
            if mode != "attn":
                parts.append(self["mlp_out", block])
                labels.append(f"{block}_mlp_out")
        if mlp_input and mode != "mlp":
            parts.append(self["attn_out", layer])
            labels.append(f"{layer}_attn_out")
        stack = self._stacked([_at(part, pos_slice) for part in parts], pos_slice)
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input, pos_slice)
        return (stack, labels) if return_labels else stack

    def stack_head_results(
        self,
        layer: int | None = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: PosSlice = None,
        apply_ln: bool = False,
    ) -> Any:
        """What each head of the blocks before `layer` wrote to the residual stream, `[heads, …, d_model]`, biases not among it."""
        layer = self._layer(layer)
        heads = [np.moveaxis(self._head_results(block, pos_slice), -2, 0) for block in range(layer)]
        labels = [f"L{block}H{head}" for block in range(layer) for head in range(self.model.cfg.n_heads)]
        stack = np.concatenate(heads) if heads else self._stacked([], pos_slice)
        if incl_remainder:
            rest = _at(self["resid_post", layer - 1], pos_slice) - stack.sum(axis=0)
            stack = np.concatenate([stack, rest[None]])
            labels.append("remainder")
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = False,
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        return_labels: bool = False,
    ) -> Any:
        """The residual stream as heads, MLPs (with `expand_neurons`, single neurons), embeddings and biases, `[components, …, d_model]`."""
        layer = self._layer(layer)
        stack, labels = self.stack_head_results(layer + int(mlp_input), pos_slice=pos_slice, return_labels=True)
        parts = [stack]
        if layer > 0 and expand_neurons:
            for block in range(layer):
                neurons = _at(self["post", block], pos_slice)[..., None] * self.model.W_out[block]
                parts.append(np.moveaxis(neurons, -2, 0))
                labels.extend(f"L{block}N{neuron}" for neuron in range(self.model.cfg.d_mlp))
        elif layer > 0:
            mlps, of_mlps = self.decompose_resid(
                layer, mlp_input, "mlp", pos_slice=pos_slice, incl_embeds=False, return_labels=True
            )
            parts.append(mlps)
            labels.extend(of_mlps)
        embeddings, of_embeddings = self._embeddings()
        parts.extend(_at(embedding, pos_slice)[None] for embedding in embeddings)
        labels.extend(of_embeddings)
        bias = self.model.accumulated_bias(layer, mlp_input, include_mlp_biases=expand_neurons)
        parts.append(np.broadcast_to(bias, (1, *stack.shape[1:])))
        labels.append("bias")
        whole = np.concatenate(parts)
        if apply_ln:
            whole = self.apply_ln_to_stack(whole, layer, mlp_input, pos_slice)
        return (whole, labels) if return_labels else whole

    def apply_ln_to_stack(
        self,
        residual_stack: npt.ArrayLike,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: PosSlice = None,
        recompute_ln: bool = False,
    ) -> Floats:
        """Components `[…, d_model]` as the norm before block `layer` (with `mlp_input`, before its MLP; without `layer`, the final one) scales
        them: centred where it is a LayerNorm, and divided by the run's own scale. `recompute_ln` takes each component's own scale at
        the final norm (the logit lens).
        """
        layer = self._layer(layer)
        stack = np.asarray(residual_stack, dtype=np.float32)
        is_final = layer == self.model.cfg.n_layers
        if not self.model.cfg.normalization_type.startswith("RMS"):
            stack = stack - stack.mean(axis=-1, keepdims=True)
        if recompute_ln and is_final:
            scale = np.sqrt((stack**2).mean(axis=-1, keepdims=True) + np.float32(self.model.cfg.eps))
        else:
            name = "ln_final" if is_final else f"blocks.{layer}.{'ln2' if mlp_input else 'ln1'}"
            scale = _at(self[f"{name}.hook_scale"], pos_slice)
        scaled: Floats = stack / scale
        if recompute_ln and is_final and "ln_final.w" in self.model.weight_names:
            scaled = scaled * self.model.weight("ln_final.w")
            if "ln_final.b" in self.model.weight_names:
                scaled = scaled + self.model.weight("ln_final.b")
        return scaled

    def logit_attrs(
        self,
        residual_stack: npt.ArrayLike,
        tokens: str | int | npt.ArrayLike,
        incorrect_tokens: str | int | npt.ArrayLike | None = None,
        pos_slice: PosSlice = None,
    ) -> Floats:
        """What each component adds to the logits of tokens, or to their differences from those of other tokens: `[components, …]`."""
        directions = self.model.tokens_to_residual_directions(tokens)
        if incorrect_tokens is not None:
            others = self.model.tokens_to_residual_directions(incorrect_tokens)
            if others.shape != directions.shape:
                raise DirectrixError(f"tokens are {directions.shape[:-1]} and the incorrect ones {others.shape[:-1]}; give as many")
            directions = directions - others
        scaled = self.apply_ln_to_stack(residual_stack, pos_slice=pos_slice)
        attributions: Floats = (scaled * directions).sum(axis=-1)
        return attributions

    def stack_activation(self, name: str, layer: int | None = None, sublayer_type: str | None = None) -> Floats:
        """The values at one hook point of the blocks before `layer`, `[layers, …]`."""
        return np.stack([self[name, block, sublayer_type] for block in range(self._layer(layer))])

    def _layer(self, layer: int | None) -> int:
        n = int(self.model.cfg.n_layers)
        if layer is None or layer == -1:
            return n
        if not 0 <= layer <= n:
            raise DirectrixError(f"there is no layer {layer}; the model has {n}, and {n} is the unembedding")
        return layer

    def _embeddings(self) -> tuple[list[Floats], list[str]]:
        labels = ["embed"] + (["pos_embed"] if self.model.cfg.positional_embedding_type == "standard" else [])
        return [self[f"hook_{label}"] for label in labels], labels

    def _head_results(self, block: int, pos_slice: PosSlice) -> Floats:
        """`[…, n_heads, d_model]`."""
        name = f"blocks.{block}.attn.hook_result"
        if name in self.cache_dict:
            return _at(self.cache_dict[name], pos_slice, -3)
        # One product for each head: the sum over its own dimensions.
        z = np.moveaxis(_at(self["z", block], pos_slice, -3), -2, 0)
        written = np.stack([of_head @ w for of_head, w in zip(z, self.model.W_O[block], strict=True)])
        return np.moveaxis(written, 0, -2)

    def _stacked(self, parts: list[Floats], pos_slice: PosSlice) -> Floats:
        if parts:
            return np.stack(parts)
        return np.zeros((0, *_at(self["hook_embed"], pos_slice).shape), dtype=np.float32)


def _at(values: Floats, pos_slice: PosSlice, axis: int = -2) -> Floats:
    """The values at some positions; one position leaves its axis out."""
    if pos_slice is None:
        return values
    if isinstance(pos_slice, tuple):
        pos_slice = slice(*pos_slice)
    where = pos_slice if isinstance(pos_slice, (int, np.integer, slice)) else np.asarray(pos_slice)
    whole: list[Any] = [slice(None)] * values.ndim
    whole[axis] = where
    taken: Floats = values[tuple(whole)]
    return taken
