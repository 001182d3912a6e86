"""The weights of the website's page Live, trained as the notebooks train them.

`python -m tools.live` writes them all (about three minutes), or those named: pc, vae, ebm, digits.
`python -m tools.live picture` records README's animation from the built page.
"""

import functools
import http.server
import io
import shutil
import sys
import threading

import numpy as np
from labkit import data, live
from labkit.files import whole

from tools import ROOT
from tools.slice import definitions

FOLDER = ROOT / "pages" / "live"
PICTURE = ROOT / "pages" / "pictures" / "live.webp"
NOTEBOOKS = ROOT / "notebooks"


def pc() -> dict[str, np.ndarray]:
    """Notebook 02's repaired chain; refuses 8 bits that read worse by more than half a point."""
    made = definitions(
        NOTEBOOKS / "02_generative_pc.ipynb", "generator", "infer_many", "everything", "answer"
    )
    weights = {f"W{i}": np.asarray(W) for i, W in enumerate(made["generator"], start=1)}
    images, rounded = made["everything"], live.unpack(live.pack(weights))
    start = np.full((len(images), 10), 0.1, np.float32)
    accuracy = []
    for matrices in (weights, rounded):
        label = made["infer_many"]([*matrices.values()], start, images, 0.05, 100, 0.05)[0]
        accuracy.append(100 * np.mean(np.argmax(label, axis=1) == made["answer"]))
    print("reads {:.2f} % of {} test images, in 8 bits {:.2f} %".format(accuracy[0], len(images), accuracy[1]))
    if accuracy[0] - accuracy[1] > 0.5:
        raise SystemExit("The weights in 8 bits read too badly; nothing is written.")
    return weights


def vae() -> dict[str, np.ndarray]:
    """Notebook 04's decoder, and its readout from the code."""
    made = definitions(
        NOTEBOOKS / "04_variational_autoencoder.ipynb", "model", "coefficients", "intercepts"
    )
    return layers(made["model"].decoder, made)


def ebm() -> dict[str, np.ndarray]:
    """Notebook 05's recorded energy of all ten digits, and its readout."""
    made = definitions(
        NOTEBOOKS / "05_energy_based_model.ipynb", "ten_model", "coefficients", "intercepts"
    )
    return layers([*made["ten_model"].convolutions, *made["ten_model"].dense], made)


def layers(layers, made) -> dict[str, np.ndarray]:
    arrays = {"readout": made["coefficients"].T, "readout_bias": made["intercepts"]}
    for i, layer in enumerate(layers):
        arrays[f"W{i}"] = np.asarray(layer.weight).reshape(-1, layer.weight.shape[-1])
        arrays[f"b{i}"] = np.asarray(layer.bias).reshape(-1)
    return arrays


def digits() -> dict[str, np.ndarray]:
    """The first three test images of each class."""
    mnist = data.load("mnist")
    rows = np.concatenate([np.flatnonzero(mnist.test_labels == c)[:3] for c in range(10)])
    images = np.round(255 * data.flatten(mnist.test_images[rows]))
    return {"images": np.uint8(images), "labels": np.uint8(mnist.test_labels[rows])}


def main(names: list[str]) -> None:
    if data.load("mnist").name != "mnist":
        raise SystemExit("The page's weights are trained on MNIST, and it cannot be had here.")
    for name in names or ["pc", "vae", "ebm", "digits"]:
        with whole(FOLDER / f"live_{name}.npz") as file:
            file.write(live.pack({"pc": pc, "vae": vae, "ebm": ebm, "digits": digits}[name]()))


if __name__ == "__main__":
    main(sys.argv[1:])
