"""Imports point down from room to room and nowhere in a circle; cli alone knows Hydra; slow libraries wait."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

SOURCE = ROOT / "src" / "epsball"
ROOMS = (  # bottom first: a room imports those below it; two on one floor do not know each other
    {"build"},
    {"runtime", "results"},
    {"data", "output"},
    {"collect", "models", "paper"},
    {"attacks"},
    {"training"},
    {"measurements"},
    {"experiment"},
    {"cli"},
)
TRAINS = {"epsball.training.trained", "epsball.training.parallel"}  # how models come about: no measurement knows
SLOW = {"torchvision", "timm", "sklearn", "scipy", "matplotlib", "pandas", "safetensors", "jinja2", "PIL"}
CONFIG = {"hydra", "omegaconf"}
MODULES = {
    ".".join(("epsball", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
SCRIPTS = [ROOT / "run.py", *sorted((ROOT / "scripts").glob("*.py"))]


def imports(path: Path, top_only: bool = False) -> set[str]:
    """Full names that a file imports, not for types alone: `from epsball import build` is `epsball.build`. `top_only`:
    not in functions."""
    names: set[str] = set()
    for node in run_nodes(ast.parse(path.read_text()), top_only):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in full}
    return names


def run_nodes(tree: ast.AST, top_only: bool) -> Iterator[ast.AST]:
    """All nodes but those for types alone and, with `top_only`, those of functions."""
    for node in ast.iter_child_nodes(tree):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not for_types and not (function and top_only):
            yield node
            yield from run_nodes(node, top_only)


def room(module: str) -> str:
    """The folder of a module, or the module itself where it lies in none."""
    return module.split(".")[1] if "." in module else "epsball"


def floor(module: str) -> int:
    found = [number for number, rooms in enumerate(ROOMS) if room(module) in rooms]
    assert found, f"{module} lies in no room of ROOMS: say there which floor it is on"
    return found[0]


def inside(path: Path) -> set[str]:
    """The modules of epsball that a file imports, `import epsball` itself left out."""
    return {name for name in imports(path) if name.split(".")[0] == "epsball"} - {"epsball"}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "epsball"])
def test_imports_point_down(module: str) -> None:
    for other in inside(MODULES[module]):
        below = floor(other) < floor(module) or room(other) == room(module)
        assert below, f"{module} imports {other}, which is not below it"


def test_nothing_imports_in_a_circle() -> None:
    """Neither modules nor rooms; graphlib raises CycleError, which names the circle."""
    modules = {module: inside(path) - {module} for module, path in MODULES.items()}
    list(TopologicalSorter(modules).static_order())
    rooms: dict[str, set[str]] = {}
    for module, others in modules.items():
        rooms.setdefault(room(module), set()).update({room(other) for other in others} - {room(module)})
    list(TopologicalSorter(rooms).static_order())


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "measurements"])
def test_measurements_do_not_know_how_models_come_about(module: str) -> None:
    assert not inside(MODULES[module]) & TRAINS


@pytest.mark.parametrize("path", [*MODULES.values(), *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_cli_imports_hydra(path: Path) -> None:
    uses = {name.split(".")[0] for name in imports(path)} & CONFIG
    assert not uses or path.parent == SOURCE / "cli"


@pytest.mark.parametrize("module", MODULES)
def test_slow_libraries_are_imported_where_they_are_used(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(MODULES[module], top_only=True)} & SLOW


def test_a_folder_of_tests_for_each_room() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
