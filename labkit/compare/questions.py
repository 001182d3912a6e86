"""The same questions for every model, about the same test images: what notebook 07 compares.

    answers = questions.ask(model, classify=..., draw=..., complete=..., energy=...)
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
from sklearn.metrics import roc_auc_score

from labkit import data
from labkit.compare import judge

READ = 1000  # images to classify and to give an energy, if the dataset has so many
DRAWN = 500  # images to draw and to complete


class Questions(NamedTuple):
    """Test images as rows (n, 784) in [0, 1], their labels, the mask of the upper half (784,), and
    by name as many images each of what is no digit."""

    images: np.ndarray
    labels: np.ndarray
    seen: np.ndarray
    others: dict[str, np.ndarray]


@functools.cache
def questions() -> Questions:
    """What `ask` asks about: the same for every model on one dataset, taken evenly from its test
    images. What is no digit: noise; the pixels of a digit in any order; the upper half of a digit
    above the lower half of another; and Fashion-MNIST if it is in the data folder."""
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
    }
    if fashion := data.stored("fashion_mnist"):
        others["Fashion-MNIST"] = data.flatten(fashion.test_images)[: len(images)].copy()
    seen = np.repeat([1.0, 0.0], 392).astype(np.float32)
    return Questions(images, labels, seen, others)


def ask(
    model,
    *,
    classify: Callable | None = None,
    draw: Callable | None = None,
    draw_any: Callable | None = None,
    complete: Callable | None = None,
    energy: Callable | None = None,
) -> dict[str, np.ndarray]:
    """Put the questions to a model; prints the scores, returns them with samples and times.

    All functions are compiled whole, take the model first, and images as (n, 784) in [0, 1]:

    - classify(model, images): labels (n,)
    - draw(model, labels, key): an image for each label, (n, 784)
    - draw_any(model, key, n): n images without a label, (n, 784)
    - complete(model, images, seen): images (n, 784), given black where `seen` is 0
    - energy(model, images): (n,), the larger the less like a digit

    Times are milliseconds per image, compiling left out. Raises ValueError if an answer has
    another shape or is not finite.
    """
    asked, judged = questions(), judge.load()
    half = slice(0, min(DRAWN, len(asked.images)))
    real, labels, key = asked.images[half], asked.labels[half], jax.random.key(0)
    weights = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    answers = {"parameters": sum(w.size for w in weights)}
    first = np.array([np.flatnonzero(labels == digit)[0] for digit in range(10)])
    pictures = {"truth": real[first]}
    if classify:
        read, answers["classify_ms"] = _run(classify, (len(asked.labels),), model, asked.images)
        answers["accuracy"] = 100 * np.mean(read == asked.labels)
        print(f"reads {answers['accuracy']:.1f} % of {len(read)} test images")
    for name, function, arguments in (
        ("draw", draw, (labels, key)),
        ("draw_any", draw_any, (key, len(real))),
    ):
        if not function:
            continue
        drawn, answers[f"{name}_ms"] = _run(function, real.shape, model, *arguments)
        drawn = np.clip(drawn, 0, 1)
        score = judged.score(drawn, labels if name == "draw" else None)
        distance = judged.frechet(drawn, real)
        answers |= {f"{name}_{field}": value for field, value in score._asdict().items()}
        answers[f"{name}_frechet"] = distance.distance
        pictures[name] = drawn[:20] if name == "draw_any" else _two_of_each(drawn, labels)
        print(f"draws {'a class' if name == 'draw' else 'anything'}: {score} | {distance}")
    if complete:
        hidden = asked.seen == 0
        given = real * asked.seen
        whole, answers["complete_ms"] = _run(complete, real.shape, model, given, asked.seen)
        whole = np.where(hidden, np.clip(whole, 0, 1), real)
        answers["complete_error"] = np.mean((whole - real)[:, hidden] ** 2)
        answers["complete_agreement"] = judged.score(whole, labels).agreement
        pictures["complete"] = whole[first]
        error, read = answers["complete_error"], answers["complete_agreement"]
        print(f"completes {len(whole)} upper halves: {error:.4f} squared error per hidden pixel, "
              f"{read:.1f} % read as their digit")  # fmt: skip
    if energy:
        everything = np.concatenate([asked.images, *asked.others.values()])
        values, answers["energy_ms"] = _run(energy, (len(everything),), model, everything)
        of_digits, *of_others = np.split(values, 1 + len(asked.others))
        truth = np.repeat([0, 1], len(of_digits))
        areas = {
            name: roc_auc_score(truth, np.concatenate([of_digits, unknown]))
            for name, unknown in zip(asked.others, of_others, strict=True)
        }
        answers |= {f"area_{name}": area for name, area in areas.items()}
        shown = ", ".join(f"{name} {area:.3f}" for name, area in areas.items())
        print(f"tells digits by their energy from {shown} (ROC area, {len(of_digits)} of each)")
    answers |= {f"picture_{k}": np.round(255 * v).astype(np.uint8) for k, v in pictures.items()}
    return answers


def _two_of_each(drawn: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Two images of each digit: first one of all ten, then another."""
    chosen = [np.flatnonzero(labels == digit)[:2] for digit in range(10)]
    return drawn[np.transpose(chosen).reshape(-1)]


def _run(function: Callable, shape: tuple[int, ...], *arguments) -> tuple[np.ndarray, float]:
    """The answer, and milliseconds for each image of it."""
    arguments = [jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
    compiled = eqx.filter_jit(function).lower(*arguments).compile()
    began = time.perf_counter()
    answer = jax.block_until_ready(compiled(*arguments))
    milliseconds = 1000 * (time.perf_counter() - began) / shape[0]
    answer = np.asarray(answer)
    name = getattr(function, "__name__", "the function")
    if answer.shape != shape:
        raise ValueError(f"{name} gave an array of shape {answer.shape}; {shape} is asked for")
    if not np.all(np.isfinite(answer)):
        raise ValueError(f"{name} gave numbers that are not finite; lower the inference rate")
    return answer, milliseconds
