"""What a run depends on. A record that was made from the same inputs is not made again.

inputs = inputs_of(Run("human-baby", "air", 0), load_profile("tiny"))
same_inputs(load_runs()["human-baby-air-0"]["inputs"], inputs)            # True
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airlib.profiles import Profile
from airlib.tinyworld.shipped import DIFFUSION_FOUNDATION, weights_fingerprint
from airlib.worlds.numbers import is_by_picture, is_method, numbers_of
from airlib.worlds.scored_images import SHOWN

if TYPE_CHECKING:
    from airlib.experiments.runs import Run

INPUTS_BEFORE = {
    "truncation": 1.0, "mixing": 0.0, "weights": {}, "in_domain_angle": 0.0, "domain_norm": 0.0,
    "order": "mean_then_norm", "prompt_mixing": "label", "learn_from": "previous",
    "keep_direction": True, "prompt_truncation": 1.0, "first_text": "label", "target_text": "label",
}  # fmt: skip
"""What runs did whose records do not name these numbers of a method."""
WORLD_BEFORE = {"clip_antialias": True}
"""The same for numbers of the world."""


def inputs_of(run: "Run", profile: Profile, protocol: str = "quick") -> dict:
    """What a run on a pair depends on, as JSON values: the pair, the options, all numbers of its
    method, and the weights.
    """
    pair, adapts = profile.pairs[run.pair], is_method(profile, run.method)
    kind = profile.sources[pair.source].generator
    inputs = {
        "pair": pair.as_dict(), "method": numbers_of(profile, run.method, kind) if adapts else {},
        "evaluation": profile.evaluation.as_dict(), "world": profile.world.as_dict(),
        "networks": profile.networks.as_dict(), "weights": weights_fingerprint(),
    }  # fmt: skip
    if kind == "diffusion":
        inputs["diffusion"] = profile.diffusion.as_dict()
        inputs["weights"] = weights_fingerprint(names=DIFFUSION_FOUNDATION)
    if protocol != "quick":
        inputs["protocol"] = protocol
    if protocol == SHOWN or adapts and is_by_picture(profile, run.method):
        study = profile.one_shot.as_dict()
        inputs["one_shot"] = {key: study[key] for key in ("truncation", "inversion")}
    if run.options:
        inputs["options"] = dict(run.options)
    return json.loads(json.dumps(inputs))


OF_SCORES = ("evaluation", "protocol")
"""Inputs that the metrics of a run depend on, but not its adaptation."""


def same_adaptation(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the adaptation of a record was made from the inputs of today, however it was scored
    there.
    """
    there, here = ({k: v for k, v in of.items() if k not in OF_SCORES} for of in (saved, now))
    return same_inputs(there, here)


def same_inputs(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a record was made from the inputs of today.

    A number of the method that the record does not name did not exist when it was made; what it has
    become by default is what the run did then.
    """
    known, numbers = saved.get("method", {}), now.get("method", {})
    missing = numbers.keys() - known.keys()
    then = {**INPUTS_BEFORE, "templates": saved.get("world", {}).get("templates")}
    filled = {key: then.get(key) for key in missing} | dict(known)
    there, here = {**saved, "method": filled}, {**now, "method": dict(numbers)}
    for one in (there, here):
        if "world" in one:  # a training has none
            one["world"] = WORLD_BEFORE | one["world"]
    return there == here
