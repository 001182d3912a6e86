"""Exercises of notebook 06."""

import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Case, exercise, trials


def _chain(random, sizes):
    """Matrices of a chain and its layers as functions of a batch: tanh, and a linear top."""
    matrices = [random.normal(size=(b, a)) / a**0.5 for a, b in zip(sizes, sizes[1:], strict=False)]
    layers = [lambda z, W=W: jnp.tanh(z @ W.T) for W in matrices[:-1]]
    return matrices, [*layers, lambda z, W=matrices[-1]: z @ W.T]


@exercise("6.1", "The energy in errors", stars=2, minutes=15)
def exercise_6_1(answer, random):
    def case():
        sizes = [3, 4, 4, 2]
        _, layers = _chain(random, sizes)
        x, y = random.normal(size=(5, 3)), random.normal(size=(5, 2))
        errors = [random.normal(size=(5, 4)) for _ in range(2)]

        def run(add=1, end=lambda output: (y - output) ** 2):
            z = x
            for layer, e in zip(layers, errors, strict=False):
                z = layer(z) + add * e
            return 0.5 * np.sum(end(np.asarray(layers[-1](z)))) / 5

        hidden, top = 0.5 * sum(np.sum(e**2) for e in errors) / 5, run()
        return Case(
            (layers, errors, x, y),
            hidden + top,
            {
                "the errors are never added to the activities.": hidden + run(0),
                "an activity is its prediction *plus* its error.": hidden + run(-1),
                "an error counts with its square.": sum(np.sum(e) for e in errors) / 10 + top,
                "an error counts with its square, not its cube.": (
                    sum(np.sum(e**3) for e in errors) / 10 + top
                ),
                "the top's error counts with its square.": hidden + run(end=lambda o: y - o),
                "the top's error counts with its square, not its cube.": (
                    hidden + run(end=lambda o: (y - o) ** 3)
                ),
                "the error at the top is a *difference*.": hidden + run(end=lambda o: (y + o) ** 2),
                "the output is missing at the top.": hidden + run(end=lambda o: y**2),
                "the target is missing at the top.": hidden + run(end=lambda o: o**2),
                "the first hidden error is left out.": 0.5 * np.sum(errors[1] ** 2) / 5 + top,
                "the last hidden error is left out.": 0.5 * np.sum(errors[0] ** 2) / 5 + top,
            },
            terms={"the hidden errors": hidden, "the error at the top": top},
        )

    trials(answer, (case() for _ in range(5)))


@exercise("6.2", "The largest curvature", stars=2, minutes=10)
def exercise_6_2(answer, random):
    def case():
        basis = np.linalg.qr(random.normal(size=(6, 6)))[0]
        values = np.array([*random.uniform(0.2, 1.0, size=5), random.uniform(3.0, 9.0)])
        matrix = jnp.asarray(basis * values @ basis.T)
        start, largest = random.normal(size=6), values[-1]
        start = start + 0.5 * basis[:, -1]  # some of it along the steepest direction
        v = start / np.linalg.norm(start)
        for _ in range(40):
            v = np.asarray(matrix @ v) / np.linalg.norm(matrix @ v)
        return Case(
            (lambda v: matrix @ v, start, 40),
            largest,
            {
                "this is its square.": largest**2,
                "this is its square root.": largest**0.5,
                "the product is squared at the end.": v @ np.asarray(matrix @ v) ** 2,
                "one is added to the product at the end.": largest + v.sum(),
                "this is the limit of the rate; return the curvature itself.": 2 / largest,
                "this is one over the curvature.": 1 / largest,
                "nothing was repeated: go on for `rounds` rounds.": np.linalg.norm(
                    matrix @ start / np.linalg.norm(start)
                ),
                "keep the vector at length one in each round.": np.inf,
            },
        )

    trials(answer, (case() for _ in range(5)))


@exercise("6.3", "A block that keeps its size", stars=1, minutes=10)
def exercise_6_3(answer, random):
    def case():
        W, z = random.normal(size=(4, 4)), random.normal(size=(5, 4))
        layers = int(random.integers(6, 30))
        step = lambda a, s: a @ W.T * s  # noqa: E731
        s, t = (4 * layers) ** -0.5, np.tanh(z)
        return Case(
            (W, z, layers),
            z + step(t, s),
            {
                "the factor 1/√width is missing.": z + step(t, layers**-0.5),
                "the factor 1/√layers is missing.": z + step(t, 0.5),
                "the factor is one over the *root* of width times layers.": z + step(t, s**2),
                "multiply by one over the root, not by the root.": z + step(t, 1 / s),
                "W is transposed: its shape is (out, in).": z + t @ W * s,
                "tanh comes before the matrix.": z + np.tanh(step(z, s)),
                "tanh is missing.": z + step(z, s),
                "the skip carries z itself, not tanh(z).": t + step(t, s),
            },
            terms={"the skip, z": z, "the matrix's part": step(t, s)},
        )

    trials(answer, (case() for _ in range(4)))


@exercise("6.4", "Keep what leaks away", stars=2, minutes=20)
def exercise_6_4(answer, random):
    def case(pull=1.0):
        W, V = random.normal(size=(3, 3)) / 2, random.normal(size=(2, 3))
        bottom, y = random.normal(size=(5, 3)), random.normal(size=(5, 2))
        z, multipliers = random.normal(size=(2, 2, 5, 3))
        multipliers = pull * multipliers
        rate = random.uniform(0.1, 0.4)
        slope = 1 - np.tanh(z[0] @ W.T) ** 2

        def errors(z, np=np):
            return np.stack([z[0] - bottom, z[1] - np.tanh(z[0] @ W.T)])

        def down(signal):  # from errors to activities
            return np.stack([signal[0] - (slope * signal[1]) @ W, signal[1]])

        top = np.stack([np.zeros((5, 3)), (z[1] @ V.T - y) @ V])
        parts = [-rate * part for part in (top, down(multipliers), down(errors(z)))]
        new, old = z + sum(parts), errors(z)
        climb, none = rate * errors(new), np.zeros(z.shape)

        def instead(part, third=parts[2], rate=rate):  # of the slope of the errors, or of them all
            moved = z + (sum(parts[:2]) + third) * part
            return moved, multipliers + rate * errors(moved)

        return Case(
            (lambda z: errors(z, jnp), lambda z: 0.5 * jnp.sum((y - z[1] @ V.T) ** 2),
             z, multipliers, rate),
            (new, multipliers + climb),
            {
                "take the errors at the *new* activities.": (new, multipliers + rate * old),
                "the multipliers climb; yours descend.": (new, multipliers - climb),
                "the multipliers move by the rate too.": (new, multipliers + errors(new)),
                "the new multipliers add to the old ones.": (new, climb),
                "the activities descend; yours climb.": instead(-1.0),
                "the activities move by the rate times the slope.": instead(1 / rate),
                "an error counts with its square.": instead(1.0, -rate * down(none + 0.5)),
                "an error counts with its square, not its cube.": (
                    instead(1.0, -1.5 * rate * down(old**2))
                ),
                "the errors at the end are missing.": (new, multipliers + rate),
                "the multipliers do not move.": (new, multipliers),
            },
            terms={
                "the activities": (z, none),
                "the slope of the loss": (parts[0], none),
                "the slope of multipliers times errors": (parts[1], none),
                "the slope of half the squared errors": (parts[2], none),
                "the multipliers": (none, multipliers),
                "the errors": (none, climb),
            },
        )  # fmt: skip

    look = "look at the term with multipliers: each multiplies its own error."
    names = ("the activities", "the multipliers")
    trials(answer, (case() for _ in range(4)), apart=[(look, lambda: case(0.0))], names=names)
