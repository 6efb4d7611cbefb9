"""Indexes: what every direction fires on."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _directrix
from ._arrays import Floats
from ._directrix import DirectrixError, Prompts
from .shaded import ShadedText, ShadedTexts
from .table import Table

if TYPE_CHECKING:
    from .browse import Browser
    from .model import Model
    from .sae import Sae


class Matches(NamedTuple):
    """Where a query matches."""

    #: Positions at which it does, of those that count.
    matches: int
    #: Prompts that have one.
    prompts: int
    #: Some of them: prompt and position.
    places: Table
    #: The directions that fire there, by how far more often than elsewhere.
    firing: Table


class Index:
    """What one pass over a corpus left on disk, memory-mapped: for each direction its maximum, density, examples and tokens, and all
    activations. `Opened.index` builds one; the model is not needed to look at it.

    An SAE is named by its number in the index or by its name (`sae-l1`).
    """

    def __init__(self, core: _directrix.CoreIndex) -> None:
        self._core = core
        #: What it is of: numbers of prompts and positions, model, corpus, SAEs.
        self.about: dict[str, Any] = core.about

    @classmethod
    def open(cls, folder: str | PathLike[str], model: Model | None = None) -> Index:
        """Opens the index in a folder. The model is asked for its tokenizer alone: without it, tokens are numbers."""
        tokenizer = None if model is None else model._own.tokenizer
        return cls(_directrix.CoreIndex.open(fspath(folder), tokenizer))

    def number_of(self, sae: int | str) -> int:
        """The number of an SAE of the index."""
        if isinstance(sae, str):
            number = self._core.number_of(sae)
            if number is None:
                names = ", ".join(name for name, _, _ in self.about["saes"])
                raise DirectrixError(f"the index has no SAE `{sae}`; it has {names}")
            return number
        return int(sae)

    def __len__(self) -> int:
        return len(self._core)

    def prompt(self, prompt: int) -> npt.NDArray[np.uint32]:
        """The tokens of a prompt, `[tokens]`."""
        return self._core.prompt(prompt)

    def prompts(self, prompts: npt.ArrayLike | None = None) -> Prompts:
        """Some of its prompts, in this order, or all."""
        wanted = range(len(self)) if prompts is None else np.atleast_1d(np.asarray(prompts, dtype=np.int64)).tolist()
        return self._core.prompts(list(wanted))

    def maxima(self, sae: int | str = 0) -> Floats:
        """The highest activation of every direction, `[d_sae]`, at the positions that count."""
        return self._core.maxima(self.number_of(sae))

    def directions(self, sae: int | str = 0) -> Table:
        """A row for each direction: maximum, density, mean, prompts, and the token that it fires on most with its share of the positions
        above half of the maximum.
        """
        return Table(self._core.directions(self.number_of(sae)))

    def top_examples(self, direction: int, sae: int | str = 0, k: int = 20) -> Table:
        """The `k` prompts in which a direction fires most strongly, each with the position where it does."""
        return Table(self._core.top_examples(self.number_of(sae), direction, k))

    def interval_examples(self, direction: int, low: float, high: float, sae: int | str = 0, k: int = 20) -> Table:
        """At most `k` prompts whose highest activation is in an interval."""
        return Table(self._core.interval_examples(self.number_of(sae), direction, low, high, k))

    def fires(self, direction: int, sae: int | str = 0) -> Table:
        """Every position that counts at which a direction fires, and how strongly."""
        return Table(self._core.fires(self.number_of(sae), direction))

    def token_counts(self, direction: int, sae: int | str = 0) -> Table:
        """How often a direction fires on each token above half of its maximum, most often first."""
        return Table(self._core.token_counts(self.number_of(sae), direction))

    def on_prompt(self, direction: int, prompt: int, sae: int | str = 0) -> Floats:
        """A direction's activations at every position of a prompt, `[tokens]`."""
        return self._core.on_prompt(self.number_of(sae), direction, prompt)

    def histogram(self, direction: int, sae: int | str = 0) -> list[int]:
        """Positions at which a direction fires, in twenty equal parts of 0 to its maximum."""
        return self._core.histogram(self.number_of(sae), direction)

    def find(self, query: str, sae: int | str = 0, k: int = 20) -> Matches:
        """Where a text, tokens, a regular expression or directions are in the corpus, and which directions of an SAE fire there.

        `"said"` is a text, `[262 11]` tokens, `/re/` a regular expression, `sae-l1/429` where a direction fires; `and`, `not`, `or`, `within`
        put them together. The query language is that of `directrix search`.
        """
        matches, prompts, places, firing = self._core.find(query, self.number_of(sae), k)
        return Matches(matches, prompts, Table(places), Table(firing))

    def show(self, direction: int, sae: int | str = 0, k: int = 5) -> ShadedTexts:
        """The prompts in which a direction fires most strongly, shaded."""
        found = self.top_examples(direction, sae, k)
        maximum = float(self.maxima(sae)[direction])
        texts = []
        for prompt, position, activation in zip(found["prompt"], found["position"], found["activation"], strict=True):
            values = self.on_prompt(direction, int(prompt), sae)
            label = f"prompt {prompt}, activation {activation:.2f}"
            texts.append(ShadedText(self._core.texts(self.prompt(int(prompt))), values, maximum, label, int(position)))
        return ShadedTexts(texts)

    def browse(self, directions: npt.ArrayLike | None = None, sae: int | str = 0, k: int = 5) -> Browser:
        """A page of directions to slide through and filter by top token and its share, each with its `k` highest prompts. It is plain HTML with
        all data in it, and works in an exported notebook. Without `directions`, the first 500 that fire.
        """
        from .browse import Browser

        return Browser.of(self, directions, sae, k)

    def export(
        self,
        folder: str | PathLike[str],
        form: str = "parquet",
        sae: int | str = 0,
        *,
        directions: npt.ArrayLike | None = None,
        context: int | None = None,
        of: tuple[Model, Sae] | None = None,
    ) -> int:
        """Writes an SAE's activations in a form of other tools, and says how much.

        `parquet` is a row for each activation, `delphi` its cache of latents; `datasets` (what the SAE reads, in rows of `context` positions, as
        SAELens trains on), `saedashboard` and `neuronpedia` (dashboards) need the model and the SAE: `of=(model, sae)`. An earlier export in the
        same form gives way, and nothing else.
        """
        wanted = None if directions is None else np.atleast_1d(np.asarray(directions, dtype=np.int64)).tolist()
        cores = None if of is None else (of[0]._core, of[1]._core)
        return _directrix.export(
            self._core, self.number_of(sae), form, fspath(folder), directions=wanted, context=context, of=cores
        )

    def __repr__(self) -> str:
        return repr(self._core)


def merge(
    folders: Iterable[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    piece: bool = False,
    replace: bool = False,
    model: Model | None = None,
) -> Index:
    """Makes one index of those of several shards (`Opened.index_shard`), given in any order, in the folder `out`.

    A shard that is missing, given twice or of other inputs is an error, as is another index in `out` unless `replace`. With `piece` some may
    be missing, and what is made is to be merged with them later. The model is asked for its tokenizer alone.
    """
    tokenizer = None if model is None else model._own.tokenizer
    return Index(_directrix.merge([fspath(folder) for folder in folders], fspath(out), piece, replace, tokenizer))
