"""Statistics of other tools in the place of references."""

import io
import zipfile

import numpy as np
import pytest
import torch

from airlib.errors import AirlibError
from airlib.evaluation.frechet import frechet_distance
from airlib.evaluation.intervals import frechet_bootstrap
from airlib.evaluation.statistics import read_statistics
from airlib.seeding import rng


def normal(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=rng(seed, "test"), dtype=torch.float64)


def saved(path, features: torch.Tensor, kind: type = np.float64):
    """As pytorch-fid and clean-fid save them, beside images as guided-diffusion has them."""
    rows = features.numpy()
    images = np.zeros((2, 4, 4, 3), np.uint8)
    sigma = np.cov(rows, rowvar=False)
    np.savez(path, mu=rows.mean(0).astype(kind), sigma=sigma.astype(kind), arr_0=images)
    return path


@pytest.mark.parametrize(("n", "width"), [(60, 8), (6, 12)])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_the_distance_is_that_of_the_features(tmp_path, n, width, kind):
    x, y = normal(n, width), 1.3 * normal(n + 3, width, seed=1) + 0.2
    known = read_statistics(saved(tmp_path / "a.npz", y, kind))
    assert frechet_distance(x, known) == pytest.approx(frechet_distance(x, y), rel=1e-5)
    value, interval = frechet_bootstrap(x, known, rng(0, "b"))
    assert interval is not None and interval[0] < value < interval[1]


def test_singular_statistics_are_taken_as_they_are(tmp_path):
    x, y = normal(40, 6), normal(40, 6, seed=1)
    y[:, 2] = 0
    known = read_statistics(saved(tmp_path / "a.npz", y))
    assert frechet_distance(x, known) == pytest.approx(frechet_distance(x, y), rel=1e-6)


def header(shape: str, descr: str = "'<f8'") -> bytes:
    """An .npy member that claims a shape and holds nothing."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "arrays",
    [
        {"arr_0": np.zeros((2, 4, 4, 3))},
        {"mu": np.zeros(4)},
        {"mu": np.zeros(4), "sigma": np.eye(5)},
        {"mu": np.full(4, np.nan), "sigma": np.eye(4)},
        {"mu": np.zeros(2), "sigma": np.array([[1.0, 5.0], [0.0, 1.0]])},
        {"mu": np.zeros(2), "sigma": -np.eye(2)},
        {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
        {"mu": np.array(["a"]), "sigma": np.eye(1)},
        {"mu": np.array([None]), "sigma": np.eye(1)},
        {"mu": header("(4000000000,)"), "sigma": header("(4000000000, 4000000000)")},
        {"mu": header("(4,)"), "sigma": header("(8, 8)")},
        {"mu": header("(4,)", "'|O'"), "sigma": np.eye(4)},
        {"mu": b"", "sigma": b"\x93NUMPY"},
    ],
)
def test_what_is_no_mean_and_covariance_is_one_line(tmp_path, arrays):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in arrays.items():
            if not isinstance(value, bytes):
                buffer = io.BytesIO()
                np.save(buffer, value)
                value = buffer.getvalue()
            archive.writestr(f"{name}.npy", value)
    with pytest.raises(AirlibError, match="a.npz"):
        read_statistics(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no zip")
    for name in ("a.npz", "missing.npz", "."):
        with pytest.raises(AirlibError):
            read_statistics(tmp_path / name)
