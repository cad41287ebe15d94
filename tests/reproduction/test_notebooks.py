"""The notebooks: well-formed, readable, free of what does not belong in git, and able to run."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

import airlib
from airlib.reproduction.parameters import parameter_cell
from airlib.reproduction.runner import reproduce
from airlib.results import load_results

pytestmark = pytest.mark.slow  # runs every notebook

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
READY = ("00", "01", "02", "03", "04", "05", "06", "07", "90")

IMPORTS = {"airlib", "math", "numpy", "torch", "pandas", "matplotlib", "IPython", "pathlib"}
TAGS = {"parameters", "nbval-skip", "nbval-check-output"}
COMMON = {"profile": "tiny", "seed": 0, "out_dir": "", "overrides": {}, "dry_run": False}
HEADINGS = ("What you will see", "What the paper reports, what we got", "Exercises", "References")
WORK = {  # what makes the runs below short; a parameter goes to the notebooks that have it
    "overrides": json.dumps(
        {
            "methods.nada.steps": 4,
            "methods.air.steps": 4,
            "methods.air.prompt_steps": 2,
            "methods.air.prompt_pairs": 4,
            "arms.nada_lora.steps": 4,
            "arms.air_lora.steps": 4,
            "arms.air_lora.prompt_pairs": 4,
            "diffusion.steps": 3,
            "diffusion.gradient_steps": 3,
            "evaluation.samples": 40,
            "evaluation.references": 40,
        }
    ),
    "dry_run": "true",
    "pairs": '["human-baby", "photo-sketch"]',
    "seeds": "1",
    "workers": "1",
}
DIFFUSION = {"pairs": '["diffusion-human-baby"]'}  # what notebook 04 has instead

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "code") -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def prose(path: Path) -> str:
    return "\n".join(cell.source for cell in cells(path, "markdown"))


def outputs(path: Path) -> list[nbformat.NotebookNode]:
    return [output for cell in cells(path) for output in cell.outputs]


def test_the_promised_notebooks_are_there():
    assert {path.stem[:2] for path in NOTEBOOKS} >= set(READY)
    assert all(len(re.findall(rf"\| \[?{number}\b", readme())) == 1 for number in READY)


@each
def test_is_a_valid_notebook_for_any_python_kernel(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert {tag for cell in notebook.cells for tag in tags(cell)} <= TAGS


@each
def test_parameters_are_the_common_ones_and_few_of_its_own(path):
    found = parameter_cell(path)  # refuses anything but one cell of literals
    assert {name: found.get(name) for name in COMMON} == COMMON
    assert len(found) <= len(COMMON) + 4
    (cell,) = (cell for cell in cells(path) if "parameters" in tags(cell))
    assert all("#" in line for line in cell.source.splitlines()), "say what each parameter is for"


@each
def test_reads_in_the_order_of_the_house(path):
    text = prose(path)
    assert text.startswith(f"# {path.stem[:2]} ")
    assert re.search(r"^> \S", text, re.MULTILINE), "a claim, quoted, below the title"
    places = [text.find(heading) for heading in HEADINGS]
    assert -1 not in places and places == sorted(places)
    exercises = text[places[-2] : places[-1]]
    assert re.findall(r"^(\d)\. ", exercises, re.MULTILINE) == ["1", "2", "3"]
    levels = [len(marks) for marks in re.findall(r"^(#+) ", without_code(text), re.MULTILINE)]
    assert levels.count(1) == 1
    assert all(low <= high + 1 for high, low in zip(levels, levels[1:], strict=False))


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@each
def test_cells_are_short_and_leave_the_work_to_airlib(path):
    lengths = []
    for cell in cells(path):
        lengths.append(len(cell.source.splitlines()))
        if "nbval-skip" in tags(cell):
            continue
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), "no shell, no magics"
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            else:
                continue
            assert {module.split(".")[0] for module in modules} <= IMPORTS
    assert max(lengths) <= 25 and sum(length > 12 for length in lengths) <= 1


@each
def test_the_colab_cell_installs_this_version_from_a_file_and_only_there(path):
    """By name, pip would find a package of somebody else."""
    skipped = [cell.source for cell in cells(path) if "nbval-skip" in tags(cell)]
    for source in skipped:
        assert source.startswith("try:\n    import google.colab")
        assert source.count("%pip") == 1
        assert f'"./airlib_kit-{airlib.__version__}-py3-none-any.whl[notebooks]"' in source


@each
def test_starts_with_setup_and_ends_with_finish(path):
    sources = [cell.source for cell in cells(path)]
    call = f'setup("{path.stem}", profile, seed, out_dir, overrides, dry_run)'
    assert sum(call in source for source in sources) == 1
    assert sources[-1].splitlines()[-1] == "session.finish()"


@each
def test_nothing_private_or_stale_is_stored(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r'[" (\'](/(home|root|tmp|work|Users|usr|mnt)/|[A-Z]:\\\\)', text)
    assert "data:image" not in prose(path), "pictures belong in outputs, not in prose"
    metadata = nbformat.reads(text, as_version=4).metadata
    assert metadata.keys().isdisjoint({"papermill", "widgets"})
    for output in outputs(path):
        assert output.output_type != "error" and output.get("name") != "stderr"
        assert not any("widget" in kind for kind in output.get("data", {}))
        if "image/png" in output.get("data", {}):
            assert output.metadata["image/png"]["alt"].strip()


@each
def test_stored_outputs_are_of_one_run_from_top_to_bottom(path):
    """All or none; nbval compares nothing where a count is missing."""
    counts = [cell.execution_count for cell in cells(path)]
    ran = list(range(1, len(counts) + 1))
    assert counts == ran or (not any(counts) and not outputs(path))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", READY)
def test_runs_from_top_to_bottom(number, tmp_path):
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith(number))
    work = WORK | (DIFFUSION if number == "04" else {})
    own = [(name, value) for name, value in work.items() if name in parameter_cell(path)]
    report = reproduce(only=[number], out=tmp_path, parameters=own, notebooks=FOLDER)
    found = load_results(tmp_path / "tiny" / path.stem / "results.json")
    assert found["notebook"] == path.stem and found["figures"] and found["metrics"]
    assert path.stem in report.read_text(encoding="utf-8")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", ["00"])
def test_dry_run_of_the_paper_profile_needs_no_download(number, tmp_path, monkeypatch):
    """With a generator of 64 pixels instead of 1024 for speed; CLIP has its real size.

    `test_other_device` runs all of them in its own process.
    """
    monkeypatch.setenv("AIRLIB_ASSETS", str(tmp_path / "assets"))
    own = [("dry_run", "true"), ("overrides", '{"sources.ffhq.resolution": 64}')]
    reproduce(profile="paper", only=[number], out=tmp_path, parameters=own, notebooks=FOLDER)
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith(number))
    found = load_results(tmp_path / "paper" / path.stem / "results.json")
    assert found["profile"] == "paper" and found["figures"] and found["peak_gigabytes"] > 0
    assert not (tmp_path / "assets").exists()


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_names_what_exists():
    text = readme()
    assert len(text.splitlines()) < 150
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), f"{link} is linked and does not exist"


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", readme(), re.DOTALL)
    assert len(example.splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "sketch.safetensors").is_file()
    source, adapted = map(float, re.findall(r"\d+\.\d+", capsys.readouterr().out))
    assert 0 < source < 1 and 0 < adapted < 1 and source != adapted
