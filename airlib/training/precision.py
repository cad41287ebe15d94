"""In which precision networks are trained."""

import torch


def reduced_precision() -> torch.autocast:
    """Compute in bfloat16 where the processor can, else in float32: emulated, bfloat16 takes
    thirty times as long.
    """
    able = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast("cpu", torch.bfloat16, enabled=able)
