"""Every figure of the book: image grids, curves, energy traces, scrubbers, live controls.

Figures stand on an opaque paper-coloured card, so they read the same on a light and a dark page.
Each carries alternative text, which travels in the notebook as the picture's `alt` metadata.
"""

import base64
import html
import io
import math
import os
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours, which colour-blind readers can tell apart (yellow left out: too pale).
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222",
)  # fmt: skip
PAPER = "#fcfcfa"


def use_style() -> None:
    """Set matplotlib's defaults to the book's one style."""
    plt.rcParams.update(
        {
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "figure.dpi": 100,
            "savefig.bbox": "tight",
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "axes.axisbelow": True,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "font.size": 10,
            "legend.frameon": False,
            "image.cmap": "gray",
            "lines.linewidth": 1.8,
        }
    )


def show(figure: Figure, *, alt: str) -> None:
    """Display a matplotlib figure with alternative text, and close it."""
    display(_png(figure), metadata={"image/png": {"alt": alt}}, raw=True)


def show_png(picture: bytes, *, alt: str) -> None:
    """Display a PNG file's bytes with alternative text; IPython 7, as on Colab, has no `alt`."""
    data = {"image/png": base64.b64encode(picture).decode(), "text/plain": "<Figure>"}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def _png(figure: Figure) -> dict[str, object]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return {"image/png": _small_png(Image.open(buffer)), "text/plain": "<Figure>"}


def _small_png(picture: Image.Image) -> str:
    """A PNG of 256 colours, base64: a third of the size, and no difference to the eye."""
    buffer = io.BytesIO()
    palette = picture.convert("RGB").quantize(
        256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    )
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
    figure, axes = plt.subplots(
        figsize=(scale * columns, scale * rows * (1.28 if labels is not None else 1.0))
    )
    draw_images(axes, images, labels=labels, columns=columns, limits=limits)
    axes.set_title(title)
    show(figure, alt=alt)


def draw_images(axes, images, *, labels=None, columns=10, limits=(0.0, 1.0)) -> None:
    """Draw a grid of images into one matplotlib axes; see `images`."""
    columns = min(columns, len(images))
    side = np.shape(images)[-1] if np.ndim(images) == 3 else math.isqrt(np.shape(images)[-1])
    gap = 1 if labels is None else round(0.28 * side)
    sheet = montage(images, columns, gap=gap)
    if labels is not None:  # room for the first row's labels
        sheet = np.pad(sheet, ((gap, 0), (0, 0)), constant_values=np.nan)
        for i, label in enumerate(labels):
            row, column = divmod(i, columns)
            axes.text(
                column * (side + gap) + side / 2, row * (side + gap) + gap - 1.5, str(label),
                ha="center", va="bottom", fontsize=8,
            )  # fmt: skip
    colours = plt.get_cmap("gray").with_extremes(bad=PAPER)
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
    traces = np.asarray(traces)
    steps = np.arange(len(traces))
    lines = {f"layer {i + 1}": (steps, traces[:, i]) for i in range(traces.shape[1])}
    lines["sum"] = (steps, traces.sum(axis=1))
    if log:  # a layer without error has no place on a logarithmic axis
        floor = 1e-5 * traces.sum(axis=1).max()
        lines = {name: (x, np.where(y > floor, y, np.nan)) for name, (x, y) in lines.items()}
    curves(lines, alt=alt, title=title, xlabel=xlabel, ylabel="energy", log=log)


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
    """
    pictures = [_pixels(frame, limits) for frame in frames]
    if len(pictures) < 2 or len(labels) != len(pictures):
        raise ValueError(
            f"{len(pictures)} frames and {len(labels)} labels; give 2 or more of both."
        )
    if len({picture.size for picture in pictures}) > 1:
        raise ValueError("all frames must have the same size")
    wide, high = pictures[0].size
    sprite = Image.new("RGB", (wide, high * len(pictures)))
    for i, picture in enumerate(pictures):
        sprite.paste(picture, (0, i * high))
    last = len(pictures) - 1
    text = html.escape(alt, quote=True)
    names = html.escape("|".join(str(label).replace("|", "/") for label in labels), quote=True)
    move = (
        f"var n=this.dataset.labels.split('|'),p=this.parentNode;"
        f"p.querySelector('[role=img]').style.backgroundPosition='0 '+(100*this.value/{last})+'%';"
        "p.querySelector('output').textContent=n[this.value];"
        "this.setAttribute('aria-valuetext',n[this.value]);"
    )
    smooth = "auto" if isinstance(frames[0], Figure) else "pixelated"
    display(
        HTML(
            f'<div class="labkit-scrubber" style="max-width:{width or wide}px;background:{PAPER};'
            'color:#222;padding:.5em .7em;border-radius:4px;font:14px/1.5 sans-serif">'
            + (f'<div style="font-weight:600">{html.escape(title)}</div>' if title else "")
            + f'<div role="img" aria-label="{text}" style="width:100%;aspect-ratio:{wide}/{high};'
            f"background:url(data:image/png;base64,{_small_png(sprite)}) "
            f'0 0/100% {100 * len(pictures)}%;image-rendering:{smooth}"></div>'
            f'<input type="range" min="0" max="{last}" value="0" data-labels="{names}" '
            f'aria-label="{html.escape(title or alt, quote=True)}" '
            f'aria-valuetext="{html.escape(str(labels[0]), quote=True)}" '
            f'oninput="{move}" style="width:100%;margin:.4em 0 0">'
            f"<output>{html.escape(str(labels[0]))}</output></div>"
        )
    )


def _pixels(frame, limits: tuple[float, float]) -> Image.Image:
    if isinstance(frame, Figure):
        frame.set_layout_engine("tight")
        buffer = io.BytesIO()
        with plt.rc_context({"savefig.bbox": None}):  # uncropped: all frames of one size
            frame.savefig(buffer, format="png")
        plt.close(frame)
        return Image.open(buffer).convert("RGB")
    low, high = limits
    grey = np.clip((np.nan_to_num(np.asarray(frame), nan=high) - low) / (high - low), 0, 1)
    return Image.fromarray((255 * grey).astype(np.uint8)).convert("RGB")


def live(draw: Callable[..., None], **controls) -> None:
    """Redraw with `draw(**values)` whenever one of the ipywidgets in `controls` moves.

    Under LABKIT_STATIC=1 (set when the stored outputs are made) it draws once, for readers
    without a kernel. Works with ipywidgets 7.7 and 8.
    """
    import ipywidgets as widgets

    if os.environ.get("LABKIT_STATIC") == "1":
        draw(**{name: control.value for name, control in controls.items()})
        display(HTML("<em>Run this notebook in a kernel to move the controls.</em>"))
        return
    for name, control in controls.items():
        control.description = control.description or name
        control.style.description_width = "initial"
        control.continuous_update = False
    picture = widgets.interactive_output(draw, controls)
    display(widgets.VBox([*controls.values(), picture]))
