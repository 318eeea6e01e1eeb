"""The transfer matrix: its tables, its files and the sections of a report that show it."""

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from epsball.output.curves import draw_error_by_eps
from epsball.output.heatmap import draw_heatmap
from epsball.output.pages import Section
from epsball.output.tables import per_cent, write_csv
from epsball.results.intervals import OVER_SEEDS, error_estimates, ties_for_best
from epsball.results.metrics import ERROR
from epsball.results.rows import attacks_of_fewer, error_rows, paper_matrix, seeds_of_cells, seeds_text, wide_matrix

if TYPE_CHECKING:
    import pandas as pd


def matrix_sections(rows: "pd.DataFrame", folder: Path) -> list[Section]:
    """Write transfer_matrix.csv and draw the figures of the rows that have an error; return the sections that show
    them. No files, and a section that says so, where there are no such rows."""
    rows = error_rows(rows)
    if rows.empty:
        return [Section("Error, per cent", table=rows)]
    heat, curves = folder / "transfer_matrix.png", folder / "error_by_eps.png"
    matrix = matrix_table(rows)
    write_csv(matrix.reset_index(), folder / "transfer_matrix.csv")
    draw_heatmap(rows, heat)
    fewer = f" Of fewer images: {named}." if (named := attacks_of_fewer(rows)) else ""
    text, seeds = f"Source = target is white-box.{fewer}", seeds_of_cells(rows)
    rule = "95 % intervals; bold: the lowest error of a line, and those whose interval overlaps its interval."
    if seeds.max() > 1:
        text, rule = f"{text} Mean ± sd over {seeds_text(seeds)}.", f"{rule} {OVER_SEEDS}"
    sections = [
        Section("Error, per cent", text, matrix),
        Section("Error with its interval, per cent", rule, best_in_bold(rows)),
        Section("Transfer matrix", image=heat),
    ]
    return [*sections, Section("Error by eps", image=curves)] if draw_error_by_eps(rows, curves) else sections


def matrix_table(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return error_top1 in per cent, one decimal: rows (source, attack, eps), one column per target, clean row first.

    Mean over seeds, with their standard deviation in a column "<target> sd" where there are several. Beside each target
    for which a paper gives an error_top1: a column "<target> (paper)".
    """
    import pandas as pd

    ours, spread, paper = wide_matrix(rows), wide_matrix(rows, how="std"), paper_matrix(rows)
    columns: dict[str, pd.Series] = {}
    for target in ours.columns:
        columns[target] = ours[target]
        if spread[target].notna().any():
            columns[f"{target} sd"] = spread[target]
        if paper[target].notna().any():
            columns[f"{target} (paper)"] = paper[target]
    return pd.DataFrame(columns, index=ours.index).map(per_cent)


def best_in_bold(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the matrix's errors as "12.3 [11.7, 13.0]" in per cent, over all seeds; each line's best, and those tied
    with it, in bold (Tramèr et al. 2018, Table 4)."""
    every = bounds(rows)
    cells = interval_texts(*every).astype(object)
    assert ERROR.better is not None
    for line in cells.index if len(cells.columns) > 1 else ():
        values, lows, highs = (list(matrix.loc[line]) for matrix in every)
        tied = ties_for_best(values, lows, highs, ERROR.better)
        cells.loc[line] = [f"**{cell}**" if best else cell for cell, best in zip(cells.loc[line], tied, strict=True)]
    return cells


def bounds(rows: "pd.DataFrame") -> "list[pd.DataFrame]":
    """Return the matrix's errors, and the lower and upper ends of their intervals, as fractions."""
    found = error_estimates(rows)
    return [wide_matrix(found, column) for column in ("error_top1", "error_top1_low", "error_top1_high")]


def interval_texts(values: "pd.DataFrame", lows: "pd.DataFrame", highs: "pd.DataFrame") -> "pd.DataFrame":
    """Write each cell as `interval_text` does."""
    import pandas as pd

    cells = {t: list(map(interval_text, values[t], lows[t], highs[t])) for t in values.columns}
    return pd.DataFrame(cells, index=values.index)


def interval_text(rate: float, low: float, high: float) -> str:
    """Write `12.3 [11.7, 13.0]` in per cent; `-` where nothing was measured."""
    return "-" if isnan(low) else f"{rate * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"
