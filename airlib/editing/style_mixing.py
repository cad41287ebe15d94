"""Two latents in one image: coarse layers from one (pose, shape), fine ones from the other.

    images = adapted(mix_styles(world.sample(8), inversion.latents))     # MindTheGap's final images

MindTheGap draws with entries 0 to 6 of the 18 of w+ from the content and 7 to 17 from the inverted
reference, so that the result also has the colours and the texture that the reference was inverted
to. Smaller generators split at the same share.
"""

from torch import Tensor

from airlib.errors import AirlibError

CONTENT_SHARE = 7 / 18  # of the entries of w+, from the coarsest on: MindTheGap's code


def content_layers(num_ws: int) -> int:
    """How many entries of w+ come from the content: 7 of 18, 6 of 16, 4 of 10."""
    return round(CONTENT_SHARE * num_ws)


def mix_styles(content: Tensor, style: Tensor, layers: int | None = None) -> Tensor:
    """Latents [n, num_ws, w_dim] with the first `layers` entries of `content`, the rest of `style`.

    content: [n, num_ws, w_dim]. style: the same shape, or [1, num_ws, w_dim] for all. layers: 0 to
    num_ws, by default 7 of 18 as in MindTheGap's code (`content_layers`).
    Raises AirlibError for other shapes and numbers of layers.
    """
    fits = content.ndim == style.ndim == 3 and content.shape[1:] == style.shape[1:]
    if not fits or len(style) not in (1, len(content)):
        raise AirlibError(
            f"cannot mix latents {list(content.shape)} and {list(style.shape)}; "
            "both are [n, num_ws, w_dim], the style with n or with one"
        )
    num_ws = content.shape[1]
    layers = content_layers(num_ws) if layers is None else layers
    if not 0 <= layers <= num_ws:
        raise AirlibError(f"{layers} of {num_ws} layers from the content: choose 0 to {num_ws}")
    mixed = style.expand_as(content).clone()
    mixed[:, :layers] = content[:, :layers]
    return mixed
