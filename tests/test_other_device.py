"""The paper profile on a GPU, tried without one: its networks live on a second device, and whatever
mixes it with the CPU raises (`other_device`)."""

from pathlib import Path

import matplotlib.pyplot
import nbformat
import pytest
import torch
from other_device import DEVICE, other_device

from airlib.results import load_results
from airlib.worlds import paper

pytestmark = pytest.mark.slow  # runs every notebook on a pretended device

matplotlib.pyplot.switch_backend("agg")
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("0*.ipynb"))
SMALL = {  # the generators, for speed
    "sources.ffhq.resolution": 32,
    "sources.diffusion-ffhq.resolution": 32,
    "diffusion.checkpointing": False,  # torch.utils.checkpoint knows real devices only
}
UNET = paper.P2_CONFIG | {"sample_size": 32, "block_out_channels": (64,) * 6}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, shallow_clip):
    """PaperWorld opens its networks on the second device."""
    monkeypatch.setenv("AIRLIB_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setattr(paper, "_device", lambda: DEVICE)
    monkeypatch.setattr(paper, "P2_CONFIG", UNET)
    with other_device():
        yield


def cells(path: Path) -> list[str]:
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [cell.source for cell in code if "nbval-skip" not in cell.metadata.get("tags", [])]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_dry_run_keeps_to_the_device_of_its_networks(path, elsewhere, tmp_path):
    """And needs no download."""
    parameters = {"profile": "paper", "dry_run": True, "out_dir": str(tmp_path), "overrides": SMALL}
    names = {"display": lambda *_: None}
    for position, source in enumerate(cells(path)):
        exec(compile(source, f"{path.stem}, cell {position}", "exec"), names)
        names.update({key: value for key, value in parameters.items() if key in names})
    found = load_results(tmp_path / "paper" / path.stem / "results.json")
    assert found["profile"] == "paper" and found["figures"]
    assert not (tmp_path / "assets").exists()


def test_the_second_device_refuses_to_meet_the_first(elsewhere):
    layer, images = torch.nn.Linear(3, 2).to(DEVICE), torch.ones(4, 3)
    with pytest.raises(RuntimeError, match="two devices"):
        layer(images)
    with pytest.raises(RuntimeError, match="random generator"):
        torch.rand(3, device=DEVICE, generator=torch.Generator())
    with pytest.raises(TypeError, match="no array"):
        layer(images.to(DEVICE)).detach().numpy()
    assert torch.equal(images.to(DEVICE)[[3, 1]].cpu(), images[[3, 1]])
    assert torch.equal(layer(images.to(DEVICE)).cpu(), layer.cpu()(images))
