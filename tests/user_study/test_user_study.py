"""The user study: blinded, balanced, safe on disk, and right about preferences that are known."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import ipywidgets
import pytest
import torch
from PIL import Image

from airlib.errors import AirlibError
from airlib.evaluation.intervals import wilson_interval
from airlib.seeding import rng
from airlib.showing import widgets
from airlib.showing.widgets import Questionnaire
from airlib.user_study.preferences import bradley_terry, left_share, preferences
from airlib.user_study.study import (
    COUNTS,
    HEADER,
    SIDES,
    Answer,
    Sitting,
    Study,
    read_answers,
    simulate,
)

pytestmark = pytest.mark.slow  # answers a thousand questions

STRENGTHS = {"secret-alpha": 0.6, "secret-beta": 0.3, "secret-gamma": 0.1}
METHODS = tuple(STRENGTHS)
SHADES = dict(zip(METHODS, (-0.8, 0.0, 0.8), strict=True))  # how a test tells pictures apart
STUDY = Study(METHODS, {"human-baby": "baby", "photo-sketch": "sketch"}, latents=12, seed=3)
IMAGES = {
    setup: {m: torch.full((12, 3, 16, 16), shade) for m, shade in SHADES.items()}
    for setup in STUDY.targets
}
TOTAL = sum(COUNTS.values())


def sit(path: Path, rater: str = "rater-1", study: Study = STUDY) -> Sitting:
    return Sitting(study, IMAGES, rater, path)


def play(questionnaire: Questionnaire, stream: torch.Generator, at_most: int = TOTAL) -> None:
    """Press buttons as somebody would who sees only the pictures, with the planted taste."""
    for _ in range(at_most):
        if questionnaire.pictures[0].layout.display == "none":
            return
        left, right = (STRENGTHS[seen(picture.value)] for picture in questionnaire.pictures)
        is_left = float(torch.rand((), generator=stream)) < left / (left + right)
        questionnaire.buttons[0 if is_left else 1].click()


def seen(png: bytes) -> str:
    middle = Image.open(BytesIO(png)).convert("L").getpixel((192, 192))
    return min(SHADES, key=lambda method: abs(SHADES[method] - (middle / 127.5 - 1)))


# --- statistics


@pytest.mark.parametrize(
    ("chosen", "shown", "low", "high"),
    [(78, 132, 50.6, 67.1), (39, 132, 22.4, 37.8), (25, 44, 42.2, 70.3), (10, 44, 12.8, 37.0)],
)
def test_wilson_intervals_of_the_counts_behind_table_3(chosen, shown, low, high):
    found = wilson_interval(chosen, shown)
    assert [round(100 * end, 1) for end in found] == [low, high]


def test_wilson_interval_stays_inside_and_mirrors():
    assert wilson_interval(0, 9)[0] == 0 and wilson_interval(9, 9)[1] == 1
    low, high = wilson_interval(2, 9)
    assert wilson_interval(7, 9) == pytest.approx((1 - high, 1 - low))
    for chosen, shown in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(AirlibError, match="not a share"):
            wilson_interval(chosen, shown)


def test_bradley_terry_of_two_methods_is_the_share_of_wins():
    """The likelihood s^9 (1 - s)^3 is largest at s = 9/12."""
    assert bradley_terry(torch.tensor([[0, 9], [3, 0]])).tolist() == pytest.approx([0.75, 0.25])


def test_bradley_terry_of_three_methods_by_hand():
    """With strengths 4:2:1, 60 meetings of a and b give 40:20, 50 of a and c 40:10, 30 of b and c
    20:10. Counts that are exactly as expected are most likely under the strengths they come from.
    """
    wins = torch.tensor([[0, 40, 40], [20, 0, 20], [10, 10, 0]])
    assert bradley_terry(wins).tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=1e-9)
    order = [2, 0, 1]
    moved = bradley_terry(wins[order][:, order])
    assert moved.tolist() == pytest.approx([1 / 7, 4 / 7, 2 / 7], abs=1e-9)


def test_bradley_terry_is_where_the_likelihood_is_largest():
    wins = torch.tensor([[0.0, 7, 2], [3, 0, 5], [4, 1, 0]], dtype=torch.float64)

    def log_likelihood(s: torch.Tensor) -> float:
        return float((wins * (s[:, None] / (s[:, None] + s)).log()).sum())

    best = bradley_terry(wins)
    for direction in torch.randn(50, 3, generator=rng(0, "test"), dtype=torch.float64):
        moved = best * (1 + 0.05 * direction)
        assert log_likelihood(moved / moved.sum()) <= log_likelihood(best)


def test_who_never_wins_has_no_strength_and_batches_are_independent():
    never = torch.tensor([[0, 5, 5], [5, 0, 5], [0, 0, 0]])
    even = torch.tensor([[0, 4, 4], [4, 0, 4], [4, 4, 0]])
    both = bradley_terry(torch.stack([never, even]))
    assert both[0].tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    assert both[1].tolist() == pytest.approx([1 / 3] * 3)


# --- the real questionnaire


def test_planted_preferences_are_recovered_through_the_questionnaire(tmp_path):
    path, stream = tmp_path / "answers.csv", rng(0, "taste")
    for number in range(20):
        play(Questionnaire(sit(path, f"rater-{number}"), pause=0), stream)
    answers = read_answers(STUDY, path)
    assert len(answers) == 20 * TOTAL
    rows = preferences(STUDY, answers, rng(0, "raters"))
    assert [(row.kind, row.method) for row in rows] == [(k, m) for k in COUNTS for m in METHODS]
    for row in rows:
        low, high = row.strength_interval
        assert low < STRENGTHS[row.method] < high
        assert high - low < {"quality": 0.25, "diversity": 0.5}[row.kind]
        expected = sum(
            STRENGTHS[row.method] / (STRENGTHS[row.method] + STRENGTHS[other])
            for other in METHODS
            if other != row.method
        )
        assert row.interval[0] < expected / 2 < row.interval[1] and row.raters == 20
    assert sum(row.chosen for row in rows if row.kind == "quality") == 20 * COUNTS["quality"]
    share, (low, high) = left_share(answers)
    assert low < 0.5 < high and low < share < high


def test_nothing_that_a_rater_can_see_names_a_method(tmp_path):
    path = tmp_path / "answers.csv"
    questionnaire = Questionnaire(sit(path), pause=0)
    held = []
    for _ in range(TOTAL):
        held.append(str(ipywidgets.Widget.get_manager_state()))
        held += [questionnaire.text.value, questionnaire.message.value]
        held += [bytes(picture.value).decode("latin-1") for picture in questionnaire.pictures]
        questionnaire.buttons[1].click()
    assert "all 16 answers are saved" in questionnaire.text.value
    held += [str(ipywidgets.Widget.get_manager_state()), path.read_text()]
    held += [str(file) for file in tmp_path.rglob("*")]
    assert "baby" in "".join(held)  # what is asked can be found in what was held
    assert not any("secret" in text or "human-baby" in text for text in held)


def test_a_double_click_is_one_answer(tmp_path):
    path = tmp_path / "answers.csv"
    questionnaire = Questionnaire(sit(path), pause=0.2)
    time.sleep(0.25)
    questionnaire.buttons[0].click()
    questionnaire.buttons[0].click()
    assert [a.question for a in read_answers(STUDY, path)] == [1]
    time.sleep(0.25)
    questionnaire.buttons[1].click()
    assert [a.side for a in read_answers(STUDY, path)] == ["left", "right"]


def test_an_answer_that_cannot_be_saved_is_asked_again(tmp_path):
    path = tmp_path / "answers.csv"
    questionnaire = Questionnaire(sit(path), pause=0)
    before = questionnaire.pictures[0].value
    path.mkdir()
    questionnaire.buttons[0].click()
    assert "answers.csv" in questionnaire.message.value and path.is_dir()
    assert questionnaire.pictures[0].value == before and "1 of 16" in questionnaire.text.value
    path.rmdir()
    questionnaire.buttons[0].click()
    assert read_answers(STUDY, path) == [Answer("rater-1", 1, "left")]
    assert questionnaire.message.value == "" and "2 of 16" in questionnaire.text.value


def test_two_windows_of_one_rater_do_not_answer_twice(tmp_path):
    path = tmp_path / "answers.csv"
    first, second = (Questionnaire(sit(path), pause=0) for _ in range(2))
    first.buttons[0].click()
    second.buttons[1].click()
    assert "another window" in second.message.value
    assert read_answers(STUDY, path) == [Answer("rater-1", 1, "left")]


def test_without_ipywidgets_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    sitting = sit(tmp_path / "answers.csv")
    with pytest.raises(AirlibError, match="pip install 'ipywidgets"):
        Questionnaire(sitting)
    assert len(widgets.preview(sitting).axes) == 2


def test_widgets_are_shown_where_somebody_can_press_them(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert widgets.live("on") and not widgets.live("off") and not widgets.live("auto")
    monkeypatch.setenv("JPY_SESSION_NAME", "live.ipynb")
    monkeypatch.setitem(sys.modules, "ipykernel", pytest)  # any module: its presence is asked for
    assert widgets.live("auto") and not widgets.live("off")
    with pytest.raises(AirlibError, match="auto, on or off"):
        widgets.live("yes")


# --- the design


def test_each_rater_gets_a_balanced_design_that_only_seed_and_name_decide():
    for rater in ("a", "b"):
        questions = STUDY.questions(rater)
        assert questions == STUDY.questions(rater)
        assert [q.kind for q in questions] == ["quality"] * 12 + ["diversity"] * 4
        quality = [q.sides for q in questions[:12]]
        assert all(quality.count(sides) == 2 for sides in quality)  # 3 x 2 ordered pairs, twice
        for setup in STUDY.targets:
            assert sum(q.setup == setup for q in questions[:12]) == 6
        assert len({q.latents for q in questions[:12]}) == 12
        assert all(len(set(q.latents)) == 9 for q in questions[12:])
    assert STUDY.questions("a") != STUDY.questions("b")
    assert STUDY.questions("a") != Study(METHODS, STUDY.targets, 12, seed=4).questions("a")


def test_both_sides_show_the_same_latents(tmp_path):
    """The nine pictures of a set lie in a grid; shades stand for latents here."""
    ramp = torch.linspace(-1, 1, 12).view(12, 1, 1, 1).expand(12, 3, 128, 128)
    same = {setup: dict.fromkeys(METHODS, ramp) for setup in STUDY.targets}
    sitting = Sitting(STUDY, same, "rater", tmp_path / "answers.csv")
    sizes = set()
    while sitting.number is not None:
        left, right = sitting.pictures()
        assert left == right
        sizes.add((sitting.question.kind, Image.open(BytesIO(left)).size[0] // 380))
        if sitting.question.kind == "quality":
            (latent,) = sitting.question.latents
            shade = Image.open(BytesIO(left)).getpixel((200, 200))[0]
            assert shade == round(255 * latent / 11)
        sitting.answer("left")
    assert sizes == {("quality", 1), ("diversity", 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("a",)}, "at least two methods"),
        ({"methods": ("a", "a")}, "different names"),
        ({"targets": {}}, "at least one setup"),
        ({"latents": 8}, "9 pictures"),
    ],
)
def test_a_study_that_cannot_be_made_is_refused(change, message):
    with pytest.raises(AirlibError, match=message):
        Study(**{"methods": METHODS, "targets": {"s": "t"}, "latents": 12} | change)


@pytest.mark.parametrize("rater", ["", "a,b", "=1+1", "a b", "-x", "../x", "a\n", "x" * 41])
def test_a_rater_has_a_plain_name(rater, tmp_path):
    with pytest.raises(AirlibError, match="rater"):
        sit(tmp_path / "answers.csv", rater)


def test_missing_pictures_are_noticed_before_the_first_question(tmp_path):
    for images in ({}, {"human-baby": IMAGES["human-baby"]}):
        with pytest.raises(AirlibError, match="has not the 12 pictures"):
            Sitting(STUDY, images, "rater", tmp_path / "answers.csv")


# --- the file of answers


def test_a_file_cut_anywhere_continues_to_the_same_end(tmp_path):
    whole = tmp_path / "whole.csv"
    simulate(sit(whole), dict.fromkeys(COUNTS, STRENGTHS), rng(0, "taste"))
    text, answers = whole.read_bytes(), read_answers(STUDY, whole)
    cut = tmp_path / "cut.csv"
    for length in range(len(text)):
        cut.write_bytes(text[:length])
        complete = max(text[:length].count(b"\n") - 1, 0)
        assert read_answers(STUDY, cut) == answers[:complete]
    for length in (0, 3, len(HEADER), 100, 101, len(text) - 1):
        cut.write_bytes(text[:length])
        sitting = sit(cut)
        while sitting.number is not None:
            sitting.answer(answers[sitting.number - 1].side)
        assert cut.read_bytes() == text


def test_a_killed_session_goes_on_at_the_first_open_question(tmp_path):
    path = tmp_path / "answers.csv"
    script = (
        "import sys, time, torch; from airlib.user_study.study import *\n"
        "study = Study(('a', 'b'), {'s': 't'}, 12)\n"
        "images = {'s': {m: torch.zeros(12, 3, 8, 8) for m in 'ab'}}\n"
        "sitting = Sitting(study, images, 'rater', sys.argv[1])\n"
        "while sitting.number:\n    sitting.answer('left')\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        while not path.exists() or path.read_text().count("\n") < 6:
            assert process.poll() is None
            time.sleep(0.001)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    study = Study(("a", "b"), {"s": "t"}, 12)
    before = read_answers(study, path)
    assert [a.question for a in before] == list(range(1, len(before) + 1)) and len(before) >= 5
    images = {"s": {m: torch.zeros(12, 3, 8, 8) for m in "ab"}}
    sitting = Sitting(study, images, "rater", path)
    assert sitting.number == (len(before) + 1 if len(before) < TOTAL else None)
    while sitting.number is not None:
        sitting.answer("right")
    after = read_answers(study, path)
    assert after[: len(before)] == before and len(after) == TOTAL


def test_raters_who_answer_at_once_lose_nothing(tmp_path):
    path = tmp_path / "answers.csv"

    def one(rater: str) -> None:
        simulate(sit(path, rater), dict.fromkeys(COUNTS, STRENGTHS), rng(0, rater))

    threads = [threading.Thread(target=one, args=(f"rater-{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = read_answers(STUDY, path)
    assert {(a.rater, a.question) for a in answers} == {
        (f"rater-{k}", n) for k in range(4) for n in range(1, TOTAL + 1)
    }


def test_what_a_spreadsheet_saves_is_still_read(tmp_path):
    path = tmp_path / "answers.csv"
    simulate(sit(path), dict.fromkeys(COUNTS, STRENGTHS), rng(0, "taste"))
    answers = read_answers(STUDY, path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_answers(STUDY, path) == answers


ROW = f"{STUDY.key},rater-1,1,left\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + ROW + f"{STUDY.key},rater-1,0,left\n", "line 3: .* is not an answer"),
        (HEADER + f"{STUDY.key},rater-1,17,left\n", "line 2: .* is not an answer"),
        (HEADER + f"{STUDY.key},rater-1,1,middle\n", "line 2: .* is not an answer"),
        (HEADER + f"{STUDY.key},rater-1,1\n", "line 2: .* is not an answer"),
        (HEADER + f"{STUDY.key},rater-1,1,left,x\n", "line 2: .* is not an answer"),
        (HEADER + f'{STUDY.key},"rater,1",1,left\n', "line 2: .* is not an answer"),
        (HEADER + f"{STUDY.key},rater-1,-1,left\n", "line 2: .* is not an answer"),
        (HEADER + f"{STUDY.key},rater-1,1e0,left\n", "line 2: .* is not an answer"),
        (HEADER + f"{STUDY.key},rater-1,\u0661,left\n", "line 2: .* is not an answer"),
        (HEADER + f"{STUDY.key},=cmd(),1,left\n", "line 2: .* is not an answer"),
        (HEADER + "\n" + ROW, "line 2: '' is not an answer"),
        (HEADER + ROW.replace(",", ";"), "line 2: .* is not an answer"),
        (HEADER + "x" * 10**6 + "\n", "line 2: 'x{60}' is not an answer"),
        (HEADER + ROW + ROW, "line 3: .* again"),
        (HEADER + ROW + ROW.replace("left", "right"), "line 3: .* again"),
        (HEADER + f"{'0' * 12},rater-1,1,left\n", "another study"),
        (ROW, "not a file of answers"),
        ("question,side\n1,left\n", "not a file of answers"),
        ("a picture, say", "not a file of answers"),
        ("\x00" * 50, "not a file of answers"),
    ],
)
def test_a_damaged_file_is_refused_and_left_alone(content, message, tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text(content, encoding="utf-8", newline="")
    with pytest.raises(AirlibError, match=message):
        sit(path)
    assert path.read_text(encoding="utf-8") == content


def test_files_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_bytes(b"\xff\xfe\x00answers\n")
    with pytest.raises(AirlibError, match=r"answers\.csv is no text in UTF-8; name another file"):
        sit(path)
    with pytest.raises(AirlibError, match="is a folder; name another file"):
        sit(tmp_path)


def test_answers_to_other_pictures_have_another_key():
    others = [
        Study(METHODS[::-1], STUDY.targets, 12, 3),
        Study(METHODS, {"human-baby": "baby"}, 12, 3),
        Study(METHODS, STUDY.targets, 13, 3),
        Study(METHODS, STUDY.targets, 12, 4),
        Study(METHODS, STUDY.targets, 12, 3, "other weights"),
    ]
    assert len({study.key for study in [STUDY, *others]}) == 6
    assert json.loads(f'"{STUDY.key}"') == Study(METHODS, dict(STUDY.targets), 12, 3).key


# --- analysis


def test_one_rater_has_shares_but_no_interval_over_raters(tmp_path):
    path = tmp_path / "answers.csv"
    simulate(sit(path), dict.fromkeys(COUNTS, STRENGTHS), rng(0, "taste"))
    rows = preferences(STUDY, read_answers(STUDY, path)[:12], rng(0, "raters"))
    assert {row.kind for row in rows} == {"quality"}
    assert all(row.strength_interval is None and row.raters == 1 for row in rows)
    assert all(row.shown == 8 and row.share == row.chosen / 8 for row in rows)
    assert preferences(STUDY, [], rng(0, "raters")) == []


def test_raters_of_one_mind_leave_no_doubt_about_other_raters():
    study = Study(("a", "b"), {"s": "t"}, 12)
    answers = []
    for rater in map(str, range(5)):
        for number, question in enumerate(study.questions(rater), start=1):
            side = SIDES[question.sides.index("a" if number % 4 else "b")]
            answers.append(Answer(rater, number, side))
    rows = {(row.kind, row.method): row for row in preferences(study, answers, rng(0, "raters"))}
    assert rows["quality", "a"].share == rows["quality", "a"].strength == pytest.approx(0.75)
    assert rows["quality", "a"].strength_interval == pytest.approx((0.75, 0.75))
    assert rows["diversity", "b"].strength == pytest.approx(0.25)


def test_strengths_of_methods_that_never_met_are_refused():
    study = Study(("a", "b", "c"), {"s": "t"}, 12)
    questions = study.questions("rater")
    met = [n for n, q in enumerate(questions, start=1) if set(q.sides) == {"a", "b"}]
    with pytest.raises(AirlibError, match="c never met a"):
        preferences(study, [Answer("rater", n, "left") for n in met], rng(0, "raters"))
