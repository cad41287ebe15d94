"""A pool: many portraits with their latents and domains, rendered once and kept on disk.

Trainings and metrics draw their images from pools. A pool is named by (n, seed, split) and the
sources of the renderer, so changing the renderer makes new pools instead of stale ones. The
train and test splits are separate random streams and share no latent.
"""

import ast
import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.files import load_tensors, save_tensors
from airlib.images.pictures import to_bytes
from airlib.progress import track
from airlib.seeding import rng
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import Domain, all_domains
from airlib.tinyworld.renderer import render

SPECIES_WEIGHTS = {"human": 3.0, "dog": 1.8, "cat": 1.4}  # the others: 1
AGE_WEIGHTS = {"adult": 0.62, "baby": 0.28, "elderly": 0.10}
STYLE_WEIGHTS = {"photo": 3.0}  # the others: 1.1
# Source domains of the experiments, seen more often than their weights imply.
FIXED_SHARES = {Domain("human"): 0.15, Domain("dog"): 0.06}

BLOCK = 1024  # images one worker renders per task
PARALLEL_FROM = 4 * BLOCK  # smaller pools are rendered in this process
WORKERS = 2
SOURCES = (  # the modules that decide what a pool contains
    "domains",
    "anatomy",
    "attributes",
    "shapes",
    "sitter",
    "face",
    "portrait",
    "styles",
    "renderer",
    "pool",
)


class Pool(NamedTuple):
    """Portraits and what they were rendered from; n may be large, hence the bytes."""

    images: Tensor  # uint8 [n, 3, 64, 64]
    latents: Tensor  # float [n, 64], standard normal
    domains: Tensor  # long [n, 3], rows of Domain.index

    def pictures(self, rows: Tensor | slice) -> Tensor:
        """The images of the chosen rows as floats [k, 3, 64, 64] in [-1, 1]."""
        return self.images[rows].float() / 127.5 - 1


def load_pool(n: int, seed: int, split: Literal["train", "test"] = "train") -> Pool:
    """The pool of ``n`` portraits of (seed, split), from the cache or rendered now.

    The cache is ``$AIRLIB_CACHE/pools``, by default ``~/.cache/airlib/pools``. 120,000 images
    take 1.5 GB. Raises AirlibError for a bad argument, a damaged cache file or a worker process
    that died.
    """
    if n < 1:
        raise AirlibError(f"a pool needs at least one image, got n={n}")
    if split not in ("train", "test"):
        raise AirlibError(f"unknown split {split!r}; choose 'train' or 'test'")
    path = pool_path(n, seed, split)
    if path.is_file():
        tensors, _ = load_tensors(path)
        return Pool(**tensors)
    pool = render_pool(n, seed, split)
    save_tensors(path, pool._asdict(), {"n": n, "seed": seed, "split": split})
    return pool


def render_pool(n: int, seed: int, split: str) -> Pool:
    """The pool of ``n`` portraits of (seed, split), rendered now and not cached."""
    latents = torch.randn(n, LATENT_DIM, generator=rng(seed, "pool latents", split))
    domains = sample_domains(n, rng(seed, "pool domains", split))
    images = torch.empty(n, 3, 64, 64, dtype=torch.uint8)
    blocks = range(0, n, BLOCK)
    rendered = _render_blocks(latents, domains)
    for start, block in zip(track(blocks, f"rendering {n} portraits"), rendered, strict=True):
        images[start : start + BLOCK] = torch.from_numpy(block)
    return Pool(images, latents, domains)


def sample_domains(n: int, generator: torch.Generator) -> Tensor:
    """Domains of n portraits, drawn by ``domain_shares``: LongTensor [n, 3]."""
    shares = domain_shares()
    drawn = torch.multinomial(
        torch.tensor(list(shares.values())), n, replacement=True, generator=generator
    )
    return torch.tensor([domain.index for domain in shares])[drawn]


def domain_shares() -> dict[Domain, float]:
    """Probability of each domain in a pool; the values add up to 1.

    Weights of species, age and style multiply; then the domains of ``FIXED_SHARES`` get
    theirs and all others share the rest in proportion.
    """
    shares = {}
    for domain in all_domains():
        ages = AGE_WEIGHTS if domain.species == "human" else ("adult", "baby")
        shares[domain] = (
            SPECIES_WEIGHTS.get(domain.species, 1.0)
            * AGE_WEIGHTS[domain.age]
            / sum(AGE_WEIGHTS[age] for age in ages)
            * STYLE_WEIGHTS.get(domain.style, 1.1)
        )
    rest = sum(share for domain, share in shares.items() if domain not in FIXED_SHARES)
    scale = (1 - sum(FIXED_SHARES.values())) / rest
    return {domain: FIXED_SHARES.get(domain, share * scale) for domain, share in shares.items()}


def pool_path(n: int, seed: int, split: str) -> Path:
    """The file that a pool of ``n`` portraits of (seed, split) is cached in."""
    cache = Path(os.environ.get("AIRLIB_CACHE") or Path.home() / ".cache" / "airlib")
    return cache / "pools" / f"{split}-n{n}-seed{seed}-{_source_hash()}.safetensors"


def _source_hash() -> str:
    # Syntax trees without docstrings, so that comments, formatting and prose do not matter.
    digest = hashlib.sha256()
    for name in SOURCES:
        tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = node.body[ast.get_docstring(node, clean=False) is not None :]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def _render_blocks(latents: Tensor, domains: Tensor) -> Iterator[np.ndarray]:
    """Yield uint8 images block by block, in order, from worker processes for large pools.

    Workers are forked: they need no importable main module, so notebooks and scripts without
    a main guard work. Each uses one thread, which is what makes forking safe after OpenMP ran.
    Where forking does not exist, this process renders.
    """
    blocks = list(zip(latents.split(BLOCK), domains.split(BLOCK), strict=True))
    if len(latents) < PARALLEL_FROM or "fork" not in multiprocessing.get_all_start_methods():
        for block in blocks:
            yield _render_block(*block)
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(WORKERS, fork, torch.set_num_threads, (1,)) as workers:
        # numpy arrays travel through pipes; tensors would use scarce shared memory.
        arguments = [[tensor.numpy() for tensor in block] for block in blocks]
        try:
            yield from workers.map(_render_block_arrays, arguments)
        except BrokenProcessPool as error:
            raise AirlibError(
                "a worker process died while rendering the pool (out of memory?); try again"
            ) from error


def _render_block_arrays(arrays: list[np.ndarray]) -> np.ndarray:
    return _render_block(*map(torch.from_numpy, arrays))


def _render_block(latents: Tensor, domains: Tensor) -> np.ndarray:
    return to_bytes(render(latents, domains)).numpy()
