"""Sentences that carry a class name into CLIP's text encoder.

One class name gives one noisy text feature; the mean over many sentences is a better one. CLIP's
authors published 80 sentences for ImageNet ("prompt ensemble"). StyleGAN-NADA, IPL and AIR use the
same sentences in the same order except the plural one, hence 79. All but `SINGLE` keep the trailing
period: it is a token of its own, so dropping it changes every feature.
"""

from collections.abc import Iterable, Sequence

from airlib.errors import AirlibError

SHOWN = 60  # characters of a wrong value in a message

SINGLE = ("a photo of a {}",)
"""The template of prompt learning (IPL, AIR): its four words are where learnt vectors start."""

IMAGENET_TEMPLATES = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)
"""The 80 sentences of CLIP's ImageNet ensemble, in the published order."""

NADA_TEMPLATES = tuple(t for t in IMAGENET_TEMPLATES if t != "a photo of many {}.")
"""The 79 sentences of StyleGAN-NADA (utils/text_templates.py), also used by IPL and AIR."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "nada79": NADA_TEMPLATES,
    "imagenet80": IMAGENET_TEMPLATES,
    "single": SINGLE,
}


def templates_of(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Sentences with one {} each: the list of `TEMPLATES` called so, one sentence, or several.

    Raises AirlibError for an unknown name, an empty list, and sentences without exactly one {}.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        templates = (templates,)
    sentences = tuple(templates) if isinstance(templates, Sequence) else ()
    wrong = [s for s in sentences if not isinstance(s, str) or not _has_one_gap(s)]
    if wrong or not sentences:
        raise AirlibError(
            f"unknown templates {repr(wrong[0] if wrong else templates)[:SHOWN]}; choose from "
            f"{', '.join(TEMPLATES)}, or a sentence with one {{}}, or several"
        )
    return sentences


def sentences_of(templates: str | Sequence[str], label: str) -> list[str]:
    """The templates (see `templates_of`) with `label` in their gap.

    Raises AirlibError for templates that are none, and for a label without a word.
    """
    (label,) = checked_texts([label])
    return [template.format(label) for template in templates_of(templates)]


def checked_texts(texts: Iterable[str]) -> list[str]:
    """The texts as a list. Every text on its way into CLIP passes here.

    Raises AirlibError if they are one text instead of a list, if there are none, and if one of them
    is no text or has nothing to read in it.
    """
    found = [] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if not found:
        raise AirlibError(f"expected a list of texts, not {repr(texts)[:SHOWN]}")
    for text in found:
        if not isinstance(text, str) or not any(c.isprintable() and c != " " for c in text):
            raise AirlibError(
                f"{repr(text)[:SHOWN]} is no text for CLIP; give it a word or a sentence"
            )
    return found


def _has_one_gap(sentence: str) -> bool:
    return sentence.count("{}") == 1 and not set("{}") & set(sentence.replace("{}", ""))
