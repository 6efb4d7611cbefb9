"""What is wrong is said, by an exception of its room; nothing leaks, and nothing ends the interpreter."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import directrix as dx
from conftest import tokens_of


@pytest.fixture(scope="module")
def sae() -> dx.Sae:
    return dx.Sae.from_pretrained("tinystories-2l/sae-l1")


def refused(message: str, error: type[Exception] = dx.DirectrixError) -> Any:
    return pytest.raises(error, match=message)


def test_exceptions_are_of_their_rooms() -> None:
    rooms = (dx.CorpusError, dx.ModelError, dx.SaeError, dx.IndexingError, dx.CircuitsError, dx.LabError, dx.StudyError)
    assert all(issubclass(room, dx.DirectrixError) for room in rooms)
    with refused("no folder `nowhere`", dx.LabError):
        dx.Model.from_pretrained("nowhere")
    with refused("nowhere", dx.LabError):
        dx.Sae.from_pretrained("nowhere")
    with refused("study", dx.StudyError):
        dx.Study.parse("modle = 1", "study.toml")
    with refused("nowhere"):
        dx.Index.open("nowhere")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[0, 4096]], "4096"),
        ([-1], "none below 0"),
        ([2**40], "so large"),
        ([1.5], "whole numbers"),
        (["a", 1], "whole numbers"),
        ([], "no positions|empty|0 positions|no prompt"),
        ([[]], "no positions|empty|0 positions"),
        (np.zeros((2, 2, 2), dtype=int), "shape"),
        (list(range(257)), "256"),
        ([[1, 2], 3], "rows beside single ids"),
        ([[[1, 2]]], "shape|one row"),
    ],
)
def test_token_ids_that_are_none(shipped: dx.Model, tokens: Any, message: str) -> None:
    with refused(message):
        shipped(tokens)


def test_texts_that_cannot_be_tokens(shipped: dx.Model) -> None:
    with refused("several|tokens", dx.CorpusError):
        shipped.to_single_token("several tokens of a text")
    with refused("no positions|empty|0 positions"):
        shipped(shipped.to_tokens("", prepend_bos=False))
    with pytest.raises(TypeError):
        shipped.to_tokens(3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.mlp.hook_pst", "did you mean blocks.1.mlp.hook_post"),
        ("blocks.7.mlp.hook_post", "did you mean blocks.[01].mlp.hook_post"),
        ("pots1", "no hook point"),
        ("", "no hook point"),
    ],
)
def test_misspelt_hook_points_are_told_what_is_like_them(shipped: dx.Model, name: str, message: str) -> None:
    with refused(message, dx.ModelError):
        shipped.run_with_cache("Once", names_filter=name)
    with refused(message, dx.ModelError):
        shipped.run_with_hooks("Once", fwd_hooks=[(name, lambda value, hook: value)])
    _, cache = shipped.run_with_cache("Once")
    with refused(message, dx.ModelError):
        cache[name]


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (lambda value, hook: value[:, :1], "shape"),
        (lambda value, hook: "text", "real numbers"),
        (lambda value, hook: value.astype(complex), "real numbers"),
        (lambda value, hook: value * np.nan, "finite"),
        (lambda value, hook: value + np.inf, "finite"),
        (lambda value, hook: object(), "real numbers"),
    ],
)
def test_functions_that_give_something_else(shipped: dx.Model, gives: Any, message: str) -> None:
    with refused(message):
        shipped.run_with_hooks("Once upon a time", fwd_hooks=[("post1", gives)])


def test_an_exception_of_a_function_comes_through_and_nothing_is_kept(shipped: dx.Model) -> None:
    class Own(Exception):
        pass

    class Kept:
        pass

    def attempt() -> weakref.ref[Kept]:
        def fails(value: Any, hook: Any, kept: Kept = Kept()) -> Any:
            raise Own("mine")

        gone = weakref.ref(fails.__defaults__[0])
        try:
            with shipped.hooks([("post1", fails)]):
                shipped("Once upon a time")
        except Own as error:
            assert str(error) == "mine"
            return gone
        pytest.fail("the exception was lost")

    expected = shipped("Once upon a time")
    gone = attempt()
    gc.collect()
    assert gone() is None
    assert np.array_equal(shipped("Once upon a time"), expected)


def test_hooks_that_are_none(shipped: dx.Model) -> None:
    for hook in (3, ("post1",), ("post1", 3), "post1"):
        with refused("is no hook"):
            shipped.run_with_hooks("Once", fwd_hooks=[hook])
    with refused("return_type"):
        shipped("Once", "logit")
    with refused("there is no loss"):
        shipped([0], "loss")


def test_hooks_are_not_left_out_in_silence(shipped: dx.Model, sae: dx.Sae) -> None:
    set_to = sae.set([1001], 30.0)
    with shipped.hooks([set_to]):
        assert shipped.generate("Once", 10, seed=3) == inside(shipped, set_to)
        with refused("outside of the `with`"):
            dx.logit_attribution(shipped, "Once upon a time")
        with refused("outside of that"):
            shipped.log_probs_each("Once", [set_to])
    with shipped.hooks([("post1", lambda value, hook: value)]), refused("functions do not change"):
        shipped.generate("Once", 3)
    assert len(dx.logit_attribution(shipped, "Once upon a time")) > 0


def inside(model: dx.Model, intervention: dx.Intervention) -> str:
    with ThreadPoolExecutor(1) as pool:  # Where the hooks of this thread are not.
        made: str = pool.submit(model.generate, "Once", 10, seed=3, interventions=[intervention]).result()
    return made


def test_interventions_that_cannot_be(shipped: dx.Model, sae: dx.Sae) -> None:
    make = dx.Intervention.at_hook
    for intervention, message in (
        (lambda: make("post1", "zero"), "hook"),
        (lambda: make("blocks.1.mlp.hook_post", "nothing"), "there are zero, set"),
        (lambda: make("blocks.1.mlp.hook_post", "set"), "needs a row"),
        (lambda: make("blocks.1.mlp.hook_post", "scale"), "needs a factor"),
        (lambda: make("blocks.1.mlp.hook_post", "set", rows=np.zeros((1, 3), np.float32)), "3 numbers|of 3"),
        (lambda: make("blocks.1.mlp.hook_post", "zero", positions=99), "99"),
        (lambda: make("blocks.1.mlp.hook_post", "zero", positions=-99), "99"),
        (lambda: make("blocks.1.mlp.hook_post", "zero", head=0), "head"),
        (lambda: make("blocks.1.mlp.hook_post", "scale", by=float("nan")), "finite"),
        (lambda: make("blocks.9.mlp.hook_post", "zero"), "9"),
        (lambda: sae.ablate(99999), "99999"),
        (lambda: sae.set(3, float("nan")), "finite|number"),
        (lambda: sae.ablate(3, positions=99), "99"),
    ):
        with refused(message):
            shipped.run_with_hooks("Once upon a time", fwd_hooks=[intervention()])
    with pytest.raises(OverflowError):
        sae.ablate(-1)


def test_arrays_that_do_not_fit_an_sae(sae: dx.Sae, shipped: dx.Model, folder: Path) -> None:
    width, n = sae.cfg.d_in, sae.cfg.d_sae
    for given, message in (
        (np.zeros((2, width + 1), np.float32), "last axis"),
        (np.zeros((), np.float32), "last axis"),
        (np.full((1, width), "a"), "real numbers"),
        (np.zeros((1, width), complex), "real numbers"),
        (np.full((1, width), np.nan, np.float32), "NaN|finite"),
        (np.full((1, width), np.inf), "inf|finite"),
    ):
        with refused(message):
            sae.encode(given)
    with refused("last axis"):
        sae.decode(np.zeros((2, n + 1), np.float32))
    with refused("finite"):
        sae.decode(np.full((1, n), np.nan, np.float32))
    assert sae.encode(np.zeros((0, width), np.float32)).shape == (0, n)
    other = dx.Sae.from_pretrained(folder / "sae-l0")
    with refused("hook_post", dx.SaeError):
        shipped.run_with_hooks("Once", fwd_hooks=[other.ablate(0)])
    with refused("hook_post", dx.SaeError):
        other.check_fit(shipped)


def test_parts_that_are_no_sparse_activations() -> None:
    make = lambda indptr, indices, data: dx.SparseActivations(np.array(indptr, np.int64), np.array(indices, np.int32), np.array(data, np.float32), 4)
    for parts in (([0, 2], [0, 1], [1.0]), ([1, 1], [], []), ([0, 2], [1, 0], [1, 1]), ([0, 1], [4], [1]), ([0, 1], [-1], [1]), ([0, 5, 1], [0], [1]), ([], [], []), ([0, 1], [0], [np.nan])):
        with refused("no sparse activations"):
            make(*parts)
    assert make([0, 1], [3], [2]).to_dense().tolist() == [[0, 0, 0, 2]]


def test_prompts_that_do_not_add_up(index: dx.Index) -> None:
    with refused("lengths"):
        dx.Prompts(np.zeros(3, np.uint32), [1, 1])
    with refused("no prompt"):
        dx.Prompts(np.zeros(3, np.uint32), [3]).select([1])
    with pytest.raises(IndexError):
        dx.Prompts(np.zeros(3, np.uint32), [3])[1]
    for wrong, message in (
        (lambda: index.prompt(10**6), "no prompt"),
        (lambda: index.top_examples(10**6), "no direction"),
        (lambda: index.maxima(7), "no SAE"),
        (lambda: index.maxima("sae-l9"), "no SAE `sae-l9`"),
        (lambda: index.browse([10**6]), "directions are from"),
        (lambda: index.find("("), ""),
    ):
        with refused(message):
            wrong()


def test_four_threads_use_one_model(shipped: dx.Model, sae: dx.Sae) -> None:
    tokens = tokens_of(shipped, 8, 40, 1)
    expected = shipped(tokens)

    def work(i: int) -> bool:
        changed = shipped.run_with_hooks(tokens, fwd_hooks=[sae.ablate(i)])
        with shipped.hooks([("post1", lambda value, hook: value * 0)]):
            zeroed = shipped(tokens)
        weights = shipped.W_out[i % 2].sum()
        return np.array_equal(shipped(tokens), expected) and not np.array_equal(zeroed, expected) and changed.shape == expected.shape and np.isfinite(weights)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(12)))


def run_python(code: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_is_told_so_and_does_not_hang() -> None:
    process = run_python(
        """
        import os, directrix as dx
        model = dx.Model.from_pretrained()
        model("Once")
        child = os.fork()
        if child == 0:
            try:
                model("Once")
            except dx.DirectrixError as error:
                print(error, flush=True)
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert model("Once").shape[1] == 2
        """
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "was forked" in out and "spawn" in out


def test_an_interrupt_ends_long_work_within_a_second_and_loses_nothing(tmp_path: Path) -> None:
    code = f"""
        import directrix as dx, sys, time
        dx.show_progress(False)
        opened = dx.open()
        print("begun", flush=True)
        try:
            opened.index({str(tmp_path / "index")!r})
        except KeyboardInterrupt:
            print("ended", time.time(), flush=True)
            raise
        """
    process = run_python(code)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    checkpoint = tmp_path / "index.partial" / "checkpoint.json"
    while not (checkpoint.is_file() and re.search(r'"runs": *[1-9]', checkpoint.read_text())):
        assert process.poll() is None
        time.sleep(0.01)
    sent = time.time()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in err, (out, err)
    assert float(out.split()[1]) - sent < 1.0
    assert (tmp_path / "index.partial").is_dir()
    index = dx.open().index(tmp_path / "index")
    assert len(index) == 2000 and not (tmp_path / "index.partial").exists()


def test_progress_is_told_and_its_failure_is_raised(tmp_path: Path) -> None:
    from directrix import _directrix

    seen: list[Any] = []
    try:
        _directrix.set_progress(lambda *told: seen.append(told))
        dx.open().index(tmp_path / "index")
        assert {step for _, step, *_ in seen} >= {"index", None} and seen[-1][1] is None

        def fails(*told: Any) -> None:
            raise RuntimeError("told")

        _directrix.set_progress(fails)
        with pytest.raises(RuntimeError, match="told"):
            dx.open().index(tmp_path / "other")
    finally:
        dx.show_progress()
