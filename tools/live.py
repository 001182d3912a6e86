"""The weights of the website's page Live, trained as the notebooks train them.

`python -m tools.live` writes them all (three minutes), or those named: pc, vae, ebm, digits;
`python -m tools.live picture` records README's animation from the built page.
"""

import functools
import io
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from labkit import data, live
from labkit.files import whole
from tools import ROOT, notebooks
from tools.slice import definitions

SCENES = [  # what the animation does, in JavaScript; steps in a frame; frames
    ("lab.ask('complete')", 3, 12),
    ("lab.rate = 0.2", 1, 10),
    ("lab.restart(); lab.rate = 0.05", 4, 6),
    ("lab.ask('sample')", 25, 10),
    ("await lab.open('vae'); lab.ask('sample')", 15, 12),
    ("await lab.open('ebm'); lab.chooseDigit(7); lab.ask('complete')", 2, 14),
]


def made(number: int, *names: str) -> dict:
    return definitions(notebooks()[number], *names)


def pc() -> dict[str, np.ndarray]:
    """Notebook 02's repaired chain; refused if in 8 bits it reads worse by half a point."""
    notebook = made(2, "generator", "infer_many", "everything", "answer")
    weights = {f"W{i}": np.asarray(W) for i, W in enumerate(notebook["generator"], start=1)}
    images, right, accuracy = notebook["everything"], notebook["answer"], []
    start = np.full((len(images), 10), 0.1, np.float32)
    for matrices in (weights, live.unpack(live.pack(weights))):
        read = notebook["infer_many"]([*matrices.values()], start, images, 0.05, 100, 0.05)[0]
        accuracy.append(100 * np.mean(np.argmax(read, axis=1) == right))
    print(f"reads {accuracy[0]:.2f} % of {len(right)} test images, in 8 bits {accuracy[1]:.2f} %")
    if accuracy[0] - accuracy[1] > 0.5:
        raise SystemExit("Rounded to 8 bits the chain reads too badly; nothing is written.")
    return weights


def vae() -> dict[str, np.ndarray]:
    """Notebook 04's decoder, and the readout of its code."""
    notebook = made(4, "model", "coefficients", "intercepts")
    readout = {"readout": notebook["coefficients"].T, "readout_bias": notebook["intercepts"]}
    return arrays(notebook["model"].decoder) | readout


def ebm() -> dict[str, np.ndarray]:
    """Notebook 05's energies of all ten digits, as recorded, with their levels."""
    ready = made(5, "ready")["ready"]
    network = ready.energy.network
    named = arrays([*network.convolutions, *network.dense])
    named["b4"] = named["b4"] + np.asarray(ready.levels)
    return named | {"temperature": np.asarray(ready.temperature).reshape(1)}


def arrays(layers: list) -> dict[str, np.ndarray]:
    named = {}
    for i, layer in enumerate(layers):
        named[f"W{i}"] = np.asarray(layer.weight).reshape(-1, layer.weight.shape[-1])
        named[f"b{i}"] = np.asarray(layer.bias).reshape(-1)
    return named


def digits() -> dict[str, np.ndarray]:
    """The first three test images of each class."""
    mnist = data.load("mnist")
    rows = np.concatenate([np.flatnonzero(mnist.test_labels == c)[:3] for c in range(10)])
    images = np.uint8(np.round(255 * data.flatten(mnist.test_images[rows])))
    return {"images": images, "labels": np.uint8(mnist.test_labels[rows])}


def picture() -> None:
    """Record README's animation from the built page, frame by frame."""
    from playwright.sync_api import sync_playwright

    site = functools.partial(SimpleHTTPRequestHandler, directory=ROOT / "_build" / "html")
    server = ThreadingHTTPServer(("127.0.0.1", 0), site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1024, "height": 1300}, reduced_motion="reduce")
        page.goto(f"http://127.0.0.1:{server.server_port}/pages/live.html")
        page.evaluate("window.lab = document.querySelector('.energy-lab').lab; lab.ready")
        page.evaluate("lab.still = lab.visible = false")  # it moves by the steps below alone
        frames = []
        for scene, steps, count in SCENES:
            page.evaluate(f"async () => {{ {scene}; }}")
            for _ in range(count):
                page.evaluate(f"for (let i = 0; i < {steps}; i++) lab.advance(); lab.draw();")
                shot = Image.open(io.BytesIO(page.locator(".energy-lab").screenshot()))
                frames.append(shot.convert("RGB").crop((0, 0, 768, 750)).resize((640, 625)))
    server.shutdown()
    look = {"append_images": frames[1:], "duration": 160, "quality": 40, "method": 6}
    with whole(ROOT / "pages" / "pictures" / "live.webp") as file:
        frames[0].save(file, "WEBP", save_all=True, **look)


if __name__ == "__main__":
    if sys.argv[1:] == ["picture"]:
        sys.exit(picture())
    if data.load("mnist").name != "mnist":
        raise SystemExit("The page's weights are trained on MNIST, and it cannot be had here.")
    for name in sys.argv[1:] or ["pc", "vae", "ebm", "digits"]:
        packed = live.pack({"pc": pc, "vae": vae, "ebm": ebm, "digits": digits}[name]())
        with whole(ROOT / "pages" / "live" / f"live_{name}.npz") as file:
            file.write(packed)
