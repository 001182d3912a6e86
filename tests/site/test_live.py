"""The page Live in a real browser: its numbers are JAX's, and it does what its buttons say.

Like the rest of tests/site it needs the built site and LABKIT_SITE=1: run `make site-test`.
"""

import base64
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from labkit import live
from tests.site.test_site import SITE, Tab, address, axe  # noqa: F401
from tools import ROOT
from tools.slice import definitions

UPPER = np.repeat([1.0, 0.0], 392)
LAB = "document.querySelector('.energy-lab').lab"


@pytest.fixture(scope="module")
def quiet(browser, address):  # noqa: F811
    """The page as a reader sees it who wants no motion: nothing runs unless a test says so."""
    tab = Tab(browser, address, "pages/live", "desktop", reduced_motion="reduce")
    tab.page.evaluate(f"{LAB}.ready")
    yield tab
    assert tab.said == [] and tab.blocked == []
    tab.context.close()


@pytest.fixture
def page(browser, address, request):  # noqa: F811
    size = getattr(request, "param", "desktop")
    tab = Tab(browser, address, "pages/live", size)
    tab.page.evaluate(f"{LAB}.ready")
    yield tab.page
    assert tab.said == [] and tab.blocked == []
    tab.context.close()


def stored(name):
    return live.unpack((ROOT / "pages" / "live" / f"live_{name}.npz").read_bytes())


def lab(page, expression):
    return page.evaluate(f"(lab => {expression})({LAB})")


def slide(page, css, value):
    page.locator(css).evaluate(
        "(e, value) => { e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )


def state(page, wanted):
    page.wait_for_function(f"{LAB}.state === '{wanted}'", timeout=60_000)
    return page.inner_text(".el-words")


# The numbers.


def in_the_browser(page, model, arrays, question, start, rate, steps):
    """Where `steps` steps of live.js lead from `start`, in float64, and the energy before each."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return page.evaluate(
        """async ([model, file, q, start, rate, steps]) => {
            const live = await import("../_static/live.js");
            const bytes = Uint8Array.from(atob(file), c => c.charCodeAt(0));
            const energy = new live[model](live.readNpz(bytes.buffer));
            const question = {pixels: Float64Array.from(q.pixels), seen: Uint8Array.from(q.seen),
                              label: q.label};
            const u = Float64Array.from(start), energies = [];
            for (let i = 0; i < steps; i++)
                energies.push(live.step(energy, u, question, rate).energy);
            return [Array.from(u), energies];
        }""",
        [model, base64.b64encode(file.getvalue()).decode(), question, start.tolist(), rate, steps],
    )


def by_jax(energy, u, rate, steps, clip=np.inf, limit=np.inf, free=1.0):
    def step(u, _):
        value, gradient = jax.value_and_grad(energy)(u)
        return jnp.clip(u - rate * free * jnp.clip(gradient, -clip, clip), -limit, limit), value

    return jax.lax.scan(step, u, length=steps)


@pytest.fixture
def digit():
    digits = stored("digits")
    return digits["images"][6] / 255.0  # a 2


def test_200_steps_of_the_chain_are_those_of_notebook_02(quiet, digit):
    notebook = definitions(
        ROOT / "notebooks" / "02_generative_pc.ipynb", "infer", "top_down", "energy"
    )
    with jax.enable_x64(True):
        weights = [jnp.asarray(W, float) for W in stored("pc").values()]
        x = jnp.full((1, 10), 0.1)
        start = [*notebook["top_down"](weights, x)[:-1], jnp.asarray(digit[None])]
        begins = np.concatenate([z[0] for z in start[:-1]])
        end = notebook["infer"](weights, start, [0.05, 0.05, 0.05, 0.0], 200, jnp.asarray(UPPER))
        ends, last = (
            np.concatenate([z[0] for z in end[:-1]]),
            notebook["energy"](weights, end, UPPER),
        )
    question = {"pixels": digit.tolist(), "seen": UPPER.tolist(), "label": None}
    asked = {f"W{i}": np.float32(W) for i, W in enumerate(weights, 1)}, question, begins, 0.05
    _, energies = in_the_browser(quiet.page, "Chain", *asked, 201)
    u, _ = in_the_browser(quiet.page, "Chain", *asked, 200)
    assert np.abs(ends - begins).max() > 0.1
    np.testing.assert_allclose(u, ends, atol=1e-4)
    assert energies[-1] == pytest.approx(float(last), abs=1e-4)


def test_200_steps_on_the_code_descend_notebook_04s_energy(quiet, digit):
    arrays = stored("vae")

    def energy(z):
        a = z
        for i in range(3):
            a = jnp.asarray(arrays[f"W{i}"], float) @ a + arrays[f"b{i}"]
            a = jax.nn.relu(a) if i < 2 else a
        return 0.5 * z @ z - jnp.sum(UPPER * (digit * a - jax.nn.softplus(a)))

    with jax.enable_x64(True):
        start = jax.random.normal(jax.random.key(0), (40,))
        end, values = by_jax(energy, start, 0.002, 200)
        question = {"pixels": digit.tolist(), "seen": UPPER.tolist(), "label": None}
        u, energies = in_the_browser(quiet.page, "Code", arrays, question, start, 0.002, 200)
        np.testing.assert_allclose(u, end, atol=1e-4)
        np.testing.assert_allclose(energies, values, rtol=1e-6)


@pytest.mark.parametrize("label", [None, 7])
def test_its_chains_on_images_are_notebook_05s(quiet, digit, label):
    notebook = definitions(
        ROOT / "notebooks" / "05_energy_based_model.ipynb", "LabelledEnergy", "WithLevels"
    )
    arrays = stored("ebm")
    with jax.enable_x64(True):
        model = notebook["LabelledEnergy"](key=jax.random.key(0))
        network = model.network
        for i, layer in enumerate([*network.convolutions, *network.dense]):
            object.__setattr__(layer, "weight", jnp.asarray(arrays[f"W{i}"], float))
            object.__setattr__(layer, "bias", jnp.asarray(arrays[f"b{i}"], float))
        ready = notebook["WithLevels"](model, jnp.zeros(10), jnp.ones(()))
        many = ready.many if label is None else model.many
        given = 1.0 if label is None else jnp.array([label])
        energy = lambda x: many(x[None], given)[0]  # noqa: E731
        start = jnp.where(UPPER == 1, 2 * digit - 1, jax.random.uniform(jax.random.key(1), (784,)))
        end, values = by_jax(energy, start, 10.0, 100, 0.03, 1.0, 1 - UPPER)
        question = {"pixels": digit.tolist(), "seen": UPPER.tolist(), "label": label}
        u, energies = in_the_browser(quiet.page, "Energy", arrays, question, start, 10.0, 100)
        assert energies[0] > 1 > energies[-1]
        np.testing.assert_allclose(energies, values, atol=1e-4)
        np.testing.assert_allclose(u, end, atol=1e-4)


def test_the_limit_is_two_over_the_largest_curvature(quiet):
    """Of the chain's Hessian J'J, where J is what the errors change by; found by NumPy."""
    lab(quiet.page, "lab.ask('read')")
    for _ in range(40):
        lab(quiet.page, "lab.findLimit()")
    W1, W2, W3 = (np.float64(W) for W in stored("pc").values())
    u = np.array(lab(quiet.page, "Array.from(lab.u)"))
    on = u > 0
    J = np.block([
        [-W1, np.eye(64), np.zeros((64, 256))],
        [np.zeros((256, 10)), -W2, np.eye(256)],
        [np.zeros((784, 74)), -W3],
    ])  # fmt: skip
    gate = np.where(on, 1.0, 0.0)
    J = np.where(np.abs(J) == 0, 0, J)
    J[:64, :10] *= gate[:10]
    J[64:320, 10:74] *= gate[10:74]
    J[320:, 74:] *= gate[74:]
    limit = 2 / np.linalg.eigvalsh(J.T @ J).max()
    assert lab(quiet.page, "lab.limit") == pytest.approx(limit, rel=0.03)


# What a reader does.


def test_it_waits_for_a_reader_who_wants_no_motion_and_steps(quiet):
    page = quiet.page
    page.click("[data-ask=complete]")
    page.wait_for_timeout(300)
    assert lab(page, "lab.steps") == 0
    assert page.inner_text("[data-do=run]") == "Run"
    page.click("[data-do=step]")
    assert lab(page, "lab.steps") == 1 and lab(page, "lab.running") is False
    assert page.inner_text(".el-words").startswith("Stopped at step 1, energy ")


@pytest.mark.parametrize("page", ["desktop", "phone"], indirect=True)
def test_a_stroke_is_drawn_and_read(page):
    page.click("[data-do=clear]")
    page.locator(".el-seen").scroll_into_view_if_needed()
    box = page.locator(".el-seen").bounding_box()
    finger = page.context.new_cdp_session(page) if page.viewport_size["width"] < 500 else None
    for i in range(9):
        x, y = (
            box["x"] + box["width"] * (14 - i / 8) / 28,
            box["y"] + box["height"] * (5 + 17 * i / 8) / 28,
        )
        if finger:
            kind = "touchMove" if i else "touchStart"
            finger.send(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]}
            )
            continue
        page.mouse.move(x, y)
        page.mouse.down()
    if finger:
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.mouse.up()
    ink = np.array(lab(page, "Array.from(lab.pixels)")).reshape(28, 28)
    assert ink[5:22, 12:16].max(axis=1).min() > 0.9, "a line without gaps"
    assert ink[:, :10].max() == 0 and ink[:, 18:].max() == 0
    assert "Reads 1" in state(page, "settled")


def test_the_keyboard_draws_hides_and_turns_no_page(page):
    page.click("[data-do=clear]")
    where = page.url
    page.focus(".el-seen")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    ink = np.array(lab(page, "Array.from(lab.pixels)")).reshape(28, 28)
    assert ink[14, 13] == ink[15, 13] == 1 and ink[10].max() == 0
    assert page.inner_text(".el-cursor") == "row 16, column 14: ink 100 percent"
    page.locator(".el-brush [value=hide]").check()
    page.focus(".el-seen")
    page.keyboard.press("Space")
    assert lab(page, "lab.seen[15 * 28 + 13]") == 0
    assert page.url == where


@pytest.mark.parametrize("model", ["pc", "vae", "ebm"])
def test_half_an_image_is_completed(page, model):
    page.locator(f".el-model [value={model}]").check()
    page.wait_for_function(f"{LAB}.key === '{model}'")
    page.click("[data-digit='7']")
    page.click("[data-ask=complete]")
    page.wait_for_function(f"{LAB}.steps > 60", timeout=120_000)
    image = np.array(lab(page, "Array.from(lab.now.image)"))
    pixels = np.array(lab(page, "Array.from(lab.pixels)"))
    np.testing.assert_allclose(image[:392], pixels[:392], atol=1e-6)
    black, guess = np.mean(pixels[392:] ** 2), np.mean((image - pixels)[392:] ** 2)
    assert guess < black or model == "ebm", "its chain may end in another digit"
    assert np.ptp(image[392:]) > 0.5
    assert lab(page, "lab.trace.at(-1) < 0.5 * lab.trace[0]")


def test_above_the_limit_it_does_not_settle_and_below_it_does(page):
    state(page, "settled")
    limit = lab(page, "lab.limit")
    assert 0.05 < limit < 0.1
    slide(page, ".el-rate", lab(page, "Math.log(0.12 / 0.005) / Math.log(600)"))
    words = state(page, "above")
    assert re.match(r"The rate 0\.1\d+ went above the limit 0\.0\d+: ", words)
    before = lab(page, "lab.steps")
    page.wait_for_function(f"{LAB}.steps > {before + 100}")
    energies = np.array(lab(page, "lab.trace.slice(-60)"))
    assert np.abs(np.diff(energies)).max() > 0.1, "it jumps"
    slide(page, ".el-rate", 1)
    assert state(page, "exploded") == "The energy exploded: the rate 3 is far above the limit."
    assert lab(page, "lab.trace.at(-1)") > 1e12
    page.click("[data-do=recover]")
    assert state(page, "settled").startswith("Settled after ")
    assert lab(page, "lab.rate < lab.limit && lab.trace.at(-1) < 2")


def test_units_thrown_below_zero_stay_there_until_it_starts_again(page):
    slide(page, ".el-rate", 0.75)
    page.wait_for_function(f"{LAB}.steps > 30")
    assert "hidden units were thrown below zero" in state(page, "off")
    slide(page, ".el-rate", 0.3)
    assert "Reads" in state(page, "settled")


@pytest.mark.parametrize("model", ["pc", "vae", "ebm"])
def test_noise_moves_what_had_come_to_rest(page, model):
    page.locator(f".el-model [value={model}]").check()
    page.wait_for_function(f"{LAB}.key === '{model}'")
    page.click("[data-ask=sample]")
    seen = []
    for _ in range(3):
        steps = lab(page, "lab.steps")
        page.wait_for_function(f"{LAB}.steps > {steps + 40}", timeout=120_000)
        seen.append(lab(page, "Array.from(lab.u)"))
    assert np.abs(np.diff(seen, axis=0)).max(axis=1).min() > 0.005
    assert "noise keeps it moving" in page.inner_text(".el-words")


def test_it_rests_while_it_is_out_of_sight(page):
    page.click("[data-ask=sample]")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function(f"{LAB}.visible === false")
    page.wait_for_timeout(100)
    steps = lab(page, "lab.steps")
    page.wait_for_timeout(400)
    assert lab(page, "lab.steps") == steps
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function(f"{LAB}.steps > {steps}")


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("model", ["pc", "vae", "ebm"])
def test_every_model_fits_and_axe_finds_nothing(browser, address, size, model):  # noqa: F811
    page = Tab(
        browser, address, "pages/live", size
    ).page  # axe's own requests fail, and that is well
    page.locator(f".el-model [value={model}]").check()
    page.wait_for_function(f"{LAB}.key === '{model}'")
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.evaluate(axe.AXE_SCRIPT)
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        page.wait_for_timeout(400)
        found = page.evaluate(
            "axe.run('.energy-lab', {resultTypes: ['violations']}).then(r => "
            "r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html]))"
        )
        assert found == []
    for link in page.eval_on_selector_all(".el-links a", "all => all.map(a => a.href)"):
        file, name = link.split("/notebooks/")[1].split("#")
        assert f'id="{name}"' in (SITE / "notebooks" / file).read_text("utf-8"), link
    page.context.close()


# Small, and elsewhere.


def test_the_small_one_asks_and_answers(page):
    page.evaluate(
        """() => {
            document.querySelector("article").innerHTML =
                '<h1>Small</h1><div data-energy-lab="live" data-size="small"></div>';
            return import("../_static/live.js?small");
        }"""
    )
    page.wait_for_function(f"{LAB}?.u")
    page.click("[data-ask=generate]")
    page.click("[data-digit='8']")
    assert "clamped to 8" in page.inner_text(".el-words")
    assert lab(page, "lab.label") == 8
    for css in (".el-model", ".el-controls", ".el-maths", ".el-brush", ".el-label"):
        assert not page.locator(css).is_visible()
    for css in (".el-seen", ".el-bars canvas", ".el-picture canvas", ".el-trace canvas"):
        assert page.locator(css).first.is_visible()


def test_all_of_it_is_light():
    files = [*(ROOT / "pages" / "live").glob("*.npz"), *(ROOT / "labkit" / "live").glob("live.*")]
    assert len(files) == 6 and sum(file.stat().st_size for file in files) < 1_500_000
    assert "http" not in (ROOT / "labkit" / "live" / "live.js").read_text("utf-8")


def test_a_notebook_shows_the_readers_own_weights(browser, capsys, monkeypatch):  # noqa: F811
    """Without a server or a network, from the output's HTML alone."""
    shown = []
    monkeypatch.setattr(live, "display", shown.append)
    digits, weights = stored("digits"), [*stored("pc").values()]
    live.chain(weights, digits["images"][:4] / 255, digits["labels"][:4])
    page = browser.new_page()
    page.set_content(f"<h1>A notebook</h1>{shown[0].data}")
    page.wait_for_function(f"{LAB}?.u")
    assert "Reads" in state(page, "settled")
    picture = Image.open(io.BytesIO(page.locator(".energy-lab").screenshot()))
    assert picture.width > 300
    page.close()
