"""Fetching: whole files or none, resumed after an interruption, verified, trusted on first use.

The server runs in the test. It can drop connections, ignore ranges, and change its file.
"""

import bz2
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml
from nvlabs_pickles import pickled
from small_networks import small_generator

from airlib.assets import manifests, store
from airlib.assets.downloads import BLOCK
from airlib.checkpoints.rosinality import to_rosinality
from airlib.cli.commands import main
from airlib.errors import AirlibError

BYTES = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves `content` at every path.

    headers: what it says instead of the truth; None leaves a header out. cuts: how many bytes each
    of the next answers sends before the connection breaks. sent: for each answer the requested
    range and the bytes of the body.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = BYTES, '"first"'
        self.ranges = self.validates = True
        self.status, self.type, self.pause = 200, "application/octet-stream", 0.0
        self.cuts: list[int] = []
        self.headers: dict[str, str | None] = {}
        self.partial_etag: str | None = ""  # of partial answers, where it is another
        self.sent: list[tuple[str | None, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/thing.pt"

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        condition = self.headers.get("If-Range")
        partial = bool(asked and server.ranges)
        if server.validates and condition not in (None, server.etag):
            partial = False
        if partial and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start if partial else 0 :]
        self.send_response(206 if partial else server.status)
        etag = server.partial_etag if partial and server.partial_etag != "" else server.etag
        headers = {"Content-Type": server.type, "Content-Length": str(len(body)), "ETag": etag}
        if partial:
            whole = len(server.content)
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        for name, value in (headers | server.headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.send_body(body[:cut], asked)

    def send_body(self, body: bytes, asked: str | None) -> None:
        sent = self.server.sent  # a connection that was cut counts in the list of its time
        sent.append((asked, 0))
        index = len(sent) - 1
        for start in range(0, len(body), 10_000):
            block = body[start : start + 10_000]
            self.wfile.write(block)
            self.wfile.flush()
            sent[index] = (asked, sent[index][1] + len(block))
            time.sleep(self.server.pause)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Tests read `sent` instead."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def manifest(tmp_path, monkeypatch, server):
    """Call it to write a manifest of one asset, "thing", with one file thing.pt."""

    def write(**file) -> None:
        entry = {
            "name": "thing", "title": "A thing", "role": "test", "notebooks": ["03"],
            "licence": "none", "page": "https://example.org/thing", "importer": None,
            "verified": False, "note": "made up", "instructions": "Ask for it politely.",
            "files": [{
                "file": "thing.pt", "url": server.url, "bytes_estimate": 1000, "sha256": None,
            } | file],
        }  # fmt: skip
        entry["importer"] = entry["files"][0].pop("importer", None)
        if "bytes" in file:
            del entry["files"][0]["bytes_estimate"]
        (tmp_path / "manifests").mkdir(exist_ok=True)
        (tmp_path / "manifests" / "things.yaml").write_text(yaml.safe_dump([entry]))

    monkeypatch.setattr(manifests, "IN_PACKAGE", tmp_path / "manifests")
    monkeypatch.setenv("AIRLIB_ASSETS", str(tmp_path / "assets"))
    write()
    return write


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "assets" / "thing" / "thing.pt"


def fetch() -> store.Finding:
    """Of the only file."""
    (finding,) = store.fetch("paper")
    return finding


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lock(path: Path) -> dict:
    return json.loads((path.parents[1] / "airlib-lock.json").read_text())["thing/thing.pt"]


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def leftovers(path: Path) -> list[str]:
    """What lies beside the file; its lock is meant to stay."""
    names = {entry.name for entry in path.parent.iterdir()}
    return sorted(names - {path.name, f".{path.name}.lock"})


# --- the transfer --------------------------------------------------------------------------------


def test_a_complete_download_is_recorded_and_not_repeated(manifest, server, path):
    finding = fetch()
    assert (finding.state, finding.path) == ("present", path)
    assert path.read_bytes() == BYTES
    assert path.stat().st_mode & 0o044 == 0o044 & ~_umask()
    assert lock(path)["sha256"] == sha256(BYTES) and lock(path)["bytes"] == len(BYTES)
    assert leftovers(path) == []
    assert fetch().state == "present" and len(server.sent) == 1
    assert store.asset_file("thing") == path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("seed", range(8))
def test_broken_connections_cost_a_block_each(manifest, server, path, seed):
    """However often and wherever it breaks, only what had not reached the disk is sent again."""
    random_cut = random.Random(seed)
    server.cuts = [random_cut.randrange(BLOCK, 60_000) for _ in range(5)]
    manifest(sha256=sha256(BYTES), bytes=len(BYTES))
    assert fetch().state == "present"
    assert path.read_bytes() == BYTES
    assert sum(size for _, size in server.sent) < len(BYTES) + 5 * BLOCK
    assert [asked is None for asked, _ in server.sent] == [True] + [False] * 5
    assert leftovers(path) == []


def test_a_killed_download_continues_with_the_rest(manifest, server, path, tmp_path):
    server.pause = 0.02
    code = (
        "import sys, pathlib; from airlib.assets import manifests; "
        "from airlib.cli import commands; "
        f"manifests.IN_PACKAGE = pathlib.Path({str(tmp_path / 'manifests')!r}); "
        "sys.exit(commands.main(['fetch']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    part = path.with_name("thing.pt.part")
    while not (part.is_file() and part.stat().st_size):  # written in blocks as they arrive
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    arrived = part.stat().st_size
    assert 0 < arrived < len(BYTES) and not path.exists()

    server.pause, server.sent = 0.0, []
    assert store.examine(manifests.load_manifests()["thing"])[0].text.startswith(
        manifests.megabytes(arrived) + " of it have arrived"
    )
    assert fetch().state == "present"
    assert path.read_bytes() == BYTES
    assert server.sent == [(f"bytes={arrived}-", len(BYTES) - arrived)]


@pytest.mark.parametrize("how", ["ranges", "etag"])
def test_a_server_that_cannot_continue_is_asked_for_all_of_it(manifest, server, path, how):
    """It knows no ranges, or does not say which version of the file it sends."""
    setattr(server, how, None)
    server.cuts = [100_000, 50_000]
    first = fetch()
    assert first.state == "missing" and "run again to continue" in first.text
    assert not path.exists()
    server.cuts = []
    assert fetch().state == "present"
    assert path.read_bytes() == BYTES and leftovers(path) == []
    assert server.sent[-1][1] == len(BYTES)


@pytest.mark.parametrize("validates", [True, False])
def test_a_file_that_changed_meanwhile_is_not_mixed(manifest, server, path, validates):
    """Also where the server continues although `If-Range` names another version."""
    server.cuts = [100_000, 0]
    assert fetch().state == "missing"
    assert path.with_name("thing.pt.part").stat().st_size > 100_000 - BLOCK
    server.content, server.etag, server.validates = OTHER, '"second"', validates
    server.sent = []
    assert fetch().state == "present"
    assert path.read_bytes() == OTHER
    assert len(server.sent) == (1 if validates else 2)


def test_a_file_that_became_shorter_is_begun_anew(manifest, server, path):
    server.cuts = [100_000, 0]
    assert fetch().state == "missing"
    server.content = BYTES[:50_000]  # under the old ETag: the range is beyond the end
    assert fetch().state == "present"
    assert path.read_bytes() == BYTES[:50_000]


def test_a_part_of_another_address_is_not_continued(manifest, server, path):
    server.cuts = [100_000, 0]
    assert fetch().state == "missing"
    server.content = OTHER
    manifest(url=server.url.replace("thing.pt", "moved.pt"))
    assert fetch().state == "present"
    assert path.read_bytes() == OTHER


def test_concurrent_fetches_of_one_file(manifest, server, path):
    server.pause = 0.002
    with ThreadPoolExecutor(4) as pool:
        findings = list(pool.map(lambda _: fetch(), range(4)))
    assert {finding.state for finding in findings} == {"present"}
    assert path.read_bytes() == BYTES and leftovers(path) == []
    assert server.sent == [(None, len(BYTES))]


# --- what is not accepted ------------------------------------------------------------------------


def test_wrong_hash(manifest, server, path):
    for wrong in ({"sha256": sha256(OTHER)}, {"md5": hashlib.md5(OTHER).hexdigest()}):
        manifest(**wrong)
        finding = fetch()
        assert finding.state == "missing" and not path.exists() and leftovers(path) == []
        assert list(wrong.values())[0] in finding.text and "hash" in finding.text
    manifest(md5=hashlib.md5(BYTES).hexdigest())
    assert fetch().text == "md5 as published"


def test_wrong_size_is_seen_before_the_transfer(manifest, server, path):
    server.cuts = [0]
    manifest(bytes=len(BYTES) + 1)
    finding = fetch()
    assert finding.state == "missing" and not path.exists()
    assert "offers 300,000 bytes instead of 300,001" in finding.text


def test_a_web_page_is_not_a_weight_file(manifest, server, path):
    server.type = "text/html; charset=utf-8"
    assert "a web page instead of the file" in fetch().text
    put(path, b"\n<!DOCTYPE html><title>Quota exceeded</title>")
    finding = fetch()
    assert finding.state == "corrupt" and "is a web page, not the file" in finding.text
    put(path, b"")
    assert "is empty" in fetch().text


# --- a server that lies --------------------------------------------------------------------------


def test_a_compressed_body_is_not_inflated(manifest, server, path):
    """1 GB of zeros in 1 MB: nobody asked for it, and nothing of it is unpacked."""
    server.content = gzip.compress(bytes(2**20)) * 1024
    server.headers = {"Content-Encoding": "gzip"}
    for hashes in ({}, {"sha256": sha256(BYTES)}):
        manifest(**hashes)
        finding = fetch()
        assert finding.state == "missing" and "sends the file compressed ('gzip')" in finding.text
        assert not path.exists() and leftovers(path) == []


@pytest.mark.parametrize("length", ["-5", "0", "many", "1e3", "", None, "9" * 30])
def test_a_length_that_is_none_ends_at_once(manifest, server, path, length):
    server.headers = {"Content-Length": length}
    started = time.monotonic()
    finding = fetch()
    assert finding.state == "missing" and "announces no file but" in finding.text
    assert not path.exists() and leftovers(path) == []
    assert time.monotonic() - started < 5


def test_an_announced_length_is_the_most_that_is_kept(manifest, server, path):
    """A chunked body, whose end nothing announces."""
    chunk = b"2710\r\n" + bytes(10_000) + b"\r\n"
    server.content = chunk * 50
    server.headers = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    manifest(bytes=100_000)
    finding = fetch()
    assert finding.state == "missing" and "sends more than the 100,000 bytes" in finding.text
    assert not path.exists() and leftovers(path) == []


def test_a_body_that_is_cut_short_every_time_is_not_the_file(manifest, server, path):
    server.headers, server.etag = {"Content-Length": str(len(BYTES) + 1)}, None
    finding = fetch()
    assert finding.state == "missing" and "run again to continue" in finding.text
    assert not path.exists()


def test_an_answer_without_a_body_is_not_the_file(manifest, server, path):
    server.status = 204
    assert "answers 204 instead of the file" in fetch().text and not path.exists()


@pytest.mark.parametrize("partial_etag", [None, '"second"', 'W/"first"'])
def test_without_a_hash_only_one_etag_continues(manifest, server, path, partial_etag):
    """The rest is of another file, which only the ETag tells: all of it is asked for again."""
    server.cuts = [100_000, 0]
    assert fetch().state == "missing"
    server.content, server.validates, server.partial_etag = OTHER, False, partial_etag
    server.sent = []
    assert fetch().state == "present"
    assert path.read_bytes() == OTHER
    assert [asked is None for asked, _ in server.sent] == [False, True]


def test_without_a_hash_a_weak_etag_and_a_date_continue_nothing(manifest, server, path):
    date = "Sat, 28 Nov 2026 10:00:00 GMT"
    server.etag, server.headers = 'W/"first"', {"Last-Modified": date}
    server.cuts = [100_000]
    assert fetch().state == "missing"
    server.sent, server.validates = [], False
    assert fetch().state == "present"
    assert server.sent == [(None, len(BYTES))]


@pytest.mark.parametrize("content", ["cut", "noise", "other"])
@pytest.mark.parametrize("importer", ["checkpoints.nvlabs", "checkpoints.rosinality"])
def test_without_a_hash_the_importer_must_be_able_to_read_the_file(
    manifest, server, path, importer, content
):
    generator = small_generator()
    if importer == "checkpoints.nvlabs":
        whole = pickled(generator.state_dict(), generator.config_dict())
    else:
        saved = io.BytesIO()
        torch.save(to_rosinality(generator), saved)
        whole = saved.getvalue()
    server.content = {"cut": whole[:-1000], "noise": BYTES, "other": b"\x80\x04N."}[content]
    manifest(importer=importer)
    finding = fetch()
    assert finding.state == "missing" and not path.exists() and leftovers(path) == []
    assert "thing.pt" in finding.text and f"put the file at {path}" in finding.text
    server.content = whole
    assert fetch().state == "present" and lock(path)["sha256"] == sha256(whole)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tgz", "a.tar", "a.dat.bz2"])
def test_without_a_hash_an_archive_must_be_one(manifest, server, path, name):
    manifest(file=name)
    finding = fetch()
    assert finding.state == "missing" and f"something else than the file {name}" in finding.text
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("images/1.txt", "one")
    tar = io.BytesIO()
    tarfile.open(fileobj=tar, mode="w").addfile(tarfile.TarInfo("1.txt"))
    server.content = {
        "zip": packed.getvalue(), "gz": gzip.compress(b"1"), "tgz": gzip.compress(b"1"),
        "tar": tar.getvalue(), "bz2": bz2.compress(b"1"),
    }[name.rpartition(".")[2]]  # fmt: skip
    assert fetch().state == "present"


def test_an_answer_that_is_an_error(manifest, server, path):
    server.status = 404
    finding = fetch()
    assert finding.state == "missing" and not path.exists()
    assert f"{server.url} answers 404 Not Found" in finding.text
    assert f"put the file at {path} (see https://example.org/thing)" in finding.text


def test_offline(manifest, server, path):
    """No connection: the message says where to put the file, and a file put there counts."""
    manifest(url="http://127.0.0.1:1/thing.pt", sha256=sha256(BYTES))  # nothing listens there
    finding = fetch()
    assert finding.state == "missing"
    assert "no connection to" in finding.text and f"put the file at {path}" in finding.text
    with pytest.raises(AirlibError, match="`airlib fetch --only thing` downloads"):
        store.asset_file("thing")
    put(path, BYTES)
    assert fetch().text == "sha256 as published"
    assert store.asset_file("thing") == path


def test_a_manual_step(manifest, server, path):
    manifest(url=None, unpacked="images")
    finding = fetch()
    assert (finding.state, server.sent) == ("missing", [])
    assert finding.text.startswith("needs a manual step: Ask for it politely. Put it at ")
    assert str(path) in finding.text
    (path.parent / "images").mkdir()
    assert fetch().text == "unpacked as images, not checked"
    (path.parent / "images").rmdir()
    put(path, BYTES)
    assert fetch().text.endswith(f"; unpack it in {path.parent} (as images)")
    assert fetch().text.startswith("trusted on first use (2")


def test_an_archive_is_unpacked_once_it_is_verified(manifest, server, path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("images/1.txt", "one")
    server.content = packed.getvalue()
    manifest(file="thing.zip", unpacked="images")
    finding = fetch()
    assert finding.state == "present" and "unpack" not in finding.text
    assert (path.parent / "images" / "1.txt").read_text() == "one"
    manifest(file="thing.zip", unpacked="pictures")  # not as the manifest says
    finding = fetch()
    assert finding.state == "present" and not (path.parent / "pictures").exists()
    assert f"unpack it in {path.parent} (as pictures) (" in finding.text
    assert "not only pictures" in finding.text
    shutil.rmtree(path.parent / "images")
    manifest(file="thing.zip", unpacked="images", sha256=sha256(BYTES))
    assert fetch().state == "corrupt" and not (path.parent / "images").exists()


def test_a_wrong_file_put_there_by_hand(manifest, path):
    manifest(sha256=sha256(BYTES), bytes=len(BYTES))
    put(path, OTHER)
    assert f"sha256 {sha256(OTHER)} instead of {sha256(BYTES)}" in fetch().text
    put(path, BYTES[:-1])
    finding = fetch()
    assert "299,999 bytes instead of 300,000" in finding.text
    assert finding.state == "corrupt" and path.read_bytes() == BYTES[:-1]  # it is not ours


# --- trust on first use --------------------------------------------------------------------------


def test_what_was_trusted_may_not_change_on_disk(manifest, path):
    assert fetch().state == "present"
    put(path, OTHER)
    finding = fetch()
    assert finding.state == "corrupt"
    assert sha256(OTHER) in finding.text and sha256(BYTES) in finding.text
    assert f"recorded on {lock(path)['recorded']}" in finding.text
    put(path, BYTES)  # the old content, at a new time
    assert fetch().state == "present"


@pytest.mark.parametrize("content", [OTHER, OTHER[:-1]])
def test_what_was_trusted_may_not_change_on_the_server(manifest, server, path, content):
    assert fetch().state == "present"
    path.unlink()
    server.content, server.etag = content, '"second"'
    finding = fetch()
    assert finding.state == "missing" and not path.exists()
    assert sha256(BYTES) in finding.text and "remove its entry" in finding.text
    assert ("offers" in finding.text) == (len(content) != len(BYTES))  # seen before the transfer
    (path.parents[1] / "airlib-lock.json").unlink()  # trust it again
    assert fetch().state == "present" and path.read_bytes() == content


def test_a_file_is_hashed_once(manifest, path):
    """The recorded time and size stand for its content, until one of them changes."""
    assert fetch().state == "present"
    status = path.stat()
    path.write_bytes(OTHER)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fetch().state == "present"
    os.utime(path)
    assert fetch().state == "corrupt"


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "[]", '{"thing/thing.pt": {"sha256": 3}}', '{"a": null}']
)
def test_a_damaged_lock_file(manifest, server, path, text):
    path.parents[1].mkdir()
    (path.parents[1] / "airlib-lock.json").write_text(text)
    with pytest.raises(AirlibError, match=r"airlib-lock.json is damaged.*; delete it"):
        fetch()
    assert server.sent == [] and not path.exists()


# --- before anything is downloaded ---------------------------------------------------------------


def test_a_disk_that_is_too_small(manifest, server):
    manifest(bytes_estimate=10**18)
    with pytest.raises(AirlibError, match=r"1,000,000,000.0 GB are to be downloaded, .* are free"):
        fetch()
    assert server.sent == []


def test_a_directory_that_cannot_be_written(manifest, server, tmp_path):
    (tmp_path / "assets").write_text("a file in the way")
    with pytest.raises(AirlibError, match="choose a writable directory"):
        fetch()
    assert server.sent == []


def test_selection():
    names = [asset.name for asset in manifests.select("paper", ["generators", "clip-vit-l14"])]
    assert "clip-vit-l14" in names and "stylegan2-ffhq" in names and "coco" not in names
    assert all(asset.notebooks for asset in manifests.select("paper"))
    assert manifests.select("tiny") == []
    with pytest.raises(AirlibError, match="unknown asset 'stylegan4'; choose from datasets, "):
        manifests.select("paper", ["stylegan4"])
    with pytest.raises(AirlibError, match="unknown profile 'huge'"):
        manifests.select("huge")


def test_asset_file_names_what_does_not_exist(manifest):
    with pytest.raises(AirlibError, match=r"asset thing has no file 'other.pt'"):
        store.asset_file("thing", "other.pt")
    with pytest.raises(AirlibError, match="no asset 'things'"):
        store.asset_file("things")  # a group


# --- the command ---------------------------------------------------------------------------------


def test_command_succeeds_only_if_everything_is_there(manifest, server, path, capsys):
    assert main(["fetch", "--profile", "paper"]) == 0
    output, errors = capsys.readouterr()
    assert output.startswith("thing/thing.pt: trusted on first use (") and output.count("\n") == 1
    path.unlink()
    manifest(url=None)
    assert main(["fetch", "--only", "thing"]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("airlib: thing/thing.pt: needs a manual step: Ask for it politely.")
    assert errors.count("\n") == 1


def test_command_lists_without_fetching(manifest, server, capsys):
    assert main(["fetch", "--list"]) == 0
    assert capsys.readouterr().out.split()[:4] == ["thing", "1", "kB", "notebooks"]
    assert server.sent == []


def test_command_has_nothing_to_do_for_tiny(server, capsys):
    assert main(["fetch", "--profile", "tiny"]) == 0
    output, errors = capsys.readouterr()
    assert output == "" and "in the package" in errors
