"""The package: one truth about requirements, a wheel with everything in it, a fast import."""

import ast
import os
import re
import resource
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import airlib

pytestmark = pytest.mark.slow  # builds the package and runs its tests

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_file_says_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    packages = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (by_pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert environment["name"] == "airlib"
    assert packages == [f"python{PROJECT['requires-python']}", "pip"]
    (requirement,) = by_pip  # everything else comes from pyproject.toml
    extras = re.fullmatch(r"--editable \.\[([\w,]+)\]", requirement).group(1).split(",")
    assert set(extras) == set(PROJECT["optional-dependencies"])


def test_requirements_are_ranges():
    requirements = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    for requirement in requirements:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_every_imported_package_is_required():
    """What airlib imports is in pyproject.toml, or comes with something that is."""
    imported = set().union(*(imports(path) for path in (ROOT / "airlib").rglob("*.py")))
    third_party = imported - set(sys.stdlib_module_names) - {"airlib"}
    extras = PROJECT["optional-dependencies"]
    required = {
        re.match(r"[\w-]+", entry).group().lower()
        for entry in [*PROJECT["dependencies"], *extras["notebooks"], *extras["openmoji"]]
    }
    comes_with = {
        "PIL": "pillow",
        "open_clip": "open_clip_torch",
        "IPython": "ipykernel",
        "jupyter_client": "ipykernel",
        "nbclient": "papermill",
        "nbformat": "papermill",
        "resvg_py": "resvg-py",
        "torch_fidelity": "torch-fidelity",
        "yaml": "pyyaml",
    }
    assert {comes_with.get(name, name) for name in third_party} <= required


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel as it would be released."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(folder.glob("airlib_kit-*.whl"))


def test_wheel_contains_the_whole_package(wheel):
    """Code, profiles, the weights of the tiny world and the manifests; nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.split("/")[0].endswith("-info")}
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "airlib").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    here |= {f"airlib/data_manifests/{p.name}" for p in (ROOT / "data_manifests").iterdir()}
    assert packed == here
    assert "airlib/profiles/paper.toml" in packed


def test_wheel_has_the_command_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "airlib = airlib.cli.commands:main" in archive.read(entry_points).decode()
        assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The sdist as it would be released, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with tarfile.open(next(folder.glob("airlib_kit-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def test_sdist_has_what_the_checkout_has(unpacked):
    """Nothing that git tracks is left behind, but for what git itself needs."""
    left = {path.name for path in ROOT.iterdir()} - {path.name for path in unpacked.iterdir()}
    of_this_machine = {".git", ".hypothesis", ".venv", "dist", "runs"}
    assert {name for name in left - of_this_machine if not name.endswith(("_cache", "__"))} == set()


def test_tests_pass_in_the_sdist(unpacked):
    """Some that read files from every corner; all of them run by `make test` there."""
    chosen = ["test_architecture.py", "test_profiles.py", "checkpoints/test_nvlabs.py"]
    chosen += ["reproduction/test_notebooks.py", "methods/test_presets.py"]
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "not run"]
    command += [f"tests/{name}" for name in chosen]
    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_python_versions_are_those_that_are_tried():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    tried = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert tried == named
    assert PROJECT["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_files_for_the_forge_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == airlib.__version__
    assert all(reference["url"].startswith("https://") for reference in citation["references"])


def test_the_package_is_a_command():
    command = [sys.executable, "-m", "airlib", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"airlib {airlib.__version__}"


@pytest.mark.parametrize(
    "module", ["airlib", "airlib.cli.commands", "airlib.profiles", "airlib.results"]
)
def test_import_is_fast_and_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    before = processor_seconds()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert processor_seconds() - before < 1.0


def processor_seconds() -> float:
    """Used by finished subprocesses so far; unlike the clock, it ignores what else is running."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
