"""What a step costs when only a domain vector moves, against all synthesis weights.

    python benchmarks/domain_vector.py            # 128 pixels, 64 channels
    python benchmarks/domain_vector.py 1024       # the published size; wants 12 GB and minutes

The same adaptation (NADA, a random generator and a random CLIP, batch 4) runs with each
parameterization in a process of its own. Seconds are the median over the steps after the first;
memory is the peak of the process minus what it held before the first step: gradients, moments of
Adam, and activations, which are the same for both. `optimizer_bytes` counts gradients and moments.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

STEPS = 8


def measure(resolution: int, name: str) -> dict[str, float]:
    """Seconds per step and additional memory of one parameterization, in this process."""
    import torch
    from open_clip.model import CLIP

    from airlib.adaptation import AdaptationConfig, adapt
    from airlib.clip_space.encoder import ClipEncoder, ClipSpace
    from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
    from airlib.methods.nada import NADA
    from airlib.parameterizations.stylegan2 import PARAMETERIZATIONS
    from airlib.tinyworld import tiny_clip

    torch.manual_seed(0)
    sizes = {} if resolution == 1024 else {"channel_base": 8192, "channel_max": 256}
    generator = StyleGAN2(StyleGAN2Config(resolution, **sizes)).requires_grad_(False).eval()
    tokenizer = tiny_clip.load_tokenizer()
    image = {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16, "head_width": 16}
    text = {"context_length": tiny_clip.CONTEXT_LENGTH, "vocab_size": tokenizer.vocab_size}
    model = CLIP(32, image, text | {"width": 32, "heads": 2, "layers": 1})
    space = ClipSpace([(ClipEncoder(model, tokenizer, "random"), 1.0)])
    times, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = AdaptationConfig(steps=STEPS, batch=4, learning_rate=1e-4)
    result = adapt(
        generator, space, NADA(space, "human", "dog"), PARAMETERIZATIONS[name](), config,
        on_step=lambda index, adapted: times.append(time.perf_counter()),
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trained = sum(value.nbytes for value in result.tensors.values())
    seconds = [b - a for a, b in zip(times[1:], times[2:], strict=False)]
    return {
        "seconds": statistics.median(seconds), "bytes": (peak - before) * 1024,
        "optimizer_bytes": 3 * trained, "file_bytes": trained,
    }  # fmt: skip


def in_its_own_process(resolution: int, name: str) -> dict[str, float]:
    command = [sys.executable, __file__, str(resolution), name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(resolution: int) -> None:
    found = {name: in_its_own_process(resolution, name) for name in ("synthesis", "domain_vector")}
    for name, values in found.items():
        print(name, ", ".join(f"{key} {value:,.3f}" for key, value in values.items()))
    full, vector = found["synthesis"], found["domain_vector"]
    ratios = {f"{key}_ratio": round(vector[key] / full[key], 4) for key in full}
    print(json.dumps({"resolution": resolution, **ratios}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(int(sys.argv[1]), sys.argv[2])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 128)
