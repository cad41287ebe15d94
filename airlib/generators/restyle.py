"""From a photograph to w+ by an encoder of `generators.e4e`, in one pass or, for ReStyle, several.

    encode = Restyle(load_imported("restyle_e4e_ffhq_encode.safetensors"), generator)
    latents = encode(photographs)                  # [n, 3, 1024, 1024] -> [n, 18, 512]

    e4e        w = latent_avg + E(x)
    ReStyle    w_0 = latent_avg,  w_t = w_(t-1) + E(x, G(w_(t-1)))          t = 1 ... 5

x and G(w) at 256 pixels, G with fixed noise maps (Alaluf et al. 2021, section 3; the loop of the
official code, without its last drawing). An encoder knows the latents of the generator it was
trained with and no others. Photographs must be aligned as FFHQ is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.errors import AirlibError
from airlib.generators.e4e import E4e
from airlib.generators.stylegan2 import StyleGAN2

SIZE = 256  # of the pictures that an encoder sees
ITERATIONS = 5  # ReStyle code, n_iters_per_batch
SAME_MEAN = 0.1  # how far the mean latents may be apart, as a share of their length


class Restyle:
    """An encoder with its generator: photographs of faces, aligned as FFHQ -> latents in w+.

    iterations: passes of a ReStyle encoder, which sees its last reconstruction; e4e has one pass.
    Raises AirlibError for a generator with another number of latents or another mean latent.
    """

    def __init__(self, encoder: E4e, generator: StyleGAN2, iterations: int = ITERATIONS):
        mean, codes = generator.mapping.w_avg, encoder.latent_avg
        if codes.shape != (generator.num_ws, generator.w_dim):
            raise AirlibError(
                f"the encoder gives {list(codes.shape)} latents and the generator takes "
                f"{[generator.num_ws, generator.w_dim]}; use the encoder of this generator"
            )
        if (codes.to(mean) - mean).norm(dim=1).max() > SAME_MEAN * mean.norm():
            raise AirlibError(
                "the mean latents of encoder and generator differ, so it was trained with another "
                "generator; use its own"
            )
        self.encoder, self.generator = encoder, generator
        self.iterations = iterations if encoder.config.input_channels == 6 else 1

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images [n, 3, H, H] in [-1, 1] -> latents [n, num_ws, w_dim]."""
        photographs = F.adaptive_avg_pool2d(images, SIZE)
        latents = self.encoder.latent_avg.expand(len(images), -1, -1)
        for _ in range(self.iterations):
            seen = [photographs]
            if self.encoder.config.input_channels == 6:
                seen.append(F.adaptive_avg_pool2d(self.generator(latents, "const"), SIZE))
            latents = latents + self.encoder(torch.cat(seen, dim=1))
        return latents
