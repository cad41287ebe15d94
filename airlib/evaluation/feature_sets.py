"""What every metric of two feature sets asks of them: the same width, enough rows, no NaN."""

from torch import Tensor

from airlib.errors import AirlibError


def feature_pair(
    x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y")
) -> tuple[Tensor, Tensor]:
    """Features x [N, F] and y [M, F] in float64, checked; `names` are those of the two in messages.

    Raises AirlibError for other shapes, fewer than 2 rows, or values that are not finite.
    """
    x, y = _checked(x, names[0]), _checked(y, names[1])
    if x.shape[1] != y.shape[1]:
        raise AirlibError(f"features differ in width: {x.shape[1]} and {y.shape[1]}")
    return x, y


def _checked(features: Tensor, name: str) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise AirlibError(
            f"{name}: expected at least 2 rows of features [N, F], got {list(features.shape)}"
        )
    features = features.detach().double()
    if not features.isfinite().all():
        raise AirlibError(f"{name}: features hold NaN or infinite values; check the images")
    return features
