"""rosinality checkpoints against recordings of rosinality's network, and in all their containers.

`ros_sg2_32.npz` holds weights and images of a 32 px network of rosinality's code.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import small_generator

from airlib.checkpoints.hyperdomainnet import from_domain
from airlib.checkpoints.networks import add_domains
from airlib.checkpoints.rosinality import from_rosinality, read_rosinality, to_rosinality
from airlib.checkpoints.tables import Imported
from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config

GOLDEN = Path(__file__).parents[1] / "golden"
State = dict[str, torch.Tensor]
TOLERANCE = {"atol": 5e-5, "rtol": 0}
LAYERS = 7


def recording(name: str) -> State:
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if key != "meta"}
    return {key.removeprefix("out/"): torch.from_numpy(a).float() for key, a in arrays.items()}


def network(imported: Imported) -> StyleGAN2:
    generator = StyleGAN2(StyleGAN2Config(**imported.config))
    generator.load_state_dict(imported.tensors)
    return generator.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def recorded() -> State:
    return recording("ros_sg2_32.npz")


@pytest.fixture(scope="module")
def state(recorded) -> State:
    return {k.removeprefix("sd/"): v for k, v in recorded.items() if k.startswith("sd/")}


@pytest.fixture(scope="module")
def generator(state, recorded) -> StyleGAN2:
    content = {"g_ema": state, "latent_avg": recorded["latent_avg"]}
    return network(from_rosinality(content, "recorded.pt"))


# --- the same network ----------------------------------------------------------------------------


def test_latents_equal_rosinality(generator, recorded):
    torch.testing.assert_close(generator.map(recorded["z"]), recorded["latents"], **TOLERANCE)
    w2 = generator.map(recorded["z2"])[:, 0]
    torch.testing.assert_close(w2, recorded["w2"], **TOLERANCE)


@pytest.mark.parametrize(
    ("latents", "noise", "images"),
    [
        ("z", "given", "img_noise_given"),
        ("z", "buffers", "img_noise_buffers"),
        ("z", "zero", "img_noise_zero"),
        ("truncated", "given", "img_trunc0.7"),
        ("w", "given", "img_from_w"),
        ("mixed from layer 3", "given", "img_mix_inject3"),
        ("wplus", "given", "img_wplus"),
    ],
)
def test_images_equal_rosinality(generator, recorded, latents, noise, images):
    first, second = generator.map(recorded["z"]), generator.map(recorded["z2"])
    ws = {
        "z": first,
        "truncated": generator.map(recorded["z"], 0.7),
        "w": recorded["w"][:, None].expand(-1, generator.num_ws, -1),
        "mixed from layer 3": torch.cat([first[:, :3], second[:, 3:]], dim=1),
        "wplus": recorded["wplus"],
    }[latents]
    given = [recorded[f"noise/{i}"] for i in range(LAYERS)]
    maps = {"given": given, "buffers": "const", "zero": None}[noise]
    torch.testing.assert_close(generator(ws, maps), recorded[images], **TOLERANCE)


# --- the map in both directions ------------------------------------------------------------------


def test_there_and_back_is_the_recorded_file(generator, state, recorded):
    """Every name, shape and value, the constants that we do not keep included."""
    back = to_rosinality(generator)
    assert back["g_ema"].keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(back["g_ema"][name], tensor), name
    assert torch.equal(back["latent_avg"], recorded["latent_avg"])


def test_nvidias_network_survives_the_way_through_rosinality():
    recorded = recording("nv_sg2ada_32.npz")
    ours = {k.removeprefix("sd/"): v for k, v in recorded.items() if k.startswith("sd/")}
    ours = {k: v for k, v in ours.items() if not k.endswith("resample_filter")}
    config = StyleGAN2Config(
        resolution=32, z_dim=64, w_dim=64, channel_base=1024, channel_max=64, conv_clamp=256
    )
    generator = StyleGAN2(config)
    generator.load_state_dict(ours)
    with pytest.raises(AirlibError, match="cannot clamp activations .conv_clamp 256.; .*without"):
        to_rosinality(generator)
    imported = from_rosinality(to_rosinality(generator, without_clamp=True), "converted.pt")
    assert imported.tensors.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in imported.tensors.items())
    # rosinality has no clamp, and this network never reaches its own
    images = network(imported)(recorded["ws"], "const")
    torch.testing.assert_close(images, recorded["img_const"], **TOLERANCE)


@pytest.mark.slow  # opens networks of full size
def test_names_and_shapes_of_the_published_size():
    shapes = json.loads((GOLDEN / "ros_ffhq1024_shapes.json").read_text(encoding="utf-8"))
    filters = to_rosinality(StyleGAN2(StyleGAN2Config(8, 4, 4, 0, 32, 4, 1)))["g_ema"]
    low_pass = filters["to_rgbs.0.upsample.kernel"]
    state = {k: torch.zeros(s) if "kernel" not in k else low_pass for k, s in shapes.items()}
    imported = from_rosinality({"g_ema": state, "latent_avg": torch.zeros(512)}, "ffhq.pt")
    assert imported.config == StyleGAN2(StyleGAN2Config(1024)).config_dict()
    back = to_rosinality(network(imported))["g_ema"]
    assert {name: list(tensor.shape) for name, tensor in back.items()} == shapes


# --- export of what rosinality's code has no name for --------------------------------------------


def moved_domain(generator: StyleGAN2) -> None:
    for layer in generator.synthesis.layers:
        layer.add_domain("pre").data.uniform_(0.5, 2)


def moved_direction(generator: StyleGAN2) -> None:
    generator.add_direction().data.normal_()


def everything(generator: StyleGAN2) -> None:
    moved_domain(generator)
    moved_direction(generator)
    generator.synthesis.layers[0].add_domain("post")  # ones: changes nothing


@pytest.mark.parametrize("rate", [0.01, 0.7])
@pytest.mark.parametrize("adapt", [None, moved_domain, moved_direction, everything])
def test_an_adapted_generator_makes_the_same_images_after_export(adapt, rate):
    source = small_generator(mapping_lr_multiplier=rate)
    z = torch.randn(4, source.z_dim, generator=torch.Generator().manual_seed(1))
    before = source(source.map(z, 0.7), "const")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        _ = adapt and adapt(source)
    exported = network(from_rosinality(to_rosinality(source), "exported.pt"))
    expected = source(source.map(z, 0.7), "const")
    assert adapt is None or (expected - before).abs().mean() > 0.01
    images = exported(exported.map(z, 0.7), "const")
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c_dim": 3}, "no conditional generator; .*restrict"),
        ({"z_dim": 12}, "z of 12 numbers differs from its w of 16"),
        ({"conv_clamp": 0.5}, r"cannot clamp activations \(conv_clamp 0.5\)"),
    ],
)
def test_what_rosinalitys_code_cannot_express_is_refused_by_name(changes, message):
    with pytest.raises(AirlibError, match=message):
        to_rosinality(small_generator(**changes))


def test_what_adaptations_add_that_cannot_be_folded_is_refused_by_name():
    generator = small_generator()
    generator.synthesis.layers[2].add_domain("post").data[0] = 1.5
    with pytest.raises(AirlibError, match="after demodulation .domain_post."):
        to_rosinality(generator)
    generator = small_generator()
    generator.synthesis.b8.conv1.register_parameter("lora", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(AirlibError, match=r"nothing like synthesis\.b8\.conv1\.lora"):
        to_rosinality(generator)


# --- containers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_every_container_holds_the_same_generator(state, recorded, tmp_path, zipped):
    average, other = recorded["latent_avg"], {"linear.weight": torch.zeros(1)}
    optimiser = {"state": {0: {"step": torch.zeros(1)}}, "param_groups": [{"lr": 0.002}]}
    containers = {
        "converted": {"g_ema": state, "latent_avg": average, "d": other, "g": state},
        "MindTheGap": {
            "g_ema": state, "g_optim": optimiser, "latent_avg": average[None],
            "style_latent": torch.zeros(1, 8, 64),
        },
        "HyperDomainNet": {
            "model_type": "original", "sg_2_params": {"img_size": 32}, "da_type": "td",
            "state_dict": prefixed(state, "generator."), "latent_avg": average,
        },
        "DataParallel": {"g_ema": prefixed(state, "module."), "latent_avg": average},
        "both": {"g_ema": prefixed(state, "module.generator."), "latent_avg": average},
        "Lightning": {
            "epoch": 3, "global_step": 20, "optimizer_states": [optimiser], "callbacks": {},
            "state_dict": prefixed(state, "g_ema.") | prefixed(other, "discriminator.")
            | prefixed({**state, "input.input": state["input.input"] + 1}, "generator."),
            "latent_avg": average, "hyper_parameters": {"lr": 0.1, "betas": (0.0, 0.99)},
        },
        "decoder": {"state_dict": prefixed(state, "decoder."), "latent_avg": average.repeat(8, 1)},
        "JoJoGAN": {"g": state, "latent_avg": average},
        "counters": {
            "g_ema": state, "latent_avg": [average], "iter": 5000, "step": torch.tensor(7),
            "args": argparse.Namespace(size=32), "config": {"sizes": [4, 8], "name": None},
        },
        "numpy": {"g_ema": state, "latent_avg": average.numpy()},
        "numbers": {"g_ema": state, "mean_latent": average.tolist()},
        "buffer": {"g_ema": state | {"latent_avg": average[None]}},
    }  # fmt: skip
    for name, content in containers.items():
        path = tmp_path / f"{name}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        imported = read_rosinality(path)
        assert torch.equal(imported.tensors["mapping.w_avg"], average), name
        back = to_rosinality(network(imported))["g_ema"]
        assert all(torch.equal(back[key], value) for key, value in state.items()), name
        left_out = {entry.split(":")[0] for entry in imported.ignored}
        others = content.keys() - {"g_ema", "state_dict", "latent_avg", "mean_latent"}
        assert others - left_out <= {"g"}
        assert ("no g_ema in it: its g" in imported.source) == (name == "JoJoGAN")


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def test_without_fixed_noise_it_is_drawn_alike_everywhere(state, recorded):
    """As the first files of rosinality's code are."""
    older = {name: tensor for name, tensor in state.items() if not name.startswith("noises.")}
    content = {"g_ema": older, "latent_avg": recorded["latent_avg"]}
    imported = from_rosinality(content, "550000.pt")
    assert "no fixed noise in it: drawn from seed 0" in imported.source
    again, generator = network(from_rosinality(content, "550000.pt")), network(imported)
    noise = [layer.noise_const for layer in generator.synthesis.layers]
    assert [list(n.shape) for n in noise] == [[r, r] for r in (4, 8, 8, 16, 16, 32, 32)]
    for first, layer in zip(noise, again.synthesis.layers, strict=True):
        assert torch.equal(first, layer.noise_const)
    numbers = torch.cat([n.flatten() for n in noise])
    assert abs(numbers.mean()) < 0.1 and abs(numbers.std() - 1) < 0.1
    latents = generator.map(recorded["z"])
    given = [recorded[f"noise/{i}"] for i in range(LAYERS)]
    images = generator(latents, given)
    torch.testing.assert_close(images, recorded["img_noise_given"], **TOLERANCE)


def test_some_missing_noise_is_damage(state):
    fewer = without(state, "noises.noise_2")
    with pytest.raises(AirlibError, match="lacks .*b8.conv1.noise_const"):
        from_rosinality({"g_ema": fewer}, "cut.pt")


def test_among_several_generators_none_is_guessed(state):
    """As in the state of a whole StyleGAN-NADA trainer."""
    both = prefixed(state, "frozen.generator.") | prefixed(state, "trained.generator.")
    with pytest.raises(AirlibError, match=r"several generators \(frozen.generator., trained"):
        from_rosinality(both, "trainer.pt")


def test_a_conditional_network_is_refused(state):
    """Under rosinality's names it would look like one of a wider z."""
    wider = state | {"style.1.weight": torch.zeros(64, 74)}
    with pytest.raises(AirlibError, match="takes 74 numbers and gives 64.* a conditional one"):
        from_rosinality({"g_ema": wider}, "conditional.pt")


def test_without_latent_avg_the_mean_of_mapped_latents_is_taken(state, tmp_path):
    options = argparse.Namespace(size=32, lr=0.002)
    containers = [
        {"g_ema": state, "g_optim": {}},
        {"g_ema": state, "g": state, "d": {}, "args": options, "ada_aug_p": 0.0},
        state,
    ]
    averages = []
    for content in containers:
        torch.save(content, tmp_path / "saved.pt")
        imported = read_rosinality(tmp_path / "saved.pt")
        assert "mean of 4096 mapped latents" in imported.source
        averages.append(imported.tensors["mapping.w_avg"])
    assert all(torch.equal(average, averages[0]) for average in averages)
    generator = network(imported)
    z = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(5))
    w = generator.map(z)[:, 0]
    error = (w.std(dim=0) / 4096**0.5).norm() + (w.std(dim=0) / len(z) ** 0.5).norm()
    assert (w.mean(dim=0) - averages[0]).norm() < 3 * error


def test_a_domain_of_hyperdomainnet_makes_the_images_of_its_code(state, recorded):
    """Its file holds offsets from 1; `hdn_domainmod_32.npz` was recorded from the same weights."""
    domain = recorded | recording("hdn_domainmod_32.npz")
    offsets = {
        f"heads.conv_{i}.params_in": domain[f"in/{i}"].reshape(1, 1, -1, 1, 1)
        for i in range(LAYERS)
    }
    content = {"model_type": "parameterization", "patch_key": "cin_mult", "state_dict": offsets}
    source = from_rosinality({"g_ema": state, "latent_avg": recorded["latent_avg"]}, "g.pt")
    imported = from_domain(content, "td.pt", source)
    adapted = StyleGAN2(StyleGAN2Config(**imported.config))
    add_domains(adapted, imported.tensors)
    adapted.load_state_dict(imported.tensors)
    noise = [domain[f"noise/{i}"] for i in range(LAYERS)]
    with torch.no_grad():
        images = adapted(adapted.map(domain["z"]), noise)
    torch.testing.assert_close(images, domain["img/cin_mult"], **TOLERANCE)


# --- what is refused -----------------------------------------------------------------------------


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "convs.2.noise.weight"), "lacks .*b16.conv0.noise_strength"),
        (lambda s: without(s, "conv1.conv.weight"), "lacks 'conv1.conv.weight'"),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, "does not know: extra.weight"),
        (lambda s: s | {"style.3.weight": torch.zeros(64, 32)}, r"style.3.weight .*\[64, 32\]"),
        (lambda s: s | {"convs.1.conv.weight": torch.zeros(1, 48, 64, 3, 3)}, "no setting of"),
        (lambda s: s | {"to_rgb1.bias": 3}, "holds a int as to_rgb1.bias"),
        (lambda s: s | {"style.1.weight": 3}, "its weights are none"),
        (lambda s: s | {"style.1.weight": torch.zeros(())}, "its weights are none"),
        (lambda s: s | {"convs.0.conv.blur.kernel": torch.ones(4, 4)}, "low-pass filter"),
    ],
)
def test_another_architecture_is_refused_by_name(state, change, message):
    with pytest.raises(AirlibError, match=f"other.pt .*{message}"):
        from_rosinality({"g_ema": change(state), "latent_avg": torch.zeros(64)}, "other.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no rosinality generator"),
        ({"g": {}}, "holds no rosinality generator"),
        ([1], "holds no rosinality generator"),
        ({"surprise": torch.ones(2)}, "entries that this importer does not know: surprise"),
        ({"surprise": [{"x": torch.ones(2)}]}, "importer does not know: surprise"),
        ({"latent_avg": torch.ones(8, 32)[:3]}, "a mean latent of another size than 64"),
        ({"latent_avg": torch.eye(64)[:18]}, "a mean latent of 18 rows that differ"),
        ({"latent_avg": torch.zeros(0)}, "a mean latent of 0 rows"),
        ({"latent_avg": "mean"}, "one that is no numbers"),
        ({"latent_avg": [0.0] * 64 + [1.0] * 64}, "a mean latent of 2 rows that differ"),
        ({"latent_avg": [[0.0] * 64]}, "one that is no numbers"),
    ],
)
def test_another_container_is_refused(state, content, message):
    if isinstance(content, dict) and content and "g" not in content:
        content = {"g_ema": state} | content
    with pytest.raises(AirlibError, match=f"other.pt .*{message}"):
        from_rosinality(content, "other.pt")
