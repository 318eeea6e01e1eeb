"""Rows, their means over seeds and the shape of a matrix, worked by hand."""

import math

import pandas as pd
import pytest

from epsball.results.rows import (
    COLUMNS,
    FINGERPRINTS,
    KEY,
    PAPER,
    eps_label,
    in_order,
    mistakes_of,
    over_seeds,
    wide_matrix,
)


def rows(*cells: tuple[int, str, str, str, float, float], n: int = 100) -> pd.DataFrame:
    names = ["seed", "source", "target", "attack", "eps", "error_top1"]
    return pd.DataFrame([dict(zip(names, cell, strict=True)) for cell in cells]).assign(
        dataset="digits", measurement="transfer_matrix", n=n
    )


def test_over_seeds_is_mean_and_sample_sd() -> None:
    table = over_seeds(
        rows(
            (0, "A", "B", "fgsm", 0.3, 0.1),
            (1, "A", "B", "fgsm", 0.3, 0.2),
            (2, "A", "B", "fgsm", 0.3, 0.3),
            (0, "B", "B", "fgsm", 0.3, 0.7),
        ).assign(paper_value=[0.15, 0.15, 0.15, math.nan]),
        KEY,
    )
    assert list(table["source"]) == ["A", "B"]
    assert list(table["seeds"]) == [3, 1]
    assert list(table["error_top1"]) == pytest.approx([0.2, 0.7])
    assert table.loc[0, "error_top1_sd"] == pytest.approx(0.1)  # sqrt((0.01 + 0 + 0.01) / 2)
    assert math.isnan(table.loc[1, "error_top1_sd"])
    assert table.loc[0, "paper_value"] == 0.15


def test_a_rate_that_some_seeds_lack_says_how_many_have_it() -> None:
    """No transfer rate in a seed whose source was fooled by nothing; a rate that none has asks for no column."""
    cells = [(seed, "A", target, "fgsm", 0.3, 0.5) for seed in (0, 1, 2) for target in ("A", "B")]
    known = rows(*cells).assign(transfer_rate_top1=[1.0, 0.2, 1.0, math.nan, 1.0, 0.4], error_top5=math.nan)
    table = over_seeds(known, KEY)
    assert table["seeds"].tolist() == [3, 3] and table["transfer_rate_top1_seeds"].tolist() == [3, 2]
    assert table["transfer_rate_top1"].tolist() == pytest.approx([1.0, 0.3])
    assert [name for name in table if name.endswith("_seeds")] == ["transfer_rate_top1_seeds"]


def test_over_seeds_tells_measurements_of_one_cell_apart() -> None:
    one = rows((0, "A", "A", "fgsm", 0.3, 0.1), (1, "A", "A", "fgsm", 0.3, 0.3))
    other = one.assign(measurement="asked", error_top1=0.5)
    table = over_seeds(pd.concat([one, other], ignore_index=True), KEY)
    assert list(table["measurement"]) == ["transfer_matrix", "asked"]
    assert list(table["error_top1"]) == pytest.approx([0.2, 0.5])


def test_columns_are_in_order_and_others_follow() -> None:
    given = rows((0, "A", "B", "fgsm", 0.3, 0.2)).assign(e1=0.1)
    unnamed = [name for name in COLUMNS if name not in (*PAPER, *FINGERPRINTS)]
    assert list(in_order(given).columns) == [*unnamed, "e1"]
    named = in_order(given.assign(paper_value=0.3, paper_metric="error_top1"))
    assert list(named.columns) == [*(name for name in COLUMNS if name not in FINGERPRINTS), "e1"]
    assert list(named["error_top1"]) == [0.2]
    found = in_order(given.assign(identity="abc", mistakes_top1="bits", mistakes_top5="bits"))
    assert list(found.columns) == [*unnamed, "identity", "e1"]  # which images were mistaken stands in a file beside
    assert list(in_order(given.assign(paper_value=math.nan)).columns) == [*unnamed, "e1"]
    assert list(in_order(pd.DataFrame()).columns) == unnamed


def test_which_images_were_mistaken_stands_by_identity_once() -> None:
    """The rows of a histogram have the identity of their whole, and none of the images."""
    cells = rows((0, "A", "B", "fgsm", 0.3, 0.2), (0, "A", "A", "fgsm", 0.3, 0.5), (1, "A", "A", "fgsm", 0.3, 0.5))
    known = cells.assign(identity=list("abb"), mistakes_top1=["one", "two", "two"])
    known["mistakes_top5"] = [None, "three", None]
    known = pd.concat([known, known.assign(identity="c", mistakes_top1=None, mistakes_top5=None)], ignore_index=True)
    found = mistakes_of(known)
    assert list(found.columns) == ["identity", "mistakes_top1", "mistakes_top5"]
    assert found.astype(object).where(found.notna(), None).to_numpy().tolist() == [
        ["a", "one", None],
        ["b", "two", "three"],
    ]
    assert mistakes_of(known.drop(columns="identity")).empty and mistakes_of(cells).empty


def test_empty_columns_have_empty_means() -> None:
    empty = rows((0, "A", "B", "fgsm", 0.3, 0.2)).assign(error_top5=None, paper_value=None, paper_metric=None)
    assert over_seeds(empty, KEY)["error_top5"].isna().all()


def test_matrix_has_sources_as_rows_and_targets_as_columns_in_order_of_appearance() -> None:
    wide = wide_matrix(
        rows(
            (0, "B", "B", "clean", 0, 0.01),
            (0, "A", "A", "clean", 0, 0.02),
            (0, "B", "B", "pgd", 0.3, 0.9),
            (0, "A", "B", "pgd", 0.3, 0.4),
            (0, "A", "B", "fgsm", 0.3, 0.1),
            (1, "A", "B", "fgsm", 0.3, 0.3),
        )
    )
    assert list(wide.columns) == ["B", "A"]
    assert list(wide.index) == [("-", "clean", 0), ("B", "pgd", 0.3), ("A", "pgd", 0.3), ("A", "fgsm", 0.3)]
    assert wide.loc[("A", "fgsm", 0.3), "B"] == pytest.approx(0.2)
    assert math.isnan(wide.loc[("B", "pgd", 0.3), "A"])
    assert list(wide.iloc[0]) == [0.01, 0.02]


def test_matrix_keeps_one_name_in_two_datasets_apart() -> None:
    one = rows((0, "A", "A", "clean", 0, 0.1))
    wide = wide_matrix(pd.concat([one, one.assign(dataset="mnist", error_top1=0.3)], ignore_index=True))
    assert wide.to_dict("list") == {"digits/A": [0.1], "mnist/A": [0.3]}


@pytest.mark.parametrize(
    ("eps", "label"),
    [(0.3, "0.3"), (0.0, "0"), (8 / 255, "8/255"), (16 / 256, "0.0625"), (5 / 256, "5/256"), (1 / 7, "0.1429")],
)
def test_eps_label(eps: float, label: str) -> None:
    assert eps_label(eps) == label
