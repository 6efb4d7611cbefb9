"""Analyses: against the golden fixtures where these hold them, and by what must be true of them on the shipped model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from conftest import FAMILIES, REPOSITORY, close, fixture_folder

from directrix import analyses as dxa
from directrix._directrix import DirectrixError, Prompts
from directrix.model import Model
from directrix.opened import Opened
from directrix.opened import open as open_all
from directrix.sae import Sae

safetensors = pytest.importorskip("safetensors.numpy")

#: What `bench/peers/analyses.py` computed with plain formulas.
PLAIN = REPOSITORY / "crates" / "circuits" / "tests" / "fixtures"


class Golden:
    """A fixture, and what the reference procedure made of it."""

    def __init__(self, family: str) -> None:
        folder = fixture_folder(family)
        self.family = family
        self.json: dict[str, Any] = json.loads((folder / "expected.json").read_text())
        self.tensors = safetensors.load_file(folder / "expected.safetensors")
        self.model = Model.from_pretrained(str(folder))
        self.prompts = self.rows(self.json["prompts"])
        self.answer = int(self.json["answer"])
        self.saes = {f"l{layer}": Sae.from_pretrained(str(folder / f"sae-l{layer}")) for layer in self.json["layers"]}
        plain = PLAIN / f"{family}-tiny.json"
        self.plain = json.loads(plain.read_text()) if plain.exists() else None

    @staticmethod
    def rows(rows: list[list[int]]) -> Prompts:
        return Prompts(np.concatenate([np.asarray(row, dtype=np.uint32) for row in rows]), [len(row) for row in rows])

    def first(self, n: int) -> Prompts:
        return self.prompts.select(list(range(n)))

    def directions(self, key: str) -> list[int]:
        return [int(d) for d in self.json[f"{key}.dirs"]]


@pytest.fixture(scope="module", params=FAMILIES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def ablated(table: Any, before: str, after: str) -> np.ndarray:
    """Both columns; where no direction is active nothing changes."""
    unchanged, changed = np.asarray(table[before]), np.asarray(table[after])
    return np.stack([unchanged, np.where(np.isnan(changed), unchanged, changed)], axis=1)


# Against the fixtures


def test_ablations_agree(golden: Golden) -> None:
    model = golden.model
    for key, sae in golden.saes.items():
        directions = golden.directions(key)
        for direction, at, everywhere in zip(
            directions, golden.json[f"{key}.ablation_at"], golden.json[f"{key}.ablation_all"], strict=True
        ):
            found = dxa.ablate(model, sae, golden.prompts, direction).prompts
            close(-ablated(found, "log_prob", "log_prob_ablated"), at)
            found = dxa.ablate(model, sae, golden.prompts, direction, everywhere=True).prompts
            close(ablated(found, "loss", "loss_ablated"), everywhere)
        found = dxa.ablate(model, sae, golden.prompts, directions[:3]).prompts
        close(-ablated(found, "log_prob", "log_prob_ablated"), golden.json[f"{key}.ablation_set"])

        effects = dxa.answer_effects(model, sae.ablate(directions[:3]), golden.prompts).effects
        columns = ["log_prob", "logit", "rank", "log_prob_changed", "logit_changed", "rank_changed"]
        close(
            np.stack([np.asarray(effects[name], dtype=np.float64) for name in columns], axis=1).reshape(-1, 2, 3),
            golden.json[f"{key}.token_rank"],
        )


def test_directions_ablated_each_alone_agree(golden: Golden) -> None:
    if golden.plain is None:
        pytest.skip(f"{PLAIN} is not there")
    for number, sae in enumerate(golden.saes.values()):
        each = golden.plain["saes"][number]["each"]
        directions = each["directions"]
        kinds: dict[str, dict[str, Any]] = {
            "before_answer": {},
            "position": {"position": 3},
            "reconstructed": {"reconstruct": True},
            "everywhere": {"everywhere": True},
        }
        for kind, how in kinds.items():
            found = dxa.ablate_each(golden.model, sae, golden.prompts, directions, only_active=False, **how)
            for column, name in [("n", "n"), ("mean", "loss_increase"), ("se", "se"), ("half_width", "half_width")]:
                close(found[name], [row[column] for row in each[kind]])
        singles = golden.plain["saes"][number]["single_ablations"]
        chosen = [row["direction"] for row in singles]
        found = dxa.single_ablations(golden.model, sae, golden.prompts, chosen, above=0.5, limit=3)
        close(found["loss_increase"], [row["mean"] for row in singles])
        close(found["n"], [row["n"] for row in singles])
        acts = dxa.answer_activations(golden.model, sae, golden.prompts)
        again = dxa.single_ablations(golden.model, sae, golden.prompts, chosen, acts=acts, above=0.5, limit=3)
        np.testing.assert_array_equal(found["loss_increase"], again["loss_increase"])


def test_losses_of_the_site_agree(golden: Golden) -> None:
    for key, sae in golden.saes.items():
        directions = golden.directions(key)[:2]
        found = dxa.answer_losses(golden.model, sae, golden.prompts, directions, mean_over=golden.first(4))
        for kind in ("original", "mean", "zero", "directions", "sae"):
            close(found.losses[kind], golden.tensors[f"{key}.loss.{kind}"])
        close(found.shares["share"][0], golden.json[f"{key}.loss_recovered"])
        mean = dxa.mean_site(golden.model, sae, golden.first(4))
        again = dxa.answer_losses(golden.model, sae, golden.prompts, directions, mean=mean)
        np.testing.assert_array_equal(again.losses["mean"], found.losses["mean"])


def test_active_directions_and_their_coactivation_agree(golden: Golden) -> None:
    for key, sae in golden.saes.items():
        acts = dxa.answer_activations(golden.model, sae, golden.prompts)
        maxima = golden.tensors[f"{key}.max_activations"].max(axis=0)
        rows = dxa.active_directions(acts, maxima)
        close(rows["mean_activation"], golden.tensors[f"{key}.top.values"])
        close(rows["prompts"], golden.tensors[f"{key}.top.counts"][rows["direction"]])
        assert list(rows["direction"][:5]) == golden.directions(key)
        close(dxa.coactivation(acts, rows["direction"][:5]), golden.tensors[f"{key}.correlation"])


def test_attributions_agree(golden: Golden) -> None:
    found = dxa.logit_attribution(golden.model, golden.prompts)
    assert found["component"] == golden.json["dla_labels"]
    close(found["mean"], golden.tensors["dla"])
    for key, sae in golden.saes.items():
        found = dxa.remainder(golden.model, sae, golden.prompts, answer=golden.answer)
        close(found["mean"], golden.tensors[f"{key}.remainder_dla"])
        # The reference's labels and components for a parallel block do not describe what its MLP reads.
        if golden.family == "neox":
            continue
        close(dxa.mean_decomposition(golden.model, sae, golden.first(4)), golden.tensors[f"{key}.mean_mlp_decomposition"])
        direction = golden.directions(key)[0]
        for inactive in ("zero", "mean"):
            found = dxa.attribution_to_direction(
                golden.model, sae, golden.prompts, direction, inactive=inactive, mean_over=golden.first(4)
            )
            assert found["component"] == golden.json[f"{key}.dfa_labels"]
            close(found["mean"], golden.tensors[f"{key}.dfa_{inactive}"])


def test_boosts_agree(golden: Golden) -> None:
    for key, sae in golden.saes.items():
        direction = golden.directions(key)[0]
        found = dxa.log_prob_boosts(golden.model, sae, golden.prompts, direction)
        close(found["on"], golden.tensors[f"{key}.logprob_on"])
        close(found["off"], golden.tensors[f"{key}.logprob_off"])
        close(found["boost"], np.asarray(found["on"]) - np.asarray(found["off"]))
        boosts = dxa.logit_boosts(golden.model, sae, direction)
        close(boosts["boost"], golden.tensors[f"{key}.logit_boost"])
        np.testing.assert_array_equal(boosts["token"], np.arange(len(boosts)))
        # The attribution of a direction is its boost of that token.
        rows = dxa.direction_attribution(golden.model, sae, golden.prompts, answer=golden.answer)
        close(rows["attribution"][direction], boosts["boost"][golden.answer])
        close(rows["scaled"], np.asarray(rows["attribution"]) * np.asarray(rows["mean_activation"]))
        ends = dxa.logit_boost_ends(golden.model, sae, k=3)
        own = np.asarray(ends["direction"]) == direction
        order = np.argsort(np.asarray(boosts["boost"]))
        np.testing.assert_array_equal(np.asarray(ends["token"])[own], [*order[::-1][:3], *order[:3]])


def test_cosine_pairs_agree(golden: Golden) -> None:
    first, second = golden.saes.values()
    for key, lower_triangle in [("cosine", True), ("cosine_all", False)]:
        found = dxa.cosine_pairs(golden.model, first, second, k=20, lower_triangle=lower_triangle)
        close(found["cosine"], golden.tensors[f"{key}.values"])
        assert list(zip(found["first"], found["second"], strict=True)) == [tuple(p) for p in golden.json[f"{key}.pairs"]]


def test_cooccurrence_agrees(golden: Golden) -> None:
    first, second = golden.saes.values()
    found = dxa.cooccurrence(golden.model, first, second, golden.first(2), above=0.5)
    assert (np.diff(found["difference"]) >= 0).all()
    columns = ["prompt", "position", "first", "second", "ablated", "activation"]
    rows = sorted(zip(*(found[name] for name in columns), strict=True), key=lambda row: row[:3])
    close(rows, golden.json["cooccurrence"])
    with pytest.raises(DirectrixError, match="give the earlier SAE first"):
        dxa.cooccurrence(golden.model, second, first, golden.first(2))


# On the shipped model


@pytest.fixture(scope="module")
def opened() -> Opened:
    return open_all(limit=200)


@pytest.fixture(scope="module")
def index(opened: Opened, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return opened.index(tmp_path_factory.mktemp("analyses") / "index")


@pytest.fixture(scope="module")
def quotes(opened: Opened) -> dxa.BehaviourPrompts:
    return dxa.behaviour_prompts(opened, 'said, "', '."', limit=24)


@pytest.fixture(scope="module")
def edge_table(opened: Opened, index: Any) -> Any:
    return dxa.edges(opened.model, opened.saes, index, by="correlation", top=5)


TEXT = 'Tim said, "I like it."'


def test_tokens_of_the_corpus(opened: Opened, index: Any) -> None:
    counts = dxa.token_occurrences(index)
    assert (np.diff(counts["count"]) <= 0).all() and counts["token_text"][0] == opened.model.to_single_str_token(int(counts["token"][0]))
    assert int(np.sum(counts["count"])) == index.about["positions"]
    top = dxa.top_tokens(index, "sae-l1")
    close(top["share"], np.asarray(top["token_occurrences"]) / np.asarray(top["occurrences"]))
    before = dxa.before_tokens(index, " he", " she", sae="sae-l1")
    close(
        np.asarray(before.directions["before_one"]) - np.asarray(before.directions["before_other"]),
        before.directions["difference"],
    )
    with pytest.raises(DirectrixError, match="both tokens are"):
        dxa.before_tokens(index, " he", " he")


def test_behaviour_prompts_end_with_the_answer(opened: Opened, quotes: dxa.BehaviourPrompts) -> None:
    assert len(quotes.prompts) == 24 and all(int(quotes.prompts[i][-1]) == quotes.answer for i in range(24))
    with pytest.raises(DirectrixError, match="none of"):
        dxa.behaviour_prompts(opened, "no such text anywhere", '."')


def test_activity_is_what_the_activations_say(opened: Opened, quotes: dxa.BehaviourPrompts, index: Any) -> None:
    sae = opened.saes[1]
    acts = dxa.answer_activations(opened.model, sae, quotes.prompts).to_dense()
    directions = np.argsort(-acts.mean(axis=0))[:4]
    found = dxa.activity(opened.model, sae, quotes.prompts, directions)
    pairs = {(prompt, int(d)) for prompt in range(len(acts)) for d in directions if acts[prompt, d] > 0}
    assert set(zip(found["prompt"], found["direction"], strict=True)) == pairs
    everywhere = dxa.activity(opened.model, sae, quotes.prompts, directions, everywhere=True)
    assert pairs <= set(zip(everywhere["prompt"], everywhere["direction"], strict=True))

    listed = dxa.explain(opened.model, opened.saes, quotes.prompts.select([0]), top=3, index=index)
    last = len(quotes.prompts[0]) - 2
    rows = [i for i in range(len(listed)) if listed["position"][i] == last and listed["sae"][i] == "sae-l1"]
    strongest = np.argsort(-acts[0], kind="stable")[:3]
    assert [listed["direction"][i] for i in rows] == list(strongest)
    close([listed["activation"][i] for i in rows], acts[0][strongest])
    shares = acts[0][strongest] / index.maxima("sae-l1")[strongest]
    close([listed["of_maximum"][i] for i in rows], shares)


def test_ablation_leaves_inactive_prompts_and_has_controls(opened: Opened, quotes: dxa.BehaviourPrompts, index: Any) -> None:
    model, sae = opened.model, opened.saes[1]
    acts = dxa.answer_activations(model, sae, quotes.prompts)
    active = dxa.active_directions(acts, index.maxima("sae-l1"), top=3)
    directions = active["direction"]
    found = dxa.ablate(model, sae, quotes.prompts, directions, index=index)
    is_active = np.asarray(found.prompts["active"]) == 1
    assert (np.isnan(found.prompts["loss_increase"]) == ~is_active).all() and is_active.any() and not is_active.all()
    close(found.overall["loss_increase"][0], np.nanmean(found.prompts["loss_increase"]))
    assert found.overall["n"][0] == is_active.sum()
    assert {"random_rows", "random_directions", "p", "q"} <= set(found.overall.columns)
    one_by_one = dxa.ablate(model, sae, quotes.prompts, directions, position=[len(p) - 2 for p in _rows(quotes.prompts)])
    np.testing.assert_array_equal(one_by_one.prompts["log_prob_ablated"], found.prompts["log_prob_ablated"])

    each = dxa.ablate_each(model, sae, quotes.prompts, directions, index=index, index_sae="sae-l1")
    alone = dxa.ablate(model, sae, quotes.prompts, int(directions[0])).overall
    close(each["loss_increase"][0], alone["loss_increase"][0])
    singles = dxa.single_ablations(model, sae, quotes.prompts, directions, above=0.0, index=index)
    close(singles["loss_increase"], each["loss_increase"])
    close(singles["random_rows"], each["random_rows"])

    effects = dxa.answer_effects(model, sae.ablate(directions), quotes.prompts, index=index)
    assert len(effects.effects) == len(effects.random_rows) == len(effects.random_directions) == len(quotes.prompts)
    close(ablated(found.prompts, "log_prob", "log_prob_ablated")[:, 1], effects.effects["log_prob_changed"])
    set_to = dxa.answer_effects(model, sae.set(int(directions[0]), 3.0), quotes.prompts)
    assert len(set_to.random_rows) == 0 and (np.asarray(set_to.effects["log_prob"]) != set_to.effects["log_prob_changed"]).any()
    with pytest.raises(DirectrixError, match="before the answer"):
        dxa.answer_effects(model, sae.ablate(3, positions=2), quotes.prompts)


def _rows(prompts: Prompts) -> list[Any]:
    return [prompts[i] for i in range(len(prompts))]


def test_all_directions_kept_keep_what_their_span_is(opened: Opened, quotes: dxa.BehaviourPrompts, index: Any) -> None:
    model, sae = opened.model, opened.saes[1]
    mean = dxa.mean_site(model, sae, quotes.prompts)
    rows = dxa.keep_directions(model, sae, quotes.prompts, range(600), sizes=(0, 600), mean=mean, index=index)
    assert list(rows["rest"]) == ["mean", "mean", "zero", "zero"] and rows["dimensions"][0] == 0
    # The span of so many rows is the whole site: nothing is lost.
    assert rows["dimensions"][1] == sae.cfg.d_out and abs(rows["loss_increase"][1]) < 1e-3
    losses = dxa.answer_losses(model, sae, quotes.prompts, [0], mean=mean).losses
    close(rows["loss_increase"][0], np.mean(np.asarray(losses["mean"]) - np.asarray(losses["original"])))
    close(rows["loss_increase"][2], np.mean(np.asarray(losses["zero"]) - np.asarray(losses["original"])))


def test_parts_of_the_model(opened: Opened, quotes: dxa.BehaviourPrompts) -> None:
    model, sae = opened.model, opened.saes[1]
    found = dxa.mean_ablations(model, sae, quotes.prompts.select([0, 1, 2]), [5, 7])
    cfg = model.cfg
    assert len(found.losses) == cfg.n_layers * (cfg.n_heads + 2)
    # Everything before the second MLP comes before what the second SAE reads.
    assert len(found.activations) == 2 * (len(found.losses) - 1)

    pair = ("Tim said that he", "Tim said that she", (" was", " is"))
    patched = dxa.patching(model, [pair])
    logits = [np.asarray(model(text))[0, -1] for text in pair[:2]]
    was, is_ = model.to_single_token(" was"), model.to_single_token(" is")
    close(patched.pairs["difference_clean"], [logits[0][was] - logits[0][is_]])
    close(patched.pairs["difference_corrupted"], [logits[1][was] - logits[1][is_]])
    parts = {name: i for i, name in enumerate(patched.parts["component"])}
    # The stream before the first block carries everything.
    close(patched.parts["share"][parts["0_resid_pre"]], 1.0)
    close(
        np.asarray(patched.parts["direct_effect"]) + np.asarray(patched.parts["indirect_effect"]),
        patched.parts["total_effect"],
    )
    assert len(dxa.patching(model, [pair], each_position=False).positions) == 0
    with pytest.raises(DirectrixError, match="no pairs"):
        dxa.patching(model, [])
    with pytest.raises(DirectrixError, match="pair 1"):
        dxa.patching(model, [("Tim", "Tim said", (" was", " is"))])


def test_components_and_directions_add_up_to_a_logit(opened: Opened) -> None:
    model = opened.model
    found = dxa.direct_attribution(model, opened.saes, TEXT)
    tokens = model.to_prompts(TEXT)
    token = int(tokens[0][-1])
    bias = float(model.weight("unembed.b_U")[token])
    close(np.sum(found.components["value"]) + bias, found.logit)
    close(found.components["value"], dxa.logit_attribution(model, TEXT)["mean"])
    again = dxa.direct_attribution(model, [], TEXT, position=-2, token=token)
    assert again.logit == found.logit and len(again.directions) == 0
    parts = dxa.remainder(model, opened.saes[1], TEXT)
    own = np.asarray(found.directions["sae"]) == "sae-l1"
    # The reconstruction is the directions and the decoder's bias.
    close(np.sum(np.asarray(parts["mean"]) * [1, -1, -1]), 0.0)
    assert own.any()
    with pytest.raises(DirectrixError, match="no position"):
        dxa.direct_attribution(model, opened.saes, TEXT, position=-1)


def test_pairs_of_directions(opened: Opened, index: Any) -> None:
    model, (first, second) = opened.model, opened.saes
    pairs = dxa.cosine_pairs(model, first, second, k=3)
    effects = dxa.pair_effects(model, first, second, index, pairs, prompts=10)
    by_default = dxa.pair_effects(model, first, second, index, k=3, prompts=10)
    array = np.stack([pairs["first"], pairs["second"]], axis=1)
    by_numbers = dxa.pair_effects(model, first, second, index, array, prompts=10, index_sae=0)
    for table in (by_default, by_numbers):
        np.testing.assert_array_equal(table["activation_change"], effects["activation_change"])
        close(table["cosine"], effects["cosine"], 1e-5)
    with pytest.raises(DirectrixError, match="SAE 1 of the index is"):
        dxa.pair_effects(model, first, second, index, pairs, index_sae=1)

    alike = dxa.similarities(second, k=5)
    rows = second.W_dec / np.linalg.norm(second.W_dec, axis=1, keepdims=True)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    own = np.asarray(alike.nearest["between"]) == "decoder and decoder"
    close(np.asarray(alike.nearest["nearest"])[own], cosines.max(axis=1))
    assert np.sum(alike.counts["pairs"]) == np.sum(alike.summary["pairs"])

    same = dxa.match_directions(second, second, index=index)
    np.testing.assert_array_equal(np.sort(same.pairs["in_first"]), np.sort(same.pairs["in_second"]))
    assert len(same.pairs) == second.cfg.d_sae and len(same.unmatched) == 0 and "correlation" in same.pairs
    with pytest.raises(DirectrixError, match="of one site"):
        dxa.match_directions(first, second)
    with pytest.raises(DirectrixError, match="over an index"):
        dxa.match_directions(second, second, by="activations")


def test_cooccurring_pairs_are_means_of_their_rows(opened: Opened, index: Any) -> None:
    model, (first, second) = opened.model, opened.saes
    prompts = index.prompts(range(6))
    rows = dxa.cooccurrence(model, first, second, prompts, above=2.0)
    pairs = dxa.cooccurrence_pairs(model, first, second, prompts, above=2.0, index=index)
    ends = np.stack([rows["first"], rows["second"]], axis=1)
    own = (ends == [pairs["first"][0], pairs["second"][0]]).all(axis=1)
    close(pairs["difference"][0], np.mean(np.asarray(rows["difference"])[own]))
    assert int(np.sum(pairs["n"])) == len(rows) and np.isfinite(pairs["random_rows"][0])
    with pytest.raises(DirectrixError, match="lower"):
        dxa.cooccurrence(model, first, second, prompts, above=1e6)


@pytest.mark.parametrize("by", ["cosine", "virtual-weight", "mutual-information", "conditional", "correlation"])
def test_edges_are_ranked_by_every_measure(opened: Opened, index: Any, by: Any) -> None:
    found = dxa.edges(opened.model, opened.saes, index, by=by, top=7)
    values = np.asarray(found[by.replace("-", "_")])
    strength = np.abs(values) if by in ("cosine", "virtual-weight") else values
    assert len(found) == 7 and (np.diff(strength) <= 1e-9).all()
    assert set(found["from"]) == {"sae-l0"} and set(found["to"]) == {"sae-l1"}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Opened, Any]:
    """A tiny model and a few prompts, for what looks at all pairs of directions."""
    folder, fixture = tmp_path_factory.mktemp("few"), fixture_folder("neo")
    rows = json.loads((fixture / "expected.json").read_text())["prompts"]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
    saes = [str(fixture / name) for name in ("sae-l0", "sae-l1")]
    opened = open_all(str(fixture), saes, str(folder / "prompts.jsonl"), column="tokens")
    return opened, opened.index(folder / "index", skip_first=0)


@pytest.mark.parametrize("by", ["attribution", "frozen-attribution", "integrated-attribution", "causal"])
def test_edges_are_ranked_by_gradients_and_by_ablation(few: tuple[Opened, Any], by: Any) -> None:
    opened, index = few
    found = dxa.edges(opened.model, opened.saes, index, by=by, top=9, steps=2, least_prompts=2)
    strength = np.abs(found[by.replace("-", "_")])
    assert len(found) == 9 and (np.diff(strength) <= 1e-9).all() and (np.asarray(found["n"]) >= 2).all()
    with pytest.raises(DirectrixError, match="index more prompts"):
        dxa.edges(opened.model, opened.saes, index, by=by, least_prompts=1000)


def test_rankings_of_edges_are_compared_with_what_ablation_does(few: tuple[Opened, Any]) -> None:
    opened, index = few
    found = dxa.edge_agreement(opened.model, *opened.saes, index, sample_prompts=2, least_prompts=2)
    assert found.measures["measure"][-1] == "causal" and len(found.measures) == 8
    # A ranking agrees with itself.
    close(found.measures["rank_correlation"][-1], 1.0)
    causal = dxa.edges(opened.model, opened.saes, index, by="causal", top=5, sample_prompts=2, least_prompts=2)
    own = np.asarray(found.best["measure"]) == "causal"
    close(np.asarray(found.best["value"])[own][:5], causal["causal"])
    assert {"cosine", "causal", "frozen_attribution"} <= set(found.compared.columns)
    assert set(np.unique(found.verified["verified"])) <= {0, 1}


def test_edges_by_weights_are_their_products(opened: Opened) -> None:
    model, (first, second) = opened.model, opened.saes
    cosine = dxa.edges(model, [first, second], by="cosine", top=10)
    pairs = dxa.cosine_pairs(model, first, second, k=10)
    positive = np.asarray(cosine["cosine"]) > 0
    close(np.asarray(cosine["cosine"])[positive], np.asarray(pairs["cosine"])[: positive.sum()])
    through = dxa.edges(model, [first, second], by="virtual-weight", head=(1, 2), top=3)
    edge = int(through["first"][0]), int(through["second"][0])
    writes = first.W_dec[edge[0]] @ model.weight("blocks.0.mlp.W_out")
    values = writes @ model.weight("blocks.1.attn.W_V")[2] @ model.weight("blocks.1.attn.W_O")[2]
    reads = model.weight("blocks.1.mlp.W_in") @ second.W_enc[:, edge[1]]
    close(through["virtual_weight"][0], values @ (reads - reads.mean()), 1e-3)


def test_edges_are_verified_however_they_are_given(opened: Opened, index: Any, edge_table: Any) -> None:
    model, saes = opened.model, opened.saes
    of_table = dxa.verify_edges(model, saes, index, edge_table)
    ranked = dxa.verify_edges(model, saes, index, by="correlation", top=5)
    pairs = np.stack([edge_table["first"], edge_table["second"]], axis=1)
    of_pairs = dxa.verify_edges(model, saes, index, pairs)
    for table in (ranked, of_pairs):
        np.testing.assert_array_equal(table["change"], of_table["change"])
        np.testing.assert_array_equal(table["verified"], of_table["verified"])
    assert "correlation" in of_table and "correlation" not in of_pairs and "causal" not in of_pairs
    assert (np.asarray(of_table["verified"]) == (np.asarray(of_table["q"]) <= 0.05)).all()


def test_conjunctions_of_a_direction(opened: Opened, index: Any, edge_table: Any) -> None:
    model, (first, second) = opened.model, opened.saes
    direction = int(edge_table["second"][0])
    up = dxa.upstream(model, first, second, index, direction)
    taken = np.asarray(up["lost"]) * np.asarray(up["fires"])
    assert (np.diff(taken) <= 1e-9).all()
    rows = dxa.conjunctions(model, first, second, index, direction, most=3)
    assert {int(d) for d in rows["first"]} | {int(d) for d in rows["other"]} <= {int(d) for d in up["direction"][:3]}
    close(
        np.asarray(rows["lost_both"]) - np.asarray(rows["lost_first"]) - np.asarray(rows["lost_other"]), rows["interaction"]
    )
    given = dxa.conjunctions(model, first, second, index, direction, firsts=up["direction"][:3])
    np.testing.assert_array_equal(given["interaction"], rows["interaction"])
    joint = dxa.joint_set(model, first, second, index, direction, most=3)
    assert list(joint["size"]) == list(range(1, len(joint) + 1)) and 0 < joint["lost"][0] <= 1


def test_a_circuit_of_all_nodes_is_the_model(opened: Opened, quotes: dxa.BehaviourPrompts) -> None:
    prompts = quotes.prompts.select(list(range(6)))
    found = dxa.behaviour_circuit(opened.model, opened.saes[1], prompts, named=2)
    assert found.sizes["size"][0] == 0 and abs(found.sizes["faithfulness"][0]) < 1e-6
    close(found.sizes["faithfulness"][-1], 1.0, 1e-3)
    close(found.sizes["completeness"][0], 1.0, 1e-3)
    assert len(found.nodes) <= 2 and "nodes" in found.summary
    apart = dxa.behaviour_circuit(
        opened.model, opened.saes[1], prompts.select([0, 2, 4]), reporting=prompts.select([1, 3, 5]), named=2
    )
    np.testing.assert_array_equal(apart.sizes["behaviour"], found.sizes["behaviour"])
    with pytest.raises(DirectrixError, match="give four or more"):
        dxa.behaviour_circuit(opened.model, opened.saes[1], prompts.select([0, 1]))
    with pytest.raises(DirectrixError):
        dxa.behaviour_circuit(opened.model, opened.saes[1], prompts, against=quotes.answer)


def test_a_graph_adds_up(opened: Opened) -> None:
    found = dxa.prompt_graph(
        opened.model, opened.saes, TEXT, heads=True, check=2, look=(1, 0), node_threshold=1.0, edge_threshold=1.0
    )
    numbers = {int(n): i for i, n in enumerate(found.nodes["node"])}
    assert found.nodes["kind"][0] == "logit" and found.nodes["token"][0] == found.answer
    of_logit = np.asarray(found.edges["target"]) == found.nodes["node"][0]
    close(np.sum(np.asarray(found.edges["weight"])[of_logit]), found.nodes["kept"][0], 1e-3)
    close(
        sum(float(found.nodes[part][0]) for part in ("kept", "left_out", "constant")), found.nodes["value"][0], 1e-3
    )
    assert {int(s) for s in found.edges["source"]} <= numbers.keys()
    edge = int(found.heads["edge"][0])
    parts = np.asarray(found.heads["weight"])[np.asarray(found.heads["edge"]) == edge]
    close(parts.sum(), np.asarray(found.edges["weight"])[np.asarray(found.edges["edge"]) == edge][0], 1e-3)
    assert len(found.checks) == 4
    close(np.sum(found.look["weight"][:-1]), found.look["weight"][-1], 1e-3)
    parsed = json.loads(found.json)
    assert len(parsed["nodes"]) == len(found.nodes) and len(parsed["links"]) == len(found.edges)
    assert parsed["metadata"]["slug"] == "graph"

    whole = opened.model.to_prompts(TEXT)[0]
    asked = dxa.prompt_graph(opened.model, opened.saes, whole[:-1], answer=int(whole[-1]))
    by_text = dxa.prompt_graph(opened.model, opened.saes, whole[:-1], answer='."')
    assert asked.probability == by_text.probability == found.probability and len(asked.heads) == len(asked.checks) == 0
    with pytest.raises(DirectrixError, match="no head"):
        dxa.prompt_graph(opened.model, opened.saes, TEXT, look=(7, 0))
    with pytest.raises(DirectrixError, match="earlier"):
        dxa.prompt_graph(opened.model, opened.saes[::-1], TEXT)


def test_changes_are_made_together(opened: Opened, index: Any) -> None:
    model, saes = opened.model, opened.saes
    nothing = dxa.intervene(model, saes, TEXT, [])
    np.testing.assert_array_equal(nothing.losses["before"], nothing.losses["after"])
    assert len(nothing.directions) == 0
    strongest = dxa.explain(model, saes[1], TEXT, top=1)
    direction = int(strongest["direction"][-2])
    found = dxa.intervene(model, saes, TEXT, [f"sae-l1/{direction}*0@7", "L0H1=zero"])
    assert len(found.changes) == 2 and "ablated at position 7" in found.changes[0]
    close(np.exp(-found.losses["before"][-1]), np.exp(dxa.answer_effects(model, saes[1].scale(0, 1.0), TEXT).effects["log_prob"][0]))
    alone = dxa.intervene(model, saes, TEXT, f"sae-l1/{direction}*0@7")
    effect = dxa.answer_effects(model, saes[1].ablate(direction), TEXT).effects
    close(-np.asarray(alone.losses["after"])[-1], effect["log_prob_changed"][0])
    close(np.asarray(found.next_tokens["after"]) - np.asarray(found.next_tokens["before"]), found.next_tokens["change"])
    for more in ({"index": index}, {"mean_over": index.prompts(range(20))}):
        assert (np.asarray(dxa.intervene(model, saes, TEXT, "1_mlp_out=mean", **more).losses["change"]) != 0).any()
    for wrong in ("sae-l1/999999*0", "sae-l9/1*0", "L0H1=zero@99", "1_mlp_out=mean", "nonsense"):
        with pytest.raises(DirectrixError):
            dxa.intervene(model, saes, TEXT, wrong)


def test_bad_input_is_an_error_that_says_why(opened: Opened, quotes: dxa.BehaviourPrompts, index: Any) -> None:
    model, (first, second) = opened.model, opened.saes
    empty, short = Prompts(np.zeros(0, dtype=np.uint32), []), Prompts(np.array([5], dtype=np.uint32), [1])
    hollow = Prompts(np.array([5, 6], dtype=np.uint32), [2, 0])
    unknown = Prompts(np.array([5, 10**6, 7], dtype=np.uint32), [3])
    long = Prompts(np.zeros(5000, dtype=np.uint32), [5000])
    calls = [
        lambda prompts: dxa.ablate(model, second, prompts, 3),
        lambda prompts: dxa.ablate(model, second, prompts, 3, everywhere=True),
        lambda prompts: dxa.ablate_each(model, second, prompts, [3]),
        lambda prompts: dxa.single_ablations(model, second, prompts, [3]),
        lambda prompts: dxa.answer_effects(model, second.ablate(3), prompts),
        lambda prompts: dxa.answer_losses(model, second, prompts, [3]),
        lambda prompts: dxa.keep_directions(model, second, prompts, [3]),
        lambda prompts: dxa.mean_ablations(model, second, prompts, [3]),
        lambda prompts: dxa.logit_attribution(model, prompts),
        lambda prompts: dxa.direct_attribution(model, second, prompts),
        lambda prompts: dxa.remainder(model, second, prompts, answer=3),
        lambda prompts: dxa.attribution_to_direction(model, second, prompts, 3),
        lambda prompts: dxa.log_prob_boosts(model, second, prompts, 3),
        lambda prompts: dxa.behaviour_circuit(model, second, prompts),
        lambda prompts: dxa.prompt_graph(model, second, prompts),
        lambda prompts: dxa.direction_attribution(model, second, prompts),
    ]
    for call in calls:
        for prompts in (empty, short, hollow, unknown, long):
            with pytest.raises(DirectrixError):
                call(prompts)
    for prompts in (empty, hollow, unknown, long):
        for some in (dxa.mean_site, dxa.mean_decomposition):
            with pytest.raises(DirectrixError):
                some(model, second, prompts)
        with pytest.raises(DirectrixError):
            dxa.intervene(model, second, prompts, "sae-l1/3*0")
        with pytest.raises(DirectrixError):
            dxa.explain(model, second, prompts)
        with pytest.raises(DirectrixError):
            dxa.cooccurrence(model, first, second, prompts)

    text = "Once upon a time"
    for directions in ([], [-1], [999_999], [1.5], [[1, 2]]):
        with pytest.raises(DirectrixError):
            dxa.ablate(model, second, text, directions)
    for position in (40, -9, [1, 2], 1.5):
        with pytest.raises(DirectrixError):
            dxa.ablate(model, second, text, 3, position=position)
    for mean in (np.zeros(3), np.full(second.cfg.d_out, np.nan), np.zeros((2, 2))):
        with pytest.raises(DirectrixError):
            dxa.answer_losses(model, second, text, [3], mean=mean)
    acts = dxa.answer_activations(model, second, text)
    with pytest.raises(DirectrixError, match="a row for each prompt"):
        dxa.single_ablations(model, second, quotes.prompts, [3], acts=acts)
    with pytest.raises(DirectrixError):
        dxa.active_directions(acts, np.zeros(3))
    with pytest.raises(DirectrixError):
        dxa.active_directions(acts, index.maxima(1), share_of_maximum=float("nan"))
    with pytest.raises(DirectrixError, match="no direction"):
        dxa.coactivation(acts, [999_999])
    assert dxa.coactivation(acts, []).shape == (0, 0)
    for token in (10**6, "no single token"):
        with pytest.raises(DirectrixError):
            dxa.direction_attribution(model, second, text, answer=token)
        with pytest.raises(DirectrixError):
            dxa.direct_attribution(model, second, text, token=token)
        with pytest.raises(DirectrixError):
            dxa.prompt_graph(model, second, text, answer=token)
        with pytest.raises(DirectrixError):
            dxa.before_tokens(index, token, " she")
        with pytest.raises(DirectrixError):
            dxa.behaviour_circuit(model, second, quotes.prompts, against=token)
    with pytest.raises(DirectrixError):
        dxa.logit_boost_ends(model, second, tokens=[10**6])
    with pytest.raises(DirectrixError, match="no direction"):
        dxa.logit_boosts(model, second, 999_999)
    with pytest.raises(DirectrixError, match="two SAEs or more"):
        dxa.edges(model, [second], index)
    with pytest.raises(DirectrixError, match="not known"):
        dxa.edges(model, [first, second], index, by="nonsense")  # type: ignore[arg-type]
    with pytest.raises(DirectrixError, match="give one"):
        dxa.edges(model, [first, second], by="causal")
    with pytest.raises(DirectrixError, match="head"):
        dxa.edges(model, [first, second], index, by="causal", head=(0, 0))
    with pytest.raises(DirectrixError):
        dxa.edges(model, [first, second], by="cosine", head=(9, 0))
    with pytest.raises(DirectrixError):
        dxa.verify_edges(model, [first, second], index, [[999_999, 0]])
    with pytest.raises(DirectrixError):
        dxa.upstream(model, first, second, index, 999_999)
    with pytest.raises(DirectrixError):
        dxa.conjunctions(model, first, second, index, 3, firsts=[999_999])
    with pytest.raises(DirectrixError):
        dxa.pair_effects(model, first, second, index, [[0, 999_999]])
    with pytest.raises(DirectrixError):
        dxa.top_tokens(index, 7)


def test_an_sae_or_index_of_another_model_is_refused(opened: Opened, index: Any) -> None:
    golden = Golden("neo")
    with pytest.raises(DirectrixError):
        dxa.ablate(golden.model, opened.saes[1], golden.prompts, 3)
    with pytest.raises(DirectrixError, match="of another model"):
        dxa.ablate(golden.model, golden.saes["l1"], golden.prompts, 3, index=index)


def test_activations_may_be_a_matrix_of_scipy(opened: Opened, quotes: dxa.BehaviourPrompts, index: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    acts = dxa.answer_activations(opened.model, opened.saes[1], quotes.prompts)
    matrix = sparse.csr_array((acts.data, acts.indices, acts.indptr), acts.shape)
    one, other = (dxa.active_directions(of, index.maxima(1)) for of in (acts, matrix))
    np.testing.assert_array_equal(one["mean_activation"], other["mean_activation"])
    with pytest.raises(DirectrixError, match="CSR"):
        dxa.active_directions(acts.to_dense(), index.maxima(1))
