"""Exercises of notebook 02."""

import numpy as np

from labkit.exercises.core import Case, Mistake, attempt, exercise, expect, trials

SIZES, BATCH = [3, 5, 6, 4], 7


def _problem(random) -> tuple[list, list]:
    """Weights, and a chain that is not its own prediction and lies away from the kinks of relu."""
    weights = [random.normal(size=(o, i)) for i, o in zip(SIZES, SIZES[1:], strict=False)]
    chain = [random.normal(size=(BATCH, n)) for n in SIZES]
    return weights, [z + 0.05 * np.sign(z) for z in chain]


def _relu(z):
    return np.maximum(z, 0)


def _on(z):
    return (z > 0) * 1.0


def _tanh_slope(z):
    return 1 - np.tanh(z) ** 2


def _errors(weights, chain, activation) -> list[np.ndarray]:
    pairs = zip(weights, chain, chain[1:], strict=False)
    return [here - activation(below) @ W.T for W, below, here in pairs]


def _outer(errors, causes) -> list[np.ndarray]:
    return [e.T @ cause for e, cause in zip(errors, causes, strict=False)]


def _returned(weights, chain, errors, slope) -> list[np.ndarray]:
    """φ'(z_ℓ) ⊙ (W_{ℓ+1}ᵀ ε_{ℓ+1}) of every entry of the chain but the last."""
    return [slope(z) * (e @ W) for z, e, W in zip(chain, errors, weights, strict=False)]


@exercise("2.1", "The same with tanh", stars=3, minutes=20)
def exercise_2_1(answer, random):
    weights, chain = _problem(random)
    errors = _errors(weights, chain, np.tanh)
    tanh = [np.tanh(z) for z in chain]
    own = [-e for e in errors[:-1]]

    def returned(slope=_tanh_slope, errors=errors):
        return _returned(weights, chain, errors, slope)[1:]

    def moves(slope=_tanh_slope, errors=errors):
        return [r - e for r, e in zip(returned(slope, errors), errors, strict=False)]

    with_relu = _errors(weights, chain, _relu)
    outside = [h - np.tanh(b @ W.T) for W, b, h in zip(weights, chain, chain[1:], strict=False)]
    both = [t - p for t, p in zip(tanh[1:], (z - e for z, e in zip(chain[1:], errors)))]
    predicted = [_tanh_slope(z - e) for z, e in zip(chain[1:], errors, strict=True)]
    got = attempt(answer, weights, chain)
    try:
        hidden, updates = map(list, got)
    except (TypeError, ValueError):
        raise Mistake("return two lists: moves of z1 and z2, updates of W1 to W3.") from None
    if len(hidden) == len(chain):
        raise Mistake("you returned a move for the whole chain; only z1 and z2 are asked for.")
    slopes = {
        "the slope φ'(z) is missing; it multiplies what returns.": np.ones_like,
        "the slope is still the rectifier's (z > 0).": _on,
        "the slope is 1 − tanh²(z), not 1 − z².": lambda z: 1 - z**2,
        "the slope is 1 − tanh²(z); the square is missing.": lambda z: 1 - np.tanh(z),
        "the slope is 1 − tanh²(z), with a minus.": lambda z: 1 + np.tanh(z) ** 2,
        "the slope is 1 − tanh²(z): this is tanh(z) itself.": np.tanh,
        "the slope is 1 − tanh²(z): tanh is taken twice.": lambda z: _tanh_slope(np.tanh(z)),
    }
    wrong_errors = {
        "the errors still use relu; predictions are now W tanh(z).": with_relu,
        "the errors use z itself; predictions are W tanh(z).": _errors(weights, chain, np.positive),
        "the prediction is W tanh(z), not tanh(W z) as in notebook 01.": outside,
        "the error is z − W tanh(z below): do not take the tanh of z itself.": both,
        "the error is z *minus* its prediction.": [2 * z - e for z, e in zip(chain[1:], errors)],
        "the prediction is missing from the errors.": chain[1:],
    }
    late = "the slope belongs to the cause z of this layer, not to the prediction above it."
    own_too = "the slope multiplies the layer's own error too; it belongs to what returns only."
    expect(
        hidden,
        moves(),
        {words: moves(slope) for words, slope in slopes.items()}
        | {words: moves(errors=wrong) for words, wrong in wrong_errors.items()}
        | {
            own_too: [_tanh_slope(z) * m for z, m in zip(chain[1:], moves(np.ones_like))],
            late: [(s * e) @ W + o
                   for s, e, W, o in zip(predicted[1:], errors[1:], weights[1:], own)],
        },
        names=["the move of z1", "the move of z2"],
        batch=BATCH,
        terms={"the layer's own error, −ε": own, "what returns from the next error": returned()},
        strangers={"what returns without the slope": returned(np.ones_like)},
    )  # fmt: skip
    causes = {
        "the cause in the weight update is tanh(z), not z itself.": chain,
        "the cause in the weight update is tanh(z), not relu(z).": [_relu(z) for z in chain],
        "no slope in the weight updates: W enters its prediction linearly.": [
            t * _tanh_slope(z) for t, z in zip(tanh, chain, strict=True)
        ],
    }
    expect(
        updates,
        _outer(errors, tanh),
        {words: _outer(errors, cause) for words, cause in causes.items()}
        | {words: _outer(wrong, tanh) for words, wrong in wrong_errors.items()}
        | {"the weight updates still use relu.": _outer(with_relu, map(_relu, chain))},
        names=["the update of W1", "the update of W2", "the update of W3"],
        batch=BATCH,
    )


@exercise("2.2", "Momentum by hand", stars=1, minutes=10)
def exercise_2_2(answer, random):
    def case(fast=1.0, strong=1.0):
        weights, chain = _problem(random)
        chain = [strong * z / 2 for z in chain]
        velocities = [fast * random.normal(size=W.shape) for W in weights]
        rate, beta = random.uniform(0.1, 0.4), random.uniform(0.5, 0.9)

        def updates(weights=weights):
            return _outer(_errors(weights, chain, _relu), map(_relu, chain))

        def times(factor, arrays):
            return [factor * array for array in arrays]

        def mixed(keep=beta, gain=rate, at=weights):
            return [keep * v + gain * d for v, d in zip(velocities, updates(at), strict=True)]

        def result(new, moved=None):
            return [W + v for W, v in zip(weights, moved or new, strict=True)], new

        ahead = [W + beta * v for W, v in zip(weights, velocities, strict=True)]
        return Case(
            (weights, velocities, chain, rate, beta),
            result(mixed()),
            {
                "you moved W with the old velocities; update those first.": result(
                    mixed(), velocities
                ),
                "β is missing: multiply the old velocity by it.": result(mixed(keep=1.0)),
                "there is no 1 − β before the update here.": result(mixed(gain=(1 - beta) * rate)),
                "the learning rate is missing.": result(mixed(gain=1.0)),
                "the learning rate belongs into the velocity, not before it.": result(
                    mixed(gain=1.0), times(rate, mixed(gain=1.0))
                ),
                "the learning rate is applied twice; it is in the velocity already.": result(
                    mixed(), times(rate, mixed())
                ),
                "β multiplies the old velocity only, not the update.": result(times(beta, mixed())),
                "take the update at W itself, not ahead of it (Nesterov).": result(mixed(at=ahead)),
                "the velocities that you return are still the old ones.": (
                    result(mixed())[0],
                    velocities,
                ),
            },
            terms={
                "W": (weights, times(0, weights)),
                "β v": (times(beta, velocities),) * 2,
                "γ Δ": (times(rate, updates()),) * 2,
            },
            strangers={
                "v without β": (velocities,) * 2,
                "Δ without γ": (updates(),) * 2,
                "β by itself": ([beta + 0 * W for W in weights],) * 2,
                "γ by itself": ([rate + 0 * W for W in weights],) * 2,
                "β W": (times(beta, weights),) * 2,
            },
        )

    apart = [
        ("right if the old velocities are zero: look at β v.", lambda: case(fast=0.0)),
        ("right if the updates are zero: look at γ Δ.", lambda: case(strong=0.0)),
    ]
    names = [f"the new {what}{i}" for what in ("W", "velocity of W") for i in (1, 2, 3)]
    trials(answer, (case() for _ in range(2)), apart=apart, names=names, batch=BATCH)


@exercise("2.3", "Units that prefer silence", stars=2, minutes=10)
def exercise_2_3(answer, random):
    def case():
        weights, chain = _problem(random)
        strength = random.uniform(0.3, 0.7)
        errors = _errors(weights, chain, _relu)
        first, *returned = _returned(weights, chain, errors, _on)
        plain = [first, *(r - e for r, e in zip(returned, errors, strict=False)), -errors[-1]]

        def pulls(pull=np.sign, entries=(1, 2)):
            return [-strength * pull(z) * (i in entries) for i, z in enumerate(chain)]

        def soft(move):
            return np.sign(move) * np.maximum(np.abs(move) - strength, 0)

        wrong_pulls = {
            "a pull proportional to z is a Gaussian prior, ½ z²; the slope of |z| is sign(z).": (
                np.positive
            ),
            "this is |z| itself; the move needs its derivative, the sign of z.": np.abs,
            "this is the norm ‖z‖₁ itself; the move needs its derivative, the sign of z.": (
                lambda z: np.abs(z).sum(axis=1, keepdims=True)
            ),
            "z/‖z‖ is the slope of the length ‖z‖₂; that of ‖z‖₁ is the sign of z.": (
                lambda z: z / np.linalg.norm(z, axis=1, keepdims=True)
            ),
            "the pull is the same for every unit: below zero it must point up.": np.ones_like,
            "only units that are on are pulled; |z| pulls those below zero up as well.": _on,
        }
        return Case(
            (weights, chain, strength),
            [move + pull for move, pull in zip(plain, pulls(), strict=True)],
            {words: [move + pull for move, pull in zip(plain, pulls(wrong), strict=True)]
             for words, wrong in wrong_pulls.items()}
            | {"this shrinks the moves (a soft threshold); the prior pulls the activities.": [
                plain[0], *map(soft, plain[1:-1]), plain[-1]]},
            terms={"what `moves` returns": plain, "the pull −s·sign(z)": pulls()},
            strangers={"a pull of sign(z) without s": pulls(lambda z: np.sign(z) / strength),
                       "a pull of the prior": pulls(entries=(0, 3))},
        )  # fmt: skip

    names = [f"the move of {name}" for name in ("x", "z1", "z2", "y")]
    trials(answer, (case() for _ in range(2)), names=names, batch=BATCH)
