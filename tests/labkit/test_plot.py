"""labkit.plot: what a reader is shown, with and without a kernel, an eye or a mouse."""

import base64
import io
import re

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from labkit import plot


class Output:
    """What one call of IPython's display sends to the notebook."""

    def __init__(self, thing, *, raw=False, metadata=None):
        self.thing, self.metadata = thing, metadata
        self.data = thing if raw else {"text/html": getattr(thing, "data", None)}


@pytest.fixture
def shown(monkeypatch):
    """A function that calls another and returns the last output which that displayed."""

    def call(function, *args, **kwargs):
        outputs = []
        display = lambda *a, **k: outputs.append(Output(*a, **k))
        monkeypatch.setattr(plot, "display", display)
        function(*args, **kwargs)
        return outputs[-1]

    return call


def picture_of(output):
    return Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))


def test_a_figure_carries_its_alternative_text_and_is_closed(shown):
    figure, _ = plt.subplots()
    output = shown(plot.show, figure, alt="a falling curve")
    assert output.metadata["image/png"]["alt"] == "a falling curve"
    assert plt.get_fignums() == []


def test_equal_figures_are_equal_bytes(shown):
    pngs = []
    for _ in range(2):
        figure, axes = plt.subplots()
        axes.plot([1, 2, 3])
        pngs.append(shown(plot.show, figure, alt="line").data["image/png"])
    assert pngs[0] == pngs[1]


def test_the_card_is_opaque_paper_so_that_it_reads_on_a_dark_page(shown):
    plot.use_style()
    output = shown(plot.curves, {"a": np.arange(3)}, alt="", title="t", xlabel="x", ylabel="y")
    corner = picture_of(output).convert("RGBA").getpixel((0, 0))
    assert corner[3] == 255 and min(corner[:3]) > 240


def test_montage_puts_each_image_in_its_place():
    images = np.arange(5)[:, None, None] * np.ones((5, 2, 3))
    sheet = plot.montage(images, columns=3)
    assert sheet.shape == (2 * 2 + 1, 3 * 3 + 2)
    for i in range(5):
        row, column = divmod(i, 3)
        tile = sheet[row * 3 : row * 3 + 2, column * 4 : column * 4 + 3]
        assert (tile == i).all()
    assert np.isnan(sheet[2]).all() and np.isnan(sheet[3:, 8:]).all()


def test_montage_unfolds_flat_squares_and_refuses_what_is_no_image():
    np.testing.assert_array_equal(
        plot.montage(np.arange(16.0).reshape(1, 16), 1), np.arange(16).reshape(4, 4)
    )
    with pytest.raises(ValueError, match="height, width"):
        plot.montage(np.zeros((2, 3, 4, 5)), 2)


def test_energies_sums_the_layers():
    traces = np.array([[1.0, 2.0], [0.5, 1.0]])
    plt.close("all")
    kept = {}
    original = plot.curves
    plot.curves = lambda lines, **_: kept.update(lines)
    try:
        plot.energies(traces, alt="")
    finally:
        plot.curves = original
    np.testing.assert_allclose(kept["sum"][1], [3.0, 1.5])
    assert list(kept) == ["layer 1", "layer 2", "sum"]


@pytest.fixture
def scrubber_html(shown):
    return lambda frames, **options: shown(plot.scrubber, frames, **options).data["text/html"]


def test_scrubber_is_one_sprite_one_slider_and_labels(scrubber_html):
    frames = np.stack([np.full((4, 6), value) for value in (0.0, 0.5, 1.0)])
    page = scrubber_html(frames, alt="grey <digits>", labels=["dark", "half", "light"], title="T")
    (encoded,) = re.findall(r"data:image/png;base64,([^)]+)\)", page)
    sprite = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L")
    assert sprite.size == (6, 12)
    assert [sprite.getpixel((3, y)) for y in (1, 5, 9)] == [0, 127, 255]
    assert 'type="range" min="0" max="2"' in page
    assert 'aria-label="grey &lt;digits&gt;"' in page and 'aria-valuetext="dark"' in page
    assert "http" not in page and "<script" not in page


def test_scrubber_takes_figures_of_one_size(scrubber_html):
    figures = [plt.subplots(figsize=(2, 1))[0] for _ in range(2)]
    page = scrubber_html(figures, alt="a", labels=["1", "2"])
    assert "aspect-ratio:200/100" in page
    assert plt.get_fignums() == []


@pytest.mark.parametrize("labels", [["one"], ["one", "two", "three"]])
def test_scrubber_wants_a_label_for_each_frame(labels):
    with pytest.raises(ValueError, match="labels"):
        plot.scrubber(np.zeros((2, 4, 4)), alt="", labels=labels)


def test_live_draws_once_where_no_kernel_will_be(monkeypatch, shown):
    monkeypatch.setenv("LABKIT_STATIC", "1")
    drawn = []
    output = shown(plot.live, lambda rate: drawn.append(rate), rate=widgets.FloatSlider(value=0.3))
    assert drawn == [0.3] and "kernel" in output.data["text/html"]


def test_live_redraws_when_a_control_moves(monkeypatch, shown):
    monkeypatch.delenv("LABKIT_STATIC", raising=False)
    drawn = []
    slider = widgets.IntSlider(value=3, max=9)
    output = shown(plot.live, lambda steps: drawn.append(steps), steps=slider)
    slider.value = 7
    assert drawn == [3, 7] and slider.description == "steps"
    assert isinstance(output.thing, widgets.VBox) and slider in output.thing.children
