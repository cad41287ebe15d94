"""The world diffusion model: its training, and what restricting it to a domain means.

A miniature network and a pool of 64 portraits stand in for the real ones.
"""

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from airlib.errors import AirlibError
from airlib.files import save_tensors
from airlib.generators.diffusion import ConditionalUNet
from airlib.generators.solver import dpm_solver
from airlib.seeding import rng
from airlib.tinyworld import train_diffusion
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.pool import Pool, load_pool
from airlib.tinyworld.train_diffusion import (
    ABAR,
    CONFIG,
    SOURCE_COPIES,
    DiffusionTask,
    add_noise,
    generator_of,
    rows_to_learn,
    shrink,
    spread_times,
    to_floats,
    world_diffusion,
)
from airlib.tinyworld.train_generator import condition
from airlib.training.loop import TrainingRun

pytestmark = pytest.mark.slow  # trains

MINIATURE = CONFIG | {"block_out_channels": [16, 16, 16], "attention_head_dim": 8}


@pytest.fixture(scope="module", autouse=True)
def _miniature(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(train_diffusion, "CONFIG", MINIATURE)
        yield


def miniature_task(steps: int) -> DiffusionTask:
    return DiffusionTask(steps=steps, batch=8, pool_size=64)


@torch.no_grad()
def noise_errors(network: ConditionalUNet) -> torch.Tensor:
    """Of portraits of the pool at ten times."""
    pool = load_pool(64, 0, "train")
    images, stream = to_floats(shrink(pool)), rng(0, "test")
    epsilon = torch.randn(images.shape, generator=stream)
    t = torch.randint(0, 1000, (64,), generator=stream)
    predicted = network(add_noise(images, epsilon, t), t, condition(pool.domains))
    return (predicted - epsilon).square().mean(dim=(1, 2, 3))


def test_training_teaches_to_tell_noise_from_portraits():
    task = miniature_task(steps=15)
    before = noise_errors(task.network).mean()
    for step in range(task.steps):
        for group in task.optimizer.param_groups:
            group["lr"] = 0.004
        task.optimizer.zero_grad()
        task.loss(step, rng(0, step)).backward()
        task.optimizer.step()
        task.after_step(step)
    assert noise_errors(task.network).mean() < 0.8 * before
    assert noise_errors(task.average).mean() < 0.8 * before


def test_a_resumed_training_ends_with_the_same_bits(tmp_path):
    whole, half = (TrainingRun(miniature_task(4), tmp_path / name, 0) for name in ("a", "b"))
    whole.run()
    half.task.steps = 4
    for step in range(2):
        half._step(step)
    half.done = 2
    half._save()
    resumed = TrainingRun(miniature_task(4), tmp_path / "b", 0)
    resumed.resume()
    resumed.run()
    for name, value in whole.task.average.state_dict().items():
        assert torch.equal(resumed.task.average.state_dict()[name], value)


def test_a_restricted_model_is_the_conditional_one_at_its_domain():
    network = miniature_task(1).network
    x, t = torch.randn(3, 3, 32, 32, generator=rng(0)), torch.tensor([0, 500, 999])
    c = condition(torch.tensor([Domain("dog", "baby", "sketch").index]))
    with torch.no_grad():
        restricted = network.restrict(c[0])(x, t).sample
        torch.testing.assert_close(restricted, network(x, t, c.expand(3, -1)), atol=1e-5, rtol=0)
        elsewhere = network(x, t, condition(torch.tensor([Domain("cat").index] * 3)))
    assert (restricted - elsewhere).abs().max() > 0.01


def test_a_published_model_is_read_again(tmp_path):
    task = miniature_task(1)
    save_tensors(tmp_path / "a.safetensors", *task.export())
    network, domain = world_diffusion(tmp_path / "a.safetensors"), Domain("cat", style="sketch")
    read, made = (generator_of(n, domain, steps=2) for n in (network, task.average))
    x = read.sample_latents(2, rng(0))
    assert torch.equal(read(x), made(x)) and not read(x).requires_grad
    tensors, config = task.export()
    for wrong in ({}, config | {"c_dim": 3}, config | {"unet": {"layers": 3}}):
        save_tensors(tmp_path / "b.safetensors", tensors, wrong)
        with pytest.raises(AirlibError, match="airlib train-tiny diffusion"):
            world_diffusion(tmp_path / "b.safetensors")


def test_the_noise_schedule_is_that_of_the_solver():
    torch.testing.assert_close(ABAR, dpm_solver().alphas_cumprod, atol=1e-6, rtol=1e-4)
    x, epsilon = torch.randn(2, 4, 3, 8, 8, generator=rng(0))
    t = torch.tensor([0, 10, 500, 999])
    expected = DDPMScheduler().add_noise(x, epsilon, t)  # by default with these very steps
    torch.testing.assert_close(add_noise(x, epsilon, t), expected, atol=1e-5, rtol=1e-4)


def test_times_of_a_batch_cover_the_schedule_evenly():
    times = torch.stack([spread_times(8, rng(0, i)) for i in range(400)])
    assert times.min() >= 0 and times.max() <= 999
    gaps = times.sort(dim=1).values.diff(dim=1)
    assert gaps.min() >= 124 and gaps.max() <= 126
    assert abs(times[:, 0].float().mean() - 499.5) < 45  # each time is uniform: 3 standard errors


def test_source_domains_are_drawn_more_often():
    domains = torch.tensor([Domain("cat").index, Domain("human").index, Domain("dog").index])
    counts = rows_to_learn(domains).bincount()
    assert counts.tolist() == [1, SOURCE_COPIES, SOURCE_COPIES]
    assert rows_to_learn(torch.tensor([Domain("human", "baby").index])).tolist() == [0]


def test_shrinking_averages_squares_of_four_pixels():
    images = torch.randint(0, 256, (5, 3, 64, 64), generator=rng(0), dtype=torch.uint8)
    small = shrink(Pool(images, torch.zeros(5, 64), torch.zeros(5, 3, dtype=torch.long)))
    expected = F.interpolate(images.float(), scale_factor=0.5, mode="area")
    assert small.shape == (5, 3, 32, 32) and small.dtype == torch.uint8
    assert (small - expected).abs().max() <= 0.5
