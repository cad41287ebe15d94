"""`import airlib`: what it offers, and that it stays cheap."""

import inspect
import subprocess
import sys
from typing import get_type_hints

import pytest

import airlib

NAMES = [name for name in airlib.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_exists_and_explains_itself(name):
    """In Jupyter, Shift-Tab shows the signature and this docstring, and nothing else."""
    thing = getattr(airlib, name)
    text = inspect.getdoc(thing)
    assert text and len(text.split()) >= 4
    assert text[0].isupper() or text.startswith("`"), f"{name}: {text.splitlines()[0]}"
    first = text.split()[0]
    assert first not in ("It", "Its", "They", "Their", "This", "That", "The same", "As", "Of")


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
