"""The layers of airlib: an import only points down, also one inside a function."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. An entry stands for a module or a package; the longest that fits counts.
# Modules of one layer may import each other, where SEPARATE does not say otherwise.
LAYERS = [
    {"airlib", "airlib.errors"},
    {"airlib.seeding", "airlib.progress", "airlib.files", "airlib.checkpointing"}
    | {"airlib.archives", "airlib.downloads", "airlib.cluster"},
    {"airlib.results", "airlib.figures", "airlib.profiles", "airlib.assets"} | {"airlib.manifests"},
    {"airlib.checkpoints", "airlib.clip_space", "airlib.encoders", "airlib.generators"}
    | {"airlib.tinyworld"},
    {"airlib.parameterizations", "airlib.lora", "airlib.methods.step"},
    {"airlib.adaptation", "airlib.methods", "airlib.editing.pictures"},
    {"airlib.evaluation", "airlib.editing", "airlib.widgets"},
    {"airlib.studies"},
    {"airlib.tinyworld.training", "airlib.tinyworld.train_clip", "airlib.tinyworld.train_judge"}
    | {"airlib.tinyworld.train_generator", "airlib.tinyworld.exam"}
    | {"airlib.tinyworld.train_diffusion"}
    | {"airlib.studies.openmoji_clip", "airlib.evaluation.image_sets"},
    {"airlib.worlds"},
    {"airlib.sweep", "airlib.studies.hypernetwork", "airlib.tinyworld.check"}
    | {"airlib.tinyworld.train_encoder"},
    {"airlib.studies.settings", "airlib.studies.template_sweep", "airlib.studies.one_shot"}
    | {"airlib.evaluate", "airlib.score_report", "airlib.sweep_file"}
    | {"airlib.studies.manipulation", "airlib.studies.walks"},
    {"airlib.notebook", "airlib.report", "airlib.parameters", "airlib.doctor", "airlib.execution"},
    {"airlib.reproduce"},
    {"airlib.publish", "airlib.arguments"},
    {"airlib.cli"},
]
# The loop does not know the methods, and a method does not run the loop.
SEPARATE = [("airlib.adaptation", "airlib.methods"), ("airlib.methods", "airlib.adaptation")]


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


def covers(entry: str, module: str) -> bool:
    return module == entry or (entry != "airlib" and module.startswith(entry + "."))


def layer(module: str) -> int:
    fits = [
        (len(entry), height)
        for height, entries in enumerate(LAYERS)
        for entry in entries
        if covers(entry, module)
    ]
    assert fits, f"{module} is in no layer: say in LAYERS of this test where it belongs"
    return max(fits)[1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    height = layer(module)
    for imported in imports(MODULES[module]):
        assert layer(imported) <= height, f"{module} must not import {imported}"
        if layer(imported) == height:
            for importer, target in SEPARATE:
                apart = covers(importer, module) and covers(target, imported)
                assert not apart, f"{module} must not import {imported}"


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
