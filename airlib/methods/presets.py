"""Published settings of StyleGAN-NADA for single targets, each with where it was published.

    chosen = preset("pixar")
    chosen.provenance                                        # "HyperDomainNet, configs/..."
    world = open_world(load_profile("paper", chosen.overrides), "ffhq")
    world.adapt("nada", "human-pixar", **chosen.options)     # that pair, by these numbers

They were found on real networks: in the tiny world they run and mean nothing. Options not published
for a target are the profile's. The data are in nada_presets.toml.
"""

import difflib
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from airlib.errors import AirlibError


@dataclass(frozen=True)
class Preset:
    """Settings for one target.

    source_class, target_class: the words that they were published for. clip, clip_weights: the CLIP
    models of the loss. options: of `World.adapt`.
    """

    source_class: str
    target_class: str
    provenance: str
    clip: list[str]
    clip_weights: list[float]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def overrides(self) -> dict[str, list]:
        """What makes the paper profile use the CLIP models of the preset (`load_profile`)."""
        return {"world.clip": self.clip, "world.clip_weights": self.clip_weights}


def presets() -> dict[str, Preset]:
    """All of them, by name."""
    text = (resources.files(__package__) / "nada_presets.toml").read_text(encoding="utf-8")
    return {name: _preset(entry) for name, entry in tomllib.loads(text).items()}


def preset(name: str) -> Preset:
    """The preset called `name`; AirlibError for one that does not exist."""
    known = presets()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise AirlibError(
            f"no settings for {name!r} are known to be published{hint} (known: {', '.join(known)})"
        )
    return known[name]


def _preset(entry: dict[str, Any]) -> Preset:
    own = {key: entry.pop(key) for key in Preset.__dataclass_fields__ if key in entry}
    return Preset(**own, options=entry)
