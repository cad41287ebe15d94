"""The explorer in a real browser: a reader moves its slider in JupyterLab and the picture changes,
uploads a picture and sees it edited.

    make browser

Headless Chromium opens a notebook that runs on a real server with the shipped tiny networks.
Without the extra `browser` or a Chromium of the system the tests are skipped. Screenshots go to
`$AIRLIB_ARTEFACTS`, by default runs/artefacts.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

INSTALL = "JupyterLab and Playwright are needed: pip install -e '.[notebooks,browser]'"
pytest.importorskip("jupyterlab", reason=INSTALL)
pytest.importorskip("playwright", reason=INSTALL)
from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

from airlib.showing.export import save_png  # noqa: E402
from airlib.worlds import open_world  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARTEFACTS = Path(
    os.environ.get("AIRLIB_ARTEFACTS") or Path(__file__).parents[2] / "runs" / "artefacts"
)
PATIENCE = 120.0  # seconds; a machine may be busy
SETUP = """\
from airlib.studies import hypernetwork
from airlib.showing.widgets import Explorer, live
from airlib.worlds import open_world

world, network = open_world("tiny"), hypernetwork.load_hypernetwork()
w = world.sample(4)"""
EXPLORE = """\
def walk(step: float, start: str, end: str):
    text = hypernetwork.between(world, start, end, step)
    return hypernetwork.predicted(world, network, text).apply(world.generator)(w)


if live("auto"):
    display(Explorer(walk, step=(0.0, 1.0), start="sketch of a human", end="dog").box)"""
EDIT = """\
from airlib.studies.walks import Editor

editor = Editor(world, {"sketch": world.adapt("nada", "photo-sketch", steps=5)}, "encoder")
draw = lambda picture: editor("sketch", 1.0, picture=picture)
display(Explorer(draw, picture={"none": None}).box)"""
EXPLORER, EDITOR = 0, 1  # pictures of the notebook, from the top
SHOWN = """([which, before]) => {
    const image = document.querySelectorAll(".widget-image")[which];
    if (!image || !image.complete || !image.naturalWidth) return false;  // still being loaded
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    const pixels = canvas.toDataURL();
    return pixels !== before && pixels;
}"""


@pytest.fixture(scope="module")
def browser() -> str:
    """The system's; nothing is downloaded."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip(
        f"a browser is needed: install one of {', '.join(BROWSERS)}, e.g. apt install chromium"
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Of the notebook on a JupyterLab server of our own, which neither sees nor leaves settings."""
    home = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, EXPLORE, EDIT)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    (home / "notebooks").mkdir()
    nbformat.write(notebook, home / "notebooks" / "explorer.ipynb")
    news = home / "settings" / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True)
    (news / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')  # do not ask
    places = {"HOME": "", "IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "config",
              "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
              "JUPYTERLAB_SETTINGS_DIR": "settings"}  # fmt: skip
    environment = os.environ | {name: str(home / place) for name, place in places.items()}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               "--ip=127.0.0.1", f"--ServerApp.root_dir={home / 'notebooks'}"]  # fmt: skip
    log = home / "server.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        yield notebook_address(server, home / "runtime", log)
    finally:
        server.terminate()  # its kernels end with it
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def notebook_address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """With the port that the server found free and the token that it made, once it listens."""
    written_last = runtime / f"jpserver-{server.pid}-open.html"
    deadline = time.monotonic() + PATIENCE
    while not written_last.exists():
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    info = json.loads((runtime / f"jpserver-{server.pid}.json").read_text())
    return f"{info['url']}lab/tree/explorer.ipynb?token={info['token']}"


@pytest.fixture(scope="module")
def lab(browser, address) -> Iterator[Page]:
    """JupyterLab after "Run All Cells"."""
    expect.set_options(timeout=1000 * PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser)
        page = chromium.new_page(viewport={"width": 1280, "height": 1400})
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(address)
        page.get_by_text("| Idle").wait_for()  # in the status bar: the kernel is connected
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        yield page
        chromium.close()


@pytest.fixture
def page(lab, request) -> Iterator[Page]:
    """JupyterLab with the explorer in it; a screenshot is kept at the end of the test."""
    try:
        failure = lab.locator("[data-mime-type$=stderr]", has_text="Traceback")
        lab.get_by_role("button", name="upload (").or_(
            failure
        ).first.wait_for()  # the last to appear
        assert not failure.all_inner_texts()
        yield lab
    finally:
        keep(lab, request.node.name.removeprefix("test_"))


def keep(page: Page, name: str) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"browser_{name}.png")


def picture(page: Page, before: str = "", which: int = EXPLORER) -> str:
    """The pixels on the screen (a PNG as a data URL), as soon as they are not `before`."""
    return page.wait_for_function(SHOWN, arg=[which, before]).json_value()


def test_the_picture_follows_the_slider(page):
    first = picture(page)
    slider = page.get_by_role("slider")
    slider.focus()
    start = time.perf_counter()
    slider.press("ArrowRight")
    second = picture(page, before=first)
    print(f"from the key to the changed picture: {time.perf_counter() - start:.2f} s")
    expect(page.locator(".widget-readout")).to_have_text("0.02")
    slider.press("ArrowLeft")
    assert picture(page, before=second) == first
    slider.press("End")
    assert picture(page, before=first) != second


def test_an_error_is_told_and_the_last_picture_stays(page):
    before = picture(page)
    complaint = page.get_by_text("reads 24 tokens at most")
    field = page.get_by_label("end", exact=True)
    for last in ("long", "longer"):  # the second answer comes after all that the first one changed
        field.fill("very " * 24 + last)
        expect(complaint).to_contain_text(f"very {last}'")
    assert picture(page) == before
    keep(page, "error")
    page.get_by_role("slider").press("End")
    field.fill("cat")
    picture(page, before)
    expect(complaint).to_have_count(0)


def choose(page: Page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="upload (").click()
    chooser.value.set_files(file)


def test_an_upload_is_edited_and_what_is_no_picture_is_refused(page, tmp_path):
    portrait, text = tmp_path / "portrait.png", tmp_path / "notes.png"
    save_png(open_world("tiny").pictures(1), portrait, side=200)  # larger than the generator's
    text.write_text("no picture at all")
    sitter = picture(page, which=EDITOR)
    menu = page.get_by_label("picture", exact=True)
    choose(page, portrait)
    edited = picture(page, before=sitter, which=EDITOR)
    expect(menu.locator("option:checked")).to_have_text("portrait.png (1)")
    keep(page, "upload")
    choose(page, text)
    expect(page.get_by_text("notes.png: ")).to_be_visible()
    assert picture(page, which=EDITOR) == edited
    menu.select_option("none")
    assert picture(page, before=edited, which=EDITOR) == sitter
