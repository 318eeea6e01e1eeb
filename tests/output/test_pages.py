"""One set of sections as Markdown and as HTML: nothing is lost, nothing is run, nothing is fetched."""

import base64
import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from epsball.output.pages import Section, Verdict, html_page, kind, markdown_page

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
UNCLOSED = {"meta", "link", "img", "input", "wbr"}
EVIL = "<script>alert('x')</script>"


@dataclass
class Page(HTMLParser):
    """What a browser would see of a page: its tags with their attributes, and the texts of some of them."""

    html: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        assert not self.waiting, f"not closed: {self.waiting}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.waiting += [] if tag in UNCLOSED else [tag]
        self.cells += [""] if tag in ("td", "th") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.waiting.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.waiting):
            self.cells[-1] += data

    def values(self, name: str, tag: str = "") -> list[str]:
        return [str(attrs[name]) for found, attrs in self.tags if name in attrs and tag in ("", found)]


def html(*sections: Section, **facts: object) -> str:
    return html_page("A page", facts, sections)


def markdown(*sections: Section, folder: Path = Path(), **facts: object) -> str:
    return markdown_page("A page", facts, sections, folder)


@pytest.fixture
def errors() -> pd.DataFrame:
    """Named index, sd column, NaN, eps, bold: what the matrices of `tables` have."""
    cells = {"A": [12.34, math.nan], "A sd": [0.45, math.nan], "A_adv": ["**3.6 [3.2, 4.0]**", "11.9 [11.3, 12.6]"]}
    index = pd.MultiIndex.from_tuples([("A", 8 / 255), ("B", 0.3)], names=["source", "eps"])
    return pd.DataFrame(cells, index=index)


def test_both_pages_have_the_same_cells(errors: pd.DataFrame) -> None:
    section = Section("Error", table=errors)
    expected = ["source", "eps", "A", "A_adv", "A", "8/255", "12.3 ± 0.5", "3.6 [3.2, 4.0]"]
    expected += ["B", "0.3", "-", "11.9 [11.3, 12.6]"]
    assert Page(html(section)).cells == expected
    lines = [line.strip("| ").split("|") for line in markdown(section).splitlines() if line.startswith("| ")]
    assert [cell.strip(" *") for line in [lines[0], *lines[2:]] for cell in line] == expected


def test_cells_are_marked_by_what_they_are(errors: pd.DataFrame) -> None:
    text = html(Section("Error", table=errors))
    assert '<td class="number"><b>3.6 [3.2, 4.0]</b></td>' in text
    assert '<td class="number">12.3 ± 0.5</td>' in text
    assert '<td class="number">-</td>' in text
    assert '<td class="word">B</td>' in text
    assert "**" not in text
    claims = [
        "FGSM transfers to B more often than to `A_adv`",
        "2 of 3 sources stay below the error that the paper gives",
    ]
    frame = pd.DataFrame({"claim": claims, "verdict": ["**refuted**", "an open question"]})
    text = html(Section("Claims", table=frame))
    assert '<td class="prose">FGSM transfers to B more often than to <code>A_adv</code></td>' in text
    assert '<span class="verdict refuted"><b>refuted</b></span>' in text
    assert '<td class="word">an open question</td>' in text
    assert kind(["1.0", claims[1]]) == "prose"
    assert kind(["[3.2, 4.0]", "-"]) == "number"
    assert kind(["3 of 3", "3 of 3; 2 of 3; 3 of 3; 3 of 3"]) == "prose"  # a list wraps
    assert kind(["3 of 3", "3 of 3; 2 of 3"]) == "word"


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_verdicts_are_coloured(verdict: str) -> None:
    text = html(Section("Claims", table=pd.DataFrame({"verdict": [verdict]})))
    assert f'<span class="verdict {verdict}">{verdict}</span>' in text
    assert text.count(f"\n.{verdict} {{ color: var(--{verdict});") == 1


def test_nothing_user_made_is_run(tmp_path: Path) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(PNG)
    facts = {EVIL: EVIL, "command": EVIL}
    sections = [Section(f'{EVIL}"> {i}', EVIL, pd.DataFrame({EVIL: [f"**{EVIL}**"]}), image) for i in range(5)]
    text = html_page(EVIL, facts, sections)
    page = Page(text)
    assert {"b", "code", "img"} <= {tag for tag, _ in page.tags}
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "svg", "form"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert page.cells[:2] == [EVIL, EVIL]
    assert page.values("alt") == [section.title for section in sections]
    assert not re.search(r"(?<!\\)<script", markdown_page(EVIL, facts, sections, tmp_path).replace(f"`{EVIL}`", ""))


def test_html_needs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(PNG)
    text = html(Section("One", "text", pd.DataFrame({"a": [1.0]}), tmp_path / "x.png"), command="python run.py")
    assert "http" not in text
    assert "@import" not in text and "url(" not in text
    page = Page(text)
    outside = [link for name in ("href", "src") for link in page.values(name) if not link.startswith(("#", "data:"))]
    assert outside == []
    assert "prefers-color-scheme: dark" in text


def test_an_image_is_embedded_in_html_and_linked_from_markdown(tmp_path: Path) -> None:
    image = tmp_path / "runs" / "heat map (1).png"
    image.parent.mkdir()
    image.write_bytes(PNG)
    section = Section("Heat [map]", image=image)
    (source,) = Page(html(section)).values("src", "img")
    assert base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True) == PNG
    for folder, link in [(tmp_path, "runs/"), (tmp_path / "docs", "../runs/"), (tmp_path / "runs", "")]:
        assert f"\n![Heat \\[map\\]]({link}heat%20map%20%281%29.png)\n" in markdown(section, folder=folder)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        html(Section("Gone", image=tmp_path / "gone.png"))


def test_anchors_are_unique_even_for_equal_titles() -> None:
    titles = ["Error", "Error", "Error 2", "error!", "→", "→", "Fehler über ε"]
    page = Page(html(*map(Section, titles)))
    ids = page.values("id")
    assert ids == ["error", "error-2", "error-2-2", "error-3", "section", "section-2", "fehler-über-ε"]
    links = page.values("href", "a")
    assert links[: len(ids)] == [f"#{name}" for name in ids]  # the table of contents
    assert links[len(ids) :] == [f"#{name}" for name in ids]  # the headings themselves


def test_a_table_of_contents_stands_over_four_sections() -> None:
    sections = [Section(f"Part {i}", level=2 + i % 2) for i in range(5)]
    assert "nav" not in [tag for tag, _ in Page(html(*sections[:4])).tags]
    page = Page(html(*sections))
    assert [tag for tag, _ in page.tags].count("nav") == 1
    assert page.values("class", "li") == ["level-2", "level-3", "level-2", "level-3", "level-2"]
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2", "h3")] == ["h1", "h2", "h3", "h2", "h3", "h2"]


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"run": [], "error": []})])
def test_an_empty_table_says_so(frame: pd.DataFrame) -> None:
    section = Section("Failed runs", "What went wrong.", frame)
    assert markdown(section) == "# A page\n\n## Failed runs\n\nWhat went wrong.\n\nNo rows.\n"
    text = html(section)
    assert '<p class="text">No rows.</p>' in text
    assert "<table" not in text


def test_facts_stand_in_order_without_the_unknown(errors: pd.DataFrame) -> None:
    facts = {"command": "python run.py a=`x`", "status": "done", "device": None, "seeds": 3, "failed": 0}
    text = markdown(Section("Error", "Per cent, eps < 1, `<b>`.", errors), **facts)
    assert text.startswith(
        "# A page\n\n- command: `` python run.py a=`x` ``\n- status: done\n- seeds: 3\n- failed: 0\n\n"
        "## Error\n\nPer cent, eps \\< 1, `<b>`.\n\n| source |"
    )
    page = html(**facts)
    assert re.findall(r"<dt>(.*?)</dt>", page) == ["command", "status", "seeds", "failed"]
    assert "<dd><code>python run.py a=`x`</code></dd>" in page
    assert "<dl" not in html()
    assert markdown() == "# A page\n"


def test_line_ends_do_not_break_tables_and_headings() -> None:
    frame = pd.DataFrame({"run": ["A"], "the\nerror": ["RuntimeError:\n  out of | memory"]})
    text = markdown(Section("Failed\nruns", table=frame), command="python run.py \\\n  seed=1")
    assert "- command: `python run.py \\ seed=1`\n" in text
    assert "\n## Failed runs\n" in text and re.search(r"^\| run \| the error +\|$", text, re.MULTILINE)
    assert text.endswith("| A   | RuntimeError: out of \\| memory |\n")


def test_the_same_input_gives_the_same_bytes(errors: pd.DataFrame) -> None:
    sections = [Section("Error", "text", errors), Section("Error", table=errors)]
    before = errors.copy()
    for page in (html, markdown):
        assert page(*sections, command="python run.py") == page(*sections, command="python run.py")
    pd.testing.assert_frame_equal(errors, before)


def test_a_heading_has_one_of_six_levels() -> None:
    with pytest.raises(AssertionError, match="level should be 1 to 6, is 7"):
        Section("Error", level=7)
