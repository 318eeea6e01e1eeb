"""The transfer matrix for a terminal."""

from math import isnan
from typing import TYPE_CHECKING

from epsball.output.tables import four_characters
from epsball.results.rows import (
    attacks_of_fewer,
    eps_label,
    error_rows,
    paper_matrix,
    seeds_of_cells,
    seeds_text,
    wide_matrix,
)

if TYPE_CHECKING:
    import pandas as pd

LINE = 100  # columns of a terminal


def console_matrix(rows: "pd.DataFrame") -> str:
    """Show the transfer matrix on a terminal of 100 columns, folded where the targets do not fit side by side."""
    rows = error_rows(rows)
    if rows.empty:
        return "no rows were measured\n"
    ours, spread, paper = wide_matrix(rows), wide_matrix(rows, how="std"), paper_matrix(rows)
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
    seeds, fewer = seeds_of_cells(rows), attacks_of_fewer(rows)
    head = (
        "error in per cent; * white-box"
        + (f"; mean ± sd of {seeds_text(seeds)}" if seeds.max() > 1 else "")
        + ("; (paper's value)" if paper.notna().any(axis=None) else "")
        + (f"; of fewer images: {fewer}" if fewer else "")
    )
    body = [console_block(labels, list(ours.index), {t: columns[t] for t in block}, left, width) for block in blocks]
    return "\n".join([*body, head]) + "\n"


def console_label(attack: str, eps: float) -> str:
    """Name the line of an attack's errors."""
    return "clean" if attack == "clean" else f"  {attack} {eps_label(eps)}"


def console_column(
    ours: "pd.Series[float]", spread: "pd.Series[float]", paper: "pd.Series[float]", target: str
) -> list[str]:
    """Write the cells of one target: `12.3`, `12.3*` when white-box, `12.3±0.4` over seeds, `12.3 (11.9)` beside the
    paper's value, `-`."""
    cells = []
    for (source, attack, _), mine, sd, theirs in zip(ours.index, ours, spread, paper, strict=True):
        text = "-" if isnan(mine) else four_characters(100 * mine)
        text += "" if isnan(sd) else f"±{100 * sd:.1f}"
        text += "*" if source == target and attack != "clean" and text != "-" else ""
        cells.append(text if isnan(theirs) else f"{text} ({four_characters(100 * theirs)})")
    return cells


def console_block(
    labels: list[str], index: list[tuple[str, str, float]], columns: dict[str, list[str]], left: int, width: int
) -> str:
    """Write one block of the matrix: wrapped target names, then the clean row, then the attacks under their source."""
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
    """Fit `label` into exactly `width` characters; the attack's name gives way, its eps stays."""
    if len(label) > width:
        name, _, eps = label.rpartition(" ")
        label = f"{name[: max(width - len(eps) - 2, 0)]}… {eps}"
    return label[:width].ljust(width)
