"""The judges: two small networks, unrelated to CLIP, whose features measure distances of images.

Methods are pulled by CLIP, so CLIP cannot be their only judge. These two were trained apart from it
on renders of the tiny world, to read the domain (species, age, style), the latent (everything
continuous: pose, light, colours, expression) and *how damaged* an image is. The last task is why
they can judge: a network that never saw dots, blur or checkerboards takes them for a zombie's skin.

`ConvJudge` is a conv net and `VitJudge` a vision transformer; what fools one architecture need not
fool the other. `features` feeds Frechet distances, `maps` perceptual ones. `train_judge.py` trains
them, `exam.py` examines them before they are allowed to judge.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airlib.errors import AirlibError
from airlib.evaluation.features import Judge
from airlib.files import load_tensors
from airlib.tinyworld.shipped import WEIGHTS


class Reader(Judge):
    """A judge whose features are the mean of its last maps, and whose heads read them linearly.

    Maps are those of the image itself, and all their channels count the same.

    Args:
        outputs: head name -> number of outputs, e.g. {"species": 9, ..., "damage": 7}.
        channels: number of features.
    """

    def __init__(self, outputs: dict[str, int], channels: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(channels, n) for name, n in outputs.items()})

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> [B, F]: the last maps averaged over the image."""
        return self.maps(images)[-1].mean((2, 3))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """What the heads read in images [B, 3, H, W] in [-1, 1]: head name -> [B, outputs]."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}


def convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, batch norm and ReLU: [B, C_in, H, W] -> [B, C_out, H / stride, ...]."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class ConvJudge(Reader):
    """A judge of four stages of 3x3 convolutions; maps at 1/2, 1/4, 1/8 and 1/8 of the resolution.

    Args:
        outputs: head name -> number of outputs, e.g. {"species": 9, ..., "damage": 7}.
        width: channels of the first stage; the others have 2x, 4x and 4x as many.
    """

    title = "Judge"

    def __init__(self, outputs: dict[str, int], width: int = 32) -> None:
        c = width
        super().__init__(outputs, 4 * c)
        self.config = {"network": "judge", "outputs": dict(outputs), "width": width}
        self.stages = nn.ModuleList(
            [
                nn.Sequential(convolution(3, c, 2), convolution(c, c)),
                nn.Sequential(convolution(c, 2 * c, 2), convolution(2 * c, 2 * c)),
                nn.Sequential(convolution(2 * c, 4 * c, 2), convolution(4 * c, 4 * c)),
                convolution(4 * c, 4 * c),
            ]
        )

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W], clipped to [-1, 1] -> maps of the four stages, fine to coarse."""
        x = images.clamp(-1, 1)  # [B, 3, H, W]
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Block(nn.Module):
    """Pre-norm transformer block: every token looks at all others, then at itself.

    Attention is written out because that trains faster here: PyTorch's fused kernel is slow in the
    backward pass of short bfloat16 sequences on CPUs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T, width] -> tokens of the same shape."""
        mixed = self.queries_keys_values(self.before_attention(tokens))
        q, k, v = mixed.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, T, d]
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).softmax(-1)
        tokens = tokens + self.merge((weights @ v).transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.before_mlp(tokens))


class VitJudge(Reader):
    """A judge that is a vision transformer on 8x8 patches; it has a map after each block.

    Args:
        outputs: head name -> number of outputs, e.g. {"species": 9, ..., "damage": 7}.
        width: numbers per token; also the number of features.
        depth: blocks.
        heads: attention heads per block.
        size: height and width of the images.

    Raises AirlibError if heads do not divide the width, or patches the size.
    """

    title = "VitJudge"
    patch = 8

    def __init__(
        self,
        outputs: dict[str, int],
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
        size: int = 64,
    ) -> None:
        super().__init__(outputs, width)
        if width % heads or size % self.patch:
            raise AirlibError(
                f"no such judge: {heads} heads must divide width {width}, {self.patch} size {size}"
            )
        self.config = {"network": "judge_vit", "outputs": dict(outputs), "width": width}
        self.config |= {"depth": depth, "heads": heads, "size": size}
        self.side = size // self.patch  # tokens per row
        self.embed = nn.Linear(3 * self.patch**2, width)
        self.positions = nn.Parameter(0.02 * torch.randn(self.side**2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W], clipped to [-1, 1] -> a map [B, width, H / 8, W / 8] per block.

        The last map is normalised. Raises AirlibError for another image size than `size`.
        """
        if images.shape[2:] != (self.side * self.patch,) * 2:
            raise AirlibError(
                f"this judge sees images of {self.side * self.patch} px a side, "
                f"got {list(images.shape)}; resize them"
            )
        patches = F.pixel_unshuffle(images.clamp(-1, 1), self.patch)  # [B, 3 * 8 * 8, h, w]
        tokens = self.embed(patches.flatten(2).transpose(1, 2)) + self.positions
        found = []
        for block in self.blocks:
            tokens = block(tokens)
            found.append(tokens)
        found[-1] = self.norm(tokens)
        return [tokens.transpose(1, 2).unflatten(2, (self.side, -1)) for tokens in found]


NETWORKS: dict[str, type[ConvJudge] | type[VitJudge]] = {"judge": ConvJudge, "judge_vit": VitJudge}

# What building a network from another file's configuration and tensors may raise.
_FOREIGN = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def load_judge(source: str | Path = "judge") -> ConvJudge | VitJudge:
    """A trained judge, frozen, in float32 and in evaluation mode.

    source: the name of a shipped judge, or the path of a weights file. Raises AirlibError if the
    weights are missing, damaged, or of another network.
    """
    path = WEIGHTS / f"{source}.safetensors" if source in NETWORKS else Path(source)
    tensors, config = load_tensors(path)
    try:
        # The first files did not name their network; they are conv nets.
        network = NETWORKS[config.pop("network", "judge")]
        judge = network(**config)
        missing, unexpected = judge.load_state_dict(
            {name: tensor.float() for name, tensor in tensors.items()}, strict=False
        )
    except _FOREIGN as error:
        raise _no_judge(path) from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise _no_judge(path)
    return judge.eval().requires_grad_(False)


def _no_judge(path: Path) -> AirlibError:
    return AirlibError(
        f"{path} does not hold a judge; run `airlib train-tiny judge` (or judge_vit)"
    )
