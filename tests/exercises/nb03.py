"""Answers to the exercises of notebook 03: right, and with typical mistakes."""

import jax
import jax.numpy as jnp


def errors(generator, amortiser, states):
    pairs = list(zip(states[:-1], states[1:], strict=True))
    forward = [b - jax.vmap(f)(a) for f, (a, b) in zip(generator, pairs, strict=True)]
    backward = [a - jax.vmap(f)(b) for f, (a, b) in zip(amortiser, pairs, strict=True)]
    return forward, backward


def squares(errors):
    return sum(jnp.sum(e**2) for e in errors)


def energy(generator, amortiser, z, x, y, f=1.0, b=1.0, half=0.5, mean=True):
    forward, backward = errors(generator, amortiser, [x, *z, y])
    total = half * (f * squares(forward) + b * squares(backward))
    return total / len(x) if mean else total


def precision(half=0.5, logs=0.5, exp=jnp.exp, mean=True, swap=False, per_layer=False):
    def answer(generator, amortiser, z, x, y, log_forward, log_backward):
        if swap:
            log_forward, log_backward = log_backward, log_forward
        forward, backward = errors(generator, amortiser, [x, *z, y])
        total = 0.0
        for log, side in ((log_forward, forward), (log_backward, backward)):
            count = len(x) * len(side) if per_layer else sum(e.size for e in side)
            total += half * exp(log) * squares(side) - logs * log * count
        return total / len(x) if mean else total

    return answer


CASES = [
    ("3.1", precision(), None),
    ("3.1", precision(logs=0.0), "−½ d log π_f, −½ d log π_b: missing"),
    ("3.1", precision(logs=-0.5), "−½ d log π_f, −½ d log π_b: wrong sign"),
    ("3.1", precision(exp=lambda log: log), "take the exponential"),
    ("3.1", precision(exp=lambda log: jnp.exp(-log)), "divided by the precision"),
    ("3.1", precision(exp=lambda log: jnp.exp(2 * log)), "not squared"),
    ("3.1", precision(half=1.0, logs=1.0), "twice what it should be"),
    ("3.1", precision(half=1.0), "½ π_f ‖ε_f‖², ½ π_b ‖ε_b‖²: twice"),
    ("3.1", precision(logs=1.0), "−½ d log π_f, −½ d log π_b: twice"),
    ("3.1", precision(mean=False), "N times too large"),
    ("3.1", precision(swap=True), "swapped"),
    ("3.1", precision(per_layer=True), "not one per layer"),
    ("3.1", lambda *_: 1 / 0, "ZeroDivisionError"),
]


def hybrid(
    f=1.0, b=0.0, sign=1.0, scale=None, free=(1, 1, 1, 0), start=None, extra=0, keep=slice(-1)
):
    def answer(generator, amortiser, y, rate, steps):
        states = [y]
        for layer in amortiser[::-1]:
            states = [jax.vmap(layer)(states[0]), *states]
        if start is not None:
            states = [start + 0 * z for z in states[:-1]] + [y]

        def total(s):
            return energy(generator, amortiser, s[1:-1], s[0], s[-1], f, b)

        for _ in range(steps + extra):
            slopes = jax.grad(total)(states)
            factor = len(y) if scale is None else scale
            states = [
                z - sign * rate * factor * m * g
                for z, m, g in zip(states, free, slopes, strict=True)
            ]
        return states[keep]

    return answer


CASES += [
    ("3.2", hybrid(), None),
    ("3.2", hybrid(extra=-5), "descent after them is missing"),
    ("3.2", hybrid(scale=1.0), "divided by the batch size"),
    ("3.2", hybrid(scale=25.0), "N times too large"),
    ("3.2", hybrid(sign=-1.0), "sign"),
    ("3.2", hybrid(b=1.0), "amortiser initialises and then rests"),
    ("3.2", hybrid(free=(0, 1, 1, 0)), "label did not move"),
    ("3.2", hybrid(free=(1, 1, 1, 1)), "image moved"),
    ("3.2", hybrid(extra=-1), "too few"),
    ("3.2", hybrid(extra=1), "too many"),
    ("3.2", hybrid(start=0.0), "start is zero"),
    ("3.2", hybrid(keep=slice(None)), "leave the image out"),
    ("3.2", hybrid(keep=slice(1, -1)), "label is missing"),
    ("3.2", hybrid(keep=slice(2, None, -1)), "label first"),
    ("3.2", lambda *_: jnp.zeros(3), "return a list"),
]


def masked(fill="prediction", seen="mask", half=0.5, mean=True, invert=False, f=1.0, b=1.0):
    def answer(generator, amortiser, z, x, y, mask):
        mask = 1 - mask if invert else mask
        prediction = jax.vmap(generator[-1])(z[-1])
        other = {"prediction": prediction, "zeros": 0.0, "image": y}[fill]
        shown = mask * y + (1 - mask) * other
        forward, backward = errors(generator, amortiser, [x, *z, shown])
        if seen == "mask":
            forward[-1] = mask * (y - prediction)
        elif seen == "all":
            forward[-1] = y - prediction
        total = half * (f * squares(forward) + b * squares(backward))
        return total / len(x) if mean else total

    return answer


CASES += [
    ("3.3", masked(), None),
    ("3.3", masked(fill="image", seen="all"), "mask is not used"),
    ("3.3", masked(seen="all"), "the error of the hidden pixels: does not belong"),
    ("3.3", masked(fill="image"), "still reads the hidden pixels"),
    ("3.3", masked(fill="zeros"), "reads zeros"),
    ("3.3", masked(fill="zeros", seen="shown"), "not black"),
    ("3.3", masked(invert=True), "inverted"),
    ("3.3", masked(half=1.0), "twice what it should be"),
    ("3.3", masked(mean=False), "N times too large"),
    ("3.3", masked(b=0.0), "the amortiser's error of z₂: missing"),
    ("3.3", masked(f=0.0), "the generator's error of the image: missing"),
]


def still(generator, amortiser, z, x, y, mask):
    predicted = jax.lax.stop_gradient(jax.vmap(generator[-1])(z[-1]))
    return energy(generator, amortiser, z, x, mask * y + (1 - mask) * predicted)


def with_constant(*args):
    return precision()(*args) + 0.5 * jnp.log(2 * jnp.pi) * (6 + 4 + 7 + 6 + 4 + 3)


CASES += [
    ("3.1", with_constant, "½ log 2π"),
    ("3.2", hybrid(f=0.0, b=1.0), "the amortiser's energy"),
    ("3.3", still, "its gradient with respect to z₂"),
]
