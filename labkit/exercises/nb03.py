"""Exercises of notebook 03."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Mistake, attempt, exercise, expect

SIZES, BATCH = [3, 5, 4, 6], 4  # label, two hidden layers, image


def _layer(key, into, out, first):
    """Linear for the first layer of a pass, else tanh and then linear; large weights."""
    linear = eqx.nn.Linear(into, out, key=key)
    linear = eqx.tree_at(lambda m: m.weight, linear, 2 * linear.weight)
    return linear if first else eqx.nn.Sequential([eqx.nn.Lambda(jnp.tanh), linear])


def _problem():
    """Generator, amortiser, activities that are no predictions, label and image, 4 examples."""
    keys = jax.random.split(jax.random.key(31), 10)
    last = len(SIZES) - 2
    generator = [_layer(keys[i], SIZES[i], SIZES[i + 1], i == 0) for i in range(last + 1)]
    amortiser = [_layer(keys[3 + i], SIZES[i + 1], SIZES[i], i == last) for i in range(last + 1)]
    activities = [jax.random.normal(keys[6 + i], (BATCH, SIZES[i + 1])) for i in range(last)]
    y = jax.random.normal(keys[9], (BATCH, SIZES[-1]))
    return generator, amortiser, activities, jax.nn.one_hot(jnp.array([0, 2, 1, 2]), 3), y


def _parts(layer):
    """Weight and bias in float64, and whether a tanh comes before them."""
    curved = isinstance(layer, eqx.nn.Sequential)
    linear = layer.layers[-1] if curved else layer
    return np.asarray(linear.weight, float), np.asarray(linear.bias, float), curved


def _apply(layer, z) -> np.ndarray:
    weight, bias, curved = _parts(layer)
    z = np.asarray(z, float)
    return (np.tanh(z) if curved else z) @ weight.T + bias


def _errors(generator, amortiser, states):
    """Forward and backward errors, in NumPy, in float64."""
    states = [np.asarray(z, float) for z in states]
    pairs = list(zip(states[:-1], states[1:], strict=True))
    forward = [b - _apply(f, a) for f, (a, b) in zip(generator, pairs, strict=True)]
    backward = [a - _apply(f, b) for f, (a, b) in zip(amortiser, pairs, strict=True)]
    return forward, backward


def _squares(errors) -> float:
    return sum(np.sum(e**2) for e in errors)


@exercise("3.1", "A precision for each direction")
def exercise_3_1(answer):
    generator, amortiser, activities, x, y = _problem()
    forward, backward = _errors(generator, amortiser, [x, *activities, y])
    log_f, log_b = -0.7, 0.4
    pi_f, pi_b = np.exp(log_f), np.exp(log_b)
    sizes = sum(e.size for e in forward), sum(e.size for e in backward)

    def energy(f=pi_f, b=pi_b, half=0.5, logs=0.5, counts=sizes):
        squares = f * _squares(forward) + b * _squares(backward)
        return (half * squares - logs * (log_f * counts[0] + log_b * counts[1])) / BATCH

    want = energy()
    swapped = energy(pi_b, pi_f)
    expect(
        attempt(answer, generator, amortiser, activities, x, y, log_f, log_b),
        want,
        {
            "the normalisation −½ d log π is missing: without it the best precision is zero.": (
                energy(logs=0.0)
            ),
            "the sign of the normalisation: it is −½ d log π.": energy(logs=-0.5),
            "these are log-precisions; take the exponential before weighting.": energy(
                log_f, log_b
            ),
            "you divided by the precision; it is one over the variance, so multiply.": energy(
                np.exp(-log_f), np.exp(-log_b)
            ),
            "the precision weights the squared error; it is not squared itself.": energy(
                np.exp(2 * log_f), np.exp(2 * log_b)
            ),
            "the two directions are swapped: log_forward belongs to the generator.": swapped
            + 0.5 * (log_f - log_b) * (sizes[0] - sizes[1]) / BATCH,
            "the two directions are swapped in the squares, but not in the normalisation.": swapped,
            "the ½ is missing from both terms.": 2 * want,
            "the ½ of the squares is missing.": energy(half=1.0),
            "the ½ of the normalisation is missing.": energy(logs=1.0),
            "sum over the batch where the energy takes the mean.": BATCH * want,
            "every number that is predicted brings a −½ log π; you counted one per layer.": energy(
                counts=(BATCH * len(forward), BATCH * len(backward))
            ),
            "every number that is predicted brings a −½ log π; you counted one per direction.": (
                energy(counts=(BATCH, BATCH))
            ),
            "the normalisation is divided by N twice: per example it is −½ d log π.": energy(
                counts=(sizes[0] / BATCH, sizes[1] / BATCH)
            ),
            "both directions count as the generator's numbers: it predicts the image, the "
            "amortiser the label, and those differ in size.": energy(counts=(sizes[0], sizes[0])),
        },
    )


def _generator_gradients(generator, states) -> list[np.ndarray]:
    """N ∂F/∂z of ½Σ‖forward errors‖² for every state, by hand, in float64."""
    states = [np.asarray(z, float) for z in states]
    errors = [b - _apply(f, a) for f, a, b in zip(generator, states, states[1:], strict=False)]
    gradients = [np.zeros_like(states[0]), *errors]
    for i, (layer, error) in enumerate(zip(generator, errors, strict=True)):
        weight, _, curved = _parts(layer)
        slope = 1 - np.tanh(states[i]) ** 2 if curved else 1.0
        gradients[i] = gradients[i] - slope * (error @ weight)
    return gradients


def _descend(generator, states, rate, steps, free) -> list[np.ndarray]:
    states = [np.asarray(z, float) for z in states]
    for _ in range(steps):
        gradients = _generator_gradients(generator, states)
        states = [z - rate * move * g for z, move, g in zip(states, free, gradients, strict=True)]
    return states


@exercise("3.2", "Hybrid inference")
def exercise_3_2(answer):
    generator, amortiser, activities, _, y = _problem()
    rate, steps = 0.1, 5
    first = [np.asarray(y, float)]
    for layer in reversed(amortiser):
        first.insert(0, _apply(layer, first[0]))
    free = (1, 1, 1, 0)

    def settled(states=first, rate=rate, steps=steps, free=free):
        return _descend(generator, states, rate, steps, free)[:-1]

    both = [np.asarray(z) for z in first]
    for _ in range(steps):
        both = _both_step(generator, amortiser, both, rate)
    zeros = [np.zeros_like(z) for z in first[:-1]] + [first[-1]]
    got = attempt(answer, generator, amortiser, y, rate, steps)
    if not isinstance(got, (list, tuple)):
        raise Mistake("return a list: the label's activity first, then the hidden ones.")
    if len(got) == len(first) and np.allclose(got[-1], first[-1], atol=1e-4):
        raise Mistake("leave the image out of the list; it is clamped and known to the caller.")
    if len(got) == len(first) - 2:
        raise Mistake("the label is missing: it is free here, so it belongs into the list.")
    expect(
        list(got),
        settled(),
        {
            "these are the amortiser's guesses; the descent after them is missing.": first[:-1],
            "the rate was divided by the batch size: each example should move by rate times its "
            "own gradient, so multiply the gradient of the batch mean by N.": settled(
                rate=rate / BATCH
            ),
            "the rate is N times too large; F is a mean over N examples, N·∂F/∂z is each "
            "example's own gradient.": settled(rate=rate * BATCH),
            "the sign: inference walks down the energy.": settled(rate=-rate),
            "both directions pull; in hybrid PC the amortiser initialises and then rests "
            "(backward_weight=0).": both[:-1],
            "the label did not move; here nobody knows it, so it is an activity too.": settled(
                free=(0, 1, 1, 0)
            ),
            "the image moved; it is what we see, so it stays clamped.": settled(free=(1, 1, 1, 1)),
            "one step too few.": settled(steps=steps - 1),
            "one step too many.": settled(steps=steps + 1),
            "the start is zero; let the amortiser make the first guess.": settled(zeros),
            "twice too fast: is the ½ of the energy missing?": settled(rate=2 * rate),
            "the list runs from the image down; return the label first.": settled()[::-1],
        },
    )


def _both_step(generator, amortiser, states, rate) -> list[np.ndarray]:
    """One step down both directions' energy, the image clamped."""
    up = _generator_gradients(generator, states)
    down = _generator_gradients(amortiser[::-1], states[::-1])[::-1]
    moves = [rate * (a + b) for a, b in zip(up, down, strict=True)]
    moves[-1] = 0.0
    return [z - move for z, move in zip(states, moves, strict=True)]


@exercise("3.3", "An energy for half an image")
def exercise_3_3(answer):
    generator, amortiser, activities, x, y = _problem()
    mask = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    predicted = _apply(generator[-1], activities[-1])
    image = np.asarray(y, float)

    def energy(shown, seen, half=0.5):
        """`shown` is what the amortiser reads, `seen` masks the forward error of the image."""
        forward, backward = _errors(generator, amortiser, [x, *activities, shown])
        forward[-1] = seen * (image - predicted)
        return half * (_squares(forward) + _squares(backward)) / BATCH

    filled = mask * image + (1 - mask) * predicted
    want = energy(filled, mask)
    expect(
        attempt(answer, generator, amortiser, activities, x, y, jnp.array(mask)),
        want,
        {
            "the mask is not used: hidden pixels still count as seen.": energy(image, 1.0),
            "the hidden pixels still have a forward error.": energy(filled, 1.0),
            "the amortiser still reads the hidden pixels; give it the prediction there.": energy(
                image, mask
            ),
            "the amortiser reads zeros where pixels are hidden; give it the prediction there.": (
                energy(mask * image, mask)
            ),
            "hidden pixels became zero and count as observed; they are unknown, not black.": (
                _zeros_as_seen(generator, amortiser, activities, x, mask * image)
            ),
            "the amortiser reads the prediction everywhere; keep the pixels that are seen.": energy(
                predicted, mask
            ),
            "the mask is inverted: it is 1 where a pixel is seen.": energy(
                (1 - mask) * image + mask * predicted, 1 - mask
            ),
            "the ½ is missing.": 2 * want,
            "sum over the batch where the energy takes the mean.": BATCH * want,
            "the amortiser's errors are missing.": (
                0.5 * _squares(_errors(generator, amortiser, [x, *activities, filled])[0]) / BATCH
            ),
            "the generator's errors are missing.": (
                0.5 * _squares(_errors(generator, amortiser, [x, *activities, filled])[1]) / BATCH
            ),
        },
    )


def _zeros_as_seen(generator, amortiser, activities, x, image) -> float:
    forward, backward = _errors(generator, amortiser, [x, *activities, image])
    return 0.5 * (_squares(forward) + _squares(backward)) / BATCH
