"""Files are written whole or not at all, and read without executing anything.

`write_atomically` writes to a temporary name beside the target and renames it; tensors travel as
safetensors with their configuration as JSON in the header, so a weight file says what it is.
"""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from airlib.errors import AirlibError

if TYPE_CHECKING:
    import torch

LONGEST_LIST = 2**24  # bytes of the list of members in a zip: 150,000 or more
LONGEST_HEADER = 2**22  # bytes of a safetensors header: 40,000 tensors or more
BAD_CONTENT = (OSError, LookupError, RuntimeError, TypeError, ValueError)


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Write a file whole or not at all; returns `path`.

    write: called with a temporary path beside `path`, which is then renamed. Missing folders are
    made; nothing is left behind on failure. Raises AirlibError if the folder or file cannot be
    written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or error
        raise AirlibError(
            f"cannot write in {path.parent}: {reason}; choose a writable directory"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise AirlibError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all; returns `path`.

    Raises AirlibError if the file cannot be written.
    """
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON, whole or not at all; returns `path`.

    Raises ValueError for NaN and infinities, which JSON does not have, and AirlibError if the file
    cannot be written.
    """
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return write_text(path, text)


def save_tensors(path: str | Path, tensors: dict[str, "torch.Tensor"], config: dict) -> Path:
    """Write tensors as a safetensors file with `config`, as JSON, in its header; returns `path`.

    The file is written whole or not at all; `load_tensors` reads it. Raises AirlibError if it
    cannot be written, and ValueError for NaN or infinities in `config`.
    """
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"config": json.dumps(config, allow_nan=False)}
    return write_atomically(path, lambda temporary: save_file(contiguous, temporary, header))


def load_tensors(path: str | Path) -> tuple[dict[str, "torch.Tensor"], dict]:
    """Read a safetensors file that `save_tensors` wrote: (tensors by name, on the CPU; config).

    Raises AirlibError if the file is missing, truncated, or not written by airlib.
    """
    from safetensors import SafetensorError

    path = Path(path)
    if not path.is_file():
        raise AirlibError(f"no such file: {path}; check the path, or create it first")
    try:
        tensors, header = _safetensors(path)
        config = json.loads(header["config"])
        if not isinstance(config, dict):
            raise TypeError("its configuration is no dictionary")
    except (SafetensorError, *BAD_CONTENT) as error:
        raise AirlibError(
            f"{path} is damaged or not an airlib file ({type(error).__name__}); make it again"
        ) from error
    return tensors, config


def read_safetensors(path: str | Path) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """Read any safetensors file: (tensors by name, on the CPU; the texts in its header).

    Raises AirlibError if the file cannot be read or is damaged.
    """
    from safetensors import SafetensorError

    try:
        return _safetensors(Path(path))
    except (SafetensorError, *BAD_CONTENT) as error:
        raise AirlibError(
            f"{path} is damaged or no safetensors file ({type(error).__name__}); download it again"
        ) from error


def _safetensors(path: Path) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    from safetensors import safe_open

    with path.open("rb") as start:
        if int.from_bytes(start.read(8), "little") > LONGEST_HEADER:
            raise ValueError("its header is longer than any")
    with safe_open(path, framework="pt") as file:
        # Copies lie where PyTorch aligns them; in the file they lie anywhere, and the same
        # convolution of weights that are aligned otherwise may end in other bits.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


@contextmanager
def open_zip(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Context that yields a zip to read from, once its list of members is known to be bearable.

    Raises zipfile.BadZipFile if it is no zip, or has hundreds of thousands of members.
    """
    with Path(path).open("rb") as file:
        listing = _ShortReads(file)
        with zipfile.ZipFile(listing) as archive:
            listing.longest = None
            yield archive


class _ShortReads(io.BufferedIOBase):
    """A file of which at most `longest` bytes are read at a time; None: as many as one likes.

    `zipfile` reads the list of members at once, before anybody can ask how many there are.
    """

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.longest: int | None = LONGEST_LIST

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int | None = -1) -> bytes:
        if self.longest is not None and (size or 0) > self.longest:
            raise zipfile.BadZipFile(f"it lists more members than fit in {self.longest:,} bytes")
        return self.file.read(-1 if size is None else size)
