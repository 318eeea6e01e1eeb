"""Tables and figures: exact text on small cases, files whole, the same bytes twice."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from epsball.output.console import console_matrix
from epsball.output.heatmap import canvas, draw_heatmap
from epsball.output.matrix import best_in_bold, bounds, interval_texts, matrix_table
from epsball.output.pages import Section, markdown_page
from epsball.output.tables import latex, markdown, write_csv, write_results
from epsball.paper.expressions import parse_expression
from epsball.paper.tables import Table, compare, comparison_text, paper_table, with_paper_values
from epsball.paper.values import by_seed, estimate
from epsball.results.intervals import error_estimates, normal_interval, wilson, with_intervals
from epsball.results.rows import COLUMNS, FINGERPRINTS, PAPER, as_dicts


def measured(models: str = "AB", attacks: tuple[str, ...] = ("fgsm",), seed: int = 0) -> pd.DataFrame:
    """Errors that name their cell: 10 * (source + 1) + (target + 1) per cent."""
    cells = [(m, m, "clean", 0.0, 0.01 * (i + 1)) for i, m in enumerate(models)]
    cells += [
        (s, t, attack, 0.3, (10 * (i + 1) + j + 1) / 100)
        for i, s in enumerate(models)
        for attack in attacks
        for j, t in enumerate(models)
    ]
    frame = pd.DataFrame(cells, columns=["source", "target", "attack", "eps", "error_top1"])
    return with_intervals(frame.assign(dataset="digits", measurement="matrix", seed=seed, n=1000))


def beside_paper(rows: pd.DataFrame, value: float, metric: str = "error_top1") -> pd.DataFrame:
    """The paper gives `value` for A -> B."""
    given = (rows["source"] == "A") & (rows["target"] == "B")
    return rows.assign(paper_value=given.map({True: value, False: math.nan}), paper_metric=metric)


SHOWN = tuple(name for name in COLUMNS if name not in FINGERPRINTS)  # these rows have none


def test_results_have_the_agreed_columns_and_survive_a_round_trip(tmp_path: Path) -> None:
    rows = measured().assign(error_top1=1 / 3)
    assert write_results(rows, tmp_path / "results.csv") == [tmp_path / "results.csv"]
    back = pd.read_csv(tmp_path / "results.csv")
    assert tuple(back.columns) == SHOWN[:-3]
    assert list(back["error_top1"]) == pytest.approx([1 / 3] * 6, rel=1e-15)
    assert "0.3333333333333333," in (tmp_path / "results.csv").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_the_images_mistaken_stand_in_a_file_beside_the_rows(tmp_path: Path) -> None:
    rows = measured().assign(identity=list("abcdef"), mistakes_top1=[f"bits {i}" for i in range(6)])
    kept = write_results(rows, tmp_path / "rows.csv")
    assert kept == [tmp_path / "rows.csv", tmp_path / "mistakes.csv"]
    assert (tmp_path / "mistakes.csv").read_text().splitlines()[:2] == ["identity,mistakes_top1", "a,bits 0"]
    assert "bits" not in (tmp_path / "rows.csv").read_text()
    assert tuple(pd.read_csv(tmp_path / "rows.csv").columns) == (*SHOWN[:-3], "identity")


def test_what_rows_took_stands_in_a_file_beside_them(tmp_path: Path) -> None:
    """Those that do not say, such as given ones, are left out there."""
    rows = measured().assign(identity=list("abcdef"), seconds=[0.5, *[math.nan] * 5], epoch=math.nan)
    assert write_results(rows, tmp_path / "rows.csv") == [tmp_path / "rows.csv", tmp_path / "timings.csv"]
    first = rows.iloc[0]
    (line,) = pd.read_csv(tmp_path / "timings.csv").to_dict(orient="records")
    key = ("dataset", "seed", "measurement", "source", "target", "attack", "eps", "identity")
    assert line == {**{name: first[name] for name in key}, "seconds": 0.5}
    write_results(rows.drop(columns="seconds"), tmp_path / "rows.csv")  # again, in the same directory
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_paper_columns_appear_only_with_a_value(tmp_path: Path) -> None:
    assert COLUMNS[-6:-3] == PAPER == ("paper_value", "paper_metric", "difference")
    assert COLUMNS[-3:] == FINGERPRINTS == ("source_model", "target_model", "identity")
    assert COLUMNS[:7] == ("dataset", "seed", "measurement", "source", "target", "attack", "eps")
    for value, expected in [(0.1, SHOWN), (math.nan, SHOWN[:-3])]:
        write_results(beside_paper(measured(), value), tmp_path / "results.csv")
        assert tuple(pd.read_csv(tmp_path / "results.csv").columns) == expected


def test_transfer_matrix_is_source_by_target_in_per_cent(tmp_path: Path) -> None:
    write_csv(matrix_table(measured()).reset_index(), tmp_path / "transfer_matrix.csv")
    expected = "source,attack,eps,A,B\n-,clean,0.0,1.0,2.0\nA,fgsm,0.3,11.0,12.0\nB,fgsm,0.3,21.0,22.0\n"
    assert (tmp_path / "transfer_matrix.csv").read_text() == expected


def test_transfer_matrix_averages_seeds_and_shows_the_paper_beside_its_target() -> None:
    rows = pd.concat([measured(), measured(seed=1).assign(error_top1=0.5)], ignore_index=True)
    wide = matrix_table(beside_paper(rows, 0.114))
    assert list(wide.columns) == ["A", "A sd", "B", "B sd", "B (paper)"]
    assert list(wide.loc[("A", "fgsm", 0.3)]) == [30.5, 27.6, 31.0, 26.9, 11.4]  # sd of 11 and 50: 39 / sqrt(2)
    assert math.isnan(wide.loc[("B", "fgsm", 0.3), "B (paper)"])
    assert "| 30.5 ± 27.6 | 31.0 ± 26.9 |" in markdown(wide)
    assert list(matrix_table(measured()).columns) == ["A", "B"]


def test_a_seed_that_lacks_a_cell_leaves_no_spread_there() -> None:
    one = measured(seed=1)
    rows = pd.concat([measured(), one[one["source"] != "B"]], ignore_index=True)
    wide = matrix_table(rows)
    assert wide.loc[("A", "fgsm", 0.3), "A sd"] == 0.0 and math.isnan(wide.loc[("B", "fgsm", 0.3), "A sd"])


def test_a_papers_top5_value_does_not_stand_beside_our_top1() -> None:
    assert list(matrix_table(beside_paper(measured(), 0.1, "error_top5")).columns) == ["A", "B"]


def test_markdown_exact() -> None:
    frame = pd.DataFrame(
        {
            "target": ["A", "B|C"],
            "eps": [8 / 255, 0.3],
            "error": [12.34, math.nan],
            "error sd": [0.45, math.nan],
            "n": [5, 10],
        }
    )
    assert markdown(frame) == (
        "| target |   eps |      error |   n |\n"
        "| ------ | ----: | ---------: | --: |\n"
        "| A      | 8/255 | 12.3 ± 0.5 |   5 |\n"
        "| B\\|C   |   0.3 |          - |  10 |\n"
    )
    assert "| 0.0 |" in markdown(pd.DataFrame({"d": [-0.01]}))


def test_latex_is_booktabs_and_escaped() -> None:
    text = latex(pd.DataFrame({"model_a": ["x_y"], "e": [1.0], "e sd": [0.25]}))
    assert text.startswith("\\begin{tabular}{lr}\n\\toprule\nmodel\\_a & e \\\\\n\\midrule\n")
    assert "x\\_y & 1.0 $\\pm$ 0.2 \\\\\n\\bottomrule" in text


def test_console_exact() -> None:
    assert console_matrix(beside_paper(measured(), 0.119)) == (
        "                     A           B\n"
        "clean              1.0         2.0\n"
        "from A\n"
        "  fgsm 0.3       11.0* 12.0 (11.9)\n"
        "from B\n"
        "  fgsm 0.3        21.0       22.0*\n"
        "\n"
        "error in per cent; * white-box; (paper's value)\n"
    )


def test_console_fits_a_terminal() -> None:
    for models in ("AB", "ABCDEF", "ABCDEFGHI"):
        names = {m: f"{m}_inception_resnet_v2_adv" for m in models}
        rows = measured(models, ("a_very_long_attack_name_indeed",)).replace({"source": names, "target": names})
        rows = rows.assign(paper_value=rows["error_top1"], error_top1=0.999)
        text = console_matrix(rows)
        assert max(map(len, text.splitlines())) <= 100
        head = text.split("clean")[0]
        assert len(models) > 6 or "".join(head.split()).count("resnet") == len(models)
        assert "… 0.3" in text
    assert console_matrix(rows[:0]) == "no rows were measured\n"


TABLE = Table(
    title="A table",
    rows={"first": "A", "second": "B"},
    columns={"Clean": "error({row})", "FGSM_A": "error({row} | A, fgsm)"},
    paper={"second": [None, 15.0]},
    unit="percent",
    best="none",
)


def report_of(rows: pd.DataFrame, table: Table = TABLE) -> tuple[str, pd.DataFrame]:
    """The paper's table and every number beside the paper's, as Markdown; and comparison.csv."""
    compared = compare({"table": table}, as_dicts(rows))
    sections = [Section("shape", table=paper_table("table", table, compared))]
    sections += [Section("beside", table=comparison_text(compared))]
    return markdown_page("tramer/table4", {"device": "cpu"}, sections, Path()), compared


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_papers_table_is_filled_in_its_own_shape() -> None:
    text, _ = report_of(measured())
    assert text.startswith("# tramer/table4\n\n- device: cpu\n")
    shape = [cells_of(line) for line in text.splitlines() if line.startswith("|")][:4]
    assert shape[0] == ["", "Clean", "FGSM_A"]
    assert shape[2:] == [["first", "1.0", "11.0"], ["second", "2.0", "12.0 (15.0)"]]


def test_every_number_stands_beside_the_papers() -> None:
    text, compared = report_of(measured())
    line = next(line for line in text.splitlines() if "FGSM_A" in line and "second" in line)
    head = next(line for line in text.splitlines() if "difference" in line)
    low, high = normal_interval(120, 1000)
    assert dict(zip(cells_of(head), cells_of(line), strict=True)) == {
        **{"table": "table", "row": "second", "column": "FGSM_A", "ours": "12.0", "sd": "-", "paper": "15.0"},
        **{"difference": "-3.0", "interval": "[10.1, 14.2]", "inside": "no"},
        "normal": f"[{low * 100:.1f}, {high * 100:.1f}]",
    }
    assert list(compared["inside"]) == ["-", "-", "-", "no"]
    closer = replace(TABLE, paper={"second": [None, 13.0]})
    assert list(report_of(measured(), closer)[1]["inside"]) == ["-", "-", "-", "yes"]
    text, compared = report_of(measured(), replace(TABLE, paper=None))
    assert "(" not in text and compared["paper"].isna().all() and set(compared["inside"]) == {"-"}


def test_a_table_of_nothing_is_a_table_of_gaps() -> None:
    text, compared = report_of(measured()[:0])
    assert compared["ours"].isna().all() and "| second | -     | - (15.0) |" in text
    assert compare({}, []).empty


def test_a_papers_table_has_seeds_ties_and_values_that_are_no_rates() -> None:
    rows = pd.concat([measured(), measured(seed=1).assign(error_top1=0.12)], ignore_index=True)
    text, compared = report_of(rows, replace(TABLE, best="columns"))
    assert "**12.0 ± 0.0** (15.0)" in text and "**11.5 ± 0.7**" in text and "**6.5 ± 7.8**" in text
    assert list(compared["seeds"]) == [2] * 4 and compared["sd"].iloc[1] == pytest.approx(0.5**0.5)
    norms = measured().assign(gradient_l2_mean=0.123, gradient_l2_sd=0.95)
    columns = {"mean": "gradient_l2_mean({row})", "stdev": "gradient_l2_sd({row})"}
    table = replace(TABLE, columns=columns, paper={"first": [0.12, 0.95]}, unit="value")
    text, compared = report_of(norms, table)
    assert "| first  | 0.12 (0.12) | 0.95 (0.95) |" in text
    assert compared["ours"].iloc[0] == 0.123  # not per cent
    assert compared["high"].iloc[0] - compared["low"].iloc[0] == pytest.approx(2 * 1.962341 * 0.95 / 1000**0.5)


def test_the_papers_numbers_stand_in_the_rows() -> None:
    rows = with_paper_values(measured(), {"table": TABLE})
    given = rows[rows["paper_value"].notna()]
    assert given[["source", "target", "attack", "paper_value", "paper_metric"]].values.tolist() == [
        ["A", "B", "fgsm", 0.15, "error_top1"]
    ]
    assert list(given["difference"]) == pytest.approx([-0.03])
    assert "paper_value" not in with_paper_values(measured(), {"table": replace(TABLE, paper=None)})


def test_seeds_that_agree_add_nothing_to_the_interval_of_the_images_they_share() -> None:
    rows = pd.concat([measured(), measured(seed=1)], ignore_index=True)
    low, high = wilson(120, 1000)
    assert interval_texts(*bounds(rows)).loc[("A", "fgsm", 0.3), "B"] == f"12.0 [{low * 100:.1f}, {high * 100:.1f}]"


def test_the_matrix_and_the_claims_give_a_cell_one_interval() -> None:
    rows = pd.concat([measured(), measured(seed=1).assign(error_top1=0.2), measured(seed=2)], ignore_index=True)
    of_claim = estimate(parse_expression("error(B | A, fgsm)"), by_seed(as_dicts(rows)), wilson)
    found = error_estimates(rows).set_index(["source", "target", "attack"]).loc[("A", "B", "fgsm")]
    assert (of_claim.low, of_claim.high) == pytest.approx((found["error_top1_low"], found["error_top1_high"]))
    assert of_claim.sd > 0


@pytest.mark.parametrize("attacks", [("fgsm",), ("a", "b", "c", "d", "e"), ()])
def test_heatmap_is_a_png_with_the_same_bytes_twice(tmp_path: Path, attacks: tuple[str, ...]) -> None:
    rows = measured("ABC", attacks)
    rows = rows[~((rows["source"] == "A") & (rows["target"] == "C"))]
    for name in ("one.png", "two.png"):
        draw_heatmap(rows, tmp_path / name)
    one = (tmp_path / "one.png").read_bytes()
    assert one.startswith(b"\x89PNG\r\n\x1a\n")
    assert one == (tmp_path / "two.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_heatmap_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        draw_heatmap(measured()[:0], tmp_path / "x.png")


def test_panel_lines_are_filled_evenly() -> None:
    square = pd.DataFrame([[0.0]])
    for count, shape in [(1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (8, (2, 4)), (9, (3, 3))]:
        figure, _ = canvas({("attack", float(i)): square for i in range(count)})
        assert figure.axes[0].get_gridspec().get_geometry() == shape


def test_the_best_target_and_its_ties_are_in_bold() -> None:
    def row(target: str, error: float) -> dict[str, object]:
        return {"source": "A", "target": target, "attack": "fgsm", "eps": 0.3, "error_top1": error}

    rows = pd.DataFrame([row("A", 0.500), row("B", 0.100), row("C", 0.110)]).assign(
        dataset="digits", measurement="matrix", seed=0, n=1000
    )
    bold = best_in_bold(with_intervals(rows)).loc[("A", "fgsm", 0.3)]
    assert [cell.startswith("**") for cell in bold] == [False, True, True]  # B and C overlap, A does not
    plain = interval_texts(*bounds(with_intervals(rows))).loc[("A", "fgsm", 0.3)]
    assert [cell.strip("*") for cell in bold] == list(plain)
