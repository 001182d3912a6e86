"""Exercises of notebook 03."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Case, Mistake, Unnamed, attempt, exercise, expect, trials
from labkit.exercises.nb01 import linear

SIZES, BATCH = [3, 6, 4, 7], 5  # label, two hidden layers, image
RELU = eqx.nn.Lambda(jax.nn.relu)


def _problem(random):
    """Generator, amortiser, activities that are no predictions, label and image."""
    first, *rest = (linear(random, a, b) for a, b in zip(SIZES, SIZES[1:], strict=False))
    *others, last = (linear(random, b, a) for a, b in zip(SIZES, SIZES[1:], strict=False))
    generator = [first, *(eqx.nn.Sequential([RELU, layer]) for layer in rest)]
    amortiser = [*(eqx.nn.Sequential([RELU, layer]) for layer in others), last]
    activities = [random.normal(size=(BATCH, n)) for n in SIZES[1:-1]]
    y = random.normal(size=(BATCH, SIZES[-1]))
    return generator, amortiser, activities, np.eye(3)[random.permutation([0, 1, 2, 0, 1])], y


def _parts(layer):
    """Weight and bias in float64, and whether a rectifier comes before them."""
    curved = isinstance(layer, eqx.nn.Sequential)
    flat = layer.layers[-1] if curved else layer
    return np.asarray(flat.weight, float), np.asarray(flat.bias, float), curved


def _apply(layer, z) -> np.ndarray:
    weight, bias, curved = _parts(layer)
    return (np.maximum(z, 0) if curved else z) @ weight.T + bias


def _errors(generator, amortiser, states):
    """Forward and backward errors, in NumPy, in float64."""
    pairs = list(zip(states[:-1], states[1:], strict=True))
    forward = [b - _apply(f, a) for f, (a, b) in zip(generator, pairs, strict=True)]
    backward = [a - _apply(f, b) for f, (a, b) in zip(amortiser, pairs, strict=True)]
    return forward, backward


def _squares(errors) -> float:
    return 0.5 * sum(np.sum(e**2) for e in errors) / BATCH


@exercise("3.1", "A precision for each direction", stars=2, minutes=10)
def exercise_3_1(answer, random):
    def case(precise=1.0):
        generator, amortiser, activities, x, y = _problem(random)
        forward, backward = map(_squares, _errors(generator, amortiser, [x, *activities, y]))
        logs = precise * random.uniform(0.3, 1.0, size=2) * random.permutation([1, -1])
        hidden = sum(SIZES[1:-1])
        many, fewer = sizes = np.array([hidden + SIZES[-1], hidden + SIZES[0]])

        other_counts = {
            "the numbers are exchanged: the generator predicts the image.": [fewer, many],
            "count every number that is predicted, not one per layer.": [3, 3],
            "count every number that is predicted, not one per direction.": [1, 1],
            "the normalisation is divided by N twice: it is −½ d log π.": sizes / BATCH,
            "the amortiser predicts the label, not the image: it has fewer numbers.": [many, many],
            "the generator predicts the image, not the label: it has more numbers.": [fewer, fewer],
            "the hidden layers alone are counted; count image and label too.": [hidden, hidden],
            "all layers are counted; no direction predicts its own input.": [sum(SIZES)] * 2,
        }

        def energy(pi=None, counts=sizes, logs=logs):
            pi = np.exp(logs) if pi is None else pi
            return pi @ [forward, backward] - 0.5 * logs @ counts

        return Case(
            (generator, amortiser, activities, x, y, *map(float, logs)),
            energy(),
            {
                "these are log-precisions; take the exponential.": energy(logs),
                "you divided by the precision; multiply.": energy(np.exp(-logs)),
                "the precision itself is not squared.": energy(np.exp(2 * logs)),
                "these are log-precisions, not log-variances.": energy(logs=-logs),
                "the two directions are swapped: log_forward belongs to the generator.": energy(
                    logs=logs[::-1]
                ),
                "the directions are swapped in the squares only.": energy(np.exp(logs[::-1])),
                "½ log 2π for each number is still there; it does not depend on π, so drop it.": (
                    energy() + 0.5 * np.log(2 * np.pi) * sum(sizes)
                ),
            }
            | {words: energy(counts=np.array(counts)) for words, counts in other_counts.items()},
            terms={
                "½ π_f ‖ε_f‖²": np.exp(logs[0]) * forward,
                "½ π_b ‖ε_b‖²": np.exp(logs[1]) * backward,
                "−½ d log π_f": -0.5 * many * logs[0],
                "−½ d log π_b": -0.5 * fewer * logs[1],
            },
            strangers={"½ ‖ε_f‖² without π": forward, "½ ‖ε_b‖² without π": backward},
        )

    look = "right if both precisions are 1: look where they enter."
    trials(answer, (case() for _ in range(9)), apart=[(look, lambda: case(0.0))], batch=BATCH)


def _gradients(layers, states) -> list[np.ndarray]:
    """N ∂F/∂z of the errors of one direction for every state, by hand, in float64."""
    errors = [b - _apply(f, a) for f, a, b in zip(layers, states, states[1:], strict=False)]
    gradients = [np.zeros_like(states[0]), *errors]
    for i, (layer, error) in enumerate(zip(layers, errors, strict=True)):
        weight, _, curved = _parts(layer)
        gradients[i] = gradients[i] - (states[i] > 0 if curved else 1) * (error @ weight)
    return gradients


@exercise("3.2", "Hybrid inference", stars=2, minutes=15)
def exercise_3_2(answer, random):
    def settled(steps=4, start=None, down=1.0, up=0.0, free=(1, 1, 1, 0)):
        """Label and hidden states after a descent, and how near a unit came to relu's kink."""
        states, near = start or guess, 1.0
        for _ in range(steps):
            forward = _gradients(generator, states)
            backward = _gradients(amortiser[::-1], states[::-1])[::-1]
            near = min(near, *(np.abs(z).min() for z in states[1:-1]))
            states = [z - rate * f * (down * a + up * b)
                      for z, f, a, b in zip(states, free, forward, backward)]  # fmt: skip
        return states[:-1], near

    def after(*steps, **options):
        return settled(*steps, **options)[0]

    near, rate, steps = 0.0, random.uniform(0.03, 0.06), 4
    while near < 0.005:
        generator, amortiser, _, _, y = _problem(random)
        guess = [y]
        for layer in reversed(amortiser):
            guess.insert(0, _apply(layer, guess[0]))
        near = settled()[1]
    down = [guess[0]]
    for layer in generator:
        down.append(_apply(layer, down[-1]))

    def said(steps, mistakes, **options):
        got = attempt(answer, generator, amortiser, y, rate, steps)
        if not isinstance(got, (list, tuple)):
            raise Mistake("return a list: the label's activity first, then the hidden ones.")
        if len(got) == 4:
            raise Mistake("leave the image out of the list; it is clamped and known to the caller.")
        if len(got) == 2:
            raise Mistake("the label is missing: it is free here, so it belongs into the list.")
        names = ["the label", "z₁", "z₂"]
        expect(got, after(steps), mistakes, names=names, batch=BATCH, **options)

    one_hot = np.eye(3)[guess[0].argmax(axis=1)]
    starts = {
        "the start is zero; let the amortiser make the first guess.": [0 * z for z in guess[:-1]],
        "the hidden layers start from the generator; let the amortiser guess them.": down[:-1],
        "the label starts as one-hot; start from the amortiser's guess.": [one_hot, *guess[1:-1]],
    }
    mistakes = {
        "these are the amortiser's guesses: the descent after them is missing, or it goes down the "
        "amortiser's energy, which is zero there.": guess[:-1],
        "both directions pull; in hybrid PC the amortiser initialises and then rests "
        "(backward_weight=0).": after(up=1.0),
        "the label did not move; nobody knows it, so it is an activity too.": after(
            free=(0, 1, 1, 0)
        ),
        "the image moved; it is what we see, so it stays clamped.": after(free=(1, 1, 1, 1)),
        "one step too few.": after(steps - 1),
        "one step too many.": after(steps + 1),
        "every step starts from the first guess, or there is one only.": after(1),
        "the list runs from the image down; return the label first.": after()[::-1],
        "the sign: inference walks down the energy.": after(down=-1.0),
        "the rate is divided by the batch size: each example moves by rate times its own gradient, "
        "so multiply that of F by N.": after(down=1 / BATCH),
        "the rate is N times too large; N·∂F/∂z is each example's own gradient.": after(down=BATCH),
    } | {words: after(start=[*wrong, y]) for words, wrong in starts.items()}
    try:
        said(steps, mistakes)
    except Unnamed:
        said(0, starts | {"with steps=0 no step is to be made.": after(1)})
        gradients = [z - m for z, m in zip(guess, after(1))]
        said(
            1,
            {},
            terms={"the start": guess[:-1], "−rate·N·∂F/∂z": [-g for g in gradients]},
            strangers={"the gradient without rate": [g / rate for g in gradients]},
        )
        raise
    said(0, {"with steps=0 no step is to be made.": after(1)})


@exercise("3.3", "An energy for half an image", stars=3, minutes=15)
def exercise_3_3(answer, random):
    def case(hidden=3):
        generator, amortiser, activities, x, y = _problem(random)
        mask = random.permutation(np.arange(7) >= hidden) * 1.0
        predicted = _apply(generator[-1], activities[-1])

        def parts(shown, seen):
            """`shown` is what the amortiser reads, `seen` masks the forward error of the image."""
            forward, backward = _errors(generator, amortiser, [x, *activities, shown])
            image = _squares([seen * (y - predicted)])
            return [_squares(forward[:-1]), image, _squares(backward[:-1]), _squares(backward[-1:])]

        def energy(shown, seen):
            return sum(parts(shown, seen))

        filled = mask * y + (1 - mask) * predicted
        right = parts(filled, mask)
        return Case(
            (generator, amortiser, activities, x, y, mask),
            sum(right),
            {
                "the mask is not used: hidden pixels still count as seen.": energy(y, 1.0),
                "the amortiser still reads the hidden pixels; give it the prediction there.": (
                    energy(y, mask)
                ),
                "the amortiser reads zeros where pixels are hidden; give it the prediction.": (
                    energy(mask * y, mask)
                ),
                "hidden pixels became zero and count as observed; they are unknown, not black.": (
                    energy(mask * y, 0.0) + _squares([mask * y - predicted])
                ),
                "the amortiser reads the prediction everywhere; keep the pixels that are seen.": (
                    energy(predicted, mask)
                ),
                "the mask is inverted: it is 1 where a pixel is seen.": energy(
                    (1 - mask) * y + mask * predicted, 1 - mask
                ),
                "do not divide by the share of seen pixels.": sum(right) / mask.mean(),
            },
            terms=dict(zip(["the generator's errors of the hidden layers",
                            "the generator's error of the image", "the amortiser's errors of label "
                            "and z₁", "the amortiser's error of z₂"], right, strict=True)),
            strangers={"the error of the hidden pixels": parts(filled, 1 - mask)[1]},
        )  # fmt: skip

    look = "right if all pixels are seen: look where the mask enters."
    dark = "right if no pixel is seen: look how image and prediction are put together."
    apart = [(look, lambda: case(0)), (dark, lambda: case(7))]
    trials(answer, (case() for _ in range(8)), apart=apart, batch=BATCH)
    if not getattr(answer, "remote", False):  # a grader's answer runs elsewhere: no gradient
        _descended(answer, case().arguments)


def _descended(answer, arguments) -> None:
    """The energy is there to be descended: compare its gradient with finite differences."""
    generator, amortiser, activities, x, y, mask = arguments

    def energy(activities):
        predicted = _apply(generator[-1], activities[-1])
        states = [x, *activities, mask * y + (1 - mask) * predicted]
        return sum(map(_squares, _errors(generator, amortiser, states)))

    want = [np.zeros_like(z) for z in activities]
    for z, slope in zip(activities, want, strict=True):
        for place in np.ndindex(z.shape):
            for step in (1e-5, -1e-5):
                z[place] += step
                slope[place] += energy(activities) / (2 * step)
                z[place] -= step
    given = jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, arguments)
    try:
        got = jax.grad(answer, argnums=2)(*given)
    except Exception:
        return  # an answer in NumPy has none
    if not any(np.any(g) for g in got):
        return
    what = "the value is right, but its gradient with respect to {} is not (is it stopped?)"
    expect(got, want, names=[what.format("z₁"), what.format("z₂")], batch=BATCH)
