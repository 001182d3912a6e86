"""labkit.network: the picture holds what was asked for, and says so in words."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import FancyBboxPatch, Wedge

from labkit import plot
from labkit.network import network

NAMES = ["x", "$z_1$", "y"]
TASKS = {"train": {"x": 1, "y": 1}, "complete": {"y": 0.5}}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(("both", "errors"), [(False, 2), (True, 4)])
def test_each_task_shows_its_units_and_what_is_clamped(monkeypatch, both, errors):
    shown = []
    monkeypatch.setattr(plot, "show", lambda figure, *, alt: shown.extend([figure, alt]))
    network(NAMES, TASKS, title="A chain", both=both)
    for axes, clamped in zip(shown[0].axes, (2, 1), strict=True):
        texts = [text.get_text() for text in axes.texts]
        assert sum("varepsilon" in text for text in texts) == errors
        assert set(NAMES) <= set(texts)
        assert sum(isinstance(patch, Wedge) for patch in axes.patches) == clamped
    assert "train: x and y; complete: part of y" in shown[1]


def test_a_frame_is_drawn_once_and_told(monkeypatch):
    shown = []
    monkeypatch.setattr(plot, "show", lambda figure, *, alt: shown.extend([figure, alt]))
    network(NAMES, TASKS, title="A chain", local=2)
    frames = [sum(isinstance(p, FancyBboxPatch) for p in axes.patches) for axes in shown[0].axes]
    assert frames == [1, 0] and "A frame holds z_1 and error 2" in shown[1]


@pytest.mark.parametrize(
    ("names", "tasks", "more", "message"),
    [
        (["x"], TASKS, {}, "at least two"),
        (NAMES, {}, {}, "one task"),
        (NAMES, {"train": {"image": 1}}, {}, "image"),
        (NAMES, TASKS, {"local": 3}, "local=3"),
        (NAMES, TASKS, {"local": 1, "both": True}, "local=1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(names, tasks, more, message):
    with pytest.raises(ValueError, match=message):
        network(names, tasks, title="A chain", **more)
