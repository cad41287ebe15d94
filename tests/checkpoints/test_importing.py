"""`airlib import`: a file is known by its content, and nothing wrong is written."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nvlabs_pickles import pickled
from open_clip.model import CLIP
from small_networks import small_generator
from torch import nn

from airlib.checkpoints import guided_diffusion, rosinality
from airlib.checkpoints.importing import describe, identify, import_file, load_imported, read
from airlib.checkpoints.tables import ignored_names, translate
from airlib.cli.commands import main
from airlib.errors import AirlibError
from airlib.files import save_tensors
from airlib.seeding import rng

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT = {"context_length": 16, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
VISION = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8, "head_width": 64}
CLIP_CONFIG = {"embed_dim": 8, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")


def write_rosinality(path: Path) -> nn.Module:
    generator = small_generator()
    torch.save(rosinality.to_rosinality(generator), path)
    return generator


def write_nvidia(path: Path) -> nn.Module:
    generator = small_generator()
    path.write_bytes(pickled(generator.state_dict(), generator.config_dict()))
    return generator


def write_unet(path: Path) -> nn.Module:
    """The recorded network with heads of 64 channels instead of 16, as the published ones have."""
    from diffusers.models import UNet2DModel

    with np.load(GOLDEN / "adm_unet_tiny.npz", allow_pickle=False) as file:
        state = {k[3:]: torch.from_numpy(file[k]) for k in file.files if k.startswith("sd/")}
    wide = {name: doubled(tensor, name) for name, tensor in state.items()}
    torch.save(wide, path)
    imported = guided_diffusion.from_guided_diffusion(wide, path)
    unet = UNet2DModel(**imported.config)
    unet.load_state_dict(imported.tensors)
    return unet.eval()


def doubled(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Twice as many channels everywhere but in the image: the same values again."""
    ends = {"input_blocks.0.0.weight": (2, 1), "out.2.weight": (1, 2), "out.2.bias": (1,)}
    times = ends.get(name, (2,) * min(tensor.ndim, 2))
    return tensor.float().repeat(*times, *[1] * (tensor.ndim - len(times)))


def write_clip(path: Path) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(**CLIP_CONFIG).requires_grad_(False).eval()
    inputs = (torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, dtype=torch.long))
    torch.jit.save(torch.jit.trace(model, inputs, check_trace=False), path)
    return model


def output(network: nn.Module) -> torch.Tensor:
    if isinstance(network, CLIP):
        tokens = torch.randint(1, 64, (2, 16), generator=rng(0))
        images = torch.randn(2, 3, 16, 16, generator=rng(1))
        return torch.cat([network.encode_image(images), network.encode_text(tokens)])
    if hasattr(network, "synthesis"):
        return network(network.map(network.sample_z(2, rng(0)), 0.7), "const")
    with torch.no_grad():
        return network(torch.randn(1, 3, 16, 16, generator=rng(0)), 500).sample


WRITERS = [
    (write_nvidia, "stylegan2", "NVIDIA StyleGAN2"),
    (write_rosinality, "stylegan2", rosinality.SOURCE),
    (write_unet, "unet", guided_diffusion.SOURCE),
    (write_clip, "clip", "OpenAI CLIP archive"),
]


@pytest.mark.parametrize(("write", "kind", "source"), WRITERS)
def test_the_imported_file_is_the_same_network(write, kind, source, tmp_path):
    path = tmp_path / "misleading.jpg"  # content counts, not the name
    original = write(path)
    assert identify(path).startswith(source)
    imported = import_file(path)
    assert imported == tmp_path / "misleading.jpg.safetensors"
    header = describe(imported)
    assert header["kind"] == kind and header["source"].startswith(source)
    assert header["parameters"] == sum(p.numel() for p in original.parameters())
    assert header["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    network = load_imported(imported)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert network.state_dict().keys() == original.state_dict().keys()
    torch.testing.assert_close(output(network), output(original), atol=1e-6, rtol=0)


def test_files_of_old_torch_are_known_too(tmp_path):
    generator, path = small_generator(), tmp_path / "550000.pt"
    content = rosinality.to_rosinality(generator)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert identify(path) == rosinality.SOURCE
    torch.testing.assert_close(output(load_imported(import_file(path))), output(generator))


# --- files that are something else ---------------------------------------------------------------


def domain(path: Path, **changes: object) -> dict[str, torch.Tensor]:
    """A domain of HyperDomainNet for `small_generator`; returns its offsets by layer."""
    layers = small_generator().synthesis.layers
    offsets = {
        f"heads.conv_{i}.params_in": 0.3 * torch.randn(1, 1, layer.weight.shape[1], 1, 1)
        for i, layer in enumerate(layers)
    }
    content = {"model_type": "parameterization", "patch_key": "cin_mult", "state_dict": offsets}
    content |= {"da_type": "im2im", "style_latents": torch.zeros(11, 16)}
    torch.save(content | {"sg2_params": {"img_size": 16}} | changes, path)
    return offsets


def mapper(path: Path) -> None:
    torch.save({"model_type": "mapper", "patch_key": "cin_mult", "state_dict": {}}, path)


def encoder(path: Path) -> None:
    weight = torch.zeros(64, 6, 3, 3)
    options = {"encoder_type": "BackboneEncoder"}
    torch.save({"state_dict": {"encoder.input_layer.0.weight": weight}, "opts": options}, path)


OTHER_FILES = {
    "domain.pt": (domain, "domain of HyperDomainNet for 5 convolutions, .* with --generator"),
    "shift.pt": (
        lambda p: domain(p, patch_key="s_delta"),
        "the patch_key 's_delta'; .* 'cin_mult'",
    ),
    "kinds.pt": (lambda p: torch.save({"model_type": np.zeros(2)}, p), "of another network"),
    "mapper.pt": (mapper, "a mapper of HyperDomainNet, .* single domains only"),
    "psp.pt": (encoder, "an encoder of type 'BackboneEncoder', which airlib does not have"),
    "vgg.pt": (lambda p: torch.save({"conv.weight": torch.zeros(1)}, p), r"network \(conv.weight"),
    "number.pt": (lambda p: torch.save(7, p), "PyTorch file of another network"),
    "page.pt": (lambda p: p.write_text("\n<!DOCTYPE html><p>Sign in"), "web page, not weights"),
    "lfs.pt": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git-lfs"),
    "packed.pt": (lambda p: p.write_bytes(b"\x1f\x8b\x08\0"), "compressed with gzip"),
    "noise.pkl": (lambda p: p.write_bytes(bytes(range(1, 200))), "no weight file that airlib"),
    "empty.pkl": (lambda p: p.write_bytes(b""), "is empty"),
    "code.pkl": (lambda p: p.write_bytes(b"\x80\x02cposix\nsystem\n."), "posix.system"),
    "folder.pt": (lambda p: p.mkdir(), "is a directory"),
    "missing.pt": (lambda p: None, "no such file"),
    "lost.pt": (lambda p: p.symlink_to("nowhere"), "link to nowhere"),
    "ours.pt": (
        lambda p: save_tensors(p, {"x": torch.zeros(2)}, {}),
        "file of airlib already",
    ),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_one_line_says_what_a_wrong_file_is(name, tmp_path):
    write, message = OTHER_FILES[name]
    path = tmp_path / name
    write(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(AirlibError, match=message) as caught:
        import_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


# --- files that need another one, or a choice ----------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("is_imported", [True, False])
def test_a_domain_of_hyperdomainnet_multiplies_the_input_of_the_convolutions(
    is_imported, prefix, tmp_path
):
    """After demodulation, so each is a factor of the features that enter a layer."""
    offsets = domain(tmp_path / "td.pt")
    named = {prefix + name: offset for name, offset in offsets.items()}
    domain(tmp_path / "td.pt", state_dict=named)
    original = write_rosinality(tmp_path / "g.pt")
    given = import_file(tmp_path / "g.pt") if is_imported else tmp_path / "g.pt"
    imported = import_file(tmp_path / "td.pt", generator=given)
    header = describe(imported)
    assert header["source"].startswith("HyperDomainNet domain, after demodulation, on: rosinality")
    assert any(name.startswith("style_latents: ") for name in header["ignored"])
    network = load_imported(imported)
    assert header["parameters"] == sum(p.numel() for p in network.parameters())
    for layer, offset in zip(original.synthesis.layers, offsets.values(), strict=True):
        factors = 1 + offset.flatten()[:, None, None]
        layer.register_forward_pre_hook(lambda _, inputs, f=factors: (inputs[0] * f, *inputs[1:]))
    torch.testing.assert_close(output(network), output(original), atol=1e-5, rtol=0)


def test_a_domain_of_another_generator_is_refused(tmp_path):
    domain(tmp_path / "td.pt")
    for changes, message in (
        ({"channel_max": 8}, "of other shapes than our network"),
        ({"resolution": 8}, r"does not have: heads\.conv_3"),
        ({"resolution": 32}, r"lacks tensors .*b32\.conv0\.domain_post"),
    ):
        other = rosinality.to_rosinality(small_generator(**changes))
        torch.save(other, tmp_path / "other.pt")
        with pytest.raises(AirlibError, match=f"td.pt .*{message}"):
            import_file(tmp_path / "td.pt", generator=tmp_path / "other.pt")
    write_clip(tmp_path / "clip.pt")
    with pytest.raises(AirlibError, match="td.pt is a domain of a StyleGAN2"):
        import_file(tmp_path / "td.pt", generator=tmp_path / "clip.pt")


def test_one_class_of_a_conditional_network_is_imported_by_the_command(tmp_path, capsys):
    source, path = small_generator(c_dim=3), tmp_path / "cond.pkl"
    path.write_bytes(pickled(source.state_dict(), source.config_dict()))
    assert main(["import", str(path)]) == 1
    assert "conditional network (3 classes); choose one with --class" in capsys.readouterr().err
    assert main(["import", str(path), "--class", "2"]) == 0
    assert "class 2 of 0 to 2" in capsys.readouterr().out
    network = load_imported(f"{path}.safetensors")
    expected = source.restrict(torch.eye(3)[2])
    torch.testing.assert_close(output(network), output(expected), atol=1e-6, rtol=0)


def test_a_choice_that_a_file_has_no_use_for_is_refused(tmp_path):
    write_rosinality(tmp_path / "g.pt")
    with pytest.raises(AirlibError, match=r"g\.pt .*--class is for the .* leave it out"):
        import_file(tmp_path / "g.pt", class_index=0)
    with pytest.raises(AirlibError, match=r"g\.pt .*--generator is for the domains of"):
        import_file(tmp_path / "g.pt", generator=tmp_path / "g.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["g.pt"]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("write", [write_rosinality, write_clip])
def test_a_truncated_file_is_refused(write, share, tmp_path):
    path = tmp_path / "cut.pt"
    write(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(AirlibError, match="cut.pt is"):
        import_file(path)
    assert [file.name for file in tmp_path.iterdir()] == ["cut.pt"]


def test_values_that_are_not_finite_are_refused(tmp_path):
    content = rosinality.to_rosinality(small_generator())
    content["g_ema"]["conv1.conv.weight"][0, 0, 0, 0, 0] = torch.nan
    torch.save(content, tmp_path / "nan.pt")
    with pytest.raises(AirlibError, match="nan.pt holds values in .*conv1.weight .* not finite"):
        import_file(tmp_path / "nan.pt")


# --- what is written -----------------------------------------------------------------------------


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    path, out = tmp_path / "saved.pt", tmp_path / "out.safetensors"
    write_rosinality(path)
    out.write_text("precious")
    with pytest.raises(AirlibError, match="out.safetensors exists already; .* --force"):
        import_file(path, out)
    assert out.read_text() == "precious"
    assert describe(import_file(path, out, force=True))["kind"] == "stylegan2"
    original = path.read_bytes()
    with pytest.raises(AirlibError, match="exists already"):
        import_file(path, path, force=True)  # the original itself
    assert path.read_bytes() == original


def test_an_altered_imported_file_is_refused(tmp_path):
    path = tmp_path / "saved.pt"
    write_rosinality(path)
    imported, out = read(path), tmp_path / "altered.safetensors"
    header = describe(import_file(path))
    fewer = dict(list(imported.tensors.items())[1:])
    for tensors, changed in (
        (fewer, header),
        (imported.tensors, header | {"config": header["config"] | {"resolution": 32}}),
        (imported.tensors, header | {"config": {"size": 16}}),
        (imported.tensors, header | {"kind": "gpt"}),
        (imported.tensors, {"config": header["config"]}),
    ):
        save_tensors(out, tensors, changed)
        with pytest.raises(AirlibError, match="altered.safetensors|no network of kind 'gpt'"):
            load_imported(out)


def test_the_command_prints_what_it_found(tmp_path, capsys):
    path = tmp_path / "saved.pt"
    generator = write_rosinality(path)
    assert main(["import", str(path)]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["kind"] == "stylegan2" and lines["source"] == rosinality.SOURCE
    assert json.loads(lines["config"]) == generator.config_dict()
    assert int(lines["parameters"]) == sum(p.numel() for p in generator.parameters())
    assert lines["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert any("to_rgbs.0.upsample.kernel" in name for name in json.loads(lines["ignored"]))
    assert lines["file"] == f"{path}.safetensors"
    assert main(["import", str(path)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["import", str(path), "--force"]) == 0


# --- tables --------------------------------------------------------------------------------------

TABLE = [(r"a\.(\d)", lambda m: f"ours.{int(m[1]) + 1}", None), ("b", "b", lambda t: t[0])]
IGNORED = {r"a\.9": "an old constant"}


def test_a_table_renames_transforms_and_ignores():
    source = {"a.0": torch.zeros(1), "a.9": torch.ones(1), "b": torch.tensor([[3.0, 4.0]])}
    result = translate(source, TABLE, IGNORED, {"ours.1": [1], "b": [2]}, path="x.pt")
    assert result.keys() == {"ours.1", "b"}
    assert result["ours.1"] is source["a.0"] and torch.equal(result["b"], source["b"][0])
    assert ignored_names(source, IGNORED) == ("a.9: an old constant",)


def test_one_tensor_can_fill_several_targets():
    rules = [("qkv", name, lambda t, i=i: t[i]) for i, name in enumerate("qkv")]
    targets = dict.fromkeys("qkv", [])
    result = translate({"qkv": torch.arange(3)}, rules, {}, targets, path="x.pt")
    assert {name: int(tensor) for name, tensor in result.items()} == {"q": 0, "k": 1, "v": 2}


@pytest.mark.parametrize(
    ("source", "targets", "message"),
    [
        ({"a.0": 1, "c": 1}, ["ours.1"], "holds tensors that this importer does not know: c;"),
        ({"a.0": 1}, ["ours.1", "b"], "lacks tensors of our network: b;"),
        ({"a.0": 1, "a.1": 1}, ["ours.1"], "that our network does not have: ours.2;"),
        ({"a.0": 1, "b": 0}, ["ours.1", "b"], r"holds b in the wrong shape \[\];"),
        ({"a.0": [1, 2]}, ["ours.1"], r"of other shapes than .*: ours.1 \[2\] instead of \[\];"),
        ({f"c{i}": 1 for i in range(9)}, [], "c0, c1, c2, c3 and 5 more;"),
    ],
)
def test_a_table_is_strict_in_both_directions(source, targets, message):
    tensors = {name: torch.tensor(value) for name, value in source.items()}
    with pytest.raises(AirlibError, match=f"x.pt .*{message}"):
        translate(tensors, TABLE, IGNORED, dict.fromkeys(targets, []), path="x.pt")


def test_two_sources_for_one_target_are_refused():
    rules = [("[ab]", "same", None)]
    tensors = {"a": torch.zeros(1), "b": torch.zeros(1)}
    with pytest.raises(AirlibError, match="x.pt fills these tensors of our network twice: same"):
        translate(tensors, rules, {}, {"same": [1]}, path="x.pt")


def test_floating_point_numbers_become_single_and_counters_stay_integers():
    source = {"a": torch.ones(2).half(), "b": torch.tensor([3, 4]), "c": torch.ones(2).double()}
    result = translate(source, [("(.)", r"\1", None)], {}, dict.fromkeys("abc", [2]), path="x.pt")
    kinds = {name: tensor.dtype for name, tensor in result.items()}
    assert kinds == {"a": torch.float32, "b": torch.int64, "c": torch.float32}
