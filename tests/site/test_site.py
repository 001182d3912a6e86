"""The built website in a real browser, with every outside host blocked.

`make site-test` builds the site and runs this; nothing is skipped there. LABKIT_SCREENSHOTS=FOLDER
also stores pictures, to be looked at; LABKIT_CHROMIUM names the browser where PATH has none.
"""

import functools
import gzip
import http.server
import io
import os
import re
import threading
import urllib.parse
from pathlib import Path

import nbformat
import pytest
import yaml

if os.environ.get("LABKIT_SITE") != "1":
    pytest.skip("a browser is needed: run `make site-test`", allow_module_level=True)

import axe_playwright_python.base as axe  # noqa: E402
import bs4  # noqa: E402
from PIL import Image, ImageStat  # noqa: E402

from tools import site_address  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
LANDING = "index"
PAGES = [LANDING, *(c["file"] for part in TOC["parts"] for c in part["chapters"])]
NOTEBOOKS = [page for page in PAGES if (ROOT / f"{page}.ipynb").is_file()]
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
FOLDER = urllib.parse.urlsplit(site_address(CONFIG["repository"]["url"])).path
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
WEIGHT = 3_000_000  # bytes of one page with all that it loads, compressed as GitHub Pages does

every_page = pytest.mark.parametrize("page", PAGES)
every_notebook = pytest.mark.parametrize("page", NOTEBOOKS)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site as GitHub Pages does: text goes out compressed, and 404.html for no page."""

    def translate_path(self, path):
        return super().translate_path(path.removeprefix(FOLDER.rstrip("/")))

    def send_error(self, code, *_):
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write((SITE / "404.html").read_bytes())

    def do_GET(self):
        file = Path(self.translate_path(self.path))
        if file.suffix not in (".html", ".css", ".js", ".svg", ".json") or not file.is_file():
            return super().do_GET()
        body = compressed(file)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(file)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@functools.cache
def compressed(file: Path) -> bytes:
    return gzip.compress(file.read_bytes(), 6)


@pytest.fixture(scope="session")
def address():
    assert (SITE / "index.html").is_file(), "no site in _build/html: run `make book`"
    handler = functools.partial(Handler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Tab:
    """One page of the site in the browser, and what it asked for, said and weighed."""

    def __init__(self, browser, address, page, size, **options):
        width, height = SIZES[size]
        self.address, self.blocked, self.said, self.weight = address, [], [], 0
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, has_touch=size == "phone", **options
        )
        self.context.route("**/*", self.only_ours)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", self.listen)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("response", self.weigh)
        self.page.goto(f"{address}/{page}.html", wait_until="load")
        self.page.wait_for_function(
            "document.querySelectorAll('.math:not(:has(mjx-container))').length === 0"
        )

    def only_ours(self, route):
        if route.request.url.startswith((self.address + "/", "data:")):
            route.continue_()
        else:
            self.blocked.append(route.request.url)
            route.abort()

    def listen(self, message):
        outside = message.location.get("url", "").startswith(tuple(self.blocked) or ("-",))
        if message.type in ("error", "warning") and not outside:
            self.said.append(f"{message.text} ({message.location.get('url')})")

    def weigh(self, response):
        if response.url.startswith(self.address):
            self.weight += int(response.headers.get("content-length", 0))
            if response.status >= 400:
                self.said.append(f"{response.status} {response.url}")

    def theme(self, name):
        """Switch to the light or dark theme by the page's own button."""
        for _ in range(4):
            if self.page.evaluate("document.documentElement.dataset.mode") == name:
                break
            self.page.evaluate("document.querySelector('.theme-switch-button').click()")
        assert self.page.evaluate("document.documentElement.dataset.theme") == name
        self.page.wait_for_timeout(400)  # colours fade


@pytest.fixture(
    scope="module",
    params=[(page, size) for page in PAGES for size in SIZES],
    ids=lambda p: "-".join(p),
)
def tab(request, browser, address):
    tab = Tab(browser, address, *request.param)
    tab.name, tab.size = request.param
    yield tab
    tab.context.close()


@functools.cache
def soup(page: str) -> bs4.BeautifulSoup:
    return bs4.BeautifulSoup((SITE / f"{page}.html").read_text("utf-8"), "html.parser")


def notebook(page: str):
    return nbformat.read(ROOT / f"{page}.ipynb", as_version=4)


def code_cells(page: str):
    return [cell for cell in notebook(page).cells if cell.cell_type == "code"]


# In the browser, each page at each width.


def test_nothing_goes_wrong_and_nothing_is_fetched_elsewhere(tab):
    assert set(tab.blocked) <= {BADGE}
    assert tab.said == []


def test_pictures_and_formulas_are_drawn(tab):
    broken = tab.page.eval_on_selector_all(
        "img", "all => all.filter(i => i.offsetParent && !i.naturalWidth).map(i => i.src)"
    )
    assert set(broken) <= {BADGE}
    assert tab.page.locator(f'article img:not([src="{BADGE}"])').count() >= (
        1 if tab.name in (*NOTEBOOKS, LANDING) else 0
    )
    formulas = tab.page.locator(".math").count()
    assert tab.page.locator(".math > mjx-container").count() == formulas
    assert formulas == len(soup(tab.name).select(".math"))
    assert formulas > 5 or tab.name not in (*NOTEBOOKS, "notebooks/notation")
    assert tab.page.locator("mjx-merror").count() == 0
    prose = tab.page.evaluate(
        """() => {
            const copy = document.querySelector("article").cloneNode(true);
            copy.querySelectorAll("pre, code, mjx-container, script").forEach(e => e.remove());
            return copy.textContent;
        }"""
    )
    assert not re.search(r"\\[(\[a-z]|\$|\| [-—]+ \|", prose)


def test_it_weighs_little(tab, record_property):
    record_property("bytes", tab.weight)
    assert 50_000 < tab.weight < WEIGHT


def test_it_fits_the_screen(tab):
    assert tab.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    wide = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent.trim())"
    if tab.size == "desktop" and tab.name in NOTEBOOKS:
        first = tab.page.locator(".cell_input pre").first
        assert first.evaluate("e => e.scrollWidth <= e.clientWidth"), "the setup cell scrolls"
    if tab.size == "phone":  # tables of words become lists
        words = "table:has(th:nth-child(2)):not(:has(th:nth-child(4))) td"
        assert tab.page.eval_on_selector_all(words, wide) == []


def test_solutions_answers_and_plotting_code_are_folded_and_open(tab):
    folds = tab.page.locator("article details")
    assert tab.page.locator("article details[open]").count() == 0
    if tab.name in NOTEBOOKS:
        cells = notebook(tab.name).cells
        answers = sum(c.source.count("<details>") for c in cells if c.cell_type == "markdown")
        code = [c for c in cells if c.cell_type == "code"]
        solutions = sum("solution" in c.metadata.get("tags", []) for c in code)
        prompts = [
            t.strip() for t in tab.page.locator("article details.hide summary").all_inner_texts()
        ]
        plots = prompts.count("Show the plotting code")
        assert prompts.count("Show the solution") == solutions == len(prompts) - plots >= 2 <= plots
        assert folds.count() == answers + solutions + plots and answers >= 3
    for i in range(folds.count()):
        inside = folds.nth(i).locator(":scope > :not(summary)").first
        assert not inside.is_visible()
        folds.nth(i).locator("summary").click()
        assert inside.is_visible()


def test_scrubbers_move_by_keyboard_and_by_drag(tab):
    made = 0
    if tab.name in NOTEBOOKS:
        made = sum(
            "labkit-scrubber" in output.get("data", {}).get("text/html", "")
            for cell in code_cells(tab.name)
            for output in cell.outputs
        )
        assert made, "every notebook has something to move"
    scrubbers = tab.page.locator(".labkit-scrubber")
    assert scrubbers.count() == made
    for i in range(made):
        slider = scrubbers.nth(i).locator("input[type=range]")
        look = functools.partial(scrubbers.nth(i).locator("img").screenshot)
        words = scrubbers.nth(i).locator("output")
        slider.scroll_into_view_if_needed()
        last, label, where = look(), words.text_content(), tab.page.url
        slider.focus()
        tab.page.keyboard.press("ArrowLeft")
        assert words.text_content() == slider.get_attribute("aria-valuetext") != label
        tab.page.keyboard.press("Home")
        assert slider.input_value() == "0" and look() != last
        assert tab.page.url == where, "arrow keys must not turn the page here"
        drag(tab, slider, 0.03, 1.0)
        assert words.text_content() == label and look() == last
        drag(tab, slider, 0.97, 0.4)
        assert 0 < int(slider.input_value()) < int(slider.get_attribute("max")) and look() != last


def drag(tab, slider, start, end):
    """Drag the thumb with the mouse, and on a phone with a finger, from one part to another."""
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    points = [box["x"] + box["width"] * (start + (end - start) * i / 8) for i in range(9)]
    if tab.size == "phone":
        touch = tab.context.new_cdp_session(tab.page)
        for kind, x in [("touchStart", points[0]), *(("touchMove", x) for x in points)]:
            touch.send(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]}
            )
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        return
    tab.page.mouse.move(points[0], y)
    tab.page.mouse.down()
    for x in points:
        tab.page.mouse.move(x, y)
    tab.page.mouse.up()


def test_live_controls_show_a_picture_and_say_that_a_kernel_moves_them(tab):
    live = tab.page.locator(
        ".cell_output em", has_text="Run this cell in Colab to move the controls"
    )
    made = 0
    if tab.name in NOTEBOOKS:
        made = sum("plot.live(" in cell.source for cell in code_cells(tab.name))
    assert live.count() == made
    for i in range(made):
        picture = live.nth(i).locator("xpath=ancestor::*[contains(@class,'cell_output')]//img")
        assert picture.first.evaluate("image => image.naturalWidth") > 100


def test_axe_finds_nothing_serious(tab):
    """With the folds open; on the desktop in both themes. One formula and one coloured word of
    each kind stand for the thousands that would make this slow; so this comes last."""
    tab.page.evaluate(
        """() => {
            const seen = new Set();
            for (const e of document.querySelectorAll(".highlight pre span, mjx-container")) {
                const kind = e.tagName + e.className;
                if (seen.has(kind)) e.replaceWith(e.textContent);
                seen.add(kind);
            }
        }"""
    )
    tab.page.evaluate(axe.AXE_SCRIPT)
    found = {}
    for theme in ("light", "dark") if tab.size == "desktop" else ("light",):
        tab.theme(theme)
        found[theme] = tab.page.evaluate(
            """() => axe.run(document, {resultTypes: ["violations"]})
                .then(r => r.violations.filter(v => ["serious", "critical"].includes(v.impact))
                .map(v => [v.id, v.nodes.length, v.nodes[0].html, v.nodes[0].failureSummary]))"""
        )
    assert not any(found.values()), found


# In the files of the site.


@every_page
def test_links_lead_somewhere(page):
    tags = soup(page).select("[href], [src]")
    assert len(tags) > 30
    for tag in tags:
        target = urllib.parse.urljoin(f"http://site/{page}.html", tag.get("href") or tag.get("src"))
        parts = urllib.parse.urlsplit(target)
        if parts.netloc != "site":
            continue
        file = SITE / urllib.parse.unquote(parts.path).lstrip("/")
        assert file.is_file(), target
        if parts.fragment and file.suffix == ".html":
            name = urllib.parse.unquote(parts.fragment)
            html = soup(file.relative_to(SITE).with_suffix("").as_posix())
            assert html.find(id=name) or html.find(attrs={"name": name}), target


@every_notebook
def test_badge_and_launch_button_open_a_notebook_that_exists(page):
    url, branch = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
    colab = "https://colab.research.google.com/github/"
    links = [a["href"] for a in soup(page).select(f'a[href^="{colab}"]')]
    wanted = f"{colab}{url.split('github.com/')[1]}/blob/{branch}/{page}.ipynb"
    live = sum("plot.live(" in cell.source for cell in code_cells(page))
    assert links == [wanted] * (2 + live), "the launch button, the badge, each live control"
    (binder,) = soup(page).select('a[href^="https://mybinder.org"]')
    slug, name = url.split("github.com/")[1], Path(page).name
    place = f"v2/gh/{slug}/student?urlpath=lab%2Ftree%2F{name}.ipynb"
    assert binder["href"] == f"https://mybinder.org/{place}"
    assert (ROOT / f"{page}.ipynb").is_file()
    assert soup(page).select(f'a[href="{wanted}"] img[src="{BADGE}"]')


@every_notebook
def test_the_download_is_the_notebook(page):
    (link,) = soup(page).select("a.btn-download-source-button")
    file = (SITE / f"{page}.html").parent / link["href"]
    assert file.read_bytes() == (ROOT / f"{page}.ipynb").read_bytes()


@every_page
def test_previous_and_next_follow_the_order_of_the_book(page):
    i = PAGES.index(page)
    for css, neighbour in ((".left-prev", i - 1), (".right-next", i + 1)):
        links = [Path(a["href"]).stem for a in soup(page).select(f".prev-next-area {css}")]
        assert links == [Path(p).stem for p in PAGES[max(neighbour, 0) : neighbour + 1]]


@every_page
def test_previews_say_what_the_page_is_and_show_a_picture(page):
    site = site_address(CONFIG["repository"]["url"])
    meta = {tag["property"]: tag["content"] for tag in soup(page).select("meta[property]")}
    assert meta["og:site_name"] == CONFIG["title"]
    assert (
        meta["og:url"]
        == f"{site}{page}.html"
        == soup(page).select("link[rel=canonical]")[0]["href"]
    )
    assert meta["og:title"] != CONFIG["title"] and len(meta["og:title"]) > 3
    assert len(meta["og:description"]) > 40 and meta["og:image:alt"]
    assert meta["og:image"].startswith(site) and (SITE / meta["og:image"][len(site) :]).is_file()
    assert page not in NOTEBOOKS or Path(meta["og:image"]).stem == Path(page).name
    assert [m["content"] for m in soup(page).select("meta[name=description]")] == [
        meta["og:description"]
    ]


def test_the_landing_page_shows_every_notebook():
    pictures = {Path(img["src"]).stem for img in soup(LANDING).select("article img")}
    links = {Path(a["href"]).stem for a in soup(LANDING).select("article a[href]")}
    names = {Path(page).name for page in NOTEBOOKS}
    assert names <= pictures and names <= links


# In the browser, once.


def test_search_leads_to_a_section(browser, address):
    tab = Tab(browser, address, LANDING, "desktop")
    tab.page.keyboard.press("Control+k")
    tab.page.keyboard.type("contrastive divergence")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#search-results mark")
    section = "notebooks/05_energy_based_model.html#where-do-the-negative-samples-come-from"
    tab.page.locator(f'#search-results a[href$="{section}"]').click()
    tab.page.wait_for_url(f"**/{section}")
    assert tab.page.locator("h2", has_text="Where do the negative").bounding_box()["y"] < 300
    assert tab.said == [] and set(tab.blocked) <= {BADGE}
    tab.context.close()


def test_search_without_pagefind_finds_pages(browser, address):
    tab = Tab(browser, address, LANDING, "desktop")
    tab.context.route("**/pagefind/*", lambda route: route.abort())
    tab.page.goto(f"{address}/search.html?q=Tieleman")
    links = tab.page.locator("#search-results .search li a")
    links.first.wait_for()
    assert any("05_energy" in a.get_attribute("href") for a in links.all())
    tab.context.close()


def test_an_address_that_does_not_exist_leads_back(browser, address):
    page = browser.new_page()
    answer = page.goto(f"{address}{FOLDER}no/such/page.html")
    assert answer.status == 404 and "does not exist" in page.locator("article h1").inner_text()
    assert page.locator(".navbar-brand img").first.evaluate("image => image.naturalWidth") > 0
    page.locator("article a", has_text="first page").click()
    assert page.url == f"{address}{FOLDER}index.html"
    page.close()


def test_the_theme_is_the_readers_and_stays_as_set(browser, address):
    for system in ("light", "dark"):
        tab = Tab(browser, address, NOTEBOOKS[0], "desktop", color_scheme=system)
        theme = "document.documentElement.dataset.theme"
        assert tab.page.evaluate(theme) == system
        other = {"light": "dark", "dark": "light"}[system]
        tab.theme(other)
        tab.page.goto(f"{address}/{PAGES[-1]}.html")
        assert tab.page.evaluate(theme) == other
        tab.context.close()


def test_figures_stand_on_paper_in_the_dark(browser, address):
    """So that their dark ink can be read on the dark page."""
    tab = Tab(browser, address, NOTEBOOKS[1], "desktop", color_scheme="dark")
    for css in (".cell_output img", ".labkit-scrubber"):
        tab.page.locator(css).first.scroll_into_view_if_needed()
        box = tab.page.locator(css).first.bounding_box()
        corner = {"x": box["x"] + 3, "y": box["y"] + 3, "width": 2, "height": 2}
        picture = tab.page.screenshot(clip=corner)
        assert brightness(picture) > 150, css
    assert brightness(tab.page.screenshot(clip={"x": 640, "y": 5, "width": 2, "height": 2})) < 60
    tab.context.close()


def brightness(png: bytes) -> float:
    return ImageStat.Stat(Image.open(io.BytesIO(png)).convert("L")).mean[0]


if "LABKIT_SCREENSHOTS" in os.environ:

    def test_take_screenshots(browser, address):
        folder = Path(os.environ["LABKIT_SCREENSHOTS"])
        folder.mkdir(parents=True, exist_ok=True)
        for page in (LANDING, NOTEBOOKS[2], "pages/status", "pages/lecturers_guide"):
            for size in SIZES:
                for theme in ("light", "dark"):
                    tab = Tab(browser, address, page, size, color_scheme=theme)
                    name = f"{Path(page).name}-{size}-{theme}"
                    tab.page.screenshot(path=folder / f"{name}.png")
                    tab.page.screenshot(path=folder / f"{name}-full.png", full_page=True)
                    if tab.page.locator(".labkit-scrubber").count():
                        tab.page.locator(".labkit-scrubber").first.scroll_into_view_if_needed()
                        tab.page.screenshot(path=folder / f"{name}-scrubber.png")
                    tab.context.close()
