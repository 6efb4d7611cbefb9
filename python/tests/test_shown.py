"""What a notebook shows: tables, figures, texts, directions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import directrix as dx
from conftest import REPOSITORY


def test_data_frames_take_tables(index: dx.Index) -> None:
    table = index.directions("sae-l1")
    assert len(table) == 2048 and "maximum" in table and table["maximum"].dtype == np.float64
    assert table.row(5)["direction"] == 5
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(table)
    assert frame.equals(table.to_polars()) and frame["maximum"].to_numpy().tolist() == table["maximum"].tolist()
    pandas = pytest.importorskip("pandas")
    assert table.to_pandas()["prompts"].tolist() == table["prompts"].tolist()
    assert isinstance(table.to_pandas(), pandas.DataFrame)
    pyarrow = pytest.importorskip("pyarrow")
    assert pyarrow.table(table).column_names == table.columns
    with pytest.raises(KeyError, match="no column .maximun"):
        table["maximun"]


def test_a_table_without_rows_is_empty_everywhere(index: dx.Index) -> None:
    dead = int(np.flatnonzero(np.asarray(index.directions(1)["active"]) == 0)[0])
    table = index.top_examples(dead, 1)
    assert len(table) == 0 and len(table["prompt"]) == 0 and table.to_dict() == {}
    pytest.importorskip("polars")
    assert table.to_polars().is_empty() and "table" in table._repr_html_()


def test_figures_are_plotly_and_svg() -> None:
    rng = np.random.default_rng(0)
    for figure in (
        dx.line(["a", "b"], {"one": [1, 2], "two": [2.5, 1]}, title="Lines", y="value"),
        dx.histogram(rng.normal(size=500), title="Counts", log=True),
        dx.bars(["a", "b"], [1, -1], [0.1, 0.2], title="Bars"),
        dx.scatter([1, 2], [3, 4], ["x", "<b>"], title="Points"),
        dx.heatmap(rng.normal(size=(3, 4)), title="Cells"),
    ):
        bundle = figure._repr_mimebundle_()
        drawn = bundle["application/vnd.plotly.v1+json"]
        assert drawn["data"] and drawn["layout"]["title"]["text"] in repr(figure)
        json.dumps(drawn)
        assert bundle["image/svg+xml"].startswith("<svg")
    with pytest.raises(dx.DirectrixError, match="not finite"):
        dx.line(["a"], [np.nan])
    with pytest.raises(dx.DirectrixError, match="2 values"):
        dx.line(["a"], [1, 2])


def test_shaded_texts_show_values_and_run_nothing() -> None:
    text = dx.ShadedText(["<script>", " said", "\n"], [1.0, -0.5, 0.0], label="<b>", marked=1)
    shown = text._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "outline" in shown and "-0.5" in shown
    with pytest.raises(dx.DirectrixError, match="one for each"):
        dx.ShadedText(["a"], [1, 2])
    assert "nan" in dx.ShadedText(["a"], [np.nan])._repr_html_()


def test_the_browser_is_one_page_with_all_data(index: dx.Index, tmp_path: Path) -> None:
    browser = index.browse(sae="sae-l1", k=2)
    page = browser.to_html()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))  # type: ignore[union-attr]
    assert 0 < len(data["directions"]) <= 500 and data["total"] == 2048
    first = data["directions"][0]
    prompt, at, words, values = first["examples"][0]
    assert values[at] == pytest.approx(index.on_prompt(int(first["direction"]), prompt, 1).max(), abs=1e-3)
    assert not re.search(r"(src|href)=", page)
    assert "srcdoc" in browser._repr_html_() and 'sandbox="allow-scripts"' in browser._repr_html_()
    browser.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page


def test_a_study_is_run_and_shown(tmp_path: Path) -> None:
    text = """
    title = "Who writes the closing quotation"
    model = "tinystories-2l"
    corpus = "tinystories-2l/stories.txt"
    saes = ["tinystories-2l/sae-l0", "tinystories-2l/sae-l1"]
    limit = 300
    [behaviour]
    contains = 'said, "'
    ends_with = '."'
    [[section]]
    kind = "logit_attribution"
    """
    try:
        report = dx.Study.parse(text).run(tmp_path / "study")
    except dx.StudyError as error:
        pytest.fail(str(error))
    assert report.path.is_file() and report.tables() and "iframe" in report._repr_html_()


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_examples_of_documents_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / document).read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(block, {})


def test_an_index_goes_to_parquet_and_to_datasets(index: dx.Index, shipped: dx.Model, tmp_path: Path) -> None:
    sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
    n = index.export(tmp_path / "parquet", "parquet", "sae-l1", directions=[3, 5])
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = parquet.read_table(tmp_path / "parquet" / "activations.parquet").to_pydict()
    assert len(rows["direction"]) == n and set(rows["direction"]) <= {3, 5}
    assert index.export(tmp_path / "parquet", "parquet", "sae-l1", directions=[3]) <= n
    assert index.export(tmp_path / "datasets", "datasets", "sae-l1", context=32, of=(shipped, sae)) > 0
    assert list((tmp_path / "datasets").glob("*.arrow"))
    for wrong, message in (
        (lambda: index.export(tmp_path / "x", "csv"), "there are parquet"),
        (lambda: index.export(tmp_path / "x", "datasets", "sae-l1"), "give `model`|give"),
        (lambda: index.export(tmp_path / "x", "datasets", "sae-l0", context=32, of=(shipped, sae)), "another SAE"),
        (lambda: index.export(tmp_path / "x", "datasets", "sae-l1", of=(shipped, sae)), "equally long"),
        (lambda: index.export(tmp_path / "x", directions=[10**6]), "no direction"),
    ):
        with pytest.raises(dx.DirectrixError, match=message):
            wrong()
    assert not (tmp_path / "x").exists()
