"""Inference in the reader's browser: the website's page Live, for one's own weights.

All of it is live.js, in plain JavaScript; Python packs the weights and puts them beside it.
"""

import base64
import io
from importlib import resources

import numpy as np
from IPython.display import HTML, display

from labkit import plot
from labkit.files import setting


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz file: matrices in 8 bits, with a scale for each row, and all else as it is."""
    packed = {}
    for name, array in arrays.items():
        packed[name] = np.asarray(array)
        if array.ndim == 2 and array.dtype.kind == "f":
            scale = np.maximum(np.abs(array).max(axis=1), 1e-12).astype(np.float32) / 127
            packed[name] = np.round(array / scale[:, None]).astype(np.int8)
            packed[f"{name}_scale"] = scale
    file = io.BytesIO()
    np.savez(file, **packed)
    return file.getvalue()


def unpack(file: bytes) -> dict[str, np.ndarray]:
    """The arrays of `pack` as the browser uses them: what was rounded to 8 bits, as float32."""
    stored = dict(np.load(io.BytesIO(file)))
    scales = {name: stored.pop(name) for name in [*stored] if name.endswith("_scale")}
    return stored | {
        name.removesuffix("_scale"): stored[name.removesuffix("_scale")] * scale[:, None]
        for name, scale in scales.items()
    }


def chain(weights, images, labels) -> None:
    """Show notebook 02's chain of these weights, to draw on and infer with, in the browser.

    weights: matrices (out, in) from the label, 10, up to the image, 784; images (n, 784) in
    [0, 1] and labels (n,): what can be loaded. Under LABKIT_STATIC=1 what each label draws.
    """
    if setting("LABKIT_STATIC") == "1":
        drawn = np.eye(10, dtype=np.float32)
        for W in weights:
            drawn = np.maximum(drawn, 0) @ np.asarray(W).T
        plot.images(drawn, labels=range(10), title="Run this cell to infer with these weights",
                    alt="The ten digits that the weights draw from their labels.")  # fmt: skip
        return
    arrays = {f"W{i}": np.asarray(W) for i, W in enumerate(weights, start=1)}
    arrays["images"] = np.uint8(np.round(255 * np.asarray(images)))
    arrays["labels"] = np.uint8(labels)
    code, style = (resources.files("labkit.live").joinpath(f"live.{e}").read_text("utf-8")
                   for e in ("js", "css"))  # fmt: skip
    display(HTML(
        f'<div data-energy-lab="live" data-arrays="{base64.b64encode(pack(arrays)).decode()}">'
        f'</div><style>{style}</style><script type="module">{code}</script>'
    ))  # fmt: skip
