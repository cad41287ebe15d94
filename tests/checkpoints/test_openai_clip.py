"""OpenAI's archives: the same features as recorded, read without running their program.

`clip_text_prompt.npz` (weights: `clip_air_tiny.safetensors`) was recorded from OpenAI's code.
"""

import copy
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import nn

from airlib.checkpoints.openai_clip import is_torchscript, read_openai_clip, read_torchscript
from airlib.errors import AirlibError

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT = {"context_length": 77, "vocab_size": 256, "width": 128, "heads": 2, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 64}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "clip_text_prompt.npz", allow_pickle=False) as file:
        names = [name for name in file.files if file[name].dtype.kind in "fi"]
        return {name: torch.from_numpy(file[name]) for name in names}


@pytest.fixture(scope="module")
def config() -> dict:
    return json.loads((GOLDEN / "air-tiny-quickgelu.json").read_text(encoding="utf-8"))


def write_archive(path: Path, config: dict, state: dict[str, torch.Tensor] | None = None) -> CLIP:
    """A traced model in half precision with OpenAI's three integers, written to `path`."""
    torch.manual_seed(0)
    model = CLIP(**config).requires_grad_(False).eval()
    if state:
        model.load_state_dict(state)
    for parameter in model.parameters():
        parameter.data = parameter.half().float()  # what half precision keeps
    original = copy.deepcopy(model)
    side = model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    for name in ("input_resolution", "context_length", "vocab_size"):
        vars(model).pop(name, None)  # a plain integer in open_clip
        model.register_buffer(name, torch.tensor(side))
    inputs = (torch.zeros(1, 3, side, side), torch.zeros(1, 77, dtype=torch.long))
    traced = torch.jit.trace(model, inputs, check_trace=False)
    for parameter in traced.parameters():
        parameter.data = parameter.half()
    torch.jit.save(traced, path)
    return original


def load(imported) -> CLIP:
    model = CLIP(**imported.config)
    model.load_state_dict(imported.tensors)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def archive(tmp_path_factory, config) -> Path:
    path = tmp_path_factory.mktemp("clip") / "ViT-tiny.pt"
    write_archive(path, config, load_file(GOLDEN / "clip_air_tiny.safetensors"))
    return path


# --- the same network ----------------------------------------------------------------------------


def test_features_equal_openai(archive, recorded, config):
    imported = read_openai_clip(archive)
    assert imported.config == config
    model = load(imported)
    images = model.encode_image(recorded["image_norm_input"])
    torch.testing.assert_close(images, recorded["image_features"], atol=1e-5, rtol=0)
    texts = model.encode_text(recorded["tokens"])
    torch.testing.assert_close(texts, recorded["text_features"], atol=1e-5, rtol=0)
    logits = model.get_logits(recorded["image_norm_input"], recorded["tokens"][:3])[0]
    torch.testing.assert_close(logits, recorded["logits_per_image"], atol=1e-4, rtol=0)


def test_the_activation_is_quick_gelu_and_matters(archive, recorded):
    imported = read_openai_clip(archive)
    assert imported.config["quick_gelu"]
    wrong = CLIP(**imported.config | {"quick_gelu": False})
    wrong.load_state_dict(imported.tensors)
    wrong.requires_grad_(False).eval()
    for features, name, given in (
        (wrong.encode_image, "image_features", "image_norm_input"),
        (wrong.encode_text, "text_features", "tokens"),
    ):
        plain = features(recorded[given])
        torch.testing.assert_close(plain, recorded[f"{name}_wrong_gelu"], atol=1e-5, rtol=0)
        assert (plain - recorded[name]).abs().max() > 1e-2


def test_tensors_equal_those_torch_loads(archive):
    tensors = read_openai_clip(archive).tensors
    loaded = torch.jit.load(archive).state_dict()
    dropped = {"input_resolution", "context_length", "vocab_size", "attn_mask"}
    assert loaded.keys() - tensors.keys() == dropped
    for name, tensor in tensors.items():
        assert loaded[name].dtype == torch.float16 and tensor.dtype == torch.float32
        assert torch.equal(tensor, loaded[name].float())


@pytest.mark.slow  # opens networks of full size
def test_a_resnet_is_read_too(tmp_path):
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": RESNET, "text_cfg": TEXT}
    original = write_archive(tmp_path / "RN-tiny.pt", config)
    imported = read_openai_clip(tmp_path / "RN-tiny.pt")
    assert imported.config == config
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        load(imported).encode_image(x), original.encode_image(x), atol=1e-5, rtol=0
    )


# --- hostile and damaged archives ----------------------------------------------------------------


class Program(nn.Module):
    """A TorchScript program that writes a file as soon as its state is restored."""

    def __init__(self, target: str):
        super().__init__()
        self.weight, self.training, self.target = nn.Parameter(torch.ones(2)), True, target

    @torch.jit.export
    def __getstate__(self):
        return (self.weight, self.target, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        self.weight, self.target, self.training = state[0], state[1], state[2]
        torch.save(state[0], state[1])

    def forward(self, x: torch.Tensor):
        return x


def test_a_program_in_an_archive_does_not_run(tmp_path):
    sentinel, path = tmp_path / "sentinel", tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(Program(str(sentinel))), path)
    with pytest.raises(AirlibError, match=r"program.pt is refused: .* Nothing in it was executed"):
        read_openai_clip(path)
    assert not sentinel.exists()
    torch.jit.load(path)
    assert sentinel.exists()  # so the program was dangerous


def replace_member(source: Path, path: Path, ending: str, data: bytes, **options) -> Path:
    """A copy of an archive in which the member whose name ends so holds `data`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", **options) as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith(ending) else old.read(name))
    return path


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cos\nsystem\n(S'touch sentinel'\ntR.", "asks for 'os.system'"),
        (
            b"\x80\x02cposix\nsystem\nX\x0e\x00\x00\x00touch sentinel\x85R.",
            "asks for 'posix.system'",
        ),
        (b"\x80\x02ctorch.jit\nload\n)R.", "asks for 'torch.jit.load'"),
        (b"\x80\x02c__torch__.A\nB\n)\x81}X\x01\x00\x00\x00m", "damaged"),
        (b"\x80\x02c__torch__.A\nB\n)\x81q\x00}(X\x01\x00\x00\x00mh\x00ub.", "contains itself"),
        (b"\x80\x02]q\x00(h\x00h\x00h\x00h\x00e.", "contains itself"),
        (b"\x80\x02X\x07\x00\x00\x00storageQ.", "not the numbers of a tensor"),
        (b"", "damaged"),
    ],
)
def test_a_hostile_module_tree_is_refused(archive, tmp_path, monkeypatch, program, message):
    monkeypatch.chdir(tmp_path)
    path = replace_member(archive, tmp_path / "hostile.pt", "/data.pkl", program)
    with pytest.raises(AirlibError, match=rf"hostile.pt .*{message}"):
        read_openai_clip(path)
    assert [file.name for file in tmp_path.iterdir()] == ["hostile.pt"]


def test_storages_are_held_to_their_size(archive, tmp_path):
    short = replace_member(archive, tmp_path / "short.pt", "/data/0", b"\0" * 10)
    with pytest.raises(AirlibError, match="short.pt is damaged"):
        read_openai_clip(short)
    packed = tmp_path / "packed.pt"
    replace_member(archive, packed, "/data/0", b"", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(AirlibError, match="packed.pt is refused: .* encrypted or compressed"):
        read_openai_clip(packed)


def test_other_files_are_refused(archive, tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "linear.pt")
    with pytest.raises(AirlibError, match="linear.pt is a TorchScript archive but not an OpenAI"):
        read_openai_clip(tmp_path / "linear.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "state.pt")
    with pytest.raises(AirlibError, match="state.pt is no TorchScript archive"):
        read_torchscript(tmp_path / "state.pt")
    shutil.copy(archive, tmp_path / "cut.pt")
    with (tmp_path / "cut.pt").open("r+b") as file:
        file.truncate(archive.stat().st_size // 2)
    assert is_torchscript(archive) and not is_torchscript(tmp_path / "cut.pt")
