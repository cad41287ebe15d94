"""What the world generator is taught: lessons for its mapping network, then portraits."""

import copy

import pytest
import torch

from airlib.generators.stylegan2 import StyleGAN2
from airlib.profiles import load_profile
from airlib.seeding import rng
from airlib.tinyworld import train_clip
from airlib.tinyworld.attributes import LATENT, LATENT_DIM
from airlib.tinyworld.domains import AGES, SPECIES, STYLES, Domain, all_domains
from airlib.tinyworld.held_out import HELD_OUT, is_held_out
from airlib.tinyworld.lessons import Lessons
from airlib.tinyworld.pool import sample_domains
from airlib.tinyworld.train_generator import (
    CONFIG,
    LESSON_SHARE,
    GeneratorTask,
    NarrowGeneratorTask,
    condition,
    pixel_weights,
)
from airlib.worlds.tiny_diffusion import PREFIX

pytestmark = pytest.mark.slow  # trains


def rows(domain: Domain, n: int) -> torch.Tensor:
    return torch.tensor(domain.index).expand(n, 3)


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return Lessons()


@pytest.fixture(scope="module")
def task() -> GeneratorTask:
    return GeneratorTask(steps=40, batch=2, pool_size=64)


# --- lessons ------------------------------------------------------------------------------------


def test_facts_are_standardised(lessons):
    stream = rng(3)
    z, domains = torch.randn(8000, LATENT_DIM, generator=stream), sample_domains(8000, stream)
    facts = lessons(z, domains)
    assert facts.shape == (8000, lessons.size) and facts.isfinite().all()
    assert facts.mean(dim=0).abs().max() < 0.1
    assert (facts.std(dim=0) - 1).abs().max() < 0.25


def test_facts_belong_to_a_sitter_not_to_its_batch(lessons):
    z, domains = torch.randn(40, LATENT_DIM, generator=rng(4)), sample_domains(40, rng(4))
    assert torch.equal(lessons(z, domains)[7:9], lessons(z[7:9], domains[7:9]))


def test_people_are_told_the_fur_they_would_have_as_a_dog(lessons):
    """The one number that says so changes no portrait of a person."""
    z = torch.randn(1, LATENT_DIM, generator=rng(5)).repeat(2, 1)
    z[1, LATENT["fur"].start] *= -1  # the same length, so nothing else is rescaled
    people, dogs = (lessons(z, rows(Domain(name), 2)) for name in ("human", "dog"))
    changed = (people[0] != people[1]).nonzero()[:, 0]
    own_fur = (dogs[0] != dogs[1]).nonzero()[:, 0]
    assert 0 < len(changed) < lessons.size / 2
    assert set(changed.tolist()) < set(own_fur.tolist())  # a dog's own portrait changes as well


# --- the task -----------------------------------------------------------------------------------


def test_lessons_move_the_mapping_network_only(task):
    before = {k: v.clone() for k, v in task.network.named_parameters()}
    for step in range(3):
        task.optimizer.zero_grad()
        task.loss(step, rng(0, step)).backward()
        task.optimizer.step()
    moved = {k for k, v in task.network.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.startswith("mapping.")}


def test_lessons_are_learnt():
    task = GeneratorTask(steps=1000, batch=2, pool_size=64)
    losses = []
    for step in range(60):
        for group in task.optimizer.param_groups:
            group["lr"] = task.learning_rate(step / task.steps)
        task.optimizer.zero_grad()
        loss = task.loss(step, rng(0, "lesson", step))
        loss.backward()
        task.optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_portraits_follow_the_lessons_first_small_then_whole(task):
    seen = []
    task.network.synthesis.register_forward_hook(lambda _m, _x, images: seen.append(images.shape))
    for share in (0, 0.15, LESSON_SHARE, 0.4, 0.6, 0.95):
        task.loss(int(share * task.steps), rng(1))
    assert [shape[-1] for shape in seen] == [32, 32, 64, 64]


def test_lessons_go_on_beside_the_portraits(task):
    """Or the mapping network would forget what the portraits do not ask for."""
    task.optimizer.zero_grad()
    task.loss(task.steps - 1, rng(2)).backward()
    assert task.readout.weight.grad.abs().sum() > 0
    assert task.network.synthesis.layers[0].weight.grad.abs().sum() > 0


def test_a_thin_line_counts_more_than_the_flat_around_it():
    picture = torch.zeros(1, 3, 64, 64)
    plain = pixel_weights(picture)
    picture[..., 20] = 1.0
    drawn = pixel_weights(picture)
    assert (plain[..., 32, 32] > 2.5 * plain[..., 0, 0]).all()  # the centre, where the face is
    assert (drawn[..., 32, 20] > 5 * plain[..., 32, 20]).all()
    assert torch.equal(drawn[..., 40:], plain[0, 0, :, 40:].expand(1, 1, 64, 24))


def test_shipped_convolutions_have_unit_scale_and_draw_the_same(task):
    z = torch.randn(4, LATENT_DIM, generator=rng(6))
    shipped = StyleGAN2(CONFIG)
    with torch.no_grad():
        for layer in task.average.synthesis.layers:
            layer.weight.mul_(40)
        shipped.load_state_dict(task.export()[0])
        conditions = condition(rows(Domain("cat"), 4)).double()
        images, same = (
            network.synthesis(network.map(z.double(), c=conditions))
            for network in (copy.deepcopy(task.average).double(), copy.deepcopy(shipped).double())
        )
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)
    for layer in shipped.synthesis.layers:
        energy = layer.weight.square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(energy, torch.ones_like(energy))


def test_source_domains_are_drawn_twice_as_often(task):
    domains = torch.tensor([domain.index for domain in all_domains()])
    drawn = task.rows_to_learn(domains)
    count = drawn.bincount()
    twice = {str(all_domains()[i]) for i in (count == 2).nonzero()[:, 0]}
    assert twice == {"human/adult/photo", "dog/adult/photo"} and count.max() == 2
    assert count.min() == 1


def test_the_narrow_generator_sees_one_domain():
    task = NarrowGeneratorTask.__new__(NarrowGeneratorTask)  # without rendering its large pool
    domains = torch.tensor([domain.index for domain in all_domains()]).repeat(3, 1)
    seen = torch.cat([domains[task.rows_to_learn(domains)], task.domains_to_learn(4, rng(0))])
    assert len(seen) == 3 + 4 and (seen == torch.tensor(Domain("human").index)).all()


def test_a_condition_is_three_ones():
    one_hot = condition(torch.tensor([Domain("cat", "baby", "sketch").index]))[0]
    names = [*SPECIES, *AGES, *STYLES]
    assert [names[i] for i in one_hot.nonzero()[:, 0]] == ["cat", "baby", "sketch"]


# --- held-out domains ---------------------------------------------------------------------------


def test_held_out_domains_are_combinations_of_words_that_are_taught():
    taught = [domain for domain in all_domains() if domain not in HELD_OUT]
    assert len(taught) == len(all_domains()) - len(HELD_OUT)
    assert {d.species for d in taught} == set(SPECIES)
    assert {d.age for d in taught} == set(AGES) and {d.style for d in taught} == set(STYLES)
    for part in ("species", "age", "style"):
        assert len({getattr(domain, part) for domain in HELD_OUT}) > 1


def test_only_unseen_pairs_aim_at_held_out_domains_and_none_starts_from_one():
    pairs = load_profile("tiny").pairs.values()
    others = {Domain.parse(pair.target) for pair in pairs if pair.role != "unseen"}
    sources = {Domain(pair.source.removeprefix(PREFIX)) for pair in pairs}
    assert not (others | sources) & set(HELD_OUT)
    unseen = [Domain.parse(pair.target) for pair in pairs if pair.role == "unseen"]
    assert sorted(map(str, unseen)) == sorted(map(str, HELD_OUT))


def test_clip_is_trained_without_the_held_out_domains(monkeypatch):
    monkeypatch.setattr(train_clip, "POOL_SIZE", 400)
    pool = train_clip.ClipTask(seed=0, steps=1).pool
    assert 200 < len(pool.images) < 400 and not is_held_out(pool.domains).any()
    assert len(pool.images) == len(pool.latents) == len(pool.domains)
    assert is_held_out(torch.tensor([HELD_OUT[0].index, Domain("human").index])).tolist() == [1, 0]
