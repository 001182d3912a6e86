"""The same questions for every model, about the same test images: what notebook 07 compares.

    answers = questions.ask(model, classify=..., draw=..., complete=..., energy=...)
    questions.report(answers)
    answers.save("pc", **answers)

A model that cannot answer a question leaves it out.
"""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from labkit import data
from labkit.compare import judge

READ = 1000  # images to damage, to read off a code and to give an energy, if there are so many
DRAWN = 500  # images to draw and to complete
STRENGTHS = {  # how `damaged` spoils an image: standard deviation; pixels each way; pixels wide
    "noise": (0.25, 0.5, 0.75),
    "shift": (1, 2, 4),
    "square": (8, 12, 16),
}


class Questions(NamedTuple):
    """Test images as rows (n, 784) in [0, 1], their labels, the mask of the upper half (784,), and
    by name as many images each of what is no digit; the images damaged, by kind and strength."""

    images: np.ndarray
    labels: np.ndarray
    seen: np.ndarray
    others: dict[str, np.ndarray]
    damaged: dict[str, np.ndarray]


@functools.cache
def questions() -> Questions:
    """What `ask` asks about: the same for every model on one dataset, taken evenly from its test
    images. What is no digit: noise; the pixels of a digit in any order; the upper half of a digit
    above the lower half of another; letters; and Fashion-MNIST if it is in the data folder."""
    digits = data.load("mnist")
    stride = max(1, len(digits.test_labels) // READ)
    images = data.flatten(digits.test_images)[::stride][:READ]
    labels = digits.test_labels[::stride][:READ]
    random = np.random.default_rng(0)
    other = images[[random.choice(np.flatnonzero(labels != label)) for label in labels]]
    others = {
        "uniform noise": random.uniform(size=images.shape).astype(np.float32),
        "shuffled pixels": random.permuted(images, axis=1),
        "swapped halves": np.concatenate([images[:, :392], other[:, 392:]], axis=1),
        "letters": letters(len(images), random),
    }
    if fashion := data.stored("fashion_mnist"):
        others["Fashion-MNIST"] = data.flatten(fashion.test_images)[: len(images)].copy()
    seen = np.repeat([1.0, 0.0], 392).astype(np.float32)
    spoilt = {f"{kind} {strength}": damaged(images, kind, strength, random)
              for kind, strengths in STRENGTHS.items() for strength in strengths}  # fmt: skip
    return Questions(images, labels, seen, others, spoilt)


def letters(n: int, random: np.random.Generator) -> np.ndarray:
    """Letters in Matplotlib's typefaces, turned a little; none that might pass for a digit."""
    names = "DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"
    fonts = [ImageFont.truetype(font_manager.findfont(name), 24) for name in names]
    drawn = np.zeros((n, 28, 28), np.float32)
    for image, letter in zip(drawn, random.choice([*"ACEFHJKMNPRTUVWXYdefhkmnprtvwx"], n)):
        canvas, font = Image.new("L", (28, 28)), fonts[random.integers(len(fonts))]
        ImageDraw.Draw(canvas).text((14, 14), letter, 255, font, anchor="mm")
        image[:] = np.asarray(canvas.rotate(random.uniform(-15, 15), Image.Resampling.BILINEAR))
    return drawn.reshape(n, 784) / 255


def damaged(images: np.ndarray, kind: str, strength: float, random) -> np.ndarray:
    """Images (n, 784) with Gaussian noise, moved in any of eight directions, or with a black
    square at a random place of their middle; see STRENGTHS."""
    whole = images.reshape(-1, 28, 28)
    if kind == "noise":
        return np.clip(images + strength * random.normal(size=images.shape), 0, 1, dtype=np.float32)
    if kind == "shift":
        padded = np.pad(whole, ((0, 0), (strength, strength), (strength, strength)))
        eight = [(i, j) for i in (0, 1, 2) for j in (0, 1, 2) if (i, j) != (1, 1)]
        corners = strength * random.choice(eight, len(images))
        moved = [image[i : i + 28, j : j + 28] for image, (i, j) in zip(padded, corners)]
        return np.stack(moved).reshape(-1, 784)
    covered = whole.copy()
    for image, (i, j) in zip(covered, random.integers(4, 25 - strength, (len(images), 2))):
        image[i : i + strength, j : j + strength] = 0
    return covered.reshape(-1, 784)


def calibration_error(belief: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """How far confidence is from the share that is right: in bins of confidence, on average over
    images (Naeini et al. 2015). belief: probabilities (n, 10)."""
    confidence, right = belief.max(axis=1), belief.argmax(axis=1) == labels
    which = np.minimum((bins * confidence).astype(int), bins - 1)
    return sum(abs(np.sum((right - confidence)[which == b])) for b in range(bins)) / len(labels)


def temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """What to divide scores (n, 10) by so that their softmax fits labels best (Guo et al. 2017)."""
    at = np.arange(len(labels)), labels
    loss = lambda t: -log_softmax(scores / t, axis=1)[at].mean()
    return float(min(np.geomspace(1e-4, 1e4, 161), key=loss))


def ask(
    model, *, classify=None, draw=None, draw_any=None, complete=None, energy=None, code=None,
    untrained=None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Put the questions to a model; returns the scores, with samples and times.

    All functions are compiled whole, take the model first, and images as (n, 784) in [0, 1]:

    - classify(model, images): scores (n, 10), whose softmax is what it believes of the labels
    - draw(model, labels, key): an image for each label, (n, 784)
    - draw_any(model, key, n): n images without a label, (n, 784)
    - complete(model, images, seen): images (n, 784), given black where `seen` is 0
    - energy(model, images): (n,), the larger the less like a digit
    - code(model, images): (n, k); labels are read from it by logistic regression, fitted to 2,000
      training images, and from the code of `untrained`, the same model before it learned

    Times are milliseconds per image, compiling left out. Raises ValueError if an answer has
    another shape or is not finite.
    """
    asked, judged, digits = questions(), judge.load(), data.load("mnist")
    half, n = slice(0, min(DRAWN, len(asked.images))), len(asked.images)
    real, labels, key = asked.images[half], asked.labels[half], jax.random.key(0)
    answers = {"parameters": sum(w.size for w in jax.tree.leaves(eqx.filter(model, eqx.is_array)))}
    two = np.array([np.flatnonzero(labels == digit)[:2] for digit in range(10)]).T  # of each
    pictures = {"truth": real[two[0]]}
    parts = lambda images: [(images[i : i + n],) for i in range(0, len(images) + 1 - n, n)]
    known = data.flatten(digits.train_images[: min(2000, len(digits.train_images)) // n * n])
    kinds = digits.train_labels[: len(known)]
    if classify:
        sets = [data.flatten(digits.test_images), *asked.damaged.values(), known[:n]]
        everything = [part for images in sets for part in parts(images)]
        scores, answers["classify_ms"] = _run(classify, (n, 10), model, *everything)
        test, *spoilt, trained = np.split(scores, np.cumsum([len(images) for images in sets])[:-1])
        answers["accuracy"] = 100 * np.mean(test.argmax(axis=1) == digits.test_labels)
        for name, of_these in zip(asked.damaged, spoilt):
            answers[f"read_{name}"] = 100 * np.mean(of_these.argmax(axis=1) == asked.labels)
        answers["temperature"] = temperature(trained, kinds[:n])
        for name, t in {"calibration": 1.0, "calibration_fitted": answers["temperature"]}.items():
            answers[name] = calibration_error(softmax(test / t, axis=1), digits.test_labels)
    if code:
        for name, network in {"readout": model, "readout_untrained": untrained}.items():
            codes = _run(code, (n, None), network, *parts(known), (asked.images,))[0]
            reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-3))
            reader.fit(codes[:-n], kinds)
            answers[name] = 100 * reader.score(codes[-n:], asked.labels)
    both = {"draw": (draw, labels, key), "draw_any": (draw_any, key, len(real))}
    for name, (function, *arguments) in {k: v for k, v in both.items() if v[0]}.items():
        drawn, answers[f"{name}_ms"] = _run(function, real.shape, model, arguments)
        drawn = np.clip(drawn, 0, 1)
        score = judged.score(drawn, labels if name == "draw" else None)
        answers |= {f"{name}_{field}": value for field, value in score._asdict().items()}
        answers[f"{name}_frechet"] = judged.frechet(drawn, real).distance
        pictures[name] = drawn[:20] if name == "draw_any" else drawn[two.ravel()]
    if complete:
        hidden = asked.seen == 0
        given = real * asked.seen, asked.seen
        filled, answers["complete_ms"] = _run(complete, real.shape, model, given)
        whole = np.where(hidden, np.clip(filled, 0, 1), real)
        answers["complete_error"] = np.mean((whole - real)[:, hidden] ** 2)
        answers["complete_agreement"] = judged.score(whole, labels).agreement
        pictures["complete"] = whole[two[0]]
    if energy:
        everything = [(images,) for images in (asked.images, *asked.others.values())]
        values, answers["energy_ms"] = _run(energy, (n,), model, *everything)
        of_digits, *of_others = np.split(values, 1 + len(asked.others))
        truth = np.repeat([0, 1], len(of_digits))
        answers |= {
            f"area_{name}": roc_auc_score(truth, np.concatenate([of_digits, unknown]))
            for name, unknown in zip(asked.others, of_others, strict=True)
        }
    answers |= {f"picture_{k}": np.round(255 * v).astype(np.uint8) for k, v in pictures.items()}
    return answers


def report(answers: dict) -> None:
    """Print the scores among what `ask` returned."""
    asked, tests = questions(), len(data.load("mnist").test_labels)
    n, half = len(asked.images), min(DRAWN, len(asked.images))
    if "accuracy" in answers:
        damaged = ", ".join(f"{name} {answers[f'read_{name}']:.1f}" for name in asked.damaged)
        print(f"reads {answers['accuracy']:.2f} % of {tests} test images")
        print(f"reads of {n} damaged ones (%): {damaged}")
        print("calibration error {calibration:.3f}, {calibration_fitted:.3f} at the temperature "
              "{temperature:.2g} that fits training labels".format(**answers))  # fmt: skip
    if "readout" in answers:
        print("a readout of its code reads {readout:.1f} %, {readout_untrained:.1f} % before "
              "it had learned".format(**answers))  # fmt: skip
    for name, what in {"draw": "a class", "draw_any": "anything"}.items():
        if f"{name}_frechet" in answers:
            score = judge.Score(*(answers[f"{name}_{field}"] for field in judge.Score._fields))
            distance = judge.Frechet(answers[f"{name}_frechet"], half, half)
            print(f"draws {what}: {score} | {distance}")
    if "complete_error" in answers:
        print("completes {} upper halves: {complete_error:.4f} squared error per hidden pixel, "
              "{complete_agreement:.1f} % read as their digit".format(half, **answers))  # fmt: skip
    areas = [f"{k.removeprefix('area_')} {v:.3f}" for k, v in answers.items() if "area_" in k]
    if areas:
        print(f"tells digits by their energy from {', '.join(areas)} (ROC area, {n} of each)")


def _run(function: Callable, shape: tuple, model, *calls: tuple) -> tuple[np.ndarray, float]:
    """The answers, each of this shape, to calls with these arguments; milliseconds per image."""
    calls = [[jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in call] for call in calls]
    compiled = eqx.filter_jit(function).lower(model, *calls[0]).compile()
    began = time.perf_counter()
    answers = jax.block_until_ready([compiled(model, *call) for call in calls])
    milliseconds = 1000 * (time.perf_counter() - began) / (shape[0] * len(calls))
    answer = np.concatenate([np.atleast_1d(a) for a in answers])
    name, (got, *_) = getattr(function, "__name__", "the function"), [a.shape for a in answers]
    if len(got) != len(shape) or any(s not in (None, g) for s, g in zip(shape, got)):
        raise ValueError(f"{name} gave an array of shape {got}; {shape} is asked for")
    if not np.all(np.isfinite(answer)):
        raise ValueError(f"{name} gave numbers that are not finite; lower the inference rate")
    return answer, milliseconds
