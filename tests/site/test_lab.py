"""Figures that move in JupyterLab, in Notebook 7 and on paper: untrusted, trusted, run, exported.

`make site-test` runs this; LABKIT_SCREENSHOTS=FOLDER also stores pictures, to be looked at.
"""

import base64
import json
import os
import re
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import nbformat
import pytest

if os.environ.get("LABKIT_SITE") != "1":
    pytest.skip("a browser is needed: run `make site-test`", allow_module_level=True)

from nbclient import NotebookClient  # noqa: E402
from nbconvert import HTMLExporter, LatexExporter  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SCRUBBER = """\
import ipywidgets as widgets
import numpy as np
from labkit import plot

plot.use_style()
frames = [np.eye(20) * i / 7 for i in range(8)]
plot.scrubber(frames, labels=[f"step {i}" for i in range(8)], width=300, alt="A line appears")"""
LIVE = """\
def draw(rate):
    plot.energies(np.outer(rate ** np.arange(9.0), [1, 2]), alt=f"Energy at rate {rate:.1f}.")

plot.live(draw, rate=widgets.FloatSlider(value=0.5, min=0.5, max=9.5))"""
PICTURE, LAST = ".labkit-scrubber img", "step 7"
SENTENCE = "Run this cell to move the slider."


def show(page, name):
    if "LABKIT_SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["LABKIT_SCREENSHOTS"]) / f"{name}.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A new user's environment, with notebooks as `make execute` stores them."""
    home = tmp_path_factory.mktemp("home")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "LABKIT"))}
    environment = kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(home)}
    environment |= {"JUPYTER_RUNTIME_DIR": str(home / "runtime")}
    cells = [nbformat.v4.new_code_cell(source) for source in (SCRUBBER, LIVE)]
    book = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(book, kernel_name="python3").execute(env=environment | {"LABKIT_STATIC": "1"})
    (home / "work").mkdir()
    nbformat.write(book, home / "work/untrusted.ipynb")
    book.cells[0].source += "\n"  # trust goes by content
    nbformat.write(book, home / "work/trusted.ipynb")
    command = [sys.executable, "-m", "jupyter", "trust", str(home / "work/trusted.ipynb")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return home, environment


@pytest.fixture(scope="module")
def lab(home):
    """The address of a JupyterLab of that user."""
    home, environment = home
    options = ["--no-browser", "--allow-root", "--port=0", "--IdentityProvider.token="]
    options += [f"--ServerApp.root_dir={home / 'work'}", "--LabApp.news_url=None"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", *options],
            env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        while not re.search(r"http://\S+/lab", (home / "log").read_text()):
            assert server.poll() is None, (home / "log").read_text()
            time.sleep(0.2)
        (about,) = (home / "runtime").glob("jpserver-*.json")
        yield json.loads(about.read_text())["url"]
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["lab/tree", "notebooks"])
def front(request, lab):
    """The address below which JupyterLab or Notebook 7 opens a notebook, and a name for it."""
    return lab + request.param, request.param.partition("/")[0]


@pytest.fixture
def page(browser):
    """A tab without any network but this machine."""
    context = browser.new_context(viewport={"width": 1000, "height": 1400})
    ours = re.compile(r"(http://(localhost|127\.0\.0\.1)[:/]|file:|data:|blob:)")
    context.route("**/*", lambda r: r.continue_() if ours.match(r.request.url) else r.abort())
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    context.close()


def seen(page, css):
    """The words and the size on the page of one picture, once it is there."""
    picture = page.locator(css).last
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    box = picture.bounding_box()
    return picture.get_attribute("alt"), round(box["width"]), round(box["height"])


def move_by_keys_and_drag(page, frame=None):
    frame = frame or page
    slider, words = (frame.locator(f".labkit-scrubber {part}") for part in ("input", "output"))
    look = frame.locator(PICTURE).screenshot
    assert words.text_content() == LAST and frame.get_by_text(SENTENCE).count() == 0
    before = look()
    slider.focus()
    for step in (6, 5):  # the second press is heard only if the first left the focus here
        page.keyboard.press("ArrowLeft")
        assert words.text_content() == slider.get_attribute("aria-valuetext") == f"step {step}"
    assert look() != before
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 5 / 7, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert words.text_content() == LAST and look() == before


def test_an_untrusted_notebook_shows_pictures_and_no_dead_slider(front, page):
    page.goto(f"{front[0]}/untrusted.ipynb?reset")
    assert seen(page, PICTURE) == ("A line appears", 300, 300)
    assert page.get_by_text(SENTENCE).is_visible()
    assert page.locator(".jp-OutputArea input").count() == 0
    assert page.get_by_text("Run this cell to move the controls.").is_visible()
    assert seen(page, ".jp-RenderedImage img")[1] > 300
    show(page, f"{front[1]}-untrusted")


def test_a_trusted_notebook_moves_by_keys_and_drag(front, page):
    page.goto(f"{front[0]}/trusted.ipynb?reset")
    page.locator(".labkit-scrubber input").wait_for()
    assert seen(page, PICTURE) == ("A line appears", 300, 300)
    move_by_keys_and_drag(page)
    show(page, f"{front[1]}-trusted")


def test_after_running_everything_moves_and_the_notebook_keeps_what_was_seen(home, front, page):
    page.goto(f"{front[0]}/untrusted.ipynb?reset")
    page.locator(PICTURE).wait_for()
    page.locator("[data-status=idle]").first.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    handle = page.locator(".widget-slider [role=slider]")
    handle.wait_for()
    move_by_keys_and_drag(page)
    live, stored = page.locator(".jp-RenderedImage img"), home[0] / "work/untrusted.ipynb"
    before = live.get_attribute("src")
    handle.focus()
    page.keyboard.press("End")
    page.wait_for_function(
        "old => document.querySelector('.jp-RenderedImage img').src != old", arg=before
    )
    show(page, f"{front[1]}-run")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty").wait_for(state="detached")
    (picture,) = [o for o in nbformat.read(stored, 4).cells[1].outputs if "image/png" in o.data]
    assert picture.metadata["image/png"]["alt"] == "Energy at rate 9.5. Diverged at step 5."
    assert picture.data["image/png"].strip() == live.get_attribute("src").split(",")[1]


@pytest.mark.parametrize("with_widgets", [False, True])
def test_exported_to_html_pictures_are_there_without_a_network_and_on_paper(
    home, page, tmp_path, with_widgets
):
    book = nbformat.read(home[0] / "work/trusted.ipynb", as_version=4)
    if with_widgets:  # as `nbconvert --execute` does it, widget state and all
        NotebookClient(book, kernel_name="python3").execute(env=home[1])
        assert "widgets" in book.metadata
    (tmp_path / "book.html").write_text(HTMLExporter().from_notebook_node(book)[0], "utf-8")
    page.goto(f"file://{tmp_path}/book.html")
    assert seen(page, PICTURE) == ("A line appears", 300, 300)
    (live,) = [o for o in book.cells[1].outputs if "image/png" in o.data]
    width, height = (
        int.from_bytes(base64.b64decode(live.data["image/png"])[i : i + 4]) for i in (16, 20)
    )
    assert seen(page, ".jp-RenderedImage img")[1] == width
    move_by_keys_and_drag(page)
    show(page, f"html-{with_widgets}")
    printed = re.findall(rb"/Subtype /Image\s*/Width (\d+)\s*/Height (\d+)", page.pdf())
    assert (b"%d" % width, b"%d" % height) in printed and b"20" in dict(printed)


def test_nbviewer_shows_pictures_that_move_and_without_scripts_pictures(home, browser, page):
    """nbviewer fills nbconvert's `basic` template; GitHub's preview runs no scripts."""
    book = nbformat.read(home[0] / "work/untrusted.ipynb", as_version=4)
    html = "<!DOCTYPE html>" + HTMLExporter(template_name="basic").from_notebook_node(book)[0]
    page.set_content(html)
    assert seen(page, PICTURE) == ("A line appears", 300, 300)
    move_by_keys_and_drag(page)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(html)
    assert seen(page, PICTURE) == ("A line appears", 300, 300)
    assert page.get_by_text(SENTENCE).is_visible() and page.locator("input").count() == 0
    context.close()


def test_in_a_frame_of_its_own_as_on_colab_it_moves(home, page):
    """Colab shows each output in a frame of another origin, which may run scripts."""
    book = nbformat.read(home[0] / "work/untrusted.ipynb", as_version=4)
    scrubber = escape(book.cells[0].outputs[0].data["text/html"])
    page.set_content(f'<iframe sandbox="allow-scripts" width=600 height=600 srcdoc="{scrubber}">')
    frame = page.frame_locator("iframe")
    frame.locator(".labkit-scrubber input").wait_for()
    assert seen(frame, PICTURE) == ("A line appears", 300, 300)
    move_by_keys_and_drag(page, frame)


def test_exported_to_latex_every_figure_is_a_picture(home):
    book = nbformat.read(home[0] / "work/trusted.ipynb", as_version=4)
    body, resources = LatexExporter().from_notebook_node(book)
    assert len(resources["outputs"]) == 2 and all(name in body for name in resources["outputs"])
    assert "HTML object" not in body
