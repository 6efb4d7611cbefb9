"""Sparse autoencoders, under SAELens's names."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _directrix
from ._arrays import Floats, Positions, as_floats, as_rows
from ._directrix import Intervention, SparseActivations

if TYPE_CHECKING:
    from .model import Model


class Sae:
    """A sparse autoencoder or transcoder of any form that is read: SAELens, dictionary_learning, sparsify, Gemma Scope, and more.

    `W_enc` is `[d_in, d_sae]`, `W_dec` `[d_sae, d_out]`; arrays are the SAE's own numbers and cannot be written to.

    Examples:
        >>> import directrix as dx
        >>> sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
        >>> sae.cfg.hook_name, sae.cfg.d_sae
        ('blocks.1.mlp.hook_post', 2048)
    """

    def __init__(self, core: _directrix.CoreSae) -> None:
        self._core = core
        #: What it is and where: `hook_name`, `d_in`, `d_sae`, `architecture`, …
        self.cfg = SimpleNamespace(**core.about)

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str]) -> Sae:
        """Loads an SAE: by its path, the name of one that is part of the package, or a repository of the hub with the folder in it
        (`owner/name:blocks.8.hook_resid_pre`).
        """
        return cls(_directrix.CoreSae.load(fspath(source)))

    @classmethod
    def from_saelens(cls, sae: Any) -> Sae:
        """An `sae_lens.SAE` that is in memory."""
        from .interop import core_of_saelens

        return cls(core_of_saelens(sae))

    def to_saelens(self, device: str = "cpu") -> Any:
        """An `sae_lens.SAE` of the same numbers."""
        from .interop import saelens_of

        return saelens_of(self, device)

    def save(self, folder: str | PathLike[str], form: str = "saelens", model_name: str = "") -> None:
        """Writes it as a folder of the form of `saelens` or `dictionary_learning`."""
        self._core.save(fspath(folder), form, model_name)

    @property
    def name(self) -> str:
        """What tables and spelled changes call it: the last part of where it is from."""
        return str(self.cfg.short_name)

    @property
    def W_enc(self) -> Floats:
        """Encoder, `[d_in, d_sae]`: a view, whose columns lie together."""
        return self._core.numbers("encoder").T

    @property
    def W_dec(self) -> Floats:
        """Decoder, `[d_sae, d_out]`."""
        return self._core.numbers("W_dec")

    @property
    def b_enc(self) -> Floats:
        """Encoder bias, `[d_sae]`."""
        return self._core.numbers("b_enc")

    @property
    def b_dec(self) -> Floats:
        """Decoder bias, `[d_out]`."""
        return self._core.numbers("b_dec")

    @property
    def threshold(self) -> Floats:
        """Of a jumprelu SAE, what a pre-activation must exceed, `[d_sae]`."""
        return self._core.numbers("threshold")

    def encode(self, x: npt.ArrayLike) -> Floats:
        """Activations `[…, d_sae]` of what it reads, `[…, d_in]`; zeros included. `encode_sparse` gives those alone that are not zero."""
        rows, shape = self._read(x)
        return self._core.encode(rows).to_dense().reshape(*shape, int(self.cfg.d_sae))

    def encode_sparse(self, x: npt.ArrayLike) -> SparseActivations:
        """The activations that are not zero, a row for each of `[…, d_in]`: `indptr`, `indices` and `data` of a CSR matrix.

        `scipy.sparse.csr_array((acts.data, acts.indices, acts.indptr), acts.shape)` is that matrix.
        """
        return self._core.encode(self._read(x)[0])

    def decode(self, acts: npt.ArrayLike | SparseActivations, x: npt.ArrayLike | None = None) -> Floats:
        """Reconstructions `[…, d_out]` of activations `[…, d_sae]`. An SAE that normalises what it reads, or has a skip connection, needs that as
        `x`, `[…, d_in]`.
        """
        rows = None if x is None else self._read(x)[0]
        if isinstance(acts, SparseActivations):
            return self._core.decode(acts, rows)
        dense, shape = as_rows(acts, "activations", int(self.cfg.d_sae))
        return self._core.decode(_sparse(dense), rows).reshape(*shape, int(self.cfg.d_out))

    def __call__(self, x: npt.ArrayLike) -> Floats:
        """The reconstruction of what it reads."""
        rows, shape = self._read(x)
        return self._core.decode(self._core.encode(rows), rows).reshape(*shape, int(self.cfg.d_out))

    def ablate(self, directions: int | Sequence[int], positions: Positions = None) -> Intervention:
        """Takes out what directions contribute, activation times row of the decoder, and leaves what the SAE does not explain."""
        return Intervention.of_directions(self._core, "ablate", _list(directions), positions=positions)

    def set(self, directions: int | Sequence[int], to: float, positions: Positions = None) -> Intervention:
        """Sets the activations of directions, also where they do not fire."""
        return Intervention.of_directions(self._core, "set", _list(directions), to=to, positions=positions)

    def scale(self, directions: int | Sequence[int], by: float, positions: Positions = None) -> Intervention:
        """Multiplies the activations of directions."""
        return Intervention.of_directions(self._core, "scale", _list(directions), to=by, positions=positions)

    def reconstruct(
        self, without: int | Sequence[int] = (), set_to: float | None = None, positions: Positions = None
    ) -> Intervention:
        """Puts the reconstruction in the site's place, without some directions or, where `set_to` is given, with these set to it."""
        return Intervention.of_directions(self._core, "reconstruct", _list(without), to=set_to, positions=positions)

    def check_fit(self, model: Model) -> None:
        """That it fits a model.

        Raises:
            SaeError: if the model has no such hook point, or another width there.
        """
        self._core.check_fit(model._own)

    def _read(self, x: npt.ArrayLike) -> tuple[Floats, tuple[int, ...]]:
        array, d_in = as_floats(x, "what the SAE reads"), int(self.cfg.d_in)
        head = self.cfg.hook_head_index
        if head is None and array.ndim >= 2 and array.shape[-1] != d_in and array.shape[-2] * array.shape[-1] == d_in:
            # `hook_z` of all heads, side by side.
            array = array.reshape(*array.shape[:-2], d_in)
        return as_rows(array, "what the SAE reads", d_in)

    def __repr__(self) -> str:
        return repr(self._core)


def _list(directions: int | Sequence[int]) -> list[int]:
    return [int(d) for d in np.atleast_1d(np.asarray(directions, dtype=np.int64))]


def _sparse(dense: Floats) -> SparseActivations:
    active = dense != 0
    indptr = np.concatenate([[0], np.cumsum(active.sum(axis=1))]).astype(np.int64)
    return SparseActivations(indptr, np.nonzero(active)[1].astype(np.int32), dense[active], dense.shape[1])
