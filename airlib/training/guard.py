"""Stops an adaptation whose images are lost, before it ends and enters a table.

    guard = Guard()
    guard.check_loss(step, loss)
    guard.check_images(step, adapted_images, source_images)

Images are judged as they are displayed, clamped to [-1, 1]: pixels of 100,000 differ from latent to
latent, and are one white picture.
"""

import torch
from torch import Tensor

from airlib.errors import AirlibError

FAR = 1.5  # a pixel that is this far from 0 is out of range; nominal are [-1, 1]
MOST_FAR = 0.5  # share of such pixels, beyond the source's; regular runs stay below 0.01
COLLAPSED = 0.05  # of the source's variation between latents
PATIENCE = 5  # steps
ADVICE = "lower the learning rate or adapt for fewer steps"


class Guard:
    """Raises AirlibError where a run is lost.

    collapsed: for how many steps in a row the images of all latents have been the same.
    """

    def __init__(self) -> None:
        self.collapsed = 0

    def check_loss(self, step: int, loss: Tensor) -> None:
        """Raise AirlibError unless the loss of a step is finite."""
        if not torch.isfinite(loss):
            raise AirlibError(f"the loss became {loss.item()} at step {step}; {ADVICE}")

    def check_range(self, step: int, adapted: Tensor, source: Tensor) -> None:
        """Raise AirlibError if images [B, 3, H, W] left the range where those of the source, drawn
        from the same latents, did not.
        """
        share, reference = (float((~(x.abs() <= FAR)).float().mean()) for x in (adapted, source))
        if share - reference > MOST_FAR:  # NaN counts as out of range
            raise AirlibError(
                f"the images left the range [-1, 1] at step {step}: {share:.0%} of the pixels are "
                f"beyond {FAR}; {ADVICE}"
            )

    def check_images(self, step: int, adapted: Tensor, source: Tensor) -> None:
        """Raise AirlibError as `check_range` does, and if all latents have given the same image for
        `PATIENCE` steps.
        """
        self.check_range(step, adapted, source)
        if len(adapted) < 2:
            return
        spread, reference = (
            float(images.clamp(-1, 1).std(dim=0).mean()) for images in (adapted, source)
        )
        self.collapsed = self.collapsed + 1 if spread < COLLAPSED * reference else 0
        if self.collapsed >= PATIENCE:
            raise AirlibError(
                "the adapted generator draws the same image for every latent since step "
                f"{step - self.collapsed + 1}; {ADVICE}"
            )
