"""Numbers as they are printed: nothing is rounded up to 100, and every interval is in the unit of its value."""

from math import sqrt
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from epsball.output import heatmap
from epsball.output.console import console_matrix
from epsball.output.curves import curves, draw_curves, draw_error_by_eps
from epsball.output.heatmap import draw_heatmap
from epsball.output.matrix import best_in_bold, matrix_sections, matrix_table
from epsball.output.pages import html_page, markdown_page
from epsball.output.plot import lattice
from epsball.output.tables import markdown, write_results
from epsball.paper.claims import Claim, claims_sections, claims_summary, claims_table, console_claims
from epsball.paper.tables import Table, compare, comparison_sections, comparison_text, paper_table, table_sections
from epsball.results.intervals import wilson, with_intervals
from epsball.results.rows import as_dicts

PRINTED = {0.995: "99.5", 0.9949: "99.5", 0.9993: "99.9", 0.9996: "100", 1.0: "100", 0.0994: "9.9", 0.0: "0.0"}
TABLE = Table("T", {"A": "A"}, {"FGSM": "error({row} | A, fgsm)"}, {"A": [99.5]}, unit="percent", best="none")
SPREAD = 100 * sqrt(2) / 10  # of the errors 0.4 and 0.6, in per cent


def attacked(error: float, seed: int = 0, eps: float = 0.3) -> pd.DataFrame:
    """A's clean error of 99.5 per cent, and `error` on its own FGSM examples and, as high, on those of B."""
    cells = [("A", "clean", 0.0, 0.995), ("A", "fgsm", eps, error), ("B", "fgsm", eps, error)]
    rows = pd.DataFrame(cells, columns=["source", "attack", "eps", "error_top1"])
    return with_intervals(rows.assign(dataset="digits", measurement="matrix", seed=seed, target="A", n=1000))


def two_seeds() -> pd.DataFrame:
    return pd.concat([attacked(0.4), attacked(0.6, seed=1)], ignore_index=True)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The heatmaps that are drawn, kept instead of written."""
    figures: list[Figure] = []
    monkeypatch.setattr(heatmap, "save", lambda figure, path: figures.append(figure))
    return figures


@pytest.mark.parametrize(("error", "text"), PRINTED.items())
def test_the_console_prints_a_hundred_for_a_hundred_alone(error: float, text: str) -> None:
    lines = console_matrix(attacked(error).assign(paper_value=error)).splitlines()
    assert [line.split()[2:] for line in lines if "fgsm" in line] == [[f"{text}*", f"({text})"], [text, f"({text})"]]
    assert next(line.split() for line in lines if line.startswith("clean")) == ["clean", "99.5", f"({text})"]


@pytest.mark.parametrize(("error", "text"), PRINTED.items())
def test_the_heatmap_prints_a_hundred_for_a_hundred_alone(error: float, text: str, drawn: list[Figure]) -> None:
    draw_heatmap(attacked(error), Path("unused.png"))
    axes = drawn[0].axes[0]
    assert [cell.get_text() for cell in axes.texts] == [text, text]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["A\nclean 99.5"]
    assert list(axes.images[0].get_array().ravel()) == pytest.approx([100 * error] * 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("targets", [1, 2, 4])
def test_the_legend_of_a_heatmap_is_whole_however_few_the_targets(targets: int, drawn: list[Figure]) -> None:
    rows = [attacked(0.4).assign(target=name) for name in "ABCD"[:targets]]
    draw_heatmap(pd.concat(rows, ignore_index=True), Path("unused.png"))
    (figure,) = drawn
    figure.draw_without_rendering()
    (legend,) = (text for text in figure.texts if "white-box" in text.get_text())
    extent = legend.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width


@pytest.mark.parametrize("targets", [1, 2])
def test_titles_of_a_heatmap_keep_clear_of_each_other_and_of_the_colour_bar(targets: int, drawn: list[Figure]) -> None:
    names = ["fgsm", "pgd_restarts", "pgd_100_restarts", "pgd_100_restarts_more"]
    fgsm = attacked(0.4).query("attack == 'fgsm'")
    cells = [fgsm.assign(target=target, attack=name) for target in "AB"[:targets] for name in names]
    draw_heatmap(pd.concat(cells, ignore_index=True), Path("unused.png"))
    (figure,) = drawn
    figure.draw_without_rendering()
    *panels, bar = figure.axes
    titles = [axes.title.get_window_extent() for axes in panels]
    ends = [*(title.x0 for title in titles[1:]), bar.get_window_extent().x0]
    assert len(titles) == 4 and titles[0].x0 >= 0
    assert all(title.x1 + 5 < end for title, end in zip(titles, ends, strict=True))


@pytest.mark.parametrize(("error", "text"), PRINTED.items())
def test_the_matrix_and_its_file_print_a_hundred_for_a_hundred_alone(error: float, text: str, tmp_path: Path) -> None:
    page = markdown_page("T", {}, matrix_sections(attacked(error), tmp_path), tmp_path)
    decimal = "100.0" if text == "100" else text
    lines = [line for line in page.splitlines() if "fgsm" in line]
    assert sum(f" {decimal} |" in line for line in lines) == sum(f" {decimal} [" in line for line in lines) == 2
    lines = (tmp_path / "transfer_matrix.csv").read_text().splitlines()
    assert lines == ["source,attack,eps,A", "-,clean,0.0,99.5", *(f"{s},fgsm,0.3,{decimal}" for s in "AB")]


@pytest.mark.parametrize(("error", "text"), PRINTED.items())
def test_a_papers_table_prints_a_hundred_for_a_hundred_alone(error: float, text: str) -> None:
    compared = compare({"t": TABLE}, as_dicts(attacked(error)))
    decimal = "100.0" if text == "100" else text
    assert list(paper_table("t", TABLE, compared)["FGSM"]) == [f"{decimal} (99.5)"]
    assert list(comparison_text(compared)["ours"]) == [decimal]


# ---- ±


def test_the_spread_over_seeds_is_in_per_cent_as_its_mean_is(tmp_path: Path) -> None:
    rows, sd = two_seeds(), f"{SPREAD:.1f}"
    assert sd == "14.1"
    lines = console_matrix(rows).splitlines()
    assert [line.split()[2:] for line in lines if "fgsm" in line] == [[f"50.0±{sd}*"], [f"50.0±{sd}"]]
    assert next(line.split() for line in lines if line.startswith("clean")) == ["clean", "99.5±0.0"]
    assert lines[-1] == "error in per cent; * white-box; mean ± sd of 2 seeds"
    assert list(matrix_table(rows)["A sd"]) == [0.0, 14.1, 14.1]
    assert markdown(matrix_table(rows)).count(f"| 50.0 ± {sd} |") == 2
    assert markdown_page("T", {}, matrix_sections(rows, tmp_path), tmp_path).count(f"| 50.0 ± {sd} |") == 2
    assert "A,fgsm,0.3,50.0,14.1" in (tmp_path / "transfer_matrix.csv").read_text()
    compared = compare({"t": TABLE}, as_dicts(rows))
    assert list(paper_table("t", TABLE, compared)["FGSM"]) == [f"50.0 ± {sd} (99.5)"]
    assert list(comparison_text(compared)["sd"]) == [sd]
    assert "mean ± sd over 2 seeds" in table_sections({"t": TABLE}, compared)[0].text
    more = pd.concat([rows, rows[rows["seed"] == 0][lambda own: own["attack"] == "clean"].assign(seed=7)])
    assert console_matrix(more).splitlines()[-1] == "error in per cent; * white-box; mean ± sd of 2 to 3 seeds"


def test_an_interval_is_in_per_cent_as_its_value_is() -> None:
    rows = attacked(0.4)
    low, high = (100 * end for end in wilson(400, 1000))
    assert list(best_in_bold(rows)["A"])[1:] == [f"40.0 [{low:.1f}, {high:.1f}]"] * 2
    summary = claims_summary(claims_table({"c": Claim("s", ["error(A | A, fgsm) < 0.5"])}, as_dicts(rows)))
    assert list(summary["ours"]) == [f"40.0 [{low:.1f}, {high:.1f}] < 50.0"]
    assert list(summary["left - right"]) == [f"-10.0 [{low - 50:.1f}, {high - 50:.1f}]"]
    assert claims_sections(summary)[0].text.startswith("Rates are in per cent, ratios and other metrics as they are")
    compared = compare({"t": TABLE}, as_dicts(rows))
    assert list(comparison_text(compared)["interval"]) == [f"[{low:.1f}, {high:.1f}]"]


def test_a_curves_band_is_in_per_cent_as_its_line_is() -> None:
    rows = pd.concat([attacked(0.4, eps=0.1), attacked(0.995, eps=0.2)], ignore_index=True)
    _, (axes,) = lattice(1, 3, 3)
    lines = {key: line for key, line in curves(rows).items() if key[1] == "A"}
    draw_curves(axes, lines, {("A", "fgsm"): "red"}, {"fgsm": "s"})
    assert list(axes.get_lines()[0].get_ydata()) == pytest.approx([99.5, 40, 99.5])
    heights = {round(y, 6) for y in axes.collections[0].get_paths()[0].vertices[:, 1]}
    assert heights == {round(100 * end, 6) for k in (400, 995) for end in wilson(k, 1000)}


# ---- the sections of a report


def test_a_matrix_has_its_file_its_figures_and_a_section_for_each(tmp_path: Path) -> None:
    sections = matrix_sections(attacked(0.4), tmp_path)
    titles = ["Error, per cent", "Error with its interval, per cent", "Transfer matrix"]
    assert [section.title for section in sections] == titles
    assert sorted(path.name for path in tmp_path.iterdir()) == ["transfer_matrix.csv", "transfer_matrix.png"]
    several = pd.concat([attacked(0.4), attacked(0.5, eps=0.1)], ignore_index=True)
    sections = matrix_sections(several, tmp_path)
    assert [section.title for section in sections] == [*titles, "Error by eps"]
    assert [section.image for section in sections if section.image] == [
        tmp_path / "transfer_matrix.png",
        tmp_path / "error_by_eps.png",
    ]
    assert all(section.image.is_file() for section in sections if section.image)


def test_a_matrix_says_of_how_many_seeds_it_is(tmp_path: Path) -> None:
    one, several = (
        markdown_page("T", {}, matrix_sections(rows, tmp_path), tmp_path) for rows in (attacked(0.4), two_seeds())
    )
    for told in ("Mean ± sd over 2 seeds.", "an end may lie beyond 0 or 100 %"):
        assert told in several and told not in one


def test_a_matrix_says_which_attacks_are_of_fewer_images(tmp_path: Path) -> None:
    rows, white_box = attacked(0.5), "Source = target is white-box."
    assert matrix_sections(rows, tmp_path)[0].text == white_box
    plain = console_matrix(rows).splitlines()[-1]
    few = rows.assign(n=[n if attack == "clean" else 200 for n, attack in zip(rows["n"], rows["attack"], strict=True)])
    assert matrix_sections(few, tmp_path)[0].text == f"{white_box} Of fewer images: fgsm of 200."
    other = rows.assign(dataset="mnist", n=10_000)  # every data set has its own number
    more = pd.concat([few, few[1:].assign(attack="pgd", n=50), other], ignore_index=True)
    assert matrix_sections(more, tmp_path)[0].text == f"{white_box} Of fewer images: fgsm of 200, pgd of 50."
    assert console_matrix(few).splitlines()[-1] == f"{plain}; of fewer images: fgsm of 200"


def test_rows_without_an_error_are_left_out_of_the_matrix(tmp_path: Path) -> None:
    norms = attacked(0.4).assign(error_top1=None, attack="norms", measurement="gradient_norms", gradient_l2_mean=0.1)
    rows = pd.concat([attacked(0.4).assign(measurement=["clean", "matrix", "matrix"]), norms], ignore_index=True)
    alone = attacked(0.4)
    assert console_matrix(rows) == console_matrix(alone)
    pd.testing.assert_frame_equal(matrix_table(rows), matrix_table(alone))
    for name, frame in {"mixed": rows, "alone": alone}.items():
        (tmp_path / name).mkdir()
        matrix_sections(frame, tmp_path / name)
    images = [(tmp_path / name / "transfer_matrix.png").read_bytes() for name in ("mixed", "alone")]
    assert images[0] == images[1]


@pytest.mark.parametrize(
    "rows", [pd.DataFrame(), attacked(0.4).iloc[:0], attacked(0.4).drop(columns="error_top1")], ids=["no", "0", "norms"]
)
def test_where_nothing_was_measured_all_say_so(rows: pd.DataFrame, tmp_path: Path) -> None:
    sections = matrix_sections(rows, tmp_path)
    assert "No rows." in markdown_page("T", {}, sections, tmp_path) and "No rows." in html_page("T", {}, sections)
    assert console_matrix(rows) == "no rows were measured\n"
    assert not draw_error_by_eps(rows, tmp_path / "e.png")
    assert list(tmp_path.iterdir()) == []
    write_results(with_intervals(rows), tmp_path / "results.csv")
    assert (
        (tmp_path / "results.csv")
        .read_text()
        .startswith("dataset,seed,measurement,source,target,attack,eps,n,error_top1,")
    )


def test_where_nothing_was_asked_there_are_no_sections() -> None:
    compared, judged = compare({}, []), claims_table({}, [])
    assert compared.empty and judged.empty
    assert table_sections({}, compared) == table_sections({"t": TABLE}, compared) == []
    assert comparison_sections(compared) == claims_sections(claims_summary(judged)) == []
    assert console_claims(claims_summary(judged)) == ""
