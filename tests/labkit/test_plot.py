"""labkit.plot: what a reader is shown, with and without a kernel, an eye or a mouse."""

import base64
import html
import io
import re
import sys
import types

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image
from traitlets.config import Config

from labkit import plot

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def shell():
    """A session of IPython's, without which figures are only words."""
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


@pytest.fixture
def shown(shell):
    """A function that calls another and returns the outputs which that displayed."""

    def call(function, *args, **kwargs):
        with capture_output() as seen:
            function(*args, **kwargs)
        assert not seen.stdout
        return seen.outputs

    return call


def picture_of(output):
    return decoded(output.data["image/png"])


def decoded(base64_picture):
    return Image.open(io.BytesIO(base64.b64decode(base64_picture)))


def test_a_figure_carries_its_alternative_text_and_is_closed(shown):
    figure, _ = plt.subplots()
    (output,) = shown(plot.show, figure, alt="a falling curve")
    assert output.metadata["image/png"]["alt"] == "a falling curve"
    assert "a falling curve" in output.data["text/plain"]
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: plot.show(plt.figure(), alt="one <curve>"),
        lambda: plot.show_png(b"PNG", alt="one <curve>"),
        lambda: plot.scrubber(np.zeros((2, 4, 4)), labels="ab", alt="one <curve>"),
        lambda: plot.live(
            lambda n: plot.images(np.ones((n, 2, 2)), alt="one <curve>"), n=widgets.IntSlider(2)
        ),
    ],
)
def test_in_a_script_a_figure_is_its_words(call, capsys):
    call()
    assert capsys.readouterr().out == "[figure: one <curve>]\n"


def test_equal_figures_are_equal_bytes(shown):
    pngs = []
    for _ in range(2):
        figure, axes = plt.subplots()
        axes.plot([1, 2, 3])
        pngs.append(shown(plot.show, figure, alt="line")[0].data["image/png"])
    assert pngs[0] == pngs[1]


def test_the_card_is_opaque_paper_so_that_it_reads_on_a_dark_page(shown):
    plot.use_style()
    (output,) = shown(plot.curves, {"a": np.arange(3)}, alt="", title="t", xlabel="x", ylabel="y")
    corner = picture_of(output).convert("RGBA").getpixel((0, 0))
    assert corner[3] == 255 and min(corner[:3]) > 240


def test_a_picture_keeps_its_shades_of_grey(shown):
    ramp = np.tile(np.arange(200) / 255, (200, 1))
    (output,) = shown(plot.images, ramp[None], alt="", scale=8)
    shades = {colour[0] for _, colour in picture_of(output).convert("RGB").getcolors()}
    assert len(shades) > 150  # and not the dozen that a quick palette leaves


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


@pytest.mark.parametrize("scale, columns", [(0.4, 20), (0.75, 10), (1.6, 3)])
def test_a_label_is_nearer_to_its_own_image_than_to_the_one_above(scale, columns, shown):
    black = np.zeros((3 * columns, 28 * 28))
    (output,) = shown(
        plot.images, black, labels=["8"] * len(black), columns=columns, scale=scale, alt=""
    )
    ink = np.asarray(picture_of(output).convert("L")) < 128
    filled = ink.mean(axis=1) > 0.5
    tops = np.flatnonzero(filled[1:] & ~filled[:-1]) + 1
    assert len(tops) == 3
    for top in tops[1:]:
        gap = np.flatnonzero(~filled[:top])  # the rows of paper and label above this image
        gap = gap[gap > np.flatnonzero(filled[:top]).max()]
        label = gap[ink[gap].any(axis=1)]
        above, below = label[0] - gap[0], gap[-1] - label[-1]
        assert above > below >= 1, (above, below)


def lines_of(monkeypatch, traces):
    kept = {}
    monkeypatch.setattr(plot, "curves", lambda lines, **about: kept.update(lines, about=about))
    plot.energies(traces, alt="", title="Energy")
    return kept


def test_energies_sums_the_layers(monkeypatch):
    kept = lines_of(monkeypatch, np.array([[1.0, 2.0], [0.5, 1.0]]))
    np.testing.assert_allclose(kept["sum"][1], [3.0, 1.5])
    assert list(kept) == ["layer 1", "layer 2", "sum", "about"]
    assert kept["about"]["title"] == "Energy"


@pytest.mark.parametrize("last", [1e30, np.inf, np.nan])
def test_energies_that_explode_say_when_and_hide_nothing_before(last, monkeypatch):
    traces = np.outer([1.0, 0.8, 0.7, 0.9, last, last, last], [0.25, 0.75])
    kept = lines_of(monkeypatch, traces)
    assert all("iverged at step 4" in kept["about"][words] for words in ("title", "alt"))
    np.testing.assert_allclose(kept["sum"][1][:4], traces.sum(axis=1)[:4])
    assert np.isfinite(kept["sum"][1][4]) and kept["sum"][1][4] > 100  # it leaves upwards
    assert np.isnan(kept["sum"][1][5:]).all()


@pytest.fixture
def scrubber_html(shown):
    return lambda frames, **options: shown(plot.scrubber, frames, **options)[0].data["text/html"]


def test_scrubber_holds_a_picture_for_all_and_the_frames_for_its_script(shown):
    frames = np.stack([np.full((4, 6), value) for value in (0.0, 0.5, 1.0)])
    labels = ["dark", "half", "</script>"]
    (output,) = shown(plot.scrubber, frames, alt="grey <digits>", labels=labels, title="T")
    page, script = output.data["text/html"].split("<script>")
    (picture,) = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    assert picture == (output.data["image/png"], "grey &lt;digits&gt;")
    assert output.metadata["image/png"]["alt"] == "grey <digits>"
    assert decoded(picture[0]).convert("L").getextrema() == (255, 255), "the last frame"
    assert html.escape(labels[-1]) in page and "Run this cell" in page
    assert "<input" not in page, "without the script there must be no dead slider"
    sprite = decoded(re.search(r"data:image/webp;base64,([^\"]+)", script)[1]).convert("L")
    assert sprite.size == (6, 12)
    assert [sprite.getpixel((3, y)) for y in (1, 5, 9)] == [0, 127, 255]
    assert script.count("</script>") == 1 and '"dark", "half"' in script
    assert "http" not in page + script


def test_scrubber_takes_figures_of_one_size(scrubber_html):
    figures = [plt.subplots(figsize=(2, 1))[0] for _ in range(2)]
    page = scrubber_html(figures, alt="a", labels=["1", "2"])
    assert 'width="200" height="100"' in page
    assert plt.get_fignums() == []


@pytest.mark.parametrize("n, labels, says", [(2, "a", "labels"), (2, "abc", "labels"),
                                             (200, "a" * 200, "fewer")])  # fmt: skip
def test_scrubber_wants_a_label_for_each_frame_and_no_endless_row(n, labels, says):
    with pytest.raises(ValueError, match=says):
        plot.scrubber(np.zeros((n, 100, 4)), alt="", labels=labels)


def draw(n):
    plot.images(np.full((n, 5, 5), 0.5), alt=f"{n} grey squares")


def alts(outputs):
    return [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.data]


def test_live_stores_a_picture_and_no_control_where_no_kernel_will_be(monkeypatch, shown):
    monkeypatch.setenv("LABKIT_STATIC", "1")
    outputs = shown(plot.live, draw, n=widgets.IntSlider(value=3))
    assert alts(outputs) == ["3 grey squares"] and VIEW not in outputs[0].data
    assert "Run this cell" in outputs[0].data["text/html"]


def test_live_brings_its_one_picture_up_to_date(monkeypatch, shown):
    monkeypatch.delenv("LABKIT_STATIC", raising=False)
    slider = widgets.IntSlider(value=3, max=9)
    controls, picture = shown(plot.live, draw, n=slider)
    assert VIEW in controls.data and "Run this cell" in controls.data["text/html"]
    assert alts([picture]) == ["3 grey squares"] and slider.description == "n"
    (moved,) = shown(slider.set_trait, "value", 7)
    assert moved.update and moved.transient == picture.transient
    assert alts([moved]) == ["7 grey squares"]


def test_live_shows_what_is_printed_and_what_goes_wrong(monkeypatch, shown):
    monkeypatch.delenv("LABKIT_STATIC", raising=False)

    def talk(n):
        print(f"<{60 / n:.0f}>")
        draw(n)

    slider = widgets.IntSlider(value=3, max=9)
    page = shown(plot.live, talk, n=slider)[1].data["text/html"]
    assert "&lt;20&gt;" in page and 'alt="3 grey squares"' in page
    assert "division by zero" in shown(slider.set_trait, "value", 0)[0].data["text/plain"]
    assert "&lt;15&gt;" in shown(slider.set_trait, "value", 4)[0].data["text/html"]


def test_on_colab_the_picture_is_in_a_widget_and_one_beside_it(monkeypatch, shown):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.delenv("LABKIT_STATIC", raising=False)
    slider, made = widgets.IntSlider(value=3, max=9), []
    monkeypatch.setattr(
        widgets, "Output", lambda kind=widgets.Output: made.append(kind()) or made[0]
    )
    (output,) = shown(plot.live, draw, n=slider)
    assert VIEW in output.data and alts([output]) == ["3 grey squares"]
    for n in (3, 7):
        assert not shown(slider.set_trait, "value", n)
        assert made[0].outputs[0]["metadata"]["image/png"]["alt"] == f"{n} grey squares"
