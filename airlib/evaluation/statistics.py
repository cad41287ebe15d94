"""Statistics of reference images from other tools: .npz files with mean and covariance of features.

    gaussian = read_statistics(Path("ffhq.npz"))       # of pytorch-fid, clean-fid, guided-diffusion

pytorch-fid and clean-fid keep of a set of images the mean `mu` [F] and the covariance `sigma`
[F, F] of their features, which is all that a Frechet distance needs. Which network they are of, the
file does not say; its number of features must be that of the network they are compared in.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch

from airlib.errors import AirlibError
from airlib.evaluation.frechet import Gaussian
from airlib.files import open_zip

LARGEST = 4096  # features
ASYMMETRY = 1e-3  # of the largest variance


def read_statistics(path: Path) -> Gaussian:
    """Mean and covariance in an .npz file, in float64; whatever else it holds is not read.

    Raises AirlibError if it is missing, damaged or no such file, if an array is not of numbers or
    too large, and if the two are no mean and covariance.
    """
    if not path.is_file():
        raise AirlibError(f"{path} is no file of statistics; check the path")
    try:
        with open_zip(path) as archive:
            mean = _array(archive, "mu.npy", 1)
            covariance = _array(archive, "sigma.npy", 2)
    except (OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise AirlibError(
            f"{path} is no .npz file with the arrays mu and sigma ({error}); give a folder of "
            "images, or make the statistics again"
        ) from error
    width = len(mean)
    variances = covariance.diagonal()
    if covariance.shape != (width, width) or not width:
        raise AirlibError(f"{path}: mu {mean.shape} and sigma {covariance.shape} do not fit")
    finite = np.isfinite(mean).all() and np.isfinite(covariance).all()
    tolerance = ASYMMETRY * max(float(np.abs(variances).max()), 1e-12) if finite else 0.0
    symmetric = finite and np.abs(covariance - covariance.T).max() <= tolerance
    if not symmetric or variances.min() < -tolerance:
        raise AirlibError(f"{path}: sigma is no covariance, or a value is not finite")
    symmetrised = torch.from_numpy(covariance + covariance.T) / 2
    return Gaussian(torch.from_numpy(mean), symmetrised)


def _array(archive: zipfile.ZipFile, name: str, axes: int) -> np.ndarray:
    """An array in float64, once its header says that it is a small one of real numbers."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0
        shape, _, kind = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(
            member
        )
    if kind.kind not in "fiu" or len(shape) != axes or max(shape, default=0) > LARGEST:
        raise ValueError(f"{name.removesuffix('.npy')} is {kind} {list(shape)}")
    with archive.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False).astype(np.float64)
