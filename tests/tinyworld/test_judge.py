"""The judges and their exam: what they compute, how they are trained, and who fails."""

import json

import pytest
import torch
from torch.nn import functional as F

from airlib.errors import AirlibError
from airlib.files import save_tensors
from airlib.seeding import rng
from airlib.tinyworld.artefacts import KINDS, attack
from airlib.tinyworld.domains import Domain, all_domains
from airlib.tinyworld.exam import LINKS, Exhibits, exam_table, examine, other_species
from airlib.tinyworld.judge import ConvJudge, VitJudge, load_judge
from airlib.tinyworld.train_judge import JudgeTask, VitJudgeTask

pytestmark = pytest.mark.slow  # trains

SHAPES = {  # of the maps of the small networks below
    ConvJudge: [(8, 32, 32), (16, 16, 16), (32, 8, 8), (32, 8, 8)],
    VitJudge: [(16, 8, 8), (16, 8, 8)],
}


def small(network: type) -> ConvJudge | VitJudge:
    options = {"width": 8} if network is ConvJudge else {"width": 16, "depth": 2, "heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network({"species": 9, "damage": 7}, **options).eval()


@pytest.fixture(params=[ConvJudge, VitJudge])
def judge(request) -> ConvJudge | VitJudge:
    return small(request.param)


def images(n: int = 3) -> torch.Tensor:
    """Normal pixels [n, 3, 64, 64], a third of them outside [-1, 1]."""
    return torch.randn(n, 3, 64, 64, generator=rng(0, "images"))


@torch.no_grad()
def test_maps_features_and_heads(judge):
    maps, features = judge.maps(images()), judge.features(images())
    assert [tuple(m.shape[1:]) for m in maps] == SHAPES[type(judge)]
    torch.testing.assert_close(features, maps[-1].mean((2, 3)))
    shapes = {name: tuple(output.shape) for name, output in judge(images()).items()}
    assert shapes == {"species": (3, 9), "damage": (3, 7)}
    torch.testing.assert_close(judge.features(images().clamp(-1, 1)), features)


def test_titles_are_those_that_recorded_results_name():
    assert [small(network).title for network in SHAPES] == ["Judge", "VitJudge"]


@torch.no_grad()
def test_features_do_not_depend_on_the_rest_of_the_batch(judge):
    together = judge.features(images(5))
    torch.testing.assert_close(judge.features(images(5)[3:4]), together[3:4])
    torch.testing.assert_close(judge.features(images(5).flip(0)), together.flip(0))


@torch.no_grad()
def test_the_transformer_knows_where_a_token_is_and_looks_at_all_of_them():
    judge, picture = small(VitJudge), images(1)
    shifted = judge.features(picture.roll(8, 3))  # the same patches elsewhere
    assert not torch.allclose(judge.features(picture), shifted, atol=1e-4)
    changed = picture.clone()
    changed[:, :, :8, :8] = 0
    difference = (judge.maps(changed)[0] - judge.maps(picture)[0]).abs().amax(1)
    assert (difference > 0).all()  # one block reaches the opposite corner
    with pytest.raises(AirlibError, match="64 px"):
        judge.features(F.avg_pool2d(picture, 2))


def test_weights_come_back_from_half_precision(judge, tmp_path):
    half = {k: v.half() for k, v in judge.state_dict().items() if "num_batches" not in k}
    loaded = load_judge(save_tensors(tmp_path / "any.safetensors", half, judge.config))
    assert type(loaded) is type(judge) and loaded.config == judge.config
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    torch.testing.assert_close(
        loaded.features(images()), judge.features(images()), rtol=2e-2, atol=5e-3
    )


def test_foreign_and_damaged_weights_are_refused(judge, tmp_path):
    path = tmp_path / "any.safetensors"
    tensors, config = judge.state_dict(), judge.config
    incomplete = {name: t for name, t in tensors.items() if name != "heads.species.bias"}
    bad_configs = [
        {}, config | {"network": "oracle"}, config | {"network": []},
        config | {"width": 24}, config | {"width": "wide"}, config | {"width": -1},
        config | {"outputs": ["species"]}, config | {"extra": 1},
        config | {"outputs": {"species": 9}}, config | {"outputs": {"a.b": 9}},
    ]  # fmt: skip
    if "heads" in config:
        bad_configs += [config | {"heads": heads} for heads in (0, 3, None)]
        bad_configs += [config | {"size": size} for size in (32, 63)]
        bad_configs += [config | {"depth": 3}]
    cases = [(incomplete, config), ({"other": torch.zeros(1)}, config)]
    for some, bad in cases + [(tensors, bad) for bad in bad_configs]:
        save_tensors(path, some, bad)
        with pytest.raises(AirlibError, match="judge"):
            load_judge(path)
    for no_table in ([], "judge"):
        save_tensors(path, tensors, no_table)
        with pytest.raises(AirlibError, match="not an airlib file"):
            load_judge(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(AirlibError, match="damaged"):
        load_judge(path)
    path.write_text(json.dumps(config))
    with pytest.raises(AirlibError, match="damaged"):
        load_judge(path)
    with pytest.raises(AirlibError, match="no such file"):
        load_judge(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("steps", [1, 3])
def test_an_attack_raises_the_loss_within_its_radius(judge, steps):
    pictures = images(6) / 3
    label = torch.arange(6)

    def loss(moved: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(judge(moved)["species"], label)

    attacked = attack(pictures, loss, 4.0, rng(0, "attack"), steps)
    moved = (attacked - pictures).flatten(1).norm(dim=1)
    assert moved.max() <= 4.0 + 1e-4 and moved.min() > 0 and not attacked.requires_grad
    random = torch.randn(pictures.shape, generator=rng(0, "random"))
    random = random / random.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * moved.view(-1, 1, 1, 1)
    with torch.no_grad():
        assert loss(attacked) - loss(pictures) > 3 * (loss(pictures + random) - loss(pictures))
        assert loss(attacked) > loss(pictures)


@pytest.mark.parametrize("task_of", [JudgeTask, VitJudgeTask])
def test_training_is_seeded_learns_and_exports_its_network(task_of, tmp_path):
    losses = []
    for _ in range(2):
        task = task_of(seed=3, steps=3, pool_size=64)
        losses.append([])
        for step in range(3):
            for group in task.optimizer.param_groups:
                group["lr"] = 1e-3
            loss = task.loss(step, rng(3, "step", step))
            task.optimizer.zero_grad()
            loss.backward()
            task.optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    path = save_tensors(tmp_path / "any.safetensors", *task.export())
    pictures = task.pool.pictures(slice(0, 4))
    torch.testing.assert_close(
        load_judge(path).features(pictures), task.judge.eval().features(pictures)
    )


# --- the exam


DOMAINS = [Domain("human", "elderly"), Domain("zombie")]


class Thumbnail:
    """Not a judge: pictures of 4 x 4 pixels, times `scale`."""

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * F.adaptive_avg_pool2d(images, 4).flatten(1)


def test_the_shipped_judge_passes_and_pixels_do_not():
    shipped, pixels = (exam_table(judge, 0, DOMAINS) for judge in (load_judge(), Thumbnail()))
    assert [row["domain"] for row in shipped] == [str(domain) for domain in DOMAINS]
    assert min(row["passed"] for row in shipped) > 0.95  # of 22 orderings, one may be undecided
    # Large changes of colour show at 4 x 4 pixels too; fine patterns and blur do not.
    assert max(row["passed"] for row in pixels) < 0.9
    assert all(("light", "blur") in row["wrong"] for row in pixels)
    assert {("light", "checkerboard"), ("light", "dots")} <= set(pixels[1]["wrong"])


def test_a_blind_judge_fails_everything():
    grades = examine(Thumbnail(scale=0), "judge_vit", 0, DOMAINS[:1], n=4)
    disguise = {"judge_vit_disguise": 1.0, "judge_vit_disguise_worst": 1.0}
    shares = ["passed", *LINKS, "worst_domain"]
    assert grades == {f"judge_vit_exam_{share}": 0.0 for share in shares} | disguise


def test_grades_summarise_the_table():
    rows = exam_table(Thumbnail(), 0, DOMAINS, n=12)
    grades = examine(Thumbnail(), "judge", 0, DOMAINS, n=12)
    for link in (*LINKS, "passed"):
        assert grades[f"judge_exam_{link}"] == pytest.approx(sum(r[link] for r in rows) / 2)
    assert grades["judge_exam_worst_domain"] == min(row["passed"] for row in rows)
    orderings = 3 * len(KINDS) + 1
    for row in rows:
        assert row["passed"] == pytest.approx(1 - len(row["wrong"]) / orderings)
        assert row["light"] == 1 - sum(link == "light" for link, _ in row["wrong"]) / len(KINDS)
    assert rows == exam_table(Thumbnail(), 0, DOMAINS, n=12)
    # A unit of length is no matter of order or share.
    assert grades == examine(Thumbnail(scale=8.0), "judge", 0, DOMAINS, n=12)


class Palette:
    """Not a judge: the mean colour of all images that are shown together."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((0, 2, 3)).expand(len(images), 3)


def test_only_a_judge_that_sees_variety_sees_a_collapse():
    for judge, seen in ((Thumbnail(), 1.0), (Palette(), 0.0)):
        assert [row["collapse"] for row in exam_table(judge, 0, DOMAINS)] == [seen, seen]


def test_the_other_domain_differs_in_species_alone_where_it_can():
    assert other_species(Domain("human", "elderly", "sketch")) == Domain("dog", "adult", "sketch")
    assert other_species(Domain("monkey", "baby")) == Domain("human", "baby")
    domains = all_domains()
    assert len(domains) == 114
    for domain in domains:
        other = other_species(domain)
        assert other.species != domain.species and other.style == domain.style
        assert other.age == domain.age or domain.age == "elderly"


def test_sets_are_rendered_once_and_from_separate_sitters():
    exhibits = Exhibits(Thumbnail(), 0, 10)
    domain = DOMAINS[0]
    again = exhibits.again(domain)
    assert len(again) == 1 + 2 * len(KINDS) and exhibits.again(domain) is again
    assert exhibits.truth(domain) is exhibits.truth(domain)
    assert exhibits.truth(domain).shape == (10, 48)
    assert not torch.allclose(exhibits.truth(domain), again["none", 0.0])
