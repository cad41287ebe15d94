"""What a reader can move and press in a notebook: an explorer, and the questionnaire of a study.

    if live(interactive):
        display(Explorer(draw, strength=(0.0, 1.0), target=["sketch", "cat"]).box)
        display(Questionnaire(sitting).box)
    else:
        session.show(preview(sitting), "question", alt="...")

Needs the package ipywidgets, and a reader: where nobody can press a button (papermill, a web page)
a notebook shows a still picture instead. Nothing that the questionnaire holds names a method.
"""

import time
from functools import partial
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

from airlib.errors import AirlibError
from airlib.images.pictures import read_picture
from airlib.progress import in_front_end
from airlib.showing.figures import empty_figure, strip_png

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipywidgets import ValueWidget
    from matplotlib.figure import Figure
    from torch import Tensor

    from airlib.user_study.study import Sitting

    Control = tuple[float, float] | int | list | str | dict[str, Tensor | None]


def live(interactive: str) -> bool:
    """Whether to show widgets: True for "on", False for "off".

    "auto" is True where somebody can press a button: in a notebook's front end. Raises AirlibError
    for another word.
    """
    if interactive not in ("auto", "on", "off"):
        raise AirlibError(f"interactive must be auto, on or off, not {interactive!r}")
    return interactive == "on" or (interactive == "auto" and in_front_end())


class Explorer:
    """Images that follow their controls; `box` is what to display.

    draw(**values) returns images [n, 3, H, W]. A control is a pair of floats (a slider between
    them, which starts at the first), a number of choices (a slider 0 .. n - 1), a list (a menu), a
    text (a field), or pictures [1, 3, size, size] by name (a menu, to which the reader adds by
    `uploads`; `draw` gets the picture). If `draw` fails, or an upload is no picture, the last
    images stay, with the reason below them.
    """

    def __init__(
        self, draw: "Callable[..., Tensor]", width: int = 128, size: int = 64,
        **controls: "Control",
    ) -> None:  # fmt: skip
        widgets = _ipywidgets()
        self._draw, self._width, self._size = draw, width, size
        self.pictures = {k: dict(given) for k, given in controls.items() if isinstance(given, dict)}
        self.controls = {name: _control(name, given) for name, given in controls.items()}
        self.uploads = {
            name: widgets.FileUpload(accept="image/*", description="upload")
            for name in self.pictures
        }
        self.picture, self.message = widgets.Image(format="png"), widgets.HTML()
        shown = [*self.controls.values(), *self.uploads.values(), self.picture, self.message]
        self.box = widgets.VBox(shown)
        for control in self.controls.values():
            control.observe(self._moved, names="value")
        for name, upload in self.uploads.items():
            upload.observe(partial(self._uploaded, name), names="value")
        self._moved()

    def _moved(self, _change: object = None) -> None:
        values = {name: control.value for name, control in self.controls.items()}
        values |= {name: known[values[name]] for name, known in self.pictures.items()}
        try:
            images = self._draw(**values)
        except AirlibError as error:
            self.message.value = escape(str(error))
            return
        self.message.value = ""
        self.picture.value = strip_png(images, self._width)

    def _uploaded(self, name: str, change: dict) -> None:
        """Put the picture of the file into the menu, and choose it."""
        if not change["new"]:
            return
        (file,) = change["new"]
        try:
            picture = read_picture(bytes(file["content"]), self._size)
        except AirlibError as error:
            self.message.value = escape(f"{file['name']}: {error}")
            return
        known = self.pictures[name]
        label = f"{file['name']} ({len(known)})"  # a file of the same name may be another picture
        self.pictures[name] = {label: picture, **known}
        self.controls[name].options = list(self.pictures[name])  # which chooses the first


def _control(name: str, given: "Control") -> "ValueWidget":
    widgets = _ipywidgets()
    if isinstance(given, tuple):
        low, high = sorted(given)
        step = (high - low) / 50
        return widgets.FloatSlider(given[0], min=low, max=high, step=step, description=name)
    if isinstance(given, int):
        return widgets.IntSlider(0, min=0, max=given - 1, description=name)
    if isinstance(given, str):
        return widgets.Text(given, description=name)
    return widgets.Dropdown(options=list(given), description=name)


class Questionnaire:
    """Shows the questions of a sitting one by one; `box` is what to display.

    An answer is saved before the next question appears. If that fails, the question stays, with
    the reason below it. Presses within `pause` seconds after a question appeared are ignored, so
    that a double click is one answer.
    """

    def __init__(self, sitting: "Sitting", pause: float = 0.3) -> None:
        widgets = _ipywidgets()
        self._sitting, self._pause = sitting, pause
        self.text, self.message = widgets.HTML(), widgets.HTML()
        self.pictures = (widgets.Image(format="png"), widgets.Image(format="png"))
        self.buttons = (widgets.Button(description="left"), widgets.Button(description="right"))
        sides = [widgets.VBox(s) for s in zip(self.pictures, self.buttons, strict=True)]
        self.box = widgets.VBox([self.text, widgets.HBox(sides), self.message])
        for button in self.buttons:
            button.on_click(partial(self._pressed, button.description))
        self._ask()

    def _pressed(self, side: str, _button: object) -> None:
        if time.monotonic() - self._asked < self._pause:
            return
        try:
            self._sitting.answer(side)
        except AirlibError as error:
            self.message.value = escape(str(error))
            return
        self.message.value = ""
        self._ask()

    def _ask(self) -> None:
        """Show the open question, or thank for the last answer."""
        number, total = self._sitting.number, len(self._sitting.questions)
        if number is None:
            self.text.value = f"Thank you: all {total} answers are saved."
            for widget in (*self.pictures, *self.buttons):
                widget.layout.display = "none"
            return
        self.text.value = escape(f"{number} of {total}. {self._sitting.text}")
        for picture, content in zip(self.pictures, self._sitting.pictures(), strict=True):
            picture.value = content
        self._asked = time.monotonic()


def preview(sitting: "Sitting") -> "Figure":
    """The open question of a sitting as a still picture; AirlibError if none is open."""
    figure = empty_figure(7.0, 4.2)
    figure.suptitle(f"{sitting.number} of {len(sitting.questions)}. {sitting.text}", fontsize=11)
    for axes, content in zip(figure.subplots(1, 2), sitting.pictures(), strict=True):
        axes.imshow(Image.open(BytesIO(content)))
        axes.set(xticks=[], yticks=[])
    left, right = figure.axes
    left.set_xlabel("left")
    right.set_xlabel("right")
    return figure


def _ipywidgets():
    try:
        import ipywidgets
    except ImportError as error:
        raise AirlibError(
            "what can be pressed needs ipywidgets: pip install 'ipywidgets>=8.1', "
            'or set interactive="off" to see a still picture'
        ) from error
    return ipywidgets
