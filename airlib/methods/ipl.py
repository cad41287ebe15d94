r"""Losses of IPL (Guo et al. 2023): every image has a text direction of its own.

A mapper turns each latent w into prompt vectors; E_T reads them before the source and before the
target label. The feature is a residual on that of a written sentence ("a photo of a ..."):

    t_X,b = u(delta_X,b + base_X)               X = source S or target T;  u(x) = x / |x|
    stage 1   L_contrastive + lambda_l (L_domain,T + lambda_src L_domain,S)     trains the mapper
              L_contrastive   image b and prompt t_S,b find each other in the batch
              L_domain,X      mean_b 1 - cos(t_X,b, mean over templates of E_T(template(X)))
    stage 2   mean_b 1 - cos(dI_b, u(t_T,b - t_S,b))                            adapts the generator

Source: the official code, held to its recordings. The residual is not in the paper's equations.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LOGIT_SCALE = 100.0  # of OpenAI's CLIP, exp(logit_scale)


def prompt_features(learnt: Tensor, written: Tensor) -> Tensor:
    """Unit features [B, D] of learnt prompts [B, D] on top of a written sentence [D] or [1, D].

    Neither is normalised before: the longer one decides more.
    """
    return F.normalize(learnt + written, dim=-1)


def contrastive_loss(images: Tensor, prompts: Tensor, logit_scale: float = LOGIT_SCALE) -> Tensor:
    """Symmetric cross-entropy of unit features [B, D]: image b belongs to prompt b (stage 1)."""
    logits = logit_scale * images @ prompts.T
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def domain_loss(prompts: Tensor, class_features: Tensor) -> Tensor:
    """Mean 1 - cos of prompts [B, D] and the mean of a class's unit features [K, D] (stage 1)."""
    return (1 - F.cosine_similarity(prompts, class_features.mean(dim=0), dim=-1)).mean()


def prompt_directions(source: Tensor, target: Tensor) -> Tensor:
    """Unit text directions [B, D], one per image, for `offsets.directional_loss` (stage 2)."""
    return F.normalize(target - source, dim=-1)
