"""`import airlib`: what it offers, and that it stays cheap."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

import airlib

LEANING = set(
    "It Its They Their These Those This That As Of For With Without Beside In Between Also Both "
    "Itself From By See".split()
)
"""First words of docstrings that lean on something which the reader does not see."""
NAMES = [name for name in airlib.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_exists_and_explains_itself(name):
    """In Jupyter, Shift-Tab shows the signature and this docstring, and nothing else."""
    thing = getattr(airlib, name)
    text = inspect.getdoc(thing)
    assert text and len(text.split()) >= 4
    assert text[0].isupper() or text.startswith("`"), f"{name}: {text.splitlines()[0]}"


def docstrings() -> Iterator[tuple[str, str]]:
    """Where and what, of every public class and function of the package."""
    for path in sorted(Path(airlib.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                if text := ast.get_docstring(node):
                    yield f"{path.name}:{node.lineno} {node.name}", text


def test_docstrings_stand_alone():
    found = list(docstrings())
    assert len(found) > 500
    leaning = [where for where, text in found if text.split()[0].rstrip(",.:") in LEANING]
    assert leaning == []
    assert [where for where, text in found if text.startswith("The same")] == []


def test_the_face_knows_its_names_and_no_others():
    assert sorted(dir(airlib)) == sorted(airlib.__all__)
    with pytest.raises(AttributeError, match="no attribute 'open_wolrd'"):
        _ = airlib.open_wolrd


def test_importing_airlib_imports_nothing_else_of_weight():
    code = "import sys, airlib; print(sorted(m for m in sys.modules if m.startswith('airlib.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_signatures_show_no_walls_of_text():
    """A default of 79 sentences would fill the screen."""
    for name in NAMES:
        thing = getattr(airlib, name)
        if name != "AirlibError":  # built in, without a signature
            assert len(str(inspect.signature(thing))) < 900, name


def test_the_types_of_the_main_entrance_resolve():
    assert get_type_hints(airlib.open_world)["return"] is airlib.World
