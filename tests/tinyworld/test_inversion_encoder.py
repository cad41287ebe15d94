"""The inversion encoder of the tiny world: what it is taught, and what the shipped one can do."""

import pytest
import torch
from small_networks import small_generator

from airlib.errors import AirlibError
from airlib.files import save_tensors
from airlib.generators.e4e import E4e, E4eConfig
from airlib.generators.restyle import Restyle
from airlib.seeding import rng
from airlib.studies.check_tiny import load_record
from airlib.studies.train_tiny import TASKS
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.inversion_encoder import NAME, TinyEncoder, load_encoder
from airlib.tinyworld.judge import WEIGHTS, load_judge
from airlib.tinyworld.renderer import render
from airlib.tinyworld.train_generator import SOURCES, condition
from airlib.tinyworld.train_inversion_encoder import BATCH, EncoderTask, held_out, recognised
from airlib.training.loop import TrainingRun

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module")
def task() -> EncoderTask:
    return EncoderTask(steps=5, pool_size=400)


# --- the network


def test_an_untrained_encoder_gives_the_mean_latent_of_every_layer():
    encoder = TinyEncoder(num_ws=6, w_dim=16, resolution=32)
    encoder.latent_avg.normal_(generator=rng(0, "mean"))
    latents = encoder(torch.rand(3, 3, 32, 32, generator=rng(0)) * 2 - 1)
    assert latents.shape == (3, 6, 16)
    assert torch.equal(latents, encoder.latent_avg.expand(3, 6, 16))


def test_it_has_less_than_a_million_parameters():
    assert sum(p.numel() for p in TinyEncoder().parameters()) < 1_000_000


# --- what it is taught


def test_it_sees_renders_and_drawn_images_of_both_sources(task):
    images, known = task.batch(rng(0, "batch"))
    assert images.shape == (BATCH, 3, 64, 64) and known.shape == (BATCH, 10, 128)
    assert images.abs().max() <= 1
    assert {tuple(row) for row in task.pool.domains.tolist()} == {d.index for d in SOURCES}
    drawn = task.generator(known)
    renders, rest = (images - drawn).abs().mean(dim=(1, 2, 3)).split(BATCH // 2)
    assert rest.max() < 0.01  # drawn from these very latents, in half the precision
    assert 0.01 < renders.min() and renders.max() < 0.1  # the same sitters


def test_the_latent_of_a_render_is_that_of_its_sitter(task):
    rows = torch.arange(4)
    c = condition(task.pool.domains[rows])
    w = task.generator.mapping(task.pool.latents[rows], c)
    known = task._latents(task.pool.latents[rows], task.pool.domains[rows])
    assert torch.equal(known, w[:, None].expand(-1, 10, -1))


def test_knowing_nothing_costs_the_whole_variance(task):
    """The untrained inversion encoder answers with the mean."""
    losses = [task.lesson_loss(rng(0, "lesson", i)).item() for i in range(4)]
    assert sum(losses) / 4 == pytest.approx(1, abs=0.1)


def test_a_few_steps_lower_the_loss_and_leave_the_generator_alone(tmp_path):
    task = EncoderTask(steps=6, pool_size=400)
    before = {name: value.clone() for name, value in task.generator.state_dict().items()}
    start = task.image_loss(rng(0, "fixed")).item()
    TrainingRun(task, tmp_path, seed=0).run()
    assert task.image_loss(rng(0, "fixed")).item() < 0.9 * start
    assert all(torch.equal(before[k], v) for k, v in task.generator.state_dict().items())


def test_train_tiny_knows_it():
    assert TASKS[NAME] == (EncoderTask.__module__.removeprefix("airlib."), "EncoderTask")


# --- published inversion encoders of faces


def small_e4e(channels: int) -> E4e:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = E4e(E4eConfig(6, channels, pyramid=channels == 3, width=16))
    network.latent_avg.copy_(FACES.mapping.w_avg)
    return network.requires_grad_(False).eval()


FACES = small_generator(w_dim=128)
PHOTOGRAPHS = torch.rand(2, 3, 16, 16, generator=rng(0, "photographs")) * 2 - 1


def at_256(images: torch.Tensor) -> torch.Tensor:
    """Sixteen equal pixels for one."""
    return images.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)


def test_restyle_corrects_what_it_has_drawn_three_times():
    network = small_e4e(6)
    w = network.latent_avg.expand(2, 6, 128)
    for _ in range(3):
        seen = torch.cat([at_256(PHOTOGRAPHS), at_256(FACES(w, "const"))], dim=1)
        w = w + network(seen)
    torch.testing.assert_close(Restyle(network, FACES, iterations=3)(PHOTOGRAPHS), w)


def test_e4e_needs_one_pass():
    network = small_e4e(3)
    w = network.latent_avg + network(at_256(PHOTOGRAPHS))
    torch.testing.assert_close(Restyle(network, FACES, iterations=3)(PHOTOGRAPHS), w)


def test_an_encoder_is_refused_by_a_generator_that_is_not_its_own():
    with pytest.raises(AirlibError, match="mean latents .* differ"):
        Restyle(small_e4e(6), small_generator(seed=1, w_dim=128))
    with pytest.raises(AirlibError, match=r"gives \[6, 128\] latents .* takes \[8, 128\]"):
        Restyle(small_e4e(6), small_generator(w_dim=128, resolution=32))


# --- what it can do


def test_the_pictures_themselves_are_recognised_and_others_are_not():
    domain = Domain("human")
    pictures, judge = render(held_out(domain, 24), domain), load_judge("judge_vit")
    found = recognised(judge, pictures, pictures, domain)
    assert found == {"species": 1, "age": 1, "sitter": 1}
    assert recognised(judge, pictures.roll(1, 0), pictures, domain)["sitter"] == 0
    dogs = render(held_out(domain, 24), Domain("dog"))
    assert recognised(judge, dogs, pictures, domain)["species"] < 0.1
    babies = render(held_out(domain, 24), Domain("human", "baby"))
    assert recognised(judge, babies, pictures, domain)["age"] < 0.3


def test_the_shipped_encoder_is_small_and_as_good_as_the_generator_allows():
    """G is off by its own L1 with the true latents. check-tiny measures the record again."""
    path = WEIGHTS / f"{NAME}.safetensors"
    assert path.stat().st_size <= 2_000_000
    claims = load_record(NAME)["metrics"] | load_record("stylegan2")["metrics"]
    for species in ("human", "dog"):
        assert claims[f"encoder_{species}_l1"] < 2 * claims[f"stylegan2_{species}_l1"]
        shares = [claims[f"encoder_{species}_{name}"] for name in ("species", "age", "sitter")]
        assert min(shares) > 0.9


def test_a_picture_has_the_same_latent_whoever_is_beside_it():
    pictures = torch.cat([render(held_out(d, 2), d) for d in SOURCES])
    encoder = load_encoder()
    together = encoder(pictures)
    alone = torch.cat([encoder(picture[None]) for picture in pictures])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = save_tensors(tmp_path / "a.safetensors", {"weight": torch.ones(2)}, {"width": 8})
    with pytest.raises(AirlibError, match="airlib train-tiny encoder"):
        load_encoder(path)
