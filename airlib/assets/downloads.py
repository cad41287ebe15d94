"""Downloads that survive an interruption: what has arrived is kept, only the rest is asked for.

    downloader = ResumingDownloader(folder / "ffhq.pkl.part", size=381_389_540)
    pooch.retrieve(url, "sha256:...", "ffhq.pkl", folder, downloader=downloader)

pooch checks the hash and moves the file into place, but begins every download anew; this is the
part it lacks. Bytes are appended to `NAME.part`. `NAME.part.json` says which version of the file
they belong to (ETag or Last-Modified), and the server is asked to continue only that version
(HTTP `Range` with `If-Range`, RFC 9110, section 13.1.5). A server that ignores ranges, or that
holds another version by now, makes us start over.

A server is not believed more than necessary. What it sends is taken as it is, so nothing inflates;
it must say how long the file is, and no byte more is kept. Where no hash will tell, only one and
the same ETag continues a part, and a `look` must find the file readable before it counts.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from airlib.errors import AirlibError
from airlib.files import write_json
from airlib.progress import beat, track

TIMEOUT = (10, 60)  # seconds to connect, and without any data
BLOCK = 1 << 14  # bytes; a broken connection loses less than this
LOST = (
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.Timeout,
)


class ResumingDownloader:
    """A downloader for `pooch.retrieve` that continues an interrupted download.

    part: the file that collects what has arrived; PART.json beside it says which version of which
    URL that is. size: bytes that the whole file must have, None if nobody says. look: for a file
    whose hash nobody knows; it is called with the complete part, and raises AirlibError if that is
    not the file that is meant. A connection that breaks is tried again for as long as that brings
    the download further.

    A call raises AirlibError if the server sends a web page, a compressed body, nothing, another
    size than it should, more than it announced, or does not announce a size; and `requests` errors
    for everything that goes wrong with the connection.
    """

    def __init__(
        self, part: Path, size: int | None = None, look: Callable[[Path], object] | None = None
    ) -> None:
        self.part, self.size, self.look = part, size, look
        self.version_file = part.with_name(part.name + ".json")

    def __call__(self, url: str, output_file: str | Path, _pooch: Any) -> None:
        furthest = self._received(url)
        while not self._complete(url):
            try:
                self._transfer(url)
            except LOST:
                if self._received(url) <= furthest:
                    raise
                furthest = self._received(url)
        if self.look:
            try:
                self.look(self.part)
            except AirlibError:
                self._discard()
                raise
        os.replace(self.part, output_file)
        self.version_file.unlink(missing_ok=True)

    def _transfer(self, url: str) -> None:
        """One request: appends what it brings to the part, or begins the part anew."""
        version, received = self._version(url), self._received(url)
        headers = {"Accept-Encoding": "identity"}  # the bytes of the file itself
        if received and (validator := self._validator(version)) is not None:
            headers |= {"Range": f"bytes={received}-", "If-Range": validator}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            refused = response.status_code == requests.codes.requested_range_not_satisfiable
            if refused and received:
                return self._discard()
            response.raise_for_status()
            offer = self._offer(response)
            if response.status_code == requests.codes.partial_content:
                if not self._continues(response, offer, version, received):
                    return self._discard()
                total = version["bytes"]
            else:
                self._discard()
                received, total = 0, offer["bytes"]
                write_json(self.version_file, {"url": url, **offer})
            self._append(response, received, total)
            if self.part.stat().st_size < total:
                raise requests.exceptions.ConnectionError("the server closed the connection early")

    def _append(self, response: requests.Response, received: int, total: int) -> None:
        name = self.part.name.removesuffix(".part")
        with track(None, name, total) as bar, self.part.open("ab") as file:
            bar.unit, bar.unit_scale = "B", True
            bar.n = bar.initial = received
            for block in response.iter_content(BLOCK):
                received += len(block)
                if received > total:
                    break
                file.write(block)
                bar.update(len(block))
                beat()
        if received > total:
            self._discard()
            raise AirlibError(f"{response.url} sends more than the {total:,} bytes it announced")

    def _offer(self, response: requests.Response) -> dict[str, Any]:
        """Which version of the whole file the server speaks of; AirlibError if it is no file."""
        headers, url = response.headers, response.url
        partial = response.status_code == requests.codes.partial_content
        if not partial and response.status_code != requests.codes.ok:
            raise AirlibError(f"{url} answers {response.status_code} instead of the file")
        if "text/html" in headers.get("Content-Type", ""):
            raise AirlibError(
                f"{url} answers with a web page instead of the file; open it in a browser"
            )
        coding = headers.get("Content-Encoding") or "identity"
        if coding.lower() != "identity":
            raise AirlibError(f"{url} sends the file compressed ({coding[:20]!r}), against request")
        if partial:  # "bytes 100-199/200", or with * for the last number
            size = _count(headers.get("Content-Range", "").rpartition("/")[2])
        else:
            length = headers.get("Content-Length")
            size = self.size if length is None else _count(length)
            if not size:
                raise AirlibError(f"{url} announces no file but {str(length)[:20]!r} bytes")
        if None not in (self.size, size) and size != self.size:
            raise AirlibError(
                f"{url} offers {size:,} bytes instead of {self.size:,}: it is not the file that is "
                "meant"
            )
        return dict(
            zip(OFFER, (size, headers.get("ETag"), headers.get("Last-Modified")), strict=True)
        )

    def _continues(
        self, response: requests.Response, offer: dict, version: dict, received: int
    ) -> bool:
        """Whether a partial answer is the rest of what has arrived."""
        if not received:
            raise requests.exceptions.ConnectionError("the server sent a part nobody asked for")
        same = all(offer[key] in (None, version[key]) for key in OFFER)  # it may omit what is known
        if self.look:
            same = same and offer["etag"] is not None
        return same and response.headers.get("Content-Range", "").startswith(f"bytes {received}-")

    def _validator(self, version: dict[str, Any]) -> str | None:
        """What `If-Range` may hold: an ETag that is not weak, else the date of the last change.

        Of a date, only a hash can tell later that it was the same file.
        """
        etag = version.get("etag")
        if etag and not etag.startswith("W/"):
            return etag
        return None if self.look else version.get("last_modified")

    def _complete(self, url: str) -> bool:
        version = self._version(url)
        return self.part.is_file() and self.part.stat().st_size == version.get("bytes")

    def _received(self, url: str) -> int:
        """Bytes that need not be asked for again; 0 if their version cannot be named."""
        usable = self.part.is_file() and self._validator(self._version(url)) is not None
        return self.part.stat().st_size if usable else 0

    def _version(self, url: str) -> dict[str, Any]:
        """What the part is the beginning of; empty if unknown, or if it is from another URL."""
        try:
            version = json.loads(self.version_file.read_text(encoding="utf-8"))
            same = version["url"] == url and version.keys() == {"url", *OFFER}
            same = same and isinstance(version["bytes"], int)
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return version if same else {}

    def _discard(self) -> None:
        """Remove the part before its version: a kill in between cannot mix two versions."""
        self.part.unlink(missing_ok=True)
        self.version_file.unlink(missing_ok=True)


OFFER = ("bytes", "etag", "last_modified")


def _count(length: str) -> int | None:
    """A length as HTTP writes it; None for anything else, such as a negative number."""
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else None
