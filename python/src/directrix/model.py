"""Models, under TransformerLens's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from os import PathLike, fspath
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _directrix
from ._arrays import Floats, Ints, Positions, Tokens, as_floats, as_ids, is_rectangle, prompts_of_ids
from ._directrix import DirectrixError, Intervention, Prompts
from ._names import get_act_name, known
from .cache import ActivationCache
from .tokenizer import Tokenizer

#: A text, texts, or token ids.
Input: TypeAlias = "str | list[str] | Tokens"
#: Changes values on the way: gets them as TransformerLens has them, `[batch, pos, …]`, and gives back as many, or `None` if it changed
#: them in place.
HookFunction: TypeAlias = "Callable[[Floats, HookPoint], npt.ArrayLike | None]"
#: A change in a run: data, which is quick, or a hook point (or what says of a name whether it is meant) with a function.
Hook: TypeAlias = "Intervention | tuple[str | Callable[[str], bool], HookFunction]"
#: What a run returns.
ReturnType: TypeAlias = Literal["logits", "loss", "both"]


class HookPoint:
    """Where a hook function is called."""

    def __init__(self, name: str) -> None:
        #: `blocks.1.mlp.hook_post`
        self.name = name
        #: What functions may keep for later ones.
        self.ctx: dict[str, Any] = {}

    def layer(self) -> int:
        """The block that it is in."""
        return int(self.name.split(".")[1])

    def __repr__(self) -> str:
        return f"HookPoint({self.name})"


class Model:
    """A decoder-only transformer with its tokenizer: a `HookedTransformer` that runs in Rust.

    Values are float32 numpy arrays, `[batch, pos, …]` as TransformerLens has them. A batch of prompts of unequal lengths is not padded: what
    it gives is `[positions, …]`, prompt after prompt, and `dx.split` takes it apart.

    Examples:
        >>> import directrix as dx
        >>> model = dx.Model.from_pretrained("tinystories-2l")
        >>> logits, cache = model.run_with_cache("Once upon a time")
        >>> cache["post", 1].shape
        (1, 5, 512)
    """

    def __init__(self, core: _directrix.CoreModel) -> None:
        self._own = core
        self._hooks: ContextVar[tuple[Hook, ...]] = ContextVar("hooks", default=())
        self._weights: dict[str, npt.NDArray[np.float32]] = {}
        #: Dimensions and choices, under TransformerLens's names: `model.cfg.n_layers`.
        self.cfg = SimpleNamespace(**core.cfg)

    @property
    def _core(self) -> _directrix.CoreModel:
        """What analyses run. They know of no hooks, and are refused rather than made without them."""
        if self._hooks.get():
            raise DirectrixError("hooks are of the model's own runs; analyses make theirs without: call them outside of the `with`")
        return self._own

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str] = "tinystories-2l",
        *,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        fold_value_biases: bool = True,
    ) -> Model:
        """Loads a model: by its path, the name of one that is part of the package (`tinystories-2l`), one of TransformerLens's names
        (`gpt2-small`), or a repository of the hub (`owner/name@revision`).

        Weights are processed as TransformerLens does by default.
        """
        steps = (fold_ln, center_writing_weights, center_unembed, fold_value_biases)
        return cls(_directrix.CoreModel.load(fspath(source), steps))

    @classmethod
    def from_pretrained_no_processing(cls, source: str | PathLike[str]) -> Model:
        """As `from_pretrained`, the weights as they are in the checkpoint."""
        return cls(_directrix.CoreModel.load(fspath(source), [False] * 4))

    @classmethod
    def from_transformers(
        cls,
        model: Any,
        tokenizer: Any = None,
        *,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        fold_value_biases: bool = True,
    ) -> Model:
        """A model of transformers that is in memory, with its fast tokenizer if one is given. No file is written."""
        from .interop import core_of_transformers

        steps = (fold_ln, center_writing_weights, center_unembed, fold_value_biases)
        return cls(core_of_transformers(model, tokenizer, steps))

    @classmethod
    def from_transformer_lens(cls, model: Any) -> Model:
        """A `HookedTransformer` that is in memory: its weights as they are now, with how they were processed read off them."""
        from .interop import core_of_transformer_lens

        return cls(core_of_transformer_lens(model))

    @property
    def name(self) -> str:
        """Where it is from."""
        return self._own.name

    @property
    def notes(self) -> list[str]:
        """What is to be told of its files."""
        return self._own.notes

    @property
    def hook_points(self) -> list[str]:
        """The names of its hook points, in the order that a run reaches them."""
        return self._own.hook_points

    def __repr__(self) -> str:
        return repr(self._own)

    # Tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer.

        Raises:
            LabError: if its files have none.
        """
        core = self._own.tokenizer
        if core is None:
            raise _directrix.LabError(f"{self.name} has no tokenizer; give token ids instead of texts")
        return Tokenizer(core)

    def to_tokens(self, text: str | Sequence[str], prepend_bos: bool | None = None) -> Any:
        """The token ids of a text, int64 `[1, pos]`; of several texts, `Prompts`, which need not be of one length.

        BOS stands before each if `prepend_bos` says so (by default as the model's family was trained), and never twice.
        """
        if isinstance(text, str):
            return self._ids(text, prepend_bos)[None, :].astype(np.int64)
        return prompts_of_ids([self._ids(one, prepend_bos) for one in text])

    def _ids(self, text: str, prepend_bos: bool | None) -> npt.NDArray[np.uint32]:
        tokenizer = self.tokenizer
        own = tokenizer.encode(text)
        wanted = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        bos = tokenizer.bos_token_id
        if wanted and bos is None:
            if prepend_bos:
                raise _directrix.LabError(f"the files of {self.name} name no BOS token; leave out `prepend_bos`")
            return own
        if not wanted or (len(own) > 0 and own[0] == bos):
            return own
        return np.concatenate([np.asarray([bos], dtype=np.uint32), own])

    def to_string(self, tokens: npt.ArrayLike) -> str | list[str]:
        """The text of token ids, `[pos]`; of several rows, their texts."""
        ids = as_ids(tokens)
        if ids.ndim > 1:
            return [self.tokenizer.decode(row) for row in ids]
        return self.tokenizer.decode(np.atleast_1d(ids))

    def to_str_tokens(self, input: str | npt.ArrayLike, prepend_bos: bool | None = None) -> list[str]:
        """The text of each token of a text or of one row of token ids."""
        ids = self.to_tokens(input, prepend_bos)[0] if isinstance(input, str) else as_ids(input).reshape(-1)
        return [self.tokenizer.decode(ids[i : i + 1]) for i in range(len(ids))]

    def to_single_token(self, text: str) -> int:
        """The id of the one token that a text is.

        Raises:
            CorpusError: if it is none or several.
        """
        return self.tokenizer.single_token(text)

    def to_single_str_token(self, token: int) -> str:
        """The text of one token."""
        return self.tokenizer.decode([token])

    def to_prompts(self, input: Input) -> Prompts:
        """Prompts of a text, of texts, or of token ids."""
        return to_prompts(self, input)

    # Runs

    def __call__(
        self, input: Input, return_type: ReturnType | None = "logits", loss_per_token: bool = False
    ) -> Any:
        """Runs prompts: logits `[batch, pos, d_vocab]`, or the loss of predicting each next token in nats, its mean over positions and
        prompts or, per token, `[batch, pos - 1]`; or both, or nothing.
        """
        out, _ = self._run(to_prompts(self, input), [], return_type, loss_per_token)
        return out

    def run_with_hooks(
        self,
        input: Input,
        return_type: ReturnType | None = "logits",
        fwd_hooks: Sequence[Hook] = (),
        loss_per_token: bool = False,
    ) -> Any:
        """As a call, with changes on the way: `Intervention`s, or `(hook point, function)`.

        An intervention is data: it is part of the one run. A function is called with the values that the changes before it have left, and its
        run is made up to there first: k functions take some k runs.
        """
        with self.hooks(fwd_hooks):
            return self(input, return_type, loss_per_token)

    def run_with_cache(
        self,
        input: Input,
        return_type: ReturnType | None = "logits",
        names_filter: str | Sequence[str] | Callable[[str], bool] | None = None,
        loss_per_token: bool = False,
        remove_batch_dim: bool = False,
    ) -> tuple[Any, ActivationCache]:
        """As a call, and the values at hook points: all but `hook_result` and the inputs of single heads, or those that `names_filter` names
        (in short forms too) or is true of.

        A run stops where nothing more is asked for: with `return_type=None` and `names_filter`, the rest of the model is not run.
        """
        prompts = to_prompts(self, input)
        names = self._wanted(names_filter)
        out, values = self._run(prompts, names, return_type, loss_per_token)
        cache = ActivationCache(values, self, has_batch_dim=is_rectangle(prompts))
        return out, cache.remove_batch_dim() if remove_batch_dim else cache

    def log_probs_each(
        self, input: Input, changes: Sequence[Intervention | Sequence[Intervention]], position: Positions = -1
    ) -> Floats:
        """Log-probabilities of every token, nats, with each change alone: `[changes, batch, d_vocab]`, at one position of each prompt.

        A change is an `Intervention`, or several at hook points that are made together. Prompts are run once, and all changes go on from there
        together, computing only what they can change: patching every layer and position is one call. Differences of log-probabilities of
        two tokens are those of their logits. `position` is one, or one for each prompt; rows of an intervention are for the positions of all
        prompts, prompt after prompt.
        """
        prompts = to_prompts(self, input)
        at = np.broadcast_to(np.asarray(-1 if position is None else position, dtype=np.int64), len(prompts)).copy()
        lengths = np.asarray(prompts.lengths, dtype=np.int64)
        at[at < 0] += lengths[at < 0]
        wrong = np.flatnonzero((at < 0) | (at >= lengths))
        if wrong.size:
            prompt = int(wrong[0])
            raise DirectrixError(f"prompt {prompt} has {lengths[prompt]} positions, and not the one that is looked at")
        if self._hooks.get():
            raise DirectrixError("these changes are made alone, without the hooks of a `with`; call it outside of that")
        together = [[change] if isinstance(change, Intervention) else list(change) for change in changes]
        return self._own.log_probs_each(prompts, together, at.tolist())

    @contextmanager
    def hooks(self, fwd_hooks: Sequence[Hook] = ()) -> Iterator[Model]:
        """Changes in every run of this model inside the `with`, in this thread. They come after those of an outer `with`."""
        token = self._hooks.set((*self._hooks.get(), *fwd_hooks))
        try:
            yield self
        finally:
            self._hooks.reset(token)

    def generate(
        self,
        input: str | npt.ArrayLike = "",
        max_new_tokens: int = 50,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        stop_at_eos: bool = True,
        interventions: Sequence[Intervention] = (),
        prepend_bos: bool | None = None,
    ) -> Any:
        """Continues a prompt: a text gives a text, token ids give int64 `[1, pos]`. `temperature` 0 takes the most likely token; the same
        seed gives the same tokens. `interventions` are changes of directions, also at new positions; so are those of a `with model.hooks(…)`.
        """
        hooks = self._hooks.get()
        of_hooks = [hook for hook in hooks if isinstance(hook, Intervention)]
        if len(of_hooks) < len(hooks):
            raise DirectrixError("functions do not change what is generated; give interventions of directions")
        ids = self.to_tokens(input, prepend_bos) if isinstance(input, str) else np.atleast_2d(as_ids(input))
        if ids.shape[0] != 1:
            raise DirectrixError(f"{ids.shape[0]} prompts; one is continued at a time")
        core = self._own.tokenizer
        stop = core.bos if stop_at_eos and core is not None else None
        prompt = [int(token) for token in ids[0]]
        new = self._own.generate(
            prompt, max_new_tokens, temperature=temperature, top_k=top_k, seed=seed, stop=stop, interventions=[*of_hooks, *interventions]
        )
        tokens = np.asarray([*prompt, *new], dtype=np.int64)
        return self.tokenizer.decode(tokens) if isinstance(input, str) else tokens[None, :]

    def _wanted(self, names_filter: str | Sequence[str] | Callable[[str], bool] | None) -> list[str]:
        every = self.hook_points
        if names_filter is None:
            return [name for name in every if not name.endswith(_ON_DEMAND)]
        if callable(names_filter):
            return [name for name in every if names_filter(name)]
        names = [names_filter] if isinstance(names_filter, str) else list(names_filter)
        return [known(get_act_name(name), every) for name in names]

    def _run(
        self, prompts: Prompts, names: Sequence[str], return_type: ReturnType | None, per_token: bool
    ) -> tuple[Any, dict[str, Floats]]:
        if return_type not in (None, "logits", "loss", "both"):
            raise DirectrixError(f"return_type {return_type!r} is not known; there are logits, loss, both and None")
        interventions = [hook for hook in self._hooks.get() if isinstance(hook, Intervention)]
        functions = self._functions([hook for hook in self._hooks.get() if not isinstance(hook, Intervention)])
        logits, losses = return_type in ("logits", "both"), return_type in ("loss", "both")
        # Without a soft cap these are the logits, which are made once.
        are_logits = logits and self.cfg.output_logits_soft_cap is None and "unembed.hook_out" in names
        names = [name for name in names if not (are_logits and name == "unembed.hook_out")]

        def run(part: Prompts) -> tuple[dict[str, Floats], Floats | None, Floats | None]:
            replaced = self._replaced(part, interventions, functions)
            return self._own.run(
                part, list(names), logits=logits, losses=losses, interventions=interventions, replaced=replaced
            )

        # A function is given a rectangle.
        if functions and not is_rectangle(prompts):
            runs = [run(prompts.select([i])) for i in range(len(prompts))]
            values = {name: _joined(name, [one[0][name] for one in runs]) for name in names}
            all_logits = np.concatenate([one[1] for one in runs if one[1] is not None]) if logits else None
            all_losses = np.concatenate([one[2] for one in runs if one[2] is not None]) if losses else None
        else:
            values, all_logits, all_losses = run(prompts)
        if is_rectangle(prompts):
            values = {name: _batched(name, value, len(prompts)) for name, value in values.items()}
            all_logits = None if all_logits is None else _batched("logits", all_logits, len(prompts))
            all_losses = None if all_losses is None else all_losses.reshape(len(prompts), -1)
        if are_logits and all_logits is not None:
            values["unembed.hook_out"] = all_logits
        loss: Any = all_losses
        if all_losses is not None and not per_token:
            if all_losses.size == 0:
                raise DirectrixError("prompts of one token predict nothing: there is no loss")
            loss = np.float32(np.mean(all_losses, dtype=np.float64))
        outs = {None: None, "logits": all_logits, "loss": loss, "both": (all_logits, loss)}
        return outs[return_type], values

    def _functions(self, hooks: Sequence[tuple[str | Callable[[str], bool], HookFunction]]) -> dict[str, list[HookFunction]]:
        """The functions by hook point, in the order of the run."""
        every = self.hook_points
        at: dict[str, list[HookFunction]] = {name: [] for name in every}
        for hook in hooks:
            if not (isinstance(hook, (tuple, list)) and len(hook) == 2 and callable(hook[1])):
                raise DirectrixError(f"{hook!r} is no hook; give an Intervention, or (hook point, function)")
            where, function = hook
            names = [n for n in every if where(n)] if callable(where) else [known(get_act_name(where), every)]
            for name in names:
                at[name].append(function)
        return {name: functions for name, functions in at.items() if functions}

    def _replaced(
        self, prompts: Prompts, interventions: Sequence[Intervention], functions: Mapping[str, Sequence[HookFunction]]
    ) -> list[tuple[str, Floats]]:
        """What the functions make of the values that they are given, hook point by hook point."""
        replaced: list[tuple[str, Floats]] = []
        for name, own in functions.items():
            captured, _, _ = self._own.run(prompts, [name], interventions=interventions, replaced=replaced)
            values, hook = _batched(name, captured[name], len(prompts)), HookPoint(name)
            shape = values.shape
            for function in own:
                made = function(values, hook)
                if made is not None:
                    values = as_floats(made, f"what the function at {name} gave")
                if values.shape != shape:
                    raise DirectrixError(f"the function at {name} gave values of shape {values.shape}; they must be {shape}")
            replaced.append((name, _rows(name, values, prompts.positions)))
        return replaced

    # Weights

    @property
    def weight_names(self) -> list[str]:
        """The names of its weights."""
        return self._own.weight_names

    def weight(self, name: str) -> Floats:
        """A weight under TransformerLens's name (`blocks.0.attn.W_Q`), in its shape there. It cannot be written to, and where it is stored
        as float32 nothing is copied.
        """
        if name not in self._weights:
            array, shape, heads_in_columns = self._own.weight(known(name, self.weight_names, "weight"))
            if heads_in_columns:
                heads, rows, columns = shape
                array = array.reshape(rows, heads, columns).transpose(1, 0, 2)
            array = array.reshape(shape)
            array.flags.writeable = False
            self._weights[name] = array
        return self._weights[name]

    def state_dict(self) -> dict[str, Floats]:
        """All weights by name."""
        return {name: self.weight(name) for name in self.weight_names}

    def __getattr__(self, name: str) -> Any:
        whole, by_layer = _WHOLE.get(name), _BY_LAYER.get(name)
        if whole is not None:
            return self.weight(whole)
        if by_layer is not None:
            return Layers(self, by_layer)
        raise AttributeError(f"a Model has no `{name}`")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_WHOLE, *_BY_LAYER]

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> Floats:
        """The sum of the biases that blocks before `layer` write to the residual stream (with `mlp_input`, attention's of that block too):
        `[d_model]`.
        """
        bias = np.zeros(self.cfg.d_model, dtype=np.float32)
        for block in range(layer):
            bias = bias + self.weight(f"blocks.{block}.attn.b_O")
            if include_mlp_biases:
                bias = bias + self.weight(f"blocks.{block}.mlp.b_out")
        return bias + self.weight(f"blocks.{layer}.attn.b_O") if mlp_input else bias

    def tokens_to_residual_directions(self, tokens: str | int | npt.ArrayLike) -> Floats:
        """The columns of the unembedding that tokens have: `[…, d_model]` of `[…]`, `[d_model]` of one."""
        ids = np.asarray(self.to_single_token(tokens)) if isinstance(tokens, str) else as_ids(tokens).astype(np.int64)
        directions: Floats = np.moveaxis(self.W_U[:, ids], 0, -1)
        return directions.reshape(-1) if ids.size == 1 else directions


class Layers(Sequence[Floats]):
    """A weight of every block: `model.W_out[1]`, or all as one array by `np.asarray(model.W_out)`, `[n_layers, …]`."""

    def __init__(self, model: Model, name: str) -> None:
        self._model, self._name = model, name

    def __len__(self) -> int:
        return int(self._model.cfg.n_layers)

    def __getitem__(self, layer: Any) -> Any:
        if isinstance(layer, (int, np.integer)):
            n = len(self)
            if not -n <= layer < n:
                raise IndexError(f"there is no block {layer}; the model has {n}")
            return self._of(int(layer) % n)
        return np.asarray(self)[layer]

    def _of(self, layer: int) -> Floats:
        kind, part = self._name.split(".")
        name = f"blocks.{layer}.{kind}.{part}"
        if name in self._model.weight_names:
            return self._model.weight(name)
        # Several query heads share a key head: each has its own, as TransformerLens shows it.
        shared = self._model.weight(f"blocks.{layer}.{kind}._{part}")
        return np.repeat(shared, self._model.cfg.n_heads // self._model.cfg.n_key_value_heads, axis=0)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all of them together."""
        return (len(self), *self._of(0).shape)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("the weights of all blocks do not lie together; they can only be copied")
        return np.stack([self._of(layer) for layer in range(len(self))]).astype(dtype or np.float32, copy=False)


def to_prompts(model: Model, input: Input) -> Prompts:
    """Prompts of a text, of texts, or of token ids: a row, a rectangle, or rows of any lengths."""
    if isinstance(input, str):
        return prompts_of_ids(model.to_tokens(input))
    if isinstance(input, (list, tuple)) and input and all(isinstance(one, str) for one in input):
        prompts: Prompts = model.to_tokens(input)
        return prompts
    return prompts_of_ids(input)


#: What TransformerLens caches only if told to.
_ON_DEMAND = ("hook_result", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")
_WHOLE = {"W_E": "embed.W_E", "W_pos": "pos_embed.W_pos", "W_U": "unembed.W_U", "b_U": "unembed.b_U"}
_BY_LAYER = {
    **{name: f"attn.{name}" for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")},
    **{name: f"mlp.{name}" for name in ("W_in", "W_out", "W_gate", "b_in", "b_out")},
}


def _is_attention(name: str) -> bool:
    """Whether a position's values are as many as there are positions."""
    return name.endswith(("hook_pattern", "hook_attn_scores"))


def _batched(name: str, values: Floats, batch: int) -> Floats:
    """`[positions, …]` of prompts of one length as `[batch, pos, …]`; attention, `[batch, head, query, key]`. Nothing is copied."""
    values = values.reshape(batch, -1, *values.shape[1:])
    return values.transpose(0, 2, 1, 3) if _is_attention(name) else values


def _rows(name: str, values: Floats, positions: int) -> Floats:
    """What `_batched` made, as rows of positions."""
    if _is_attention(name):
        values = values.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(values).reshape(positions, -1)


def _joined(name: str, values: Sequence[Floats]) -> Floats:
    """Rows of several prompts together; of attention, as wide as the longest needs."""
    if _is_attention(name):
        longest = max(value.shape[-1] for value in values)
        nothing = 0.0 if name.endswith("hook_pattern") else -np.inf
        wide = [np.pad(v, [(0, 0), (0, 0), (0, longest - v.shape[-1])], constant_values=nothing) for v in values]
        return np.concatenate(wide)
    return np.concatenate(values)
