"""What belongs together, opened at once."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from . import _directrix
from ._directrix import Prompts
from .index import Index
from .model import Model
from .sae import Sae


class Opened:
    """A model with its tokenizer, SAEs that fit it, and a corpus: what an index is built of."""

    def __init__(self, core: _directrix.CoreOpened) -> None:
        self._core = core
        #: The model.
        self.model = Model(core.model)
        #: The SAEs, in the order given.
        self.saes = [Sae(sae) for sae in core.saes]
        #: What is to be told of what was opened.
        self.notes: list[str] = core.notes

    def prompts(self) -> Prompts:
        """The corpus as prompts, each cut to the model's context."""
        return self._core.prompts()

    def prompts_of(self, texts: Sequence[str]) -> Prompts:
        """Texts as prompts, with BOS as the corpus has it."""
        return self._core.prompts_of(list(texts))

    def index(
        self,
        folder: str | PathLike[str] = "out/index",
        *,
        skip_first: int | None = None,
        include_last: bool | None = None,
        exclude: Sequence[str] = (),
        replace: bool = False,
    ) -> Index:
        """The index in a folder: opened if it is of these inputs; built, or gone on with where a pass was interrupted, if not.

        The first ten positions of a prompt (`skip_first`), the last (unless `include_last`) and those of the tokens in `exclude` do not count
        for what is said of directions. An index of other inputs is an error unless `replace`.
        """
        core = self._core.index(
            fspath(folder), skip_first=skip_first, include_last=include_last, exclude=list(exclude), replace=replace
        )
        return Index(core)

    def index_shard(
        self,
        folder: str | PathLike[str],
        number: int,
        of: int,
        *,
        skip_first: int | None = None,
        include_last: bool | None = None,
        exclude: Sequence[str] = (),
    ) -> Index:
        """The index of a part of the corpus alone, shard `number`, from 1, of `of`: any process makes it, anywhere. `dx.merge` makes one index
        of all of them, which has the bits of one that was made at once.
        """
        core = self._core.index_shard(
            fspath(folder), int(number), int(of), skip_first=skip_first, include_last=include_last, exclude=list(exclude)
        )
        return Index(core)

    def __repr__(self) -> str:
        return repr(self._core)


def open(
    model: str | PathLike[str] | None = None,
    saes: Sequence[str | PathLike[str]] | None = None,
    corpus: str | PathLike[str] | None = None,
    *,
    column: str | None = None,
    limit: int | None = None,
    bos: bool | None = None,
    **steps: Any,
) -> Opened:
    """Opens a model, SAEs and a corpus by name, as `directrix` does with `--model`, `--sae` and `--corpus`: paths, names of what is part of
    the package, repositories of the hub. What is left out is the shipped model with its SAEs and stories.

    The corpus is read when it is needed, at most `limit` documents of it, from `column`. Weights are processed as the SAEs were trained, where
    they say so; `fold_ln`, `center_writing_weights`, `center_unembed` and `fold_value_biases` say otherwise.
    """
    names = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    unknown = steps.keys() - set(names)
    if unknown:
        raise TypeError(f"open() has no argument {', '.join(sorted(unknown))}")
    core = _directrix.CoreOpened(
        None if model is None else fspath(model),
        None if saes is None else [fspath(sae) for sae in saes],
        None if corpus is None else fspath(corpus),
        column=column,
        limit=limit,
        bos=bos,
        steps=[steps.get(name) for name in names],
    )
    return Opened(core)
