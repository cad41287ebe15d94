"""The CLIP space against recordings of the original code, and against its own promises.

`golden/clip_text_prompt.npz` (its weights: `clip_air_tiny.safetensors`) and `nada_direction.npz`
were recorded from OpenAI's CLIP, IPL and StyleGAN-NADA on random weights.
"""

import copy
import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from small_networks import small_generator
from torch import nn
from torch.nn import functional as F

from airlib.checkpoints.importing import import_file
from airlib.checkpoints.rosinality import to_rosinality
from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.clip_space.offsets import (
    class_features,
    directional_loss,
    mean_direction,
    text_direction,
)
from airlib.clip_space.preprocessing import MEAN, STD, ClipPreprocess
from airlib.clip_space.templates import (
    IMAGENET_TEMPLATES,
    NADA_TEMPLATES,
    SINGLE,
    checked_texts,
    sentences_of,
)
from airlib.errors import AirlibError
from airlib.files import save_tensors
from airlib.methods.air import AIR
from airlib.methods.hyperdomainnet import Texts
from airlib.methods.ipl import IPL
from airlib.methods.nada import NADA, NADAConfig
from airlib.methods.prompt_learning import in_context, interpolated_prompt
from airlib.methods.svl import SVL
from airlib.seeding import rng
from airlib.tinyworld import tiny_clip, train_clip
from airlib.tinyworld.captions import lexicon
from airlib.tinyworld.tiny_clip import tiny_encoder
from airlib.tinyworld.train_clip import augment, contrastive_loss, same_text

GOLDEN = Path(__file__).parents[1] / "golden"
WEIGHTS = GOLDEN / "clip_air_tiny.safetensors"
DOMAIN_WORDS = (
    "human person man woman baby dog puppy cat kitten werewolf zombie fox bear rabbit monkey photo "
    "sketch cartoon pixar watercolor painting wall"
).split()


def recording(name: str) -> dict[str, torch.Tensor]:
    """The numeric arrays of a recording as tensors."""
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return {k: torch.from_numpy(np.asarray(v)) for k, v in arrays.items() if v.dtype.kind in "fi"}


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors, dim=-1)


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return recording("clip_text_prompt.npz")


@pytest.fixture(scope="module")
def offsets() -> dict[str, torch.Tensor]:
    return recording("nada_direction.npz")


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    """The recorded model, loaded as an OpenAI model is."""
    open_clip.add_model_config(GOLDEN / "air-tiny-quickgelu.json")
    return ClipEncoder.openai("air-tiny", WEIGHTS)


@pytest.fixture(scope="module")
def untrained() -> ClipEncoder:
    """The tiny world's CLIP with random weights: a real tokenizer, a ResNet, 64 px."""
    torch.manual_seed(0)
    tokenizer = tiny_clip.load_tokenizer()
    model = tiny_clip.build_model(tiny_clip.model_config(tokenizer.vocab_size))
    return ClipEncoder(model, tokenizer, "untrained")


# --- templates and preprocessing -----------------------------------------------------------------


def test_templates_are_the_recorded_sentences():
    with np.load(GOLDEN / "clip_text_prompt.npz", allow_pickle=False) as file:
        sentences = file["bpe_texts"][-79:].tolist()
    assert [template.format("cat") for template in NADA_TEMPLATES] == sentences
    assert set(IMAGENET_TEMPLATES) - set(NADA_TEMPLATES) == {"a photo of many {}."}
    assert len(IMAGENET_TEMPLATES) == len(set(IMAGENET_TEMPLATES)) == 80
    assert SINGLE == ("a photo of a {}",)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [1024, 512, 256, 64])
def test_preprocessing_equals_the_recording(recorded, size, antialias):
    image = np.random.RandomState(70 + size).rand(1, 3, size, size) * 2 - 1
    pixels = ClipPreprocess(224, antialias)(torch.from_numpy(image.astype(np.float32)))
    expected = {
        name: recorded[f"prep/{size}/aa{antialias:d}/{name}"]
        for name in ("sub8", "corner16", "mean", "std", "min", "max")
    }
    torch.testing.assert_close(pixels[..., ::8, ::8], expected["sub8"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels[..., :16, :16], expected["corner16"], atol=1e-5, rtol=0)
    for name, statistic in {
        "mean": pixels.mean((0, 2, 3)),
        "std": pixels.std((0, 2, 3)),
        "min": pixels.amin((0, 2, 3)),
        "max": pixels.amax((0, 2, 3)),
    }.items():
        torch.testing.assert_close(statistic, expected[name], atol=1e-5, rtol=0)


def test_preprocessing_only_normalises_an_image_of_the_right_size():
    image = torch.rand(2, 3, 64, 64, generator=rng(0)) * 4 - 2  # beyond [-1, 1]: never clamped
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    assert torch.equal(ClipPreprocess(64)(image), ((image + 1) / 2 - mean) / std)


def test_preprocessing_crops_the_centre_of_a_wide_image():
    centre = torch.rand(1, 3, 8, 8, generator=rng(0))
    wide = F.pad(centre, (4, 4), value=-1.0)
    assert torch.equal(ClipPreprocess(8)(wide), ClipPreprocess(8)(centre))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_preprocessing_refuses_what_is_not_a_batch_of_rgb_images(shape):
    with pytest.raises(AirlibError, match=re.escape("[B, 3, H, W]")):
        ClipPreprocess(8)(torch.zeros(shape))


# --- the encoder against the recordings ----------------------------------------------------------


def test_text_features_equal_the_recording(encoder, recorded):
    tokens = recorded["tokens"]
    features = encoder.embed_prompt(encoder.model.token_embedding(tokens), tokens.argmax(1))
    torch.testing.assert_close(features, unit(recorded["text_features"]), atol=1e-6, rtol=0)


def test_image_features_are_those_of_quick_gelu(encoder, recorded):
    features = encoder.embed_pixels(recorded["image_norm_input"])
    torch.testing.assert_close(features, unit(recorded["image_features"]), atol=1e-6, rtol=0)
    wrong = unit(recorded["image_features_wrong_gelu"])
    assert (features - wrong).abs().max() > 1e-3  # so the line above can tell the two apart


def test_learnt_prompts_equal_ipl(encoder, recorded):
    """Four learnt vectors behind the start token: features, a loss and its gradient."""
    tokens = recorded["tokens"][:1]
    sentence = encoder.model.token_embedding(tokens).expand(3, -1, -1)
    context = recorded["ipl_ctx"].clone().requires_grad_(True)
    prompt = torch.cat([sentence[:, :1], context, sentence[:, 5:]], 1)
    features = encoder.embed_prompt(prompt, tokens.argmax(1).expand(3))
    expected = unit(recorded["ipl_features"][:, 0])
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=0)
    loss = (1 - F.cosine_similarity(features, recorded["ctx_loss_target"])).mean()
    loss.backward()
    torch.testing.assert_close(loss, recorded["ctx_loss"], atol=1e-6, rtol=0)
    torch.testing.assert_close(context.grad, recorded["ctx_grad"], atol=1e-6, rtol=0)


def test_interpolated_prompts_equal_the_recording(encoder, recorded):
    source, target = recorded["air_tokens_src"], recorded["air_tokens_tgt"]
    embed = encoder.model.token_embedding
    prompt = torch.lerp(embed(source), embed(target), recorded["air_interp_p"])
    features = encoder.embed_prompt(prompt, target.argmax(1))
    torch.testing.assert_close(features, unit(recorded["air_interp_features"]), atol=1e-6, rtol=0)


# --- the encoder's own promises ------------------------------------------------------------------


NO_TEXTS = ["", "  \n\t", "\u200b\u3000", None, 7, b"dog"]


@pytest.mark.parametrize("text", NO_TEXTS)
def test_what_has_no_word_is_no_text(untrained, text):
    for read in (untrained.embed_text, untrained.token_embeddings, checked_texts):
        with pytest.raises(AirlibError, match="is no text for CLIP"):
            read(["a dog", text])
    space = ClipSpace([(untrained, 1.0)])
    for make in (
        lambda: text_direction(untrained, "dog", text),
        lambda: text_direction(untrained, text, "dog", "single"),
        lambda: in_context(text),
        lambda: interpolated_prompt(untrained, "dog", text, 0.5, "label"),
        lambda: NADA(space, "dog", text),
        lambda: AIR(space, text, "dog"),
        lambda: IPL(space, "dog", text),
        lambda: SVL(space, "dog", text),
        lambda: Texts.of(untrained, [("dog", text)], SINGLE),
    ):
        with pytest.raises(AirlibError, match="is no text for CLIP") as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("texts", ["a dog", [], (), None, 3])
def test_one_text_is_no_list_of_texts(untrained, texts):
    for read in (untrained.embed_text, untrained.token_embeddings):
        with pytest.raises(AirlibError, match="expected a list of texts"):
            read(texts)


@pytest.mark.parametrize(
    "templates",
    ["", " ", "a photo", "{} and {}", "a {0}", "a {", "{}}", None, 3, [], ["a {}", ""], [None]],
)
def test_a_template_has_exactly_one_gap(untrained, templates):
    space = ClipSpace([(untrained, 1.0)])
    for make in (
        lambda: sentences_of(templates, "dog"),
        lambda: class_features(untrained, "dog", templates),
        lambda: NADA(space, "dog", "cat", NADAConfig(templates)),
    ):
        with pytest.raises(AirlibError, match="templates .* a sentence with one {}"):
            make()


def test_a_label_stands_in_the_gap_of_every_template():
    assert sentences_of(["a {}", "{}!"], "{x}") == ["a {x}", "{x}!"]
    assert sentences_of("single", "dog") == [in_context("dog")] == ["a photo of a dog"]


def test_cropping_at_the_end_of_text_changes_nothing(untrained):
    texts = ["dog", "a black and white photo of the hard to see cat.", "a sketch of a fox"]
    embeddings, _ = untrained.token_embeddings(texts)
    assert embeddings.shape[1] < tiny_clip.CONTEXT_LENGTH
    whole = untrained.model.encode_text(untrained.tokenizer(texts), normalize=True)
    torch.testing.assert_close(untrained.embed_text(texts), whole, atol=1e-6, rtol=0)


def test_a_text_beyond_the_context_is_refused_not_cut(untrained):
    untrained.embed_text(["dog " * 22])  # 22 words, start and end: exactly the context
    with pytest.raises(AirlibError, match="24 tokens at most and this text has 25"):
        untrained.embed_text(["dog " * 23])


def test_text_features_do_not_depend_on_what_was_embedded_before(untrained):
    """A run that continues after a kill embeds less before: its results have to be the same."""
    sentences = [f"a photo of a bear, number {number}" for number in range(40)]
    fresh = [untrained.embed_text(sentences[:1]), untrained.embed_text(sentences)]
    untrained.to("cpu")  # forgets what was encoded
    again = [untrained.embed_text(sentences), untrained.embed_text(sentences[:1])]
    assert torch.equal(fresh[0], again[1]) and torch.equal(fresh[1], again[0])
    torch.testing.assert_close(fresh[0], fresh[1][:1], atol=1e-6, rtol=0)


def test_a_sentence_given_twice_has_the_same_features_twice(untrained):
    twice = untrained.embed_text(["a bear", "a photo of a dog", "a bear"])
    assert torch.equal(twice[0], twice[2]) and not torch.equal(twice[0], twice[1])


def test_layout_of_the_text_transformer_does_not_matter(untrained):
    """open_clip runs its transformer batch-first or sequence-first; features stay the same."""
    embeddings, end_of_text = untrained.token_embeddings(["a dog", "a pencil sketch of a cat"])
    batch_first = untrained.embed_prompt(embeddings, end_of_text)
    transformer = untrained.model.transformer
    stack = [transformer, *(block.attn for block in transformer.resblocks)]
    try:
        for module in stack:
            module.batch_first = False
        sequence_first = untrained.embed_prompt(embeddings, end_of_text)
    finally:
        for module in stack:
            module.batch_first = True
    torch.testing.assert_close(sequence_first, batch_first, atol=1e-6, rtol=0)


def test_gradients_reach_images_and_never_weights(untrained):
    images = (torch.rand(2, 3, 96, 96, generator=rng(0)) * 2 - 1).requires_grad_(True)
    features = untrained.embed_images(images)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))
    features[:, 0].sum().backward()
    assert images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in untrained.model.parameters())


def test_tiny_weights_survive_half_precision_on_disk(untrained, tmp_path):
    state = untrained.model.state_dict()
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    config = {"model": tiny_clip.model_config(untrained.tokenizer.vocab_size)}
    loaded = tiny_encoder(save_tensors(tmp_path / "clip.safetensors", half, config))
    images = torch.rand(2, 3, 64, 64, generator=rng(0)) * 2 - 1
    expected = untrained.embed_images(images)
    torch.testing.assert_close(loaded.embed_images(images), expected, atol=3e-3, rtol=0)
    assert loaded.embed_images(images).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_openai_archive_equals_safetensors(encoder, recorded, tmp_path):
    """OpenAI's own files are TorchScript archives that carry three integers besides the weights."""
    root = nn.Module()
    for key, tensor in encoder.model.state_dict().items():
        *path, leaf = key.split(".")
        module = root
        for name in path:
            if name not in module._modules:
                module.add_module(name, nn.Module())
            module = module._modules[name]
        module.register_parameter(leaf, nn.Parameter(tensor.half()))
    for name in ("input_resolution", "context_length", "vocab_size"):
        root.register_buffer(name, torch.tensor(7))
    torch.jit.save(torch.jit.script(root), tmp_path / "air-tiny.pt")
    loaded = ClipEncoder.openai("air-tiny", tmp_path / "air-tiny.pt")
    pixels = recorded["image_norm_input"]
    assert torch.equal(loaded.embed_pixels(pixels), encoder.embed_pixels(pixels))


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_openai_loader_says_what_is_wrong(encoder, tmp_path):
    with pytest.raises(AirlibError, match="fetch"):
        ClipEncoder.openai("ViT-B-32", tmp_path / "absent.pt")
    with pytest.raises(AirlibError, match="no model 'ViT-X-99-quickgelu'"):
        ClipEncoder.openai("ViT-X-99", WEIGHTS)
    for name in ("pickle.pt", "cut.safetensors"):
        (tmp_path / name).write_bytes(WEIGHTS.read_bytes()[:1000])
        with pytest.raises(AirlibError, match="damaged"):
            ClipEncoder.openai("air-tiny", tmp_path / name)
    torch.save({"visual.proj": torch.zeros(1)}, tmp_path / "pickle.pt")
    with pytest.raises(AirlibError, match=r"another network \(visual.proj\)"):
        ClipEncoder.openai("air-tiny", tmp_path / "pickle.pt")
    state = encoder.model.state_dict()
    words = torch.cat([state["token_embedding.weight"], torch.zeros(1, 128)])
    torch.save(state | {"token_embedding.weight": words}, tmp_path / "more_words.pt")
    with pytest.raises(AirlibError, match="another architecture"):
        ClipEncoder.openai("air-tiny", tmp_path / "more_words.pt")
    torch.save(to_rosinality(small_generator()), tmp_path / "faces.pt")
    with pytest.raises(AirlibError, match="another network than CLIP"):
        ClipEncoder.openai("air-tiny", import_file(tmp_path / "faces.pt"))


def test_a_fine_tuned_model_runs_with_the_activation_it_was_trained_with(
    encoder, recorded, tmp_path
):
    state, pixels = encoder.model.state_dict(), recorded["image_norm_input"]
    training = {"epoch": 1, "optimizer": {}, "state_dict": state}
    for content, features in (
        (state, "image_features"),
        (training, "image_features_wrong_gelu"),
        (training | {"name": "model_ViT-B-32-quickgelu"}, "image_features"),
    ):
        torch.save(content, tmp_path / "tuned.pt")
        for path in (tmp_path / "tuned.pt", import_file(tmp_path / "tuned.pt", force=True)):
            found = ClipEncoder.openai("air-tiny", path).embed_pixels(pixels)
            torch.testing.assert_close(found, unit(recorded[features]), atol=1e-5, rtol=0)


def test_no_tokenizer_is_looked_up_on_a_hub():
    with pytest.raises(AirlibError, match="tokenizer of 'ViT-H-14-worldwide-quickgelu' .* hub"):
        ClipEncoder.untrained("ViT-H-14-worldwide")


# --- several CLIP models -------------------------------------------------------------------------


def test_clip_space_drops_zero_weights_and_sums_the_rest(encoder, untrained):
    space = ClipSpace([(encoder, 2.0), (untrained, 0), (untrained, 0.5)])
    assert space.encoders == [encoder, untrained] and space.weights == [2.0, 0.5]
    values = [torch.tensor(3.0), torch.tensor(8.0)]
    assert space.weighted(torch.sub, values, [torch.tensor(1.0)] * 2) == 2.0 * 2.0 + 0.5 * 7.0
    with pytest.raises(AirlibError, match="at least one"):
        ClipSpace([(encoder, 0.0)])


def test_clip_space_embeds_as_each_encoder_does(encoder, untrained):
    images = torch.rand(2, 3, 48, 48, generator=rng(0)) * 2 - 1
    space = ClipSpace([(encoder, 1), (untrained, 1), (untrained, 1)])
    for member, features in zip(space.encoders, space.embed_images(images), strict=True):
        assert torch.equal(features, member.embed_images(images))
    texts = ["a dog"]
    for features in ClipSpace([(untrained, 1), (untrained, 1)]).embed_text(texts):
        assert torch.equal(features, untrained.embed_text(texts))


# --- offsets -------------------------------------------------------------------------------------


def test_directions_and_losses_equal_nada_and_air(offsets):
    source, target = (unit(offsets[f"raw_{side}_txt_features"]) for side in ("src", "trg"))
    direction = mean_direction(source, target)
    torch.testing.assert_close(direction, offsets["nada/text_direction"][0], atol=1e-6, rtol=0)
    images = offsets["trg_img"] - offsets["src_img"]
    loss = directional_loss(images, direction)
    torch.testing.assert_close(loss, offsets["nada/directional_loss"], atol=1e-6, rtol=0)

    prompt = offsets["air/anchor_prompt_feature"][0]
    adapted = offsets["air/target_text_feature"][0] - prompt
    loss = directional_loss(offsets["trg_img"] - offsets["air/anchor_img"], adapted)
    torch.testing.assert_close(loss, offsets["air/adaptive_loss"], atol=1e-6, rtol=0)

    images = offsets["air/anchor_img"] - offsets["src_img"]
    learnt = offsets["air/prompt_new_feature"][0] - prompt
    for loss, name in (
        (directional_loss(images, learnt), "mean_of_cos"),
        (directional_loss(images.mean(0, keepdim=True), learnt), "cos_of_mean"),
    ):
        torch.testing.assert_close(loss, offsets[f"air/align_loss_{name}"], atol=1e-6, rtol=0)


def test_the_two_orders_of_averaging_by_hand():
    source = torch.zeros(2, 2)
    target = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    by_length = mean_direction(source, target, "mean_then_norm")
    torch.testing.assert_close(by_length, torch.tensor([3.0, 1.0]) / 10**0.5)
    equal = mean_direction(source, target, "norm_mean_norm")
    torch.testing.assert_close(equal, torch.tensor([1.0, 1.0]) / 2**0.5)
    with pytest.raises(AirlibError, match="norm_mean_norm"):
        mean_direction(source, target, "mean")


def test_text_direction_is_the_mean_offset_of_the_class_features(untrained):
    source = class_features(untrained, "dog", NADA_TEMPLATES)
    target = class_features(untrained, "cat", NADA_TEMPLATES)
    assert source.shape == (79, 128)
    direction = text_direction(untrained, "dog", "cat", NADA_TEMPLATES)
    torch.testing.assert_close(direction, unit(target.mean(0) - source.mean(0)))
    with pytest.raises(AirlibError, match="two different classes"):
        text_direction(untrained, "dog", "dog", NADA_TEMPLATES)


def test_directional_loss_by_hand_shared_and_per_sample():
    images = torch.tensor([[5.0, 0.0], [0.0, -0.1], [3.0, 4.0]])
    loss = directional_loss(images, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor((0 + 1 + 0.4) / 3))
    own = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-4.0, 3.0]])
    torch.testing.assert_close(directional_loss(images, own), torch.tensor((0 + 2 + 1) / 3))


def test_gradient_of_directional_loss_equals_finite_differences():
    values = torch.randn(3, 5, dtype=torch.float64, generator=rng(0)).requires_grad_(True)
    direction = torch.randn(5, dtype=torch.float64, generator=rng(1)).requires_grad_(True)
    assert torch.autograd.gradcheck(directional_loss, (values, direction))


def test_a_zero_offset_costs_one_and_moves_nothing():
    """The adapted generator starts as a copy: its first offset is exactly zero."""
    images = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    direction = torch.tensor([1.0, 0.0])
    loss = directional_loss(images, direction)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor((1 + 0.4) / 2))
    assert torch.equal(images.grad[0], torch.zeros(2))
    other = images[1:].detach().requires_grad_(True)
    directional_loss(other, direction).backward()
    torch.testing.assert_close(images.grad[1], other.grad[0] / 2)


# --- the tiny CLIP: vocabulary and training batches ----------------------------------------------


def test_every_word_of_the_tiny_world_splits_as_in_the_standard_vocabulary():
    tiny, standard = tiny_clip.load_tokenizer(), SimpleTokenizer()
    words = lexicon()
    for word in words:
        ids, standard_ids = tiny.encode(word), standard.encode(word)
        assert [tiny.decoder[i] for i in ids] == [standard.decoder[i] for i in standard_ids]
        assert 1 <= len(ids) <= 4, word
    assert all(len(tiny.encode(word)) == 1 for word in DOMAIN_WORDS)
    assert tiny.vocab_size < 1500


def test_shipped_vocabulary_is_that_of_the_lexicon():
    text = gzip.decompress(tiny_clip.VOCABULARY.read_bytes()).decode()
    assert text == tiny_clip.vocabulary_text(lexicon())


def test_tiny_token_ids_keep_the_layout_of_clip():
    tokenizer = tiny_clip.load_tokenizer()
    tokens = tokenizer(["a dog", "Ünknown wörds"])
    assert tokens.shape == (2, tiny_clip.CONTEXT_LENGTH)
    assert (tokens[:, 0] == tokenizer.vocab_size - 2).all()
    assert (tokens.max(1).values == tokenizer.vocab_size - 1).all()
    assert tokens[0, 4:].tolist() == [0] * (tiny_clip.CONTEXT_LENGTH - 4)
    assert tokenizer.decode(tokenizer.encode("Ünknown wörds")).strip() == "ünknown wörds"


def test_repeated_captions_share_the_target():
    """Two equal captions: the best prediction is one half each, whose cross-entropy is log 2."""
    same = same_text(["a dog", "a cat", "a dog"])
    assert same.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    loss = contrastive_loss(same.float() * 1000, same)
    torch.testing.assert_close(loss, 2 / 3 * torch.tensor(2.0).log())


def test_augmentation_repeats_from_its_seed_and_stays_in_range():
    images = torch.rand(16, 3, 64, 64, generator=rng(0)) * 2 - 1
    first, again = augment(images, rng(1)), augment(images, rng(1))
    assert torch.equal(first, again) and not torch.equal(first, augment(images, rng(2)))
    assert first.min() >= -1 and first.max() <= 1 and first.shape == images.shape


@pytest.fixture(scope="module")
def task() -> Iterator[train_clip.ClipTask]:
    """The training task on a pool of 64 renders, in batches of 32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_clip, "POOL_SIZE", 64)
        patch.setattr(train_clip, "BATCH", 32)
        yield train_clip.ClipTask(seed=0)


def test_adversarial_steps_raise_the_loss_within_its_radius(task):
    images, texts = train_clip.draw_batch(task.pool, rng(0))
    same, texts = same_text(texts), task.embed_texts(texts).detach()
    moved = task.adversarial_steps(images, texts, same, rng(1))
    radius = train_clip.MAX_PERTURBATION * torch.rand(32, 1, 1, 1, generator=rng(1)).flatten()
    assert ((moved - images).flatten(1).norm(dim=1) <= radius + 1e-4).all()

    def loss(x: torch.Tensor) -> torch.Tensor:
        task.model.eval()
        with torch.no_grad():
            logits = task.model.logit_scale.exp() * task.embed_images(x) @ texts.T
        task.model.train()
        return -(logits.log_softmax(1).exp() * same).sum(1).log().mean()

    random_step = radius.view(-1, 1, 1, 1) * F.normalize(
        torch.randn(images.shape, generator=rng(2)).flatten(1), dim=1
    ).view_as(images)
    assert loss(moved) > loss(images + random_step)
    assert loss(moved) > loss(images)


@pytest.mark.slow  # trains a CLIP
def test_a_training_step_repeats_from_its_seed(task):
    """Same weights, running statistics and stream: same loss, bit for bit (resuming needs it)."""
    state = copy.deepcopy(task.model.state_dict())
    losses = []
    for seed in (3, 3, 4):
        task.model.load_state_dict(state)
        losses.append(task.loss(0, rng(seed)).item())
    assert losses[0] == losses[1] != losses[2]
