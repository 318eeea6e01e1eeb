"""Imports point down only, run.py alone knows Hydra, and slow libraries are imported where they are used."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "epsball"
LAYERS = (  # bottom first: a module may import those below it, and its own neighbours where ALLOWED says so
    {"__init__", "files", "build", "progress"},
    {"device", "expressions", "graphs"},
    {"readers", "data", "datasets"},
    {"models"},
    {"attacks"},
    {"objectives"},
    {"train", "store", "evaluate", "statistics", "estimates", "tables", "figures", "report"},
    {"worst_case", "claims"},
    {"tasks"},
    {"plan"},
    {"workshop"},
    {"lab"},
    {"experiments"},
)
WRITING = ("statistics", "estimates", "tables", "figures", "report")  # each may import those before it
ALLOWED = {("data", "readers"), ("datasets", "readers"), ("datasets", "data")} | {
    (writer, below) for i, writer in enumerate(WRITING) for below in WRITING[:i]
}
SLOW = {"torchvision", "timm", "sklearn", "scipy", "matplotlib", "pandas", "safetensors", "jinja2", "PIL"}
WRITERS = {*WRITING, "claims"}  # whoever imports them wants pandas
CONFIG = {"hydra", "omegaconf"}

MODULES = sorted(SOURCE.rglob("*.py"))
SCRIPTS = [ROOT / "run.py", *sorted((ROOT / "scripts").glob("*.py"))]


def part(path: Path) -> str:
    """The module of epsball that a file belongs to; models/ is one."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(path: Path, top_only: bool = False) -> set[str]:
    """Full names that a file imports: `from epsball import plan` is `epsball.plan`. `top_only`: not in functions."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in at_import(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def at_import(tree: ast.Module) -> list[ast.AST]:
    """The nodes that run when a module is imported."""
    waiting: list[ast.AST] = list(tree.body)
    found = []
    while waiting:
        node = waiting.pop()
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not function and not for_types:
            found.append(node)
            waiting += ast.iter_child_nodes(node)
    return found


def parts_of(names: set[str]) -> set[str]:
    """The modules of epsball among imported names; `import epsball` alone is the package itself."""
    known = {part(path) for path in MODULES}
    inside = [name.split(".") for name in names if name.split(".")[0] == "epsball"]
    return {names[1] if len(names) > 1 and names[1] in known else "__init__" for names in inside}


def level(name: str) -> int:
    (found,) = (i for i, layer in enumerate(LAYERS) if name in layer)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_down(path: Path) -> None:
    here = part(path)
    assert any(here in layer for layer in LAYERS), f"{here} has no layer: add it to LAYERS"
    for other in parts_of(imported(path)) - {here}:
        below = level(other) < level(here)
        assert below or (here, other) in ALLOWED, f"{here} imports {other}, which is not below it"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_run_imports_hydra(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert bool(roots & CONFIG) == (path.name == "run.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_slow_libraries_are_imported_where_they_are_used(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path, top_only=True)}
    assert roots & SLOW <= ({"pandas"} if part(path) in WRITERS else set())


def test_the_language_of_claims_knows_the_builder_alone() -> None:
    assert parts_of(imported(SOURCE / "expressions.py")) == {"build"}
    assert parts_of(imported(SOURCE / "claims.py")) == {"statistics", "estimates", "expressions"}


def test_the_command_line_answers_before_torch_is_imported() -> None:
    top = imported(ROOT / "run.py", top_only=True)
    assert parts_of(top) <= {"build", "progress"}
    for light in ("build", "progress", "__init__"):
        roots = {name.split(".")[0] for name in imported(SOURCE / f"{light}.py")}
        assert not roots & {"torch", "numpy", *SLOW}
