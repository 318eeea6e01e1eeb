"""Tables as CSV, Markdown and LaTeX. Tables for people are in per cent; `results.csv` is in fractions."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from epsball.results.rows import eps_label, in_order, mistakes_of, timings_of
from epsball.runtime.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

MISSING = "-"
"""how a cell without a value is written"""
HOLE = "missing"
"""how a cell is written that a run should have and has not"""
EQUAL = "= "
"""what stands in a cell before the name of an equal model, whose cells are shown"""


def write_results(rows: "pd.DataFrame", path: Path) -> list[Path]:
    """Write rows, their columns as `in_order` gives them, and beside them `mistakes.csv`, if any says which images were
    mistaken, and `timings.csv`, if any says how long it took; the files written."""
    others = {"mistakes.csv": mistakes_of(rows), "timings.csv": timings_of(rows)}
    files = {path: in_order(rows), **{path.with_name(name): frame for name, frame in others.items()}}
    written = {file: frame for file, frame in files.items() if file == path or len(frame)}
    for file in files.keys() - written.keys():
        file.unlink(missing_ok=True)  # of an earlier run in this directory
    for file, frame in written.items():
        write_csv(frame, file)
    return list(written)


def write_csv(frame: "pd.DataFrame", path: Path) -> None:
    """Write `frame` whole, without its index."""
    write_whole(path, frame.to_csv(index=False, lineterminator="\n"))


def per_cent(fraction: float) -> float:
    """Return `fraction` in per cent, to one decimal as Python prints it (numpy's half-even differs at 0.8645)."""
    return round(fraction * 100, 1)


def four_characters(percent: float) -> str:
    """Write per cent in at most four characters: 12.3, and 100 without a decimal."""
    return "100" if percent >= 99.95 else f"{percent:.1f}"


def markdown(frame: "pd.DataFrame") -> str:
    """Write `frame` as a pipe table: floats with one decimal (they are per cent already), numbers right-aligned.

    A column "<name> sd" is not shown by itself but as ± in <name>'s cells; NaN is shown as MISSING.
    """
    text = as_text(frame)
    lines = [[header, *text[header]] for header in text.columns]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *map(len, line)) for line in lines]
    right = [looks_numeric(line[1:]) for line in lines]
    padded = [
        [cell.rjust(width) if numeric else cell.ljust(width) for cell in line]
        for line, width, numeric in zip(lines, widths, right, strict=True)
    ]
    rules = ["-" * (width - 1) + ":" if numeric else "-" * width for width, numeric in zip(widths, right, strict=True)]
    header, *body = zip(*padded, strict=True)
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rules, *body])


def latex(frame: "pd.DataFrame") -> str:
    """Write `frame` as a booktabs tabular (\\usepackage{booktabs}), cells as in `markdown`, special signs escaped."""
    text = as_text(frame)
    align = "".join("r" if looks_numeric(list(text[column])) else "l" for column in text.columns)
    style = text.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    return str(style.to_latex(hrules=True, column_format=align)).replace("±", r"$\pm$")


def as_text(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Write each cell as `markdown` and `latex` show it; a named index becomes the first columns."""
    import pandas as pd

    frame = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    sds = {f"{column} sd" for column in frame.columns} & set(frame.columns)
    shown: dict[str, list[str]] = {}
    for column in frame.columns:
        if column in sds:
            continue
        cells = [cell_text(value, str(column)) for value in frame[column]]
        if f"{column} sd" in sds:
            spreads = [cell_text(value, "") for value in frame[f"{column} sd"]]
            cells = [cell if sd == MISSING else f"{cell} ± {sd}" for cell, sd in zip(cells, spreads, strict=True)]
        shown[str(column)] = cells
    return pd.DataFrame(shown, dtype=object)


def cell_text(value: object, column: str) -> str:
    """Write one value for a person: eps as a fraction, other floats with one decimal and no negative zero."""
    import pandas as pd

    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return MISSING
    if isinstance(value, float):
        return eps_label(value) if column == "eps" else f"{round(value, 1) + 0.0:.1f}"
    return str(value)


def looks_numeric(cells: list[str]) -> bool:
    """Whether every cell that is not missing, nor `= NAME`, starts like a number (and at least one does), and none is a
    list."""
    known = [cell for cell in cells if cell not in (MISSING, HOLE) and not cell.startswith(EQUAL)]
    return bool(known) and all(re.match(r"[-+]?\d[^;]*$", cell.lstrip("*[")) for cell in known)
