"""Indexes and verified edges by the tasks of a Ray cluster (`pip install 'directrix[ray]'`).

Each task does a shard of the work and opens what is named itself: names are to mean the same on every node, and folders are to be on a disk
that all nodes share. Before its first shard a process looks whether its version, its inputs and the bits that its machine gives are those
of the process that asks, and refuses if not. A task whose worker is killed is begun again, and goes on from what it had done; so does a later
call after one that failed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt

from . import _directrix, progress
from ._directrix import DirectrixError
from .analyses.edges import HowVerified, how_verified, Measure
from .index import Index, merge
from .opened import Opened, open
from .table import Table

#: A name of an input.
Name: TypeAlias = "str | PathLike[str]"
#: Arguments of `open`, and facts, as a task has them.
_Items: TypeAlias = "tuple[tuple[str, Any], ...]"

#: How often a task is begun again whose worker was killed.
_RETRIES = 3
#: Shards for each task that runs at a time, so that quick workers do more of them.
_SHARDS = 2
#: Indexes that are merged at once.
_MERGED = 32


def index(
    model: Name | None = None,
    saes: Sequence[Name] | None = None,
    corpus: Name | None = None,
    out: Name = "out/index",
    *,
    shards: int | None = None,
    num_cpus: int = 1,
    skip_first: int | None = None,
    include_last: bool | None = None,
    exclude: Sequence[str] = (),
    replace: bool = False,
    **opening: Any,
) -> Index:
    """What `dx.open(model, saes, corpus, …).index(out, …)` gives, with the same bits, by tasks of a Ray cluster.

    Args:
        out: The folder, on a disk that all nodes share. Shards are kept beside it, in `OUT.pieces`, until it is complete.
        shards: Into how many parts the corpus is cut; by default two for each task that runs at a time.
        num_cpus: Cores of a task, and its threads. Each process of a node holds the model once.
        skip_first, include_last, exclude, replace: As `Opened.index` has them.
        opening: As `dx.open` has it: `column`, `limit`, `bos` and the steps of processing.
    """
    ray = _started()
    names = _names(model, saes, corpus=None if corpus is None else fspath(corpus), **opening)
    opened = open(**dict(names))
    options: dict[str, Any] = {"skip_first": skip_first, "include_last": include_last, "exclude": list(exclude)}
    out = os.path.abspath(out)
    if os.path.isfile(os.path.join(out, "index.json")):
        try:
            return opened.index(out, **options)
        except DirectrixError:
            if not replace:
                raise
    facts = opened._core.facts()
    pieces = f"{out}.pieces"
    shards = _number_of_shards(ray, pieces, shards, num_cpus)
    about = {"facts": facts, "options": options, "opening": opening}
    _directrix.begin(pieces, json.dumps(about, default=int), shards)
    subject = (names, None, tuple(facts.items()))
    parts = [os.path.join(pieces, f"{number}-of-{shards}") for number in range(1, shards + 1)]
    work = [(subject, pieces, part, number + 1, shards, options) for number, part in enumerate(parts)]
    _done(ray, _index_shard, work, num_cpus, "index", pieces)
    level = 0
    while len(parts) > _MERGED:
        groups = [parts[first : first + _MERGED] for first in range(0, len(parts), _MERGED)]
        level += 1
        parts = [os.path.join(pieces, f"merged-{level}-{number}") for number in range(len(groups))]
        _done(ray, _merge_pieces, list(zip(groups, parts, strict=True)), num_cpus, "merge", pieces)
    made = merge(parts, out, replace=replace, model=opened.model)
    shutil.rmtree(pieces)
    return made


def verify(
    model: Name | None = None,
    saes: Sequence[Name] | None = None,
    index: Name = "out/index",
    edges: Table | npt.ArrayLike | None = None,
    *,
    units: Name | None = None,
    shards: int | None = None,
    num_cpus: int = 1,
    by: Measure = "causal",
    top: int = 1000,
    head: tuple[int, int] | None = None,
    steps: int = 10,
    sample_prompts: int = 16,
    least_prompts: int = 4,
    verify_prompts: int = 24,
    rate: float = 0.05,
    **opening: Any,
) -> Table:
    """What `dx.verify_edges` gives of a model, SAEs and an index that are named, with the same bits, by tasks of a Ray cluster.

    Args:
        index: The folder of the index, on a disk that all nodes share.
        units: The folder of what tasks have done, on such a disk too, until all is; by default `INDEX.units`.
        shards: Into how many parts the work is cut; by default two for each task that runs at a time.
        num_cpus: Cores of a task, and its threads. Each process of a node holds the model once.
        edges, by, top, head, steps, sample_prompts, least_prompts, verify_prompts, rate: As `dx.verify_edges` has them.
        opening: As `dx.open` has it: the steps of processing.
    """
    ray = _started()
    names, folder = _names(model, saes, **opening), os.path.abspath(index)
    opened = open(**dict(names))
    of = Index.open(folder, opened.model)
    sampled = (sample_prompts, least_prompts, verify_prompts)
    how = how_verified(opened.saes, edges, by, top, head, steps, *sampled, rate)
    kept = f"{folder}.units" if units is None else os.path.abspath(units)
    shards = _number_of_shards(ray, kept, shards, num_cpus)
    os.makedirs(kept, exist_ok=True)
    subject = (names, folder, tuple(opened._core.facts(of._core).items()))
    work = [(subject, kept, number, shards, how) for number in range(1, shards + 1)]
    core = None
    while core is None:
        # Edges are ranked by all before any is verified: a shard ends where it needs what others do at the same time.
        if any(_done(ray, _verify_shard, work, num_cpus, "verify", kept)):
            core = _verified(opened, of, kept, 1, shards, how)
    shutil.rmtree(kept)
    return Table(core)


def _started() -> Any:
    try:
        import ray
    except ImportError as error:
        raise DirectrixError("Ray is not installed; `pip install 'directrix[ray]'` installs it") from error
    if not ray.is_initialized():
        ray.init()
    return ray


def _names(model: Name | None, saes: Sequence[Name] | None, **opening: Any) -> _Items:
    named = {
        "model": None if model is None else fspath(model),
        "saes": None if saes is None else tuple(fspath(sae) for sae in saes),
    }
    return tuple((named | opening).items())


def _number_of_shards(ray: Any, folder: str, shards: int | None, num_cpus: int) -> int:
    """How many shards there are: as given, or of the run that goes on, or as the cluster has use for."""
    if num_cpus < 1:
        raise DirectrixError(f"`num_cpus` is {num_cpus}; give 1 or more")
    run = Path(folder, "run.json")
    if shards is not None:
        return int(shards)
    if run.is_file():
        return int(json.loads(run.read_text())["shards"])
    return _SHARDS * max(1, int(ray.cluster_resources().get("CPU", 1)) // num_cpus)


def _done(
    ray: Any, work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], num_cpus: int, step: str, kept: str
) -> list[Any]:
    """What comes of a task for each of `arguments`, in whichever order they end. When one fails the others are stopped."""
    threads = {"env_vars": {"RAYON_NUM_THREADS": str(num_cpus)}}
    task = ray.remote(num_cpus=num_cpus, max_retries=_RETRIES, runtime_env=threads)(work)
    total = len(arguments)
    numbers = {task.remote(*own): number for number, own in enumerate(arguments, 1)}
    found, left = [], list(numbers)
    try:
        while left:
            progress.tell(step, total - len(left), total, "shards")
            [ended], left = ray.wait(left)
            found.append(_of_task(ray, ended, f"{step} {numbers[ended]}/{total}", kept))
    except BaseException:
        for other in left:
            ray.cancel(other)
        # They hold their folders until they have ended.
        ray.wait(left, num_returns=len(left), timeout=10) if left else None
        raise
    finally:
        progress.tell(None)
    return found


def _of_task(ray: Any, ended: Any, name: str, kept: str) -> Any:
    try:
        return ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DirectrixError):
            raise type(error.cause)(f"{name}: {error.cause}") from None
        raise
    except ray.exceptions.RayError as error:
        raise DirectrixError(
            f"{name}: its worker was lost, also when it was begun again; what is done is in `{kept}`, and the same call goes on from there"
            f" ({type(error).__name__}: {str(error).strip()})"
        ) from error


# What tasks do, in processes of their own.

_Subject: TypeAlias = "tuple[_Items, str | None, _Items]"


def _index_shard(
    subject: _Subject, pieces: str, folder: str, number: int, of: int, options: Mapping[str, Any]
) -> None:
    opened, _ = _opened(*subject)
    _check_shared(pieces)
    opened._core.index_shard(folder, number, of, **options)


def _merge_pieces(folders: list[str], out: str) -> None:
    progress.show_progress(False)
    merge(folders, out, piece=True)


def _verify_shard(subject: _Subject, kept: str, number: int, of: int, how: HowVerified) -> bool:
    opened, index = _opened(*subject)
    _check_shared(kept)
    assert index is not None
    return _verified(opened, index, kept, number, of, how) is not None


def _verified(
    opened: Opened, index: Index, kept: str, number: int, of: int, how: HowVerified
) -> _directrix.CoreTable | None:
    saes = [sae._core for sae in opened.saes]
    return _directrix.verify_edges(opened.model._core, saes, index._core, *how, (number, of, kept))


@lru_cache(maxsize=1)
def _opened(names: _Items, index: str | None, facts: _Items) -> tuple[Opened, Index | None]:
    """What a process opens once, if it is what the one that asks has open."""
    progress.show_progress(False)
    opened = open(**dict(names))
    of = None if index is None else Index.open(index, opened.model)
    own, asked = opened._core.facts(None if of is None else of._core), dict(facts)
    for name in own.keys() | asked.keys():
        if own.get(name) != asked.get(name):
            raise DirectrixError(
                f"{name}: {own.get(name)} in process {os.getpid()} of {platform.node()}, and {asked.get(name)} where the work was"
                " asked for; give all nodes the same files, the same version of directrix and processors that give the same bits"
            )
    return opened, of


def _check_shared(folder: str) -> None:
    if not os.path.isdir(folder):
        raise DirectrixError(f"{platform.node()} has no `{folder}`; give a folder on a disk that all nodes share")
