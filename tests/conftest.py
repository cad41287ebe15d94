"""What several test files share: the command line in a subprocess, and small notebooks to run."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import open_clip
import pytest

PARAMETERS = """\
profile: str = "tiny"
seed: int = 0
out_dir: str = ""
interactive: str = "auto"
overrides: dict = {}
dry_run: bool = False
strength: float = 1.0  # a parameter of this notebook's own, with x = 3 in its comment
"""
SETUP = """\
from airlib.reproduction.notebook import setup
session = setup("{name}", profile, seed, out_dir, overrides, dry_run)"""
FINISH = "session.finish()"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files come first, so that no process is left with them while the others are done."""
    first = "test_other_device", "test_notebooks"
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    items.sort(key=lambda item: item.path.stem not in first)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither use nor fill the user's cache."""
    os.environ.setdefault("AIRLIB_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def shallow_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP models with random weights have all their widths and two layers, for speed."""
    whole = open_clip.get_model_config

    def shallow(name: str) -> dict:
        config = copy.deepcopy(whole(name))
        for part in ("vision_cfg", "text_cfg"):
            config[part]["layers"] = 2
        return config

    monkeypatch.setattr(open_clip, "get_model_config", shallow)


@pytest.fixture
def airlib_command() -> Callable[..., subprocess.CompletedProcess]:
    """Runs `airlib ARGUMENTS...` as a user would: in a process of its own."""

    def run(*arguments: str | Path, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "airlib", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)

    return run


@pytest.fixture
def make_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Writes tmp_path/notebooks/NAME.ipynb: title, parameters, setup, `cells`, finish."""

    def make(name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
        code = [SETUP.format(name=name), *cells, FINISH]
        tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_markdown_cell(f"# {name}"), tagged]
            + [nbformat.v4.new_code_cell(source) for source in code]
        )
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return make
