"""Pages for people: the same sections as Markdown and as one HTML file that needs nothing else.

The same input gives the same bytes. Text and cells may carry **bold** and `code`; everything else is shown as it is.
"""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import quote

from epsball.output.tables import as_text, looks_numeric, markdown

if TYPE_CHECKING:
    import pandas as pd

EMPTY = "No rows."
CONTENTS_OVER = 4  # with more sections than this the HTML page gets a table of contents
PROSE, LONG_PROSE = 24, 40  # characters from which on words wrap, and what starts like a number is no number
Verdict = Literal["confirmed", "refuted", "open"]
"""on a claim or a check; a cell that is one is coloured"""
MARKS = re.compile(r"\*\*(?P<b>\S(?:.*?\S)?)\*\*|`(?P<code>[^`]+)`")


@dataclass(frozen=True)
class Section:
    """A heading and, under it in this order, text, table and image."""

    title: str
    text: str = ""
    table: "pd.DataFrame | None" = None
    """rates in per cent already"""
    image: Path | None = None
    """a PNG"""
    level: int = 2
    """of the heading, 1 to 6"""

    def __post_init__(self) -> None:
        assert 1 <= self.level <= 6, f"level should be 1 to 6, is {self.level}"


def markdown_page(title: str, facts: Mapping[str, object], sections: Sequence[Section], folder: Path) -> str:
    """Write the page as Markdown, to be written into `folder`: images are linked relative to it.

    Facts stand in their order under the title, `command` as code; those that are None are left out.
    """
    shown = {name: code(text) if name == "command" else plain(text) for name, text in known(facts).items()}
    listed = [f"- {plain(name)}: {text}\n" for name, text in shown.items()]
    parts = [f"# {plain(one_line(title))}\n", "".join(listed)]
    for section in sections:
        parts += markdown_section(section, folder)
    return "\n".join(part for part in parts if part)


def html_page(title: str, facts: Mapping[str, object], sections: Sequence[Section]) -> str:
    """Write the page as one HTML file, images inside: no network, no script. Facts as in `markdown_page`.

    Light or dark as the reader's system is. OSError where an image cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("epsball.output")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    shown = [html_section(section, name) for section, name in zip(sections, anchors(sections), strict=True)]
    contents = len(shown) > CONTENTS_OVER
    page = environment.get_template("report.html").render(
        title=one_line(title), facts=known(facts), sections=shown, contents=contents, pieces=pieces, empty=EMPTY
    )
    return f"{page}\n"


def known(facts: Mapping[str, object]) -> dict[str, str]:
    """Return the facts that are not None, each on one line."""
    return {one_line(name): one_line(str(value)) for name, value in facts.items() if value is not None}


def one_line(text: str) -> str:
    """Return `text` with a blank for every line end and the white space around it."""
    return re.sub(r"\s*[\n\r]\s*", " ", text.strip())


def markdown_section(section: Section, folder: Path) -> list[str]:
    """Write the blocks of one section."""
    title = plain(one_line(section.title))
    blocks = [f"{'#' * section.level} {title}\n"]
    if section.text:
        blocks.append(f"{plain(section.text.strip())}\n")
    if section.table is not None:
        blocks.append(f"{EMPTY}\n" if section.table.empty else plain(markdown(on_one_line(section.table))))
    if section.image is not None:
        link = quote(Path(os.path.relpath(section.image, folder)).as_posix())
        alt = title.replace("[", "\\[").replace("]", "\\]")
        blocks.append(f"![{alt}]({link})\n")
    return blocks


def on_one_line(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Take the line ends out of the texts and headers of `frame`: a pipe table has one line per row."""
    cells = frame.map(lambda value: one_line(value) if isinstance(value, str) else value)
    return cells.rename(columns=lambda name: one_line(str(name)))


def plain(text: str) -> str:
    """Write `text` in Markdown without HTML: every `<` outside of `code` is escaped."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "\\<", text)


def code(text: str) -> str:
    """Write `text` as code in Markdown, its own backticks kept."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    gap = " " if "`" in text else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def anchors(sections: Sequence[Section]) -> list[str]:
    """Return one id per section, made of its title, and numbered from the second of the same on."""
    names: list[str] = []
    for section in sections:
        stem = re.sub(r"\W+", "-", section.title.lower()).strip("-") or "section"
        name, count = stem, 1
        while name in names:
            count += 1
            name = f"{stem}-{count}"
        names.append(name)
    return names


def html_section(section: Section, anchor: str) -> dict[str, object]:
    """Return what the template shows of one section; `table` and `image` are None where there is none."""
    image = section.image and base64.b64encode(section.image.read_bytes()).decode()
    return {
        "anchor": anchor,
        "title": one_line(section.title),
        "level": section.level,
        "text": section.text.strip(),
        "table": None if section.table is None else html_table(section.table),
        "image": image,
    }


def html_table(frame: "pd.DataFrame") -> dict[str, object]:
    """Return columns as (header, kind), rows as lists of (text, verdict or ""); no rows where `frame` is empty."""
    if frame.empty:
        return {"columns": [], "rows": []}
    text = as_text(frame)
    columns = [(header, kind(list(text[header]))) for header in text.columns]
    lines = zip(*(text[header] for header in text.columns), strict=True)
    return {"columns": columns, "rows": [[(cell, verdict(cell)) for cell in line] for line in lines]}


def kind(cells: list[str]) -> str:
    """Say what the cells of one column are: `number` or interval (right-aligned), `prose` (it wraps) or `word`."""
    longest = max(map(len, cells))
    if longest < LONG_PROSE and looks_numeric(cells):
        return "number"
    return "prose" if any(len(cell) >= PROSE and " " in cell for cell in cells) else "word"


def verdict(cell: str) -> str:
    """Return the verdict that a cell consists of, "" if it is something else."""
    bare = cell.strip("*")
    return bare if bare in get_args(Verdict) else ""


def pieces(text: str) -> list[tuple[str, str]]:
    """Split `text` into (tag, text) pairs: `b` for what stands in **, `code` for what stands in backticks, else ""."""
    found: list[tuple[str, str]] = []
    end = 0
    for match in MARKS.finditer(text):
        tag = match.lastgroup or ""
        found += [("", text[end : match.start()]), (tag, match[tag])]
        end = match.end()
    return [*found, ("", text[end:])]
