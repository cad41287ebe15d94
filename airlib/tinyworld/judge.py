"""The judge: a small conv net, unrelated to CLIP, whose features measure distances between images.

Methods are pulled by CLIP, so CLIP cannot be their only judge. This network was trained apart from
it on renders of the tiny world, to read the domain (species, age, style), the latent (everything
continuous: pose, light, colours, expression) and *how damaged* an image is. The last task is why it
can judge: a network that never saw dots, blur or checkerboards takes them for a zombie's skin.

`Judge.features` feeds Frechet distances, `Judge.maps` perceptual ones. `train_judge.py` trains it
and examines it before it is allowed to judge.
"""

from pathlib import Path

from torch import Tensor, nn

from airlib.errors import AirlibError
from airlib.files import load_tensors

WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"


def convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class Judge(nn.Module):
    """Four stages of 3x3 convolutions at 1/2, 1/4, 1/8, 1/8 of the resolution, and linear heads.

    Args:
        outputs: head name -> number of outputs, e.g. {"species": 9, ..., "damage": 7}.
        width: channels of the first stage; the others have 2x, 4x and 4x as many.
    """

    def __init__(self, outputs: dict[str, int], width: int = 32) -> None:
        super().__init__()
        self.config = {"outputs": dict(outputs), "width": width}
        c = width
        self.stages = nn.ModuleList(
            [
                nn.Sequential(convolution(3, c, 2), convolution(c, c)),
                nn.Sequential(convolution(c, 2 * c, 2), convolution(2 * c, 2 * c)),
                nn.Sequential(convolution(2 * c, 4 * c, 2), convolution(4 * c, 4 * c)),
                convolution(4 * c, 4 * c),
            ]
        )
        self.heads = nn.ModuleDict({name: nn.Linear(4 * c, n) for name, n in outputs.items()})

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps after each stage, [B, C, h, w] with h = H/2, H/4, H/8, H/8.

        `images` are [B, 3, H, W] in [-1, 1]; values outside are clipped, as in a saved picture.
        """
        x = images.clamp(-1, 1)  # [B, 3, H, W]
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, F]: the last maps averaged over the image, F = 4 * width."""
        return self.maps(images)[-1].mean((2, 3))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> head name -> [B, outputs]."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}


def load_judge(path: str | Path = WEIGHTS) -> Judge:
    """The trained judge, frozen, in float32 and in evaluation mode.

    Raises AirlibError if the weights are missing, damaged, or of another network.
    """
    tensors, config = load_tensors(path)
    try:
        judge = Judge(config["outputs"], config["width"])
        missing, unexpected = judge.load_state_dict(
            {name: tensor.float() for name, tensor in tensors.items()}, strict=False
        )
    except (KeyError, RuntimeError) as error:
        raise AirlibError(f"{path} does not hold a judge; run `airlib train-tiny judge`") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise AirlibError(f"{path} does not hold a judge; run `airlib train-tiny judge`")
    return judge.eval().requires_grad_(False)
