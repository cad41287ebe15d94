"""The questionnaire of a user study, in a notebook: two pictures, two buttons.

    if live(interactive):
        display(Questionnaire(sitting).box)
    else:
        session.show(preview(sitting), "question", alt="...")

Needs the package ipywidgets, and a reader: where nobody can press a button (papermill, a web page)
`preview` draws the first question instead. Nothing that the widgets hold names a method.
"""

import time
from functools import partial
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from PIL import Image

from airlib.errors import AirlibError
from airlib.figures import use_theme
from airlib.progress import in_front_end

if TYPE_CHECKING:
    from airlib.evaluation.user_study import Sitting


def live(interactive: str) -> bool:
    """Whether to show widgets: "on", "off", or "auto" for where somebody can press a button."""
    if interactive not in ("auto", "on", "off"):
        raise AirlibError(f"interactive must be auto, on or off, not {interactive!r}")
    return interactive == "on" or (interactive == "auto" and in_front_end())


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


def preview(sitting: "Sitting") -> Figure:
    """The open question as a still picture."""
    use_theme()
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.05, 1, 0.95))  # the strip below is for the stamp
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
            "the questionnaire needs ipywidgets: pip install 'ipywidgets>=8.1', "
            'or set interactive="off" to see its first question only'
        ) from error
    return ipywidgets
