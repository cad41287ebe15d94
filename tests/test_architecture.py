"""The layers of airlib: an import only points down, also one inside a function."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up: a room may import itself and the rooms before it. Each answers one question.
ROOMS = [
    "errors",  # what goes wrong
    "documents",  # small text files, read within limits
    "files",  # written whole or not at all
    "seeding",  # where randomness comes from
    "progress",  # how far it is
    "profiles",  # which numbers
    "results",  # what was measured
    "assets",  # where published weights and data come from
    "images",  # how a picture file becomes a tensor, and back
    "generators",  # what is adapted
    "checkpoints",  # how foreign files are read
    "clip_space",  # what measures meaning
    "training",  # how networks are made from nothing
    "parameterizations",  # what may move
    "methods",  # what pulls it
    "adaptation",  # the one loop
    "evaluation",  # how good it is
    "tinyworld",  # the embedded world
    "editing",  # what else an adapted generator can do
    "user_study",  # what people say
    "showing",  # how it is shown
    "worlds",  # generator, CLIP, pairs and references, opened by one call
    "experiments",  # many adaptations, restartable
    "studies",  # the papers' questions
    "reproduction",  # how the notebooks run
    "cli",  # the command line
]
ABOVE_ALL = ("airlib", "airlib.__main__")  # the package's face and its door, which see every room


def modules() -> dict[str, Path]:
    """Every module of the package: dotted name -> file."""
    files = sorted((ROOT / "airlib").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


MODULES = modules()


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """The airlib modules that a file imports; typing-only imports do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _statements(tree, top_level_only):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "airlib")


def _statements(node: ast.AST, top_level_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if top_level_only and isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        yield child
        yield from _statements(child, top_level_only)


def room(module: str) -> str:
    """The room of `airlib.ROOM` or `airlib.ROOM.module`."""
    name = module.split(".")[1]
    assert name in ROOMS, f"{module} is in no room: say in ROOMS of this test where it belongs"
    return name


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ABOVE_ALL])
def test_imports_point_down(module):
    height = ROOMS.index(room(module))
    for imported in imports(MODULES[module]):
        if imported != "airlib":  # for its version: the face imports nothing by itself
            assert ROOMS.index(room(imported)) <= height, f"{module} must not import {imported}"


def test_every_room_says_what_it_answers():
    for name in ROOMS:
        module = MODULES[f"airlib.{name}"]
        assert ast.get_docstring(ast.parse(module.read_text())), f"{name} has no docstring"


def test_no_import_cycles():
    """Of imports at the top of a module; one inside a function runs later."""
    graph = {name: set(imports(path, top_level_only=True)) for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError and names the cycle


def test_only_preprocessing_knows_the_colour_statistics_of_clip():
    for name, path in MODULES.items():
        if name != "airlib.clip_space.preprocessing":
            assert "0.48145466" not in path.read_text()


def test_nothing_is_unpickled():
    for name, path in MODULES.items():
        if name.startswith("airlib.checkpoints"):
            continue  # the allow-list unpickler, with its own tests
        text = path.read_text()
        for word in ("import pickle", "torch.load(", "torch.save(", "allow_pickle=True"):
            assert word not in text, f"{name} uses {word}"
