"""What AIR's anchors are for: is the rest of the way shorter, and better aligned?

    path = anchor_path(adaptation.log, source_images, target_images, source_text, target_text)
    path.M        # [M(S, T), M(A_1, T), M(A_2, T), ...]

AIR re-anchors because it expects that between an anchor A and the target T offsets of images and of
texts are closer to parallel than between the source S and T. With mean image embeddings I, the
embedding P_A of the prompt that was learnt for an anchor, and M and D as in study 1
(`studies.misalignment.offsets`),

    M(A, T) = 1 - cos(I_T - I_A, E_T(T) - P_A)           D(A, T) = 1 - cos(I_A, I_T)

can be followed over the training. I_T is that of true target images, which only the tiny world has.
`M_unlearnt` has the text of the source in place of P_A: what moving the anchor alone would do. The
loss of NADA points along E_T(T) - E_T(S) forever, so that is the direction it would still follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.errors import AirlibError


@dataclass(frozen=True)
class AnchorPath:
    """How far the target is, and how badly aligned, from the source (step 0) and each anchor.

    steps: 0, then the step of each anchor. M: offset misalignment of source or anchor with the
    target, 0 to 2, an anchor's text being the prompt that was learnt for it. M_unlearnt: M with the
    text of the source throughout. D: concept distance to the target, 1 - cos of image means. All
    lists have one entry per step.
    """

    steps: list[int]
    M: list[float]
    M_unlearnt: list[float]
    D: list[float]


def anchor_path(
    log: Sequence[dict], source: Tensor, target: Tensor, source_text: Tensor, target_text: Tensor
) -> AnchorPath:
    """Misalignment and distance to the target along an AIR run, for its first CLIP model.

    log: of the run, `Adaptation.log`. source, target: mean image embeddings [D]. source_text,
    target_text: embeddings [D] of the two prompts that AIR starts from
    (`airlib.methods.prompt_learning.CONTEXT` and the class).
    Raises AirlibError if the run took no anchor.
    """
    anchors = [entry for entry in log if entry.get("event") == "anchor"]
    if not anchors:
        raise AirlibError("this run took no anchor; it is not one of AIR, or too short for one")
    source, target, source_text, target_text = (
        embedding.cpu() for embedding in (source, target, source_text, target_text)
    )
    images = [source, *(torch.tensor(entry["image_mean"][0]) for entry in anchors)]
    prompts = [source_text, *(torch.tensor(entry["prompt"][0]) for entry in anchors)]
    unlearnt = [source_text] * len(images)
    return AnchorPath(
        steps=[0, *(entry["step"] for entry in anchors)],
        M=_misalignments(images, prompts, target, target_text),
        M_unlearnt=_misalignments(images, unlearnt, target, target_text),
        D=[float(1 - torch.cosine_similarity(image, target, dim=0)) for image in images],
    )


def _misalignments(
    images: Sequence[Tensor], texts: Sequence[Tensor], target: Tensor, target_text: Tensor
) -> list[float]:
    """M between each of the first and the target."""
    offsets = zip(images, texts, strict=True)
    cosines = [
        torch.cosine_similarity(target - image, target_text - text, dim=0)
        for image, text in offsets
    ]
    return [float(1 - cosine) for cosine in cosines]
