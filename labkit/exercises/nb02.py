"""Exercises of notebook 02."""

import jax
import numpy as np

from labkit.exercises.core import Mistake, attempt, exercise, expect

SIZES, BATCH = [3, 5, 6, 4], 4


def _problem() -> tuple[list, list]:
    """Weights and a chain that is not its own prediction, as lists of JAX arrays."""
    keys = jax.random.split(jax.random.key(21), 7)
    weights = [
        jax.random.normal(k, (o, i)) for k, i, o in zip(keys, SIZES, SIZES[1:], strict=False)
    ]
    chain = [jax.random.normal(k, (BATCH, n)) for k, n in zip(keys[3:], SIZES, strict=True)]
    return weights, chain


def _float64(arrays) -> list[np.ndarray]:
    return [np.asarray(a, dtype=np.float64) for a in arrays]


def _relu(z):
    return np.maximum(z, 0)


def _errors(weights, chain, activation) -> list[np.ndarray]:
    pairs = zip(weights, chain, chain[1:], strict=False)
    return [here - activation(below) @ W.T for W, below, here in pairs]


def _hebbian(weights, chain, activation=_relu) -> list[np.ndarray]:
    errors = _errors(weights, chain, activation)
    return [e.T @ activation(below) for e, below in zip(errors, chain, strict=False)]


def _hidden_moves(weights, chain, activation, slope, *, own=-1.0, returned=1.0) -> list:
    """own · ε_ℓ + returned · φ'(z_ℓ) ⊙ (W_{ℓ+1}ᵀ ε_{ℓ+1}) of the two hidden layers."""
    e = _errors(weights, chain, activation)
    return [
        own * e[i - 1] + returned * slope(chain[i]) * (e[i] @ weights[i])
        for i in range(1, len(chain) - 1)
    ]


@exercise("2.1", "The same with tanh")
def exercise_2_1(answer):
    got = attempt(answer, *_problem())
    weights, chain = map(_float64, _problem())
    try:
        hidden, updates = got
        hidden, updates = list(hidden), list(updates)
    except (TypeError, ValueError):
        raise Mistake(
            "return two lists: the moves of z1 and z2, the updates of W1 to W3."
        ) from None
    if any(part is None for part in (*hidden, *updates)):
        raise Mistake("one of the entries is None; is a part still to be written?")
    if len(hidden) == len(chain):
        raise Mistake("you returned a move for the whole chain; only z1 and z2 are asked for.")

    def tanh_slope(z):
        return 1 - np.tanh(z) ** 2

    def late_slope():
        e = _errors(weights, chain, np.tanh)
        slopes = [1 - (z - e_l) ** 2 for z, e_l in zip(chain[1:], e, strict=True)]
        return [-e[i - 1] + (slopes[i] * e[i]) @ weights[i] for i in (1, 2)]

    right = _hidden_moves(weights, chain, np.tanh, tanh_slope)
    up = [-move for move in right]
    relu_errors = _hidden_moves(weights, chain, _relu, tanh_slope)
    expect(
        hidden,
        right,
        {
            "the sign of the moves: this is the gradient; activities move against it.": up,
            "own error and returned error must have opposite signs.": _hidden_moves(
                weights, chain, np.tanh, tanh_slope, own=1.0
            ),
            "the layer's own error is missing from its move.": _hidden_moves(
                weights, chain, np.tanh, tanh_slope, own=0.0
            ),
            "what returns from the next error is missing from the move.": _hidden_moves(
                weights, chain, np.tanh, tanh_slope, returned=0.0
            ),
            "the slope φ'(z) is missing; it multiplies what returns.": _hidden_moves(
                weights, chain, np.tanh, np.ones_like
            ),
            "the slope is still the rectifier's (z > 0).": _hidden_moves(
                weights, chain, np.tanh, lambda z: z > 0
            ),
            "the slope is 1 − tanh²(z), not 1 − z².": _hidden_moves(
                weights, chain, np.tanh, lambda z: 1 - z**2
            ),
            "the slope is 1 − tanh²(z); the square is missing.": _hidden_moves(
                weights, chain, np.tanh, lambda z: 1 - np.tanh(z)
            ),
            "the errors still use relu; predictions are now W tanh(z).": relu_errors,
            "the slope belongs to the cause z of this layer, not to the prediction above: "
            "tanh comes before the weights here.": late_slope(),
            "mean over the batch: moves are per example, do not divide by the batch size.": [
                move / BATCH for move in right
            ],
        },
    )
    right = _hebbian(weights, chain, np.tanh)
    errors = _errors(weights, chain, np.tanh)
    expect(
        updates,
        right,
        {
            "the sign of the weight updates: error times cause, with a plus.": [-u for u in right],
            "the weight updates take the mean over the batch; the sum was asked for.": [
                u / BATCH for u in right
            ],
            "the weight updates are transposed; W has shape (out, in).": [u.T for u in right],
            "the cause in the weight update is tanh(z), not z itself.": [
                e.T @ z for e, z in zip(errors, chain, strict=False)
            ],
            "the weight updates still use relu.": _hebbian(weights, chain),
            "the cause in the weight update is tanh(z), not relu(z).": [
                e.T @ _relu(z) for e, z in zip(errors, chain, strict=False)
            ],
            "off by one: W_ℓ's cause is the layer below its error, not the layer itself.": [
                e.T @ np.tanh(z) for e, z in zip(errors, chain[1:], strict=True)
            ],
            "no slope in the weight updates: W enters its prediction linearly.": [
                e.T @ (np.tanh(z) * tanh_slope(z)) for e, z in zip(errors, chain, strict=False)
            ],
        },
    )


@exercise("2.2", "Momentum by hand")
def exercise_2_2(answer):
    weights, chain = _problem()
    keys = jax.random.split(jax.random.key(22), 3)
    velocities = [jax.random.normal(k, W.shape) for k, W in zip(keys, weights, strict=True)]
    rate, beta = 0.1, 0.8
    got = attempt(answer, weights, velocities, chain, rate, beta)
    w, v, z = map(_float64, (weights, velocities, chain))
    updates = _hebbian(w, z)

    def result(keep=beta, gain=rate, old=False):
        new = [keep * a + gain * d for a, d in zip(v, updates, strict=True)]
        moved = [W + a for W, a in zip(w, v if old else new, strict=True)]
        return moved, new

    moved, new = right = result()
    double = [W + rate * a for W, a in zip(w, result(gain=1.0)[1], strict=True)]
    mean = [beta * a + rate * d / BATCH for a, d in zip(v, updates, strict=True)]
    expect(
        _pair_of_lists(got),
        right,
        {
            "the sign: the Hebbian update already points downhill; add it.": result(gain=-rate),
            "you moved the weights with the old velocities; update those first.": result(old=True),
            "β is missing: the old velocity must be multiplied by it.": result(keep=1.0),
            "the old velocity is gone; this is plain descent.": result(keep=0.0),
            "the update is weighted by 1 − β; the rule here does not do that.": result(
                gain=(1 - beta) * rate
            ),
            "the learning rate is missing.": result(gain=1.0),
            "the learning rate belongs into the velocity; you applied it to the weights.": (
                double,
                result(gain=1.0)[1],
            ),
            "you subtracted the velocity; add it to the weights.": (
                [W - a for W, a in zip(w, new, strict=True)],
                new,
            ),
            "mean over the batch: the Hebbian update is the sum; use it as it is.": (
                [W + a for W, a in zip(w, mean, strict=True)],
                mean,
            ),
            "the order: return the weights first, then the velocities.": (new, moved),
            "only the weights came back; return the velocities too.": moved,
            "only the velocities came back; return the weights too.": new,
        },
    )


@exercise("2.3", "Units that prefer silence")
def exercise_2_3(answer):
    strength = 0.3
    weights, chain = _problem()
    # Units that are off need a pull as well, and zero none: no hidden unit is exactly at zero.
    got = attempt(answer, weights, chain, strength)
    got = list(got) if isinstance(got, (list, tuple)) else got
    w, z = map(_float64, (weights, chain))
    e = _errors(w, z, _relu)
    plain = [
        (z[0] > 0) * (e[0] @ w[0]),
        *_hidden_moves(w, z, _relu, lambda a: a > 0),
        -e[-1],
    ]

    def with_prior(pull, entries=(1, 2), factor=strength):
        return [m - factor * pull(a) * (i in entries) for i, (m, a) in enumerate(zip(plain, z))]

    expect(
        got,
        with_prior(np.sign),
        {
            "the sign: the prior pulls towards zero; you push away from it.": with_prior(
                np.sign, factor=-strength
            ),
            "this pull is proportional to z: that is a Gaussian prior, ½ z². "
            "The slope of |z| is the sign of z.": with_prior(lambda a: a),
            "this pull is 2 z: the slope of z². The slope of |z| is the sign of z.": with_prior(
                lambda a: 2 * a
            ),
            "this is |z| itself; the move needs its derivative, the sign of z.": with_prior(np.abs),
            "the pull is the same for every unit: below zero it must point up.": with_prior(
                np.ones_like
            ),
            "only units that are on are pulled; |z| pulls those below zero up as well.": with_prior(
                lambda a: a > 0
            ),
            "label and image are pulled as well; the prior is on the two hidden layers.": (
                with_prior(np.sign, entries=(0, 1, 2, 3))
            ),
            "the label is pulled as well; the prior is on the two hidden layers.": with_prior(
                np.sign, entries=(0, 1, 2)
            ),
            "the image is pulled as well; the prior is on the two hidden layers.": with_prior(
                np.sign, entries=(1, 2, 3)
            ),
            "only one of the two hidden layers has the prior (z1).": with_prior(
                np.sign, entries=(1,)
            ),
            "only one of the two hidden layers has the prior (z2).": with_prior(
                np.sign, entries=(2,)
            ),
            "mean over the batch: moves are per example, do not divide the pull by the batch "
            "size.": with_prior(np.sign, factor=strength / BATCH),
            "|z| has no ½; only squares do.": with_prior(np.sign, factor=strength / 2),
            "the strength is missing.": with_prior(np.sign, factor=1.0),
            "these are the moves without any prior.": plain,
            "return the moves of the whole chain, label and image included.": with_prior(np.sign)[
                1:-1
            ],
        },
    )


def _pair_of_lists(got):
    """Two lists as they are; anything else passes through, for `expect` to judge."""
    if isinstance(got, (tuple, list)) and len(got) == 2:
        return tuple(list(part) if isinstance(part, (tuple, list)) else part for part in got)
    return got
