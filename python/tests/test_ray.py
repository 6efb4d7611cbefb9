"""Shards, by any process and by tasks of Ray: the bits of one process, whoever does them and whoever is killed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import directrix as dx

LIMIT = 60
#: How edges are verified, here: those that two shards have work with.
HOW: dict[str, Any] = {"by": "causal", "top": 120, "sample_prompts": 2, "verify_prompts": 6, "least_prompts": 2}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def same_rows(one: dx.Table, other: dx.Table) -> None:
    assert (one.name, one.caption, one.columns) == (other.name, other.caption, other.columns)
    for name in one.columns:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), strict=True)


@pytest.fixture(scope="module")
def opened() -> dx.Opened:
    return dx.open(limit=LIMIT)


@pytest.fixture(scope="module")
def whole(opened: dx.Opened, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index that one process makes."""
    folder = tmp_path_factory.mktemp("whole") / "index"
    opened.index(folder)
    return folder


@pytest.fixture(scope="module")
def verified(opened: dx.Opened, whole: Path) -> dx.Table:
    """What one process verifies."""
    return dx.verify_edges(opened.model, opened.saes, dx.Index.open(whole, opened.model), **HOW)


def test_shards_are_merged_into_the_index_of_one_process(opened: dx.Opened, whole: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"shard-{number}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        opened.index_shard(part, number, 3)
    with pytest.raises(dx.IndexingError, match="--shard 2/3"):
        dx.merge([parts[0], parts[2]], tmp_path / "merged")
    with pytest.raises(dx.IndexingError, match="document 0 is in"):
        dx.merge([parts[0], *parts], tmp_path / "merged")
    opened.index_shard(tmp_path / "other", 2, 3, skip_first=0)
    with pytest.raises(dx.IndexingError, match="other positions count"):
        dx.merge([parts[0], tmp_path / "other", parts[2]], tmp_path / "merged")
    dx.merge(parts[1:], tmp_path / "joined", piece=True)
    made = dx.merge([tmp_path / "joined", parts[0]], tmp_path / "merged", model=opened.model)
    assert files(tmp_path / "merged") == files(whole)
    assert made.find('"the"').matches == dx.Index.open(whole, opened.model).find('"the"').matches
    for number in (0, 4):
        with pytest.raises(dx.DirectrixError, match=f"no shard {number} of 3"):
            opened.index_shard(tmp_path / "none", number, 3)


def test_shards_verify_what_one_process_does(opened: dx.Opened, whole: Path, verified: dx.Table, tmp_path: Path) -> None:
    index, units = dx.Index.open(whole, opened.model), tmp_path / "units"

    def shard(number: int, of: int = 2, **how: Any) -> dx.Table | None:
        return dx.verify_edges_shard(opened.model, opened.saes, index, units, number, of, **HOW | how)

    assert shard(1) is None and shard(1) is None
    assert shard(2) is None, "it verifies, and the first has only ranked"
    table = shard(1)
    assert table is not None
    same_rows(table, verified)
    again = shard(2)
    assert again is not None
    same_rows(again, verified)
    with pytest.raises(dx.CorpusError, match="another run.*top. was 120 and is 121"):
        shard(1, top=121)
    with pytest.raises(dx.CorpusError, match="shards. was 2 and is 3"):
        shard(1, 3)
    shutil.rmtree(units)
    given = dx.verify_edges_shard(opened.model, opened.saes, index, units, 1, 1, verified, verify_prompts=6)
    assert given is not None
    same_rows(given, dx.verify_edges(opened.model, opened.saes, index, verified, verify_prompts=6))


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for work in (dx.ray.index, dx.ray.verify):
        with pytest.raises(dx.DirectrixError, match=r"pip install 'directrix\[ray\]'"):
            work()


def test_the_package_does_not_import_ray() -> None:
    subprocess.run([sys.executable, "-c", "import directrix, sys; assert 'ray' not in sys.modules"], check=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def busy(work: str) -> list[int]:
    """The processes of this test's cluster that do such a task."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if (process / "cmdline").read_bytes().startswith(f"ray::{work}".encode()) and _is_below(int(process.name)):
                found.append(int(process.name))
        except (OSError, ValueError):
            pass
    return found


def _is_below(process: int) -> bool:
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return process == os.getpid()


def while_waiting(work: Callable[[], Any], meanwhile: Callable[[], bool]) -> Any:
    """What comes of `work`; `meanwhile` is called again and again until it is through or the work ends."""
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set() and not meanwhile():
            time.sleep(0.002)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        return work()
    finally:
        ended.set()
        thread.join()


def killing(work: str, when: Callable[[], bool], killed: list[int]) -> Callable[[], bool]:
    def look() -> bool:
        if when():
            for process in busy(work)[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
        return bool(killed)

    return look


def test_tasks_make_the_index_of_one_process(cluster: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "index"
    made = dx.ray.index(out=out, limit=LIMIT, shards=5)
    assert files(out) == files(whole) and not out.with_name("index.pieces").exists()
    assert len(made) == len(dx.Index.open(whole)) and made.find('"the"').matches > 0
    assert len(dx.ray.index(out=out, limit=LIMIT)) == len(made), "what is there is opened"
    with pytest.raises(dx.LabError, match="other positions count"):
        dx.ray.index(out=out, limit=LIMIT, skip_first=0)
    dx.ray.index(out=out, limit=LIMIT, skip_first=0, replace=True, num_cpus=2)
    assert files(out) != files(whole)
    monkeypatch.setattr(dx.ray, "_MERGED", 2)
    dx.ray.index(out=tmp_path / "by-levels", limit=LIMIT, shards=5)
    assert files(tmp_path / "by-levels") == files(whole)


def test_a_worker_that_is_killed_is_begun_again(cluster: Any, whole: Path, verified: dx.Table, tmp_path: Path) -> None:
    out, killed = tmp_path / "index", list[int]()
    while_waiting(
        lambda: dx.ray.index(out=out, limit=LIMIT, shards=2), killing("_index_shard", lambda: True, killed)
    )
    assert killed and files(out) == files(whole)
    units, killed = tmp_path / "units", []
    table = while_waiting(
        lambda: dx.ray.verify(index=out, units=units, shards=2, **HOW),
        killing("_verify_shard", lambda: len(list(units.glob("*/*"))) > 2, killed),
    )
    assert killed and not units.exists()
    same_rows(table, verified)


def test_what_was_done_before_a_failure_is_not_done_again(
    cluster: Any, whole: Path, verified: dx.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units, killed = tmp_path / "units", list[int]()

    def done() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in units.glob("*/*") if path.name.isdigit()}

    with monkeypatch.context() as patch:
        patch.setattr(dx.ray, "_RETRIES", 0)
        with pytest.raises(dx.DirectrixError, match=r"verify \d/2: its worker was lost.*goes on from there"):
            while_waiting(
                lambda: dx.ray.verify(index=whole, units=units, shards=2, **HOW),
                killing("_verify_shard", lambda: len(done()) > 3, killed),
            )
    before, seen = done(), dict[str, int]()
    assert len(before) > 3
    with pytest.raises(dx.DirectrixError, match="another run.*top. was 120 and is 121"):
        dx.ray.verify(index=whole, units=units, **HOW | {"top": 121})

    def look() -> bool:
        try:
            seen.update(done())
        except OSError:
            pass
        return False

    # As many shards as there were.
    same_rows(while_waiting(lambda: dx.ray.verify(index=whole, units=units, **HOW), look), verified)
    assert before.items() <= seen.items() and len(seen) > len(before)


def test_pieces_of_another_run_are_refused_by_name(cluster: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, pieces = tmp_path / "index", tmp_path / "index.pieces"

    def fails(*_: Any, **__: Any) -> None:
        raise dx.IndexingError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr(dx.ray, "merge", fails)
        with pytest.raises(dx.IndexingError, match="no disk"):
            dx.ray.index(out=out, limit=LIMIT, shards=3)
    made = {path: path.stat().st_mtime_ns for path in pieces.rglob("tokens.u32")}
    assert len(made) == 3
    with pytest.raises(dx.CorpusError, match="index.pieces.*skip_first. was null and is 0"):
        dx.ray.index(out=out, limit=LIMIT, skip_first=0)
    with pytest.raises(dx.CorpusError, match="shards. was 3 and is 4"):
        dx.ray.index(out=out, limit=LIMIT, shards=4)
    with pytest.raises(dx.CorpusError, match="was 60 and is 61|corpus. was"):
        dx.ray.index(out=out, limit=LIMIT + 1)
    dx.ray.index(out=out, limit=LIMIT)
    assert files(out) == files(whole) and not pieces.exists()


def test_a_process_with_other_inputs_is_refused_with_the_difference(
    cluster: Any, opened: dx.Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = dict(opened._core.facts())
    assert set(facts) == {"version", "bits", "model", "SAE sae-l0", "SAE sae-l1", "corpus"}

    class Other:
        _core = opened._core

        def facts(self) -> dict[str, str]:
            return facts | {"bits": "0"}

    other = Other()
    monkeypatch.setattr(dx.ray, "open", lambda **_: type("Opened", (), {"_core": other, "model": opened.model}))
    with pytest.raises(dx.DirectrixError, match=r"index \d/\d: bits: [0-9a-f]+ in process \d+ of .*, and 0 where"):
        dx.ray.index(out=tmp_path / "index", limit=LIMIT)
