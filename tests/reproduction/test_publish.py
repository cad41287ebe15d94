"""Publishing copies outputs and nothing else into the notebooks."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from airlib.errors import AirlibError
from airlib.reproduction.publish import publish, with_outputs


def source():
    cells = [new_markdown_cell("# T"), new_code_cell("seed: int = 0"), new_code_cell("seed + 1")]
    cells[1].metadata["tags"] = ["parameters"]
    return new_notebook(cells=cells)


def executed():
    notebook = source()
    injected = new_code_cell("seed = 0\nout_dir = '/somewhere/private'", execution_count=2)
    injected.metadata["tags"] = ["injected-parameters"]
    notebook.cells.insert(2, injected)
    notebook.cells[3].execution_count = 3
    notebook.cells[3].outputs = [
        new_output("stream", name="stderr", text="warning from /somewhere/private"),
        new_output("execute_result", {"text/plain": "1"}, execution_count=3),
    ]
    notebook.metadata["papermill"] = {"output_path": "/somewhere/private"}
    return notebook


def test_outputs_arrive_and_sources_stay():
    published = with_outputs(source(), executed())
    assert [c.source for c in published.cells] == [c.source for c in source().cells]
    (output,) = published.cells[2].outputs
    assert output.data["text/plain"] == "1"
    counts = [c.execution_count for c in published.cells if c.cell_type == "code"]
    assert counts == [1, 2] and output.execution_count == 2


def test_nothing_of_the_machine_comes_along():
    assert "private" not in nbformat.writes(with_outputs(source(), executed()))


def test_a_run_of_other_sources_is_refused():
    changed = source()
    changed.cells[2].source = "seed + 2"
    with pytest.raises(AirlibError, match="other sources"):
        with_outputs(changed, executed())


def test_publishing_twice_changes_nothing(tmp_path):
    folder, runs = tmp_path / "notebooks", tmp_path / "runs" / "tiny" / "00_t"
    folder.mkdir()
    runs.mkdir(parents=True)
    nbformat.write(source(), folder / "00_t.ipynb")
    nbformat.write(executed(), runs / "00_t.ipynb")
    (runs / "finished.json").write_text('{"work": 120}')
    (path,) = publish("tiny", tmp_path / "runs", folder)
    first = path.read_bytes()
    publish("tiny", tmp_path / "runs", folder)
    assert path.read_bytes() == first
    assert json.loads(first)["cells"][2]["outputs"]
    assert json.loads(first)["metadata"]["airlib"] == {"work": 120}


@pytest.mark.parametrize("file", ["notebooks/00_t.ipynb", "runs/tiny/00_t/00_t.ipynb"])
def test_a_damaged_notebook_or_marker_is_one_line(tmp_path, file):
    for path in (tmp_path / "notebooks/00_t.ipynb", tmp_path / "runs/tiny/00_t/00_t.ipynb"):
        path.parent.mkdir(parents=True)
        nbformat.write(source(), path)
    marker = tmp_path / "runs/tiny/00_t/finished.json"
    for bad in ("", "null", "[]", "{}", '{"work": []}', "[" * 100_000):
        marker.write_text(bad)
        with pytest.raises(AirlibError, match="finished.json .*; run airlib reproduce --fresh"):
            publish("tiny", tmp_path / "runs", tmp_path / "notebooks")
    marker.write_text('{"work": 3}')
    odd = json.loads((tmp_path / file).read_text())
    odd["cells"][2]["outputs"] = [3]
    for bad in ("", "3", '{"cells": [3]}', '{"cells": []}', json.dumps(odd)):
        (tmp_path / file).write_text(bad)
        with pytest.raises(AirlibError, match="00_t.ipynb") as caught:
            publish("tiny", tmp_path / "runs", tmp_path / "notebooks")
        assert "\n" not in str(caught.value)


def test_a_notebook_without_a_run_is_refused(tmp_path):
    nbformat.write(source(), tmp_path / "00_t.ipynb")
    with pytest.raises(AirlibError, match="airlib reproduce"):
        publish("tiny", tmp_path / "runs", tmp_path)
