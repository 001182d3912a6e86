"""Every figure of the book: image grids, curves, energy traces, scrubbers, live controls.

Figures stand on an opaque paper-coloured card, so they read the same on a light and a dark page.
Each carries alternative text, which travels in the notebook as the picture's `alt` metadata.
"""

import base64
import hashlib
import html
import io
import json
import math
import string
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import resources

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import display, update_display
from IPython.utils.capture import capture_output
from jaxtyping import Float
from matplotlib import rc_params_from_file
from matplotlib.figure import Figure
from PIL import Image

from labkit import files

FILES = resources.files("labkit")
STYLE = rc_params_from_file(str(FILES.joinpath("labkit.mplstyle")), use_default_template=False)
COLOURS = STYLE["axes.prop_cycle"].by_key()["color"]
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = COLOURS
PAPER = STYLE["figure.facecolor"]
DIVERGED = 1e4  # an energy this many times the first one has exploded
LABEL = 0.22  # inches above an image for its label


def use_style() -> None:
    """Set matplotlib's defaults to the book's one style, `labkit/labkit.mplstyle`."""
    plt.rcParams.update(STYLE)


def show(figure: Figure, *, alt: str) -> None:
    """Display a matplotlib figure with alternative text, and close it."""
    _display(_small_png(_pixels(figure)), alt)


def show_png(picture: bytes, *, alt: str) -> None:
    """Display a PNG file's bytes with alternative text."""
    _display(base64.b64encode(picture).decode(), alt)


def _display(png: str, alt: str, **more) -> None:
    """Show a base64 PNG, with `more` for viewers that take it; outside IPython, only its words."""
    words = f"[figure: {alt}]"
    if get_ipython() is None:
        print(words)
        return
    data = {"image/png": png, "text/plain": words} | more
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def _pixels(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def _small_png(picture: Image.Image) -> str:
    """A PNG of at most 256 colours, base64: half the size, exact for images in grey."""
    buffer = io.BytesIO()
    palette = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def montage(images: Float[np.ndarray, "n height width"], columns: int, *, gap: int = 1):
    """Lay n images out in rows of `columns`, `gap` pixels of NaN between: (rows·h, columns·w)."""
    images = np.asarray(images, dtype=np.float32)
    if images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        images = images.reshape(len(images), math.isqrt(images.shape[1]), -1)
    if images.ndim != 3:
        raise ValueError(
            f"images have shape {images.shape}; give (n, height, width), or (n, side²) for squares."
        )
    n, height, width = images.shape
    rows = math.ceil(n / columns)
    sheet = np.full((rows, columns, height + gap, width + gap), np.nan, dtype=np.float32)
    sheet.reshape(rows * columns, height + gap, width + gap)[:n, :height, :width] = images
    sheet = sheet.transpose(0, 2, 1, 3).reshape(rows * (height + gap), columns * (width + gap))
    return sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]


def images(
    images: Float[np.ndarray, "n height width"],
    *,
    alt: str,
    title: str = "",
    labels: Sequence[str] | None = None,
    columns: int = 10,
    limits: tuple[float, float] = (0.0, 1.0),
    scale: float = 0.75,
) -> None:
    """Show n images, (n, h, w) or flattened squares (n, side²), in a grid; `labels` above each.

    `limits` are the values drawn black and white; `scale` is the size of one image in inches.
    """
    images = np.asarray(images)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    room = 1.0 if labels is None else 1.0 + LABEL / scale
    figure, axes = plt.subplots(figsize=(scale * columns, scale * rows * room))
    draw_images(axes, images, labels=labels, columns=columns, limits=limits)
    axes.set_title(title)
    show(figure, alt=alt)


def draw_images(axes, images, *, labels=None, columns=10, limits=(0.0, 1.0)) -> None:
    """Draw a grid of images into one matplotlib axes; see `images`."""
    columns = min(columns, len(images))
    tiles = montage(images, 1, gap=0)
    tiles = tiles.reshape(len(images), -1, tiles.shape[1])
    if labels is not None:  # room above each image, and no more than its own label needs
        side = tiles.shape[-1]
        inches = axes.get_window_extent().width / axes.figure.dpi / columns
        room = round(LABEL * side / inches)
        tiles = np.pad(tiles, ((0, 0), (room, 0), (0, 0)), constant_values=np.nan)
        for i, label in enumerate(labels):
            row, column = divmod(i, columns)
            corner = (column * (side + 1) + side / 2, row * (tiles.shape[1] + 1) + room - 0.5)
            axes.annotate(
                str(label), corner, xytext=(0, 2), textcoords="offset points", fontsize=8,
                ha="center", va="bottom",
            )  # fmt: skip
    colours = plt.get_cmap("gray").with_extremes(bad=PAPER)
    sheet = montage(tiles, columns)
    axes.imshow(sheet, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axes.set_axis_off()


def curves(
    lines: dict[str, np.ndarray | tuple[np.ndarray, np.ndarray]],
    *,
    alt: str,
    title: str,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    size: tuple[float, float] = (6.0, 3.2),
) -> None:
    """Plot named curves, each y or (x, y); `log` makes the y axis logarithmic."""
    figure, axes = plt.subplots(figsize=size)
    for style, (name, line) in zip(_styles(), lines.items(), strict=False):
        x, y = line if isinstance(line, tuple) else (np.arange(1, len(line) + 1), line)
        axes.plot(x, y, style, label=name)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if log:
        axes.set_yscale("log")
    if len(lines) > 1:
        axes.legend()
    show(figure, alt=alt)


def _styles():
    """Line styles that tell curves apart in grey too."""
    return ["-", "--", "-.", ":"] * 8


def energies(
    traces: Float[np.ndarray, "steps layers"],
    *,
    alt: str,
    title: str = "Energy of each layer during inference",
    xlabel: str = "inference step",
    log: bool = True,
) -> None:
    """Plot the energy of each layer, and their sum, over inference steps."""
    traces = np.asarray(traces, dtype=float)
    steps, total = np.arange(len(traces)), traces.sum(axis=1)
    lines = {f"layer {i + 1}": traces[:, i] for i in range(traces.shape[1])} | {"sum": total}
    first = next(iter(total[(total > 0) & np.isfinite(total)]), 0.0)
    cap = DIVERGED * first or np.inf
    end = next(iter(steps[~(total <= cap)]), len(steps))
    if end < len(steps):
        title, alt = f"{title}\ndiverged at step {end}", f"{alt} Diverged at step {end}."
        lines = {k: np.where(steps > end, np.nan, np.fmin(y, cap)) for k, y in lines.items()}
    if log:  # a layer without error has no place on a logarithmic axis
        lines = {k: np.where(y > 1e-5 * first, y, np.nan) for k, y in lines.items()}
    curves({name: (steps, y) for name, y in lines.items()}, alt=alt, title=title, xlabel=xlabel,
           ylabel="energy", log=log)  # fmt: skip


def scrubber(
    frames: Sequence[Figure] | Float[np.ndarray, "frames height width"],
    *,
    alt: str,
    labels: Sequence[str],
    title: str = "",
    limits: tuple[float, float] = (0.0, 1.0),
    width: int | None = None,
) -> None:
    """Show frames with a slider that needs neither kernel nor network; arrow keys move it.

    `frames` are matplotlib figures of one size or an array of pictures (frames, h, w); `labels`
    say what each is, to eye and screen reader; `width` is the width on the page in CSS pixels.
    The last frame stands for all: the slider begins there, and a viewer that runs no scripts
    (an untrusted notebook, GitHub, a PDF) shows it alone, and a sentence in the slider's place.
    """
    pictures = [_frame(frame, limits) for frame in frames]
    if len(pictures) < 2 or len(labels) != len(pictures):
        raise ValueError(
            f"{len(pictures)} frames and {len(labels)} labels; give 2 or more of both."
        )
    if len({picture.size for picture in pictures}) > 1:
        raise ValueError("all frames must have the same size")
    wide, high = pictures[0].size
    if high * len(pictures) > 16383:  # WebP's limit
        raise ValueError(f"{len(pictures)} frames of {high} pixels are over 16,383: give fewer")
    sprite = Image.new("RGB", (wide, high * len(pictures)))
    for i, picture in enumerate(pictures):
        sprite.paste(picture, (0, i * high))
    buffer = io.BytesIO()
    sprite.save(buffer, format="webp", lossless=True)  # a tenth of a PNG: frames are much alike
    last, labels = _small_png(pictures[-1]), [str(label) for label in labels]
    texts = {"alt": alt, "title": title, "label": labels[-1]}
    page = string.Template(FILES.joinpath("scrubber.html").read_text("utf-8")).substitute(
        {name: html.escape(text) for name, text in texts.items()},
        name=f"labkit-{hashlib.sha256(buffer.getvalue()).hexdigest()[:12]}",
        width=width or wide,
        height=round((width or wide) * high / wide),
        paper=PAPER,
        smooth="auto" if isinstance(frames[0], Figure) else "pixelated",
        picture=last,
        frames=base64.b64encode(buffer.getvalue()).decode(),
        labels=json.dumps(labels).replace("<", r"\u003c"),
    )
    _display(last, alt, **{"text/html": page})


def _frame(frame, limits: tuple[float, float]) -> Image.Image:
    if isinstance(frame, Figure):
        frame.set_layout_engine("tight")
        with plt.rc_context({"savefig.bbox": None}):  # uncropped: all frames of one size
            return _pixels(frame)
    low, high = limits
    grey = np.clip((np.nan_to_num(np.asarray(frame), nan=high) - low) / (high - low), 0, 1)
    return Image.fromarray((255 * grey).astype(np.uint8)).convert("RGB")


def live(draw: Callable[..., None], **controls) -> None:
    """Redraw with `draw(**values)` whenever one of the ipywidgets in `controls` moves.

    The picture is an output of its own, brought up to date in place, so the notebook keeps the one
    that the reader saw last, also where the controls are gone. Under LABKIT_STATIC=1 (set when the
    stored outputs are made) there are none. Works with ipywidgets 7.7 and 8.
    """
    import ipywidgets as widgets

    values = lambda: {name: control.value for name, control in controls.items()}
    if get_ipython() is None:
        return draw(**values())
    data, about = _shot(draw, values())
    # Colab's page surely redraws only what is in a widget.
    screen = [widgets.Output()] if "google.colab" in sys.modules else []
    box = widgets.VBox([*controls.values(), *screen])

    def put(data, about):
        if screen:
            output = {"output_type": "display_data", "data": data, "metadata": about}
            screen[0].outputs = (output,)
        else:
            update_display(data, metadata=about, raw=True, display_id=box.model_id)

    def redraw(_):
        try:
            put(*_shot(draw, values()))
        except Exception:  # which a control's callback would tell no one
            put({"text/plain": traceback.format_exc(limit=-1)}, {})

    view = {}
    if files.setting("LABKIT_STATIC") != "1":
        for name, control in controls.items():
            control.description = control.description or name
            control.style.description_width = "initial"
            control.continuous_update = False
            control.observe(redraw, "value")
        model = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
        view = {"application/vnd.jupyter.widget-view+json": model}
    if screen:
        put(data, about)
        display(data | view, metadata=about, raw=True)
    else:
        words = "Run this cell to move the controls."
        display({"text/plain": words, "text/html": f"<em>{words}</em>"} | view, raw=True)
        display(data, metadata=about, raw=True, display_id=box.model_id)


def _shot(draw: Callable[..., None], values: dict) -> tuple[dict, dict]:
    """The last output that `draw` shows, data and metadata, below what it prints."""
    with capture_output() as shown:
        draw(**values)
    if not shown.outputs:
        return {"text/plain": shown.stdout}, {}
    data, about = shown.outputs[-1].data, shown.outputs[-1].metadata
    if shown.stdout:
        alt = html.escape(about["image/png"]["alt"])
        picture = f'<img src="data:image/png;base64,{data["image/png"]}" alt="{alt}">'
        data = data | {"text/html": f"<pre>{html.escape(shown.stdout)}</pre>{picture}"}
    return data, about
