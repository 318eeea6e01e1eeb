"""Our numbers beside a paper's: worked by hand, against formulas, in the paper's own shape."""

from collections.abc import Sequence
from dataclasses import replace
from math import hypot, inf, isnan, nan, sqrt
from statistics import fmean, stdev

import pandas as pd
import pytest
from cells import T1, T399, Row, Z, clean, fgsm, seen, wilson

from epsball.build import construct
from epsball.paper.claims import Claim, claims_table
from epsball.paper.tables import Table, compare, comparison_text, paper_table, table_sections, with_paper_values
from epsball.results.metrics import Unit

# ---- a small example: two seeds, a paper's table, worked by hand

ROWS: list[Row] = [
    *(clean("A", 0.01, 1000), clean("A", 0.03, 1000, 1)),
    *(clean("B", 0.02, 1000), clean("B", 0.02, 1000, 1)),
    *(fgsm("A", "B", 0.50, 1000), fgsm("A", "B", 0.54, 1000, 1)),
]
CLEAN_AND_FGSM = Table(
    title="Table 0",
    rows={"first": "A", "second": "B"},
    columns={"Clean": "error({row})", "FGSM": "error({row} | B, fgsm)"},
    paper={"first": [1.9, 71.4], "second": [50.0, None]},
    unit="percent",
    best="none",
)
MEAN_AND_SD = {"mean": "gradient_l2_mean", "stdev": "gradient_l2_sd"}
NORMS = Table("Norms", MEAN_AND_SD, {"A": "{row}(A)"}, None, unit="value", best="none")


def test_cells_is_ours_beside_the_papers_in_the_tables_unit() -> None:
    frame = compare({"t": CLEAN_AND_FGSM}, ROWS)
    assert frame[["row", "column"]].values.tolist() == [
        ["first", "Clean"],
        ["first", "FGSM"],
        ["second", "Clean"],
        ["second", "FGSM"],
    ]
    assert set(frame["table"]) == {"t"} and set(frame["unit"]) == {"percent"} and set(frame["metric"]) == {"error_top1"}
    assert list(frame["target"]) == ["A", "A", "B", "B"] and list(frame["source"]) == ["A", "B", "B", "B"]
    assert list(frame["attack"]) == ["clean", "fgsm", "clean", "fgsm"]
    assert list(frame["ours"]) == pytest.approx([2.0, 52.0, 2.0, nan], nan_ok=True)
    assert list(frame["sd"]) == pytest.approx([sqrt(2), 2 * sqrt(2), 0, nan], nan_ok=True)
    assert list(frame["seeds"]) == [2, 2, 2, 0]
    assert list(frame["paper"]) == pytest.approx([1.9, 71.4, 50.0, nan], nan_ok=True)
    assert list(frame["difference"]) == pytest.approx([0.1, -19.4, -48.0, nan], nan_ok=True)
    assert (frame["low"][2], frame["high"][2]) == pytest.approx(tuple(100 * end for end in wilson(20, 1000)))
    assert list(frame["inside"]) == ["yes", "yes", "no", "-"]  # two seeds 4 points apart leave FGSM's wide open


def test_the_normal_interval_has_the_spread_of_the_seeds_added() -> None:
    frame = compare({"t": CLEAN_AND_FGSM}, ROWS)
    of_images = fmean(100 * Z * sqrt(p * (1 - p) / 1000) for p in (0.01, 0.03))
    half = hypot(of_images, T1 * stdev((1, 3)) / sqrt(2))
    assert (frame["normal_low"][0], frame["normal_high"][0]) == pytest.approx((2 - half, 2 + half), abs=1e-3)
    assert frame.loc[3, ["normal_low", "normal_high"]].isna().all()


def test_the_normal_approximation_is_that_of_table_4() -> None:
    """Tramèr et al. 2017, Table 4: ± 0.43 points at 5 % of 10,000 images."""
    table = Table("T", {"A": "A"}, {"Clean": "error({row})"}, None, unit="percent", best="none")
    cell = compare({"t": table}, [clean("A", 0.05, 10_000)]).iloc[0]
    assert (cell["normal_high"] - cell["normal_low"]) / 2 == pytest.approx(0.43, abs=0.005)
    assert (cell["normal_high"] + cell["normal_low"]) / 2 == pytest.approx(5)


def test_a_seed_without_trials_does_not_spoil_the_others() -> None:
    table = Table("T", {"A": "A"}, {"T": "transfer_rate({row} | B, fgsm)"}, None, unit="percent", best="none")
    rows = [fgsm("A", "B", 0.5, transfer_rate_top1=0.2, transfer_n=100)]
    rows += [fgsm("A", "B", 0.5, seed=1, transfer_rate_top1=nan, transfer_n=0)]
    cell = compare({"t": table}, rows).iloc[0]
    assert (cell["normal_low"], cell["normal_high"]) == pytest.approx((20 - Z * 4, 20 + Z * 4))


def test_means_have_one_interval_only() -> None:
    rows = [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8)]
    frame = compare({"t": NORMS}, rows)
    assert list(frame["ours"]) == [0.12, 0.8]
    assert frame[["paper", "difference"]].isna().all(axis=None)
    assert frame["normal_high"].equals(frame["high"])
    assert frame["high"][0] == pytest.approx(0.12 + T399 * 0.04) and isnan(frame["high"][1])


def test_where_there_is_no_interval_nothing_is_inside_it() -> None:
    table = Table("T", NORMS.rows, NORMS.columns, {"mean": [0.15], "stdev": [0.8]}, unit="value", best="none")
    frame = compare({"t": table}, [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8)])
    assert list(frame["inside"]) == ["yes", "-"]
    assert list(frame["difference"]) == pytest.approx([-0.03, 0.0])


def test_beside_is_the_same_for_people() -> None:
    shown = comparison_text(compare({"t": CLEAN_AND_FGSM}, ROWS))
    columns = ["table", "row", "column", "ours", "sd", "paper", "difference", "interval", "normal", "inside"]
    assert list(shown.columns) == columns
    low, high = wilson(20, 1000)
    line = shown.iloc[2].to_dict()
    assert line["interval"] == f"[{100 * low:.1f}, {100 * high:.1f}]"
    assert [line[name] for name in columns[3:7]] == ["2.0", "0.0", "50.0", "-48.0"] and line["inside"] == "no"
    assert list(shown.iloc[3])[3:] == ["-"] * 7
    norms = comparison_text(compare({"t": NORMS}, [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8)]))
    assert list(norms.iloc[0])[3:] == ["0.120", "-", "-", "-", "[0.041, 0.199]", "[0.041, 0.199]", "-"]
    assert list(norms.iloc[1])[3:] == ["0.800", "-", "-", "-", "-", "-", "-"]


def test_small_values_keep_two_digits_and_their_column_is_written_alike() -> None:
    """Never fewer than two decimals, three beside an interval; what is 0, or not there, asks for none."""
    columns = {"norm": "gradient_l2_mean({row})", "sd": "gradient_l2_sd({row})"}
    paper = {"A": [0.034, None], "B": [None, None]}
    table = Table("T", {"A": "A", "B": "B"}, columns, paper, unit="value", best="none")
    rows = [
        clean("A", 0.1, 400, gradient_l2_mean=0.0021, gradient_l2_sd=0.0),
        clean("B", 0.1, 400, gradient_l2_mean=12.5, gradient_l2_sd=3.0),
    ]
    frame = compare({"t": table}, rows)
    assert paper_table("t", table, frame).to_numpy().tolist() == [
        ["A", "0.0021 (0.0340)", "0.00"],
        ["B", "12.5000", "3.00"],
    ]
    assert comparison_text(frame)["ours"].tolist() == ["0.0021", "0.000", "12.5000", "3.000"]


def test_without_tables_there_is_nothing_to_compare() -> None:
    assert compare({}, ROWS).empty


def test_with_paper_puts_the_papers_number_beside_the_row() -> None:
    rows = with_paper_values(pd.DataFrame(ROWS), {"t": CLEAN_AND_FGSM})
    assert list(rows["paper_value"]) == pytest.approx([0.019, 0.019, 0.5, 0.5, 0.714, 0.714])
    assert set(rows["paper_metric"]) == {"error_top1"}
    assert list(rows["difference"]) == pytest.approx([-0.009, 0.011, -0.48, -0.48, -0.214, -0.174])


def test_rows_that_no_table_gives_have_no_papers_number() -> None:
    rows = pd.DataFrame([*ROWS, clean("C", 0.1, 1000), fgsm("B", "B", 0.5, 1000)])
    found = with_paper_values(rows, {"t": CLEAN_AND_FGSM}).iloc[-2:]
    assert found[["paper_value", "paper_metric", "difference"]].isna().all(axis=None)
    assert with_paper_values(rows, {"t": NORMS}) is rows
    assert with_paper_values(rows, {}) is rows


def test_with_paper_knows_other_metrics_and_units() -> None:
    table = Table("T", {"mean": "gradient_l2_mean"}, {"A": "{row}(A)"}, {"mean": [0.12]}, unit="value", best="none")
    row = with_paper_values(pd.DataFrame([clean("A", 0.1, gradient_l2_mean=0.2)]), {"t": table}).iloc[0]
    assert (row["paper_value"], row["paper_metric"]) == (0.12, "gradient_l2_mean")
    assert row["difference"] == pytest.approx(0.08)


def test_the_papers_number_stands_beside_its_own_measurement() -> None:
    """Rows of gradient norms lie in the cell of the clean row, those of a loss surface in that of an attack."""
    others = [clean("A", nan, gradient_l2_mean=0.1, gradient_l2_sd=0.9), fgsm("A", "B", nan, loss_mean=2.0)]
    rows = with_paper_values(pd.DataFrame([clean("A", 0.1), fgsm("A", "B", 0.5), *others]), {"t": CLEAN_AND_FGSM})
    assert list(rows["paper_value"]) == pytest.approx([0.019, 0.714, nan, nan], nan_ok=True)


# ---- in the paper's shape


def shape(table: Table, rows: Sequence[Row]) -> list[list[str]]:
    frame = paper_table("t", table, compare({"other": NORMS, "t": table}, rows))
    assert list(frame.columns) == ["", *table.columns]
    return [list(line) for line in frame.itertuples(index=False, name=None)]


def test_in_shape_is_ours_with_its_spread_and_the_papers() -> None:
    assert shape(CLEAN_AND_FGSM, ROWS) == [
        ["first", "2.0 ± 1.4 (1.9)", "52.0 ± 2.8 (71.4)"],
        ["second", "2.0 ± 0.0 (50.0)", "-"],
    ]
    assert shape(CLEAN_AND_FGSM, [])[0] == ["first", "- (1.9)", "- (71.4)"]
    assert shape(NORMS, [clean("A", 0.1, gradient_l2_mean=0.12, gradient_l2_sd=0.8)]) == [
        ["mean", "0.12"],
        ["stdev", "0.80"],
    ]


def grid(best: str, errors: dict[str, tuple[float, float]], n: int) -> list[list[str]]:
    """A table of clean and FGSM errors with marks."""
    rows = [clean(model, error, n) for model, (error, _) in errors.items()]
    rows += [fgsm(model, "B", error, n) for model, (_, error) in errors.items()]
    columns = {"Clean": "error({row})", "FGSM": "error({row} | B, fgsm)"}
    table = Table("T", {m: m for m in errors}, columns, None, unit="percent", best=best)  # type: ignore[arg-type]
    return [line[1:] for line in shape(table, rows)]


def test_the_best_of_a_column_and_those_tied_with_it_are_bold() -> None:
    errors = {"A": (0.010, 0.30), "B": (0.012, 0.10), "C": (0.050, nan)}
    assert grid("columns", errors, 10_000) == [["**1.0**", "30.0"], ["**1.2**", "**10.0**"], ["5.0", "-"]]
    assert grid("none", errors, 10_000) == [["1.0", "30.0"], ["1.2", "10.0"], ["5.0", "-"]]


def test_the_best_of_a_row_and_those_tied_with_it_are_bold() -> None:
    errors = {"A": (0.10, 0.30), "B": (0.20, 0.20), "C": (0.05, nan), "D": (nan, nan)}
    found = grid("rows", errors, 1000)
    assert found == [["**10.0**", "30.0"], ["**20.0**", "**20.0**"], ["**5.0**", "-"], ["-", "-"]]


def test_ties_are_of_intervals_that_overlap_the_best_ones() -> None:
    """A chain of overlaps is no tie: only those that overlap the lowest itself."""
    errors = [0.10, 0.12, 0.145]
    intervals = [wilson(1000 * error, 1000) for error in errors]
    assert intervals[0][1] > intervals[1][0] and intervals[1][1] > intervals[2][0] and intervals[0][1] < intervals[2][0]
    found = grid("columns", {name: (error, nan) for name, error in zip("ABC", errors, strict=True)}, 1000)
    assert [line[0] for line in found] == ["**10.0**", "**12.0**", "14.5"]


def test_bold_goes_around_ours_alone() -> None:
    table = Table("T", {"A": "A"}, {"Clean": "error({row})"}, {"A": [3.0]}, unit="percent", best="columns")
    assert shape(table, [clean("A", 0.01), clean("A", 0.02, seed=1)]) == [["A", "**1.5 ± 0.7** (3.0)"]]


# ---- each column has its own better end

MIXED = {
    "Accuracy": "accuracy({row})",
    "Error": "error({row} | B, fgsm)",
    "Robust": "accuracy({row}) - error({row} | B, fgsm)",
    "Cost": "error({row} | B, fgsm) - accuracy({row})",
}


def test_the_best_of_each_column_is_at_the_end_that_its_own_metric_calls_better() -> None:
    """A's accuracy is the highest, B's error the lowest; of a difference the end is that of what is added."""
    rows = [clean("A", 0.1, 10_000), clean("B", 0.2, 10_000), fgsm("A", "B", 0.5, 10_000), fgsm("B", "B", 0.3, 10_000)]
    assert shape(Table("T", {"A": "A", "B": "B"}, MIXED, None, unit="percent", best="columns"), rows) == [
        ["A", "**90.0**", "50.0", "40.0", "-40.0"],
        ["B", "80.0", "**30.0**", "**50.0**", "**-50.0**"],
    ]


def test_the_report_says_which_end_is_bold() -> None:
    rows = [clean("A", 0.1), fgsm("A", "B", 0.5)]
    texts = {"none": {}, "lowest": {"E": MIXED["Error"]}, "highest": {"A": MIXED["Accuracy"]}, "best": MIXED}
    for end, columns in texts.items():
        best = "none" if end == "none" else "columns"
        table = Table("T", {"A": "A"}, columns or {"E": MIXED["Error"]}, None, unit="percent", best=best)  # type: ignore[arg-type]
        (section,) = table_sections({"t": table}, compare({"t": table}, rows))
        said = f"; bold: the {end}, and those whose interval overlaps its interval"
        assert section.text == "Ours; per cent" + (said if columns else "") + "."


@pytest.mark.parametrize(
    "column", ["accuracy({row}) + error({row} | B, fgsm)", "error({row}) - error(B)", "loss_mean({row})"]
)
def test_where_a_column_has_no_better_end_none_can_be_marked(column: str) -> None:
    with pytest.raises(ValueError, match="best should be none: its metrics share no better end"):
        Table("T", {"A": "A"}, {"Error": "error({row})", "X": column}, None, unit="value", best="columns")


def test_an_end_that_the_rows_of_a_line_do_not_share_is_none() -> None:
    fields = ("T", {"a": "accuracy", "e": "error"}, {"A": "{row}(A)", "B": "{row}(B)"}, None)
    with pytest.raises(ValueError, match="best should be none"):
        Table(*fields, unit="percent", best="columns")
    assert shape(Table(*fields, unit="percent", best="rows"), [clean("A", 0.1), clean("B", 0.5)]) == [
        ["a", "**90.0**", "50.0"],
        ["e", "**10.0**", "50.0"],
    ]


@pytest.mark.parametrize(
    ("unit", "column", "number", "end"),
    [
        ("percent", "error({row})", 103.0, r"in percent it should be in \[0, 100\]"),
        ("value", "error({row})", 31.0, r"in value it should be in \[0, 1\]"),
        ("percent", "error({row}) - error(B)", -103.0, r"in percent it should be in \[-100, 100\]"),
    ],
)
def test_a_published_number_that_its_cell_cannot_have_is_refused(
    unit: Unit, column: str, number: float, end: str
) -> None:
    with pytest.raises(ValueError, match=rf"paper\.A has {number} for X, {end}"):
        Table("T", {"A": "A"}, {"X": column}, {"A": [number]}, unit=unit, best="none")
    assert Table("T", {"A": "A"}, {"X": column}, {"A": [1.0]}, unit=unit, best="none").published("A", "X") == 1.0


@pytest.mark.parametrize("label", ["loss", "{loop}"])
def test_a_column_is_not_called_as_anothers_spread(label: str) -> None:
    columns = {label: "loss_mean({row})", "loss sd": "loss_sd({row})"}
    with pytest.raises(ValueError, match=r"^columns\.loss sd should have another name: it means loss's ±"):
        Table("T", {"A": "A"}, columns, None, unit="value", best="none", for_={"loop": ["loss"]})


# ---- cells of several quantities


def test_a_compound_cell_has_a_value_an_interval_and_the_papers_number() -> None:
    rows = [*(clean("A", 0.1, 1000), clean("B", 0.2, 1000)), *(fgsm("A", "B", 0.4, 1000), fgsm("B", "B", 0.8, 1000))]
    columns = {"Drop": "error({row} | B, fgsm) - error({row})", "Mean": "(error({row}) + error({row} | B, fgsm)) / 2"}
    table = Table(
        "T", {"A": "A", "B": "B"}, columns, {"A": [31.0, 24.0], "B": [None, 50.0]}, unit="percent", best="none"
    )
    frame = compare({"t": table}, rows)
    assert list(frame["ours"]) == pytest.approx([30, 25, 60, 50])
    assert list(frame["difference"]) == pytest.approx([-1, 1, nan, 0], nan_ok=True)
    assert list(frame["inside"]) == ["yes", "yes", "-", "yes"]
    (low, high), (adv_low, adv_high) = wilson(100, 1000), wilson(400, 1000)
    drop = 30 - 100 * hypot(0.4 - adv_low, high - 0.1), 30 + 100 * hypot(adv_high - 0.4, 0.1 - low)
    assert (frame["low"][0], frame["high"][0]) == pytest.approx(drop)
    normal = 100 * Z * sqrt((0.1 * 0.9 + 0.4 * 0.6) / 1000)
    assert (frame["normal_low"][0], frame["normal_high"][0]) == pytest.approx((30 - normal, 30 + normal))
    names = frame[["metric", "source", "target", "attack"]].values.tolist()
    assert names == [["error_top1", "-", "-", "-"]] * 4
    assert shape(table, rows) == [["A", "30.0 (31.0)", "25.0 (24.0)"], ["B", "60.0", "50.0 (50.0)"]]
    assert with_paper_values(pd.DataFrame(rows), {"t": table}).equals(pd.DataFrame(rows))  # a row is no difference


def test_a_ratio_stands_in_a_table_of_values() -> None:
    rows = [clean("A", 0.1, 1000), fgsm("A", "A", 0.4, 1000), clean("B", 0.2, 1000), fgsm("B", "B", 0.9, 1000)]
    columns = {"Kept": "accuracy({row} | {row}, fgsm) / accuracy({row})", "Clean": "accuracy({row})"}
    table = Table("T", {"A": "A", "B": "B"}, columns, {"A": [0.7, 0.9]}, unit="value", best="columns")
    frame = compare({"t": table}, rows)
    assert list(frame["ours"]) == pytest.approx([2 / 3, 0.9, 0.125, 0.8])
    assert frame["low"][0] < 2 / 3 < frame["high"][0] and list(frame["unit"]) == ["value"] * 4
    assert list(frame["metric"]) == ["accuracy_top1"] * 4 and list(frame["source"]) == ["-", "A", "-", "B"]
    assert shape(table, rows)[0] == ["A", "**0.67** (0.70)", "**0.90** (0.90)"]
    assert list(comparison_text(frame).iloc[0][["ours", "paper", "difference"]]) == ["0.667", "0.700", "-0.033"]
    mixed = Table("T", {"A": "A"}, {"X": "loss_mean({row}) / error({row})"}, None, unit="value", best="none")
    assert list(compare({"t": mixed}, [clean("A", 0.5, loss_mean=2.0)])["metric"]) == ["loss_mean and error_top1"]
    with pytest.raises(ValueError, match="unit should be value: a ratio is no rate"):
        Table("T", {"A": "A"}, columns, None, unit="percent", best="none")


def test_the_worst_of_several_stands_in_a_cell_under_its_names() -> None:
    rows = [
        seen(fgsm("A", "B", 0) | {"attack": name}, [i in wrong for i in range(8)])
        for name, wrong in (("fgsm", (1, 2)), ("pgd", (2, 3)))
    ]
    table = Table(
        "T", {"A": "A"}, {"Worst": "error({row} | B, worst(fgsm, pgd))"}, {"A": [40.0]}, unit="percent", best="none"
    )
    cell = compare({"t": table}, rows).iloc[0]
    assert (cell["ours"], cell["attack"], cell["source"], cell["target"]) == (37.5, "worst(fgsm, pgd)", "B", "A")
    assert "paper_value" not in with_paper_values(pd.DataFrame(rows), {"t": table})  # no row has it


def test_a_cell_without_ends_is_shown_as_such() -> None:
    rows = [clean("A", 0.5), clean("B", 0.31), clean("C", 0.3)]
    table = Table("T", {"A": "A"}, {"X": "error({row}) / (error(B) - error(C))"}, None, unit="value", best="none")
    frame = compare({"t": table}, rows)
    assert (frame["low"][0], frame["high"][0]) == (-inf, inf)
    assert comparison_text(frame)["interval"][0] == "[-inf, inf]"


# ---- numbers of another data set

ELSEWHERE = replace(CLEAN_AND_FGSM, published_on="imagenet")
OURS = [clean("A", 0.02, 1000), fgsm("A", "B", 0.5, 1000), clean("B", 0.5, 1000)]


def test_numbers_of_another_data_set_are_shown_and_not_compared() -> None:
    """ImageNet's beside a rerun on small images."""
    frame = compare({"t": ELSEWHERE}, OURS)
    assert list(frame["published_on"]) == ["imagenet"] * 4
    assert list(frame["paper"]) == pytest.approx([1.9, 71.4, 50.0, nan], nan_ok=True)
    assert frame["difference"].isna().all() and list(frame["inside"]) == ["-"] * 4
    assert shape(ELSEWHERE, OURS) == [["first", "2.0 (1.9)", "50.0 (71.4)"], ["second", "50.0 (50.0)", "-"]]
    (section,) = table_sections({"t": ELSEWHERE}, frame)
    assert section.text == "Ours (the paper's on imagenet); per cent."
    assert list(comparison_text(frame).iloc[0][["paper", "difference", "inside"]]) == ["1.9", "-", "-"]
    rows = pd.DataFrame(OURS)
    assert with_paper_values(rows, {"t": ELSEWHERE}) is rows


def test_numbers_of_our_own_data_set_are_compared() -> None:
    here = replace(CLEAN_AND_FGSM, published_on="digits")
    assert compare({"t": here}, OURS).equals(compare({"t": CLEAN_AND_FGSM}, OURS))
    assert "published_on" not in compare({"t": here}, OURS)
    (section,) = table_sections({"t": here}, compare({"t": here}, OURS))
    assert section.text == "Ours (the paper's); per cent."
    assert list(with_paper_values(pd.DataFrame(OURS), {"t": here})["paper_value"]) == pytest.approx([0.019, 0.714, 0.5])


def test_tables_of_two_data_sets_stand_side_by_side() -> None:
    frame = compare({"here": CLEAN_AND_FGSM, "there": ELSEWHERE}, OURS)
    assert list(frame["published_on"].fillna("")) == [""] * 4 + ["imagenet"] * 4
    assert list(frame["inside"]) == ["yes", "no", "yes", "-"] + ["-"] * 4
    assert frame["difference"].notna().tolist() == [True, True, True, False] + [False] * 4
    texts = [section.text for section in table_sections({"here": CLEAN_AND_FGSM, "there": ELSEWHERE}, frame)]
    assert texts == ["Ours (the paper's); per cent.", "Ours (the paper's on imagenet); per cent."]
    rows = with_paper_values(pd.DataFrame(OURS), {"there": ELSEWHERE, "here": CLEAN_AND_FGSM})
    assert list(rows["paper_value"]) == pytest.approx([0.019, 0.714, 0.5])


def test_rows_of_several_data_sets_are_compared_with_none_of_them() -> None:
    here = replace(
        CLEAN_AND_FGSM, published_on="digits", columns={"Clean": "error({row}, dataset=digits)"}, paper={"first": [1.9]}
    )
    frame = compare({"t": here}, [*OURS, clean("A", 0.5) | {"dataset": "mnist"}])
    assert frame["ours"][0] == 2 and list(frame["inside"]) == ["-", "-"] and frame["difference"].isna().all()


def test_a_table_and_a_claim_of_ones_own_need_no_paper() -> None:
    table = construct(
        Table, {"title": "T", "rows": {"A": "A"}, "columns": {"Clean": "error({row})"}, "unit": "percent"}, where="t"
    )
    assert compare({"t": table}, ROWS)["paper"].isna().all() and not table.groups
    claim = construct(Claim, {"says": "A errs less than B", "checks": ["error(A) < error(B)"]}, where="c")
    assert list(claims_table({"c": claim}, ROWS)["paper"]) == [""]
