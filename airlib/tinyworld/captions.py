"""Captions of portraits, in the language of the tiny CLIP.

Most captions describe ("a pencil sketch of a smiling woman with long red hair"), some only name
("kitten", "cartoon"), and a quarter are ImageNet sentences with a class name ("a bad photo of
the kitten."), because that is how the adaptation methods will later talk to CLIP. Each word is
true of the image: colours are the nearest named ones, features are mentioned when visible.
"""

import random
import re
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from airlib.clip_space.templates import NADA_TEMPLATES
from airlib.tinyworld.attributes import EYE_COLORS, HAIR_COLORS, Attributes
from airlib.tinyworld.domains import AGES, SPECIES, STYLES, Domain

TEMPLATE_SHARE = 0.25
# Of the other captions: up to .10 a bare noun, up to .15 a bare style, up to .30 both.
BARE_NOUN, BARE_STYLE, STYLE_AND_NOUN = 0.10, 0.15, 0.30
MAX_DETAILS = 2

STYLE_PHRASES = {
    "photo": ("photo", "photograph", "portrait photo", "close-up photo", "real photo"),
    "sketch": ("sketch", "pencil sketch", "pencil drawing", "hand drawn sketch"),
    "cartoon": ("cartoon", "flat cartoon", "cartoon drawing", "comic"),
    "pixar": ("pixar render", "pixar style 3d render", "pixar character", "pixar animation"),
    "watercolor": ("watercolor painting", "watercolor", "watercolor art"),
    "wall painting": ("wall painting", "mural", "painting on a wall"),
}
# Styles as class names, for the ImageNet sentences.
STYLE_NAMES = {
    "sketch": ("sketch", "pencil sketch", "pencil drawing"),
    "cartoon": ("cartoon", "comic"),
    "pixar": ("pixar", "pixar character", "pixar render"),
    "watercolor": ("watercolor painting", "watercolor"),
    "wall painting": ("wall painting", "mural"),
}
# ImageNet sentences with these words are about a style of this world, and false of the others.
STYLE_MARKS = {
    "sketch": ("sketch", "drawing", "doodle"),
    "cartoon": ("cartoon",),
    "pixar": ("rendering", "video game"),
    "watercolor": ("painting",),
    "wall painting": ("painting", "graffiti"),
}
PEOPLE = {
    "adult": ("person", "human", "human face", "adult"),
    "baby": ("baby", "human baby", "newborn baby", "baby face"),
    "elderly": ("old person", "elderly person", "old human"),
}
GENDERED = {"adult": ("man", "woman"), "elderly": ("old man", "old woman")}
YOUNG = {
    "dog": "puppy",
    "cat": "kitten",
    "bear": "bear cub",
    "rabbit": "baby rabbit",
    "fox": "fox cub",
    "monkey": "baby monkey",
    "werewolf": "baby werewolf",
    "zombie": "baby zombie",
}
# fmt: off
FUR_NAMES = {
    "black": (.15, .14, .14), "white": (.91, .89, .87), "grey": (.54, .53, .54),
    "brown": (.40, .25, .14), "golden": (.80, .58, .28), "orange": (.89, .46, .16),
    "red": (.75, .32, .12), "beige": (.82, .72, .58),
}
BACKGROUND_NAMES = {
    "blue": (.37, .45, .83), "green": (.35, .70, .42), "yellow": (.85, .82, .35),
    "orange": (.90, .58, .28), "red": (.75, .30, .30), "pink": (.85, .52, .72),
    "brown": (.45, .32, .22), "grey": (.58, .58, .58), "beige": (.85, .76, .62),
    "white": (.92, .92, .92), "dark": (.22, .24, .28),
}
# fmt: on
# Words that prompts may want although no caption uses them.
OTHER_WORDS = """sculpture plastic embroidered origami toy tattoo graffiti rendering video game
doodle art black and white plushie stuffed pixelated cgi portrait image picture anime oil
painting wolf vampire elf joker statue child young old boy girl tiger lion horse cow pig bird
fish car house tree happy angry hair style of in the is an this that from made disney character
ukiyo-e neon light cyberpunk realistic drawn drawing face head animal creature monster werewolf
photo"""


class Facts(NamedTuple):
    """What can truly be said about one portrait.

    details: phrases, each with the probability of being mentioned.
    """

    domain: Domain
    female: bool
    adjectives: list[str]
    details: list[tuple[str, float]]


def captions(attributes: Attributes, rng: random.Random) -> list[str]:
    """One new caption per portrait; draws from ``rng``."""
    return [_caption(facts, rng) for facts in _facts(attributes)]


def description(domain: Domain) -> str:
    """The words for a domain as target of an adaptation: "watercolor painting of a kitten"."""
    if domain.species == "human":
        noun = {"adult": "human", "baby": "baby", "elderly": "old person"}[domain.age]
    else:
        noun = YOUNG[domain.species] if domain.age == "baby" else domain.species
    return f"{STYLE_PHRASES[domain.style][0]} of {_with_article(noun)}"


def lexicon() -> list[str]:
    """All words that captions and prompts may use, sorted; punctuation marks are words too."""
    phrases = [OTHER_WORDS, *NADA_TEMPLATES, *SPECIES, *AGES, *STYLES, *YOUNG.values()]
    phrases += ["a an of on with wearing , surprised smiling sad long short beard glasses"]
    phrases += ["hair eyes background"]
    for table in (STYLE_PHRASES, STYLE_NAMES, PEOPLE, GENDERED):
        phrases += [phrase for row in table.values() for phrase in row]
    for names in (HAIR_COLORS, EYE_COLORS, FUR_NAMES, BACKGROUND_NAMES):
        phrases += names
    text = " ".join(phrases).replace("{}", " ").lower()
    return sorted(set(re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text)))


def _caption(facts: Facts, rng: random.Random) -> str:
    domain = facts.domain
    noun = _noun(domain, facts.female, rng)
    if rng.random() < TEMPLATE_SHARE:
        return _template_caption(domain.style, noun, rng)
    kind = rng.random()
    if kind < BARE_NOUN:
        return noun
    if kind < BARE_STYLE:
        return domain.style
    style = _with_article(rng.choice(STYLE_PHRASES[domain.style]))
    if kind < STYLE_AND_NOUN:
        return f"{style} of {_with_article(noun)}"
    words = [word for word in facts.adjectives if rng.random() < 0.6]
    details = [detail for detail, share in facts.details if rng.random() < share]
    subject = " ".join([_with_article(" ".join([*words, noun])), *details[:MAX_DETAILS]])
    form = rng.random()
    if form < 0.75:
        return f"{style} of {subject}"
    return f"{subject}, {domain.style}" if form < 0.9 else subject


def _template_caption(style: str, noun: str, rng: random.Random) -> str:
    """An ImageNet sentence about the noun, or, for drawn styles, about the style itself."""
    template = rng.choice(_true_templates(style))
    if style == "photo" or any(mark in template for mark in STYLE_MARKS[style]):
        return template.format(noun)
    style_name = rng.choice(STYLE_NAMES[style])
    if rng.random() < 0.3:
        return template.format(f"{style_name} of {_with_article(noun)}")
    return template.format(style_name)


@cache
def _true_templates(style: str) -> tuple[str, ...]:
    """The sentences that do not name another style of this world."""
    own = STYLE_MARKS.get(style, ())
    foreign = {mark for marks in STYLE_MARKS.values() for mark in marks} - set(own)
    return tuple(t for t in NADA_TEMPLATES if not any(mark in t for mark in foreign))


def _noun(domain: Domain, female: bool, rng: random.Random) -> str:
    species, age = domain.species, domain.age
    if species == "human":
        if age in GENDERED and rng.random() < 0.45:
            return GENDERED[age][female]
        return rng.choice(PEOPLE[age])
    if age == "baby":
        return rng.choice((YOUNG[species], f"baby {species}"))
    return species if rng.random() < 0.8 else f"adult {species}"


def _facts(attributes: Attributes) -> list[Facts]:
    """Read the degrees and colours of all portraits; a feature counts from one half on."""
    a = attributes
    rows = zip(
        torch.stack([a.species, a.age, a.style], 1).tolist(),
        a.female.tolist(),
        _moods(a),
        (a.hair_length > 0.4).tolist(),
        _nearest(a.hair_color, HAIR_COLORS),
        _nearest(a.fur_color + a.color_shift, FUR_NAMES),
        _nearest(a.eye_color, EYE_COLORS),
        _nearest(a.background_color, BACKGROUND_NAMES),
        (a.glasses > 0.5).tolist(),
        (a.beard > 0.5).tolist(),
        strict=True,
    )
    facts = []
    for index, female, mood, long_hair, hair, fur, eyes, background, glasses, beard in rows:
        domain = Domain.from_index(*index)
        adjectives = [mood] if mood else []
        details = []
        if domain.species not in ("human", "zombie"):
            adjectives.append(fur)
        elif domain.age != "baby":
            details.append((f"with {'long' if long_hair else 'short'} {hair} hair", 0.4))
        if glasses:
            details.append(("wearing glasses", 0.7))
        if beard:
            details.append(("with a beard", 0.7))
        if domain.style != "sketch":  # which keeps of colours only how dark they are
            details.append((f"with {eyes} eyes", 0.2))
            details.append((f"on {_with_article(background)} background", 0.25))
        facts.append(Facts(domain, female, adjectives, details))
    return facts


def _moods(attributes: Attributes) -> list[str]:
    """ "surprised", "smiling", "sad" or "" for each portrait."""
    words = []
    degrees = (attributes.surprise, attributes.smile, attributes.sadness)
    for surprise, smile, sadness in zip(*(d.tolist() for d in degrees), strict=True):
        if surprise > 0.5:
            words.append("surprised")
        elif smile > 0.7:
            words.append("smiling")
        else:
            words.append("sad" if sadness > 0.5 else "")
    return words


def _nearest(colors: Tensor, named: dict[str, tuple[float, float, float]]) -> list[str]:
    """The name nearest to each colour [n, 3] in RGB."""
    names = list(named)
    distances = torch.cdist(colors, torch.tensor(list(named.values())))
    return [names[k] for k in distances.argmin(1).tolist()]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
