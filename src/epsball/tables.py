"""Rows to CSV, Markdown, LaTeX and terminal text. Tables for people are in per cent; `results.csv` is in fractions."""

import re
from math import isnan, nan
from pathlib import Path

import pandas as pd

from epsball import estimates, statistics
from epsball.files import write_whole

COLUMNS = (
    "dataset", "seed", "source", "target", "attack", "eps", "n", "error_top1", "error_top1_low", "error_top1_high",
    "error_top5", "transfer_rate_top1", "transfer_rate_top5", "transfer_n", "clean_error_top1", "max_perturbation",
    "seconds", "paper_value", "paper_metric", "difference",
)  # fmt: skip
PAPER = ("paper_value", "paper_metric", "difference")
LINE = 100  # columns of a terminal


def write_results(rows: pd.DataFrame, path: Path) -> None:
    """`results.csv`: COLUMNS in order (absent ones empty; the paper's only if it gives a value), then any others."""
    given = "paper_value" in rows.columns and rows["paper_value"].notna().any()
    known = [column for column in COLUMNS if given or column not in PAPER]
    others = [column for column in rows.columns if column not in COLUMNS]
    write_csv(rows.reindex(columns=[*known, *others]), path)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    write_whole(path, frame.to_csv(index=False, lineterminator="\n"))


def transfer_matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """error_top1 in per cent, one decimal: rows (source, attack, eps), one column per target, clean row first.

    Mean over seeds, with their standard deviation in a column "<target> sd" where there are several. Beside each target
    for which a paper gives an error_top1: a column "<target> (paper)".
    """
    ours, spread, paper = statistics.matrix(rows), statistics.matrix(rows, how="std"), paper_matrix(rows)
    columns: dict[str, pd.Series] = {}
    for target in ours.columns:
        columns[target] = ours[target]
        if spread[target].notna().any():
            columns[f"{target} sd"] = spread[target]
        if paper[target].notna().any():
            columns[f"{target} (paper)"] = paper[target]
    return pd.DataFrame(columns, index=ours.index).map(per_cent)


def per_cent(fraction: float) -> float:
    """`fraction` in per cent, rounded to one decimal as Python prints it (numpy's half-even differs at 0.8645)."""
    return round(fraction * 100, 1)


def paper_matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """The paper's error_top1 (fractions) in the shape of `statistics.matrix`, NaN where it gives none."""
    values = [nan] * len(rows)
    if "paper_value" in rows.columns:
        about_error = [statistics.paper_metric(row) == "error_top1" for row in statistics.records(rows)]
        values = list(pd.to_numeric(rows["paper_value"]).where(pd.Series(about_error, index=rows.index, dtype=bool)))
    return statistics.matrix(rows.assign(paper_value=values), "paper_value")


def markdown(frame: pd.DataFrame, missing: str = "-") -> str:
    """`frame` as a pipe table: floats with one decimal (they are per cent already), numbers right-aligned.

    A column "<name> sd" is not shown by itself but as ± in <name>'s cells; NaN is shown as `missing`.
    """
    text = as_text(frame, missing)
    lines = [[header, *text[header]] for header in text.columns]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *map(len, line)) for line in lines]
    right = [looks_numeric(line[1:], missing) for line in lines]
    padded = [
        [cell.rjust(width) if numeric else cell.ljust(width) for cell in line]
        for line, width, numeric in zip(lines, widths, right, strict=True)
    ]
    rules = ["-" * (width - 1) + ":" if numeric else "-" * width for width, numeric in zip(widths, right, strict=True)]
    header, *body = zip(*padded, strict=True)
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rules, *body])


def latex(frame: pd.DataFrame, missing: str = "-") -> str:
    """`frame` as a booktabs tabular (\\usepackage{booktabs}), cells as in `markdown`, special characters escaped."""
    text = as_text(frame, missing)
    align = "".join("r" if looks_numeric(list(text[column]), missing) else "l" for column in text.columns)
    style = text.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    return str(style.to_latex(hrules=True, column_format=align)).replace("±", r"$\pm$")


def as_text(frame: pd.DataFrame, missing: str) -> pd.DataFrame:
    """The cells of `markdown` and `latex`; a named index becomes the first columns."""
    frame = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    sds = {f"{column} sd" for column in frame.columns} & set(frame.columns)
    shown: dict[str, list[str]] = {}
    for column in frame.columns:
        if column in sds:
            continue
        cells = [cell_text(value, missing, str(column)) for value in frame[column]]
        if f"{column} sd" in sds:
            spreads = [cell_text(value, "", "") for value in frame[f"{column} sd"]]
            cells = [f"{cell} ± {sd}" if sd else cell for cell, sd in zip(cells, spreads, strict=True)]
        shown[str(column)] = cells
    return pd.DataFrame(shown, dtype=object)


def cell_text(value: object, missing: str, column: str) -> str:
    """One value for a person: eps as a fraction, other floats with one decimal and no negative zero."""
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return missing
    if isinstance(value, float):
        return statistics.eps_label(value) if column == "eps" else f"{round(value, 1) + 0.0:.1f}"
    return str(value)


def looks_numeric(cells: list[str], missing: str) -> bool:
    """Whether every cell that is not missing starts like a number (and at least one does), and none is a list."""
    known = [cell for cell in cells if cell not in (missing, "missing")]
    return bool(known) and all(re.match(r"[-+]?\d[^;]*$", cell.lstrip("*[")) for cell in known)


def console(rows: pd.DataFrame) -> str:
    """The transfer matrix for a terminal of 100 columns, folded where the targets do not fit side by side."""
    if rows.empty:
        return "no rows were measured\n"
    ours, spread, paper = statistics.matrix(rows), statistics.matrix(rows, how="std"), paper_matrix(rows)
    labels = [console_label(attack, eps) for _, attack, eps in ours.index]
    left = min(max(map(len, [*labels, *(f"from {source}" for source, *_ in ours.index)])), 22)
    columns = {
        target: console_column(ours[target], spread[target], paper[target], str(target)) for target in ours.columns
    }
    width = max(len(cell) for cells in columns.values() for cell in cells)
    fits = (LINE - left) // (width + 1)
    longest = max(len(str(target)) for target in columns)
    width = max(width, min(longest, (LINE - left) // min(fits, len(columns)) - 1))
    names = list(columns)
    blocks = [names[i : i + fits] for i in range(0, len(names), fits)]
    seeds = rows["seed"].nunique()
    head = (
        "error in per cent; * white-box"
        + (f"; mean ± sd of {seeds} seeds" if seeds > 1 else "")
        + ("; (paper's value)" if paper.notna().any(axis=None) else "")
    )
    body = [console_block(labels, list(ours.index), {t: columns[t] for t in block}, left, width) for block in blocks]
    return "\n".join([*body, head]) + "\n"


def console_label(attack: str, eps: float) -> str:
    """What stands left of an attack's errors."""
    return "clean" if attack == "clean" else f"  {attack} {statistics.eps_label(eps)}"


def console_column(
    ours: "pd.Series[float]", spread: "pd.Series[float]", paper: "pd.Series[float]", target: str
) -> list[str]:
    """The cells of one target: `12.3`, `12.3*` when white-box, `12.3±0.4` over seeds, `12.3 (11.9)` beside the paper's
    value, `-`."""
    cells = []
    for (source, attack, _), mine, sd, theirs in zip(ours.index, ours, spread, paper, strict=True):
        text = "-" if pd.isna(mine) else short_per_cent(mine)
        text += "" if pd.isna(sd) else f"±{100 * sd:.1f}"
        text += "*" if source == target and attack != "clean" and text != "-" else ""
        cells.append(text if pd.isna(theirs) else f"{text} ({short_per_cent(theirs)})")
    return cells


def short_per_cent(fraction: float) -> str:
    """Per cent in at most four characters: 12.3, and 100 without a decimal."""
    return "100" if fraction >= 0.9995 else f"{fraction * 100:.1f}"


def console_block(
    labels: list[str], index: list[tuple[str, str, float]], columns: dict[str, list[str]], left: int, width: int
) -> str:
    """One block of `console`: wrapped target names, then the clean row, then the attacks under their source."""
    chunks = {name: [name[i : i + width] for i in range(0, len(name), width)] for name in columns}
    height = max(map(len, chunks.values()))
    heads = [[""] * (height - len(parts)) + parts for parts in chunks.values()]
    lines = [" " * left + "".join(f" {part:>{width}}" for part in parts) for parts in zip(*heads, strict=True)]
    source = "-"
    for i, (label, key) in enumerate(zip(labels, index, strict=True)):
        if key[0] != source:
            source = key[0]
            lines.append(f"from {source}")
        lines.append(shorten(label, left) + "".join(f" {cells[i]:>{width}}" for cells in columns.values()))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def shorten(label: str, width: int) -> str:
    """`label` in exactly `width` characters; the attack's name gives way, its eps stays."""
    if len(label) > width:
        name, _, eps = label.rpartition(" ")
        label = f"{name[: max(width - len(eps) - 2, 0)]}… {eps}"
    return label[:width].ljust(width)


def intervals(rows: pd.DataFrame) -> pd.DataFrame:
    """The matrix's errors as "12.3 [11.7, 13.0]" in per cent, over all seeds."""
    return interval_texts(*bounds(rows))


def best_in_bold(rows: pd.DataFrame) -> pd.DataFrame:
    """`intervals`, each line's lowest error and those statistically tied with it in bold (Tramèr et al., Table 4)."""
    every = bounds(rows)
    cells = interval_texts(*every).astype(object)
    for line in cells.index if len(cells.columns) > 1 else ():
        values, lows, highs = (list(matrix.loc[line]) for matrix in every)
        tied = statistics.ties_for_best(values, lows, highs)
        cells.loc[line] = [f"**{cell}**" if best else cell for cell, best in zip(cells.loc[line], tied, strict=True)]
    return cells


def bounds(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The matrix's errors, and the lower and upper ends of their intervals, as fractions."""
    found = estimates.errors(rows)
    return [statistics.matrix(found, column) for column in ("error_top1", "error_top1_low", "error_top1_high")]


def interval_texts(values: pd.DataFrame, lows: pd.DataFrame, highs: pd.DataFrame) -> pd.DataFrame:
    cells = {t: list(map(interval_text, values[t], lows[t], highs[t])) for t in values.columns}
    return pd.DataFrame(cells, index=values.index)


def interval_text(rate: float, low: float, high: float) -> str:
    """`12.3 [11.7, 13.0]` in per cent; `-` where nothing was measured."""
    return "-" if isnan(low) else f"{rate * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"
