"""Exercises of notebook 06."""

import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Mistake, attempt, exercise, expect


@exercise("6.1", "Area under the ROC curve")
def exercise_6_1(answer):
    known = np.array([0.5, 1.0, 2.0, 2.0, -1.0])
    unknown = np.array([2.0, 3.0, 0.5, 1.5])

    def area(tie=0.5, known=known, unknown=unknown):
        return np.mean([(u > k) + tie * (u == k) for k in known for u in unknown])

    pairs = np.array([[(u > k) + 0.5 * (u == k) for u in unknown] for k in known])
    expect(
        attempt(answer, jnp.asarray(known), jnp.asarray(unknown)),
        area(),
        {
            "the other way round: a stranger is to have the larger energy.": 1 - area(),
            "ties count one half; yours count nothing.": area(tie=0.0),
            "ties count one half; yours count as won.": area(tie=1.0),
            "this is the number of pairs; divide by how many pairs there are.": pairs.sum(),
            "one value for each stranger: average over the digits and the strangers.": pairs.mean(
                axis=0
            ),
            "one value for each digit: average over the digits and the strangers.": pairs.mean(
                axis=1
            ),
            "one value for each pair: average them.": pairs,
            "this is the mean difference; only who is larger counts.": unknown.mean()
            - known.mean(),
        },
    )


@exercise("6.2", "Laplace's approximation")
def exercise_6_2(answer):
    rng = np.random.default_rng(62)
    root, best, least = rng.normal(size=(3, 3)), rng.normal(size=3), 1.7
    curvature = root @ root.T + np.eye(3)
    matrix, start = jnp.asarray(curvature, jnp.float32), jnp.asarray(best, jnp.float32)

    def energy(z):
        d = z - start
        return least + 0.5 * d @ matrix @ d + jnp.sum(d**4)

    log_det, log_2pi = np.log(np.linalg.det(curvature)), np.log(2 * np.pi)

    def laplace(least=least, half=0.5, sign=1.0, k=3, constant=-0.5):
        return least + sign * half * log_det + constant * k * log_2pi

    expect(
        attempt(answer, energy, start),
        laplace(),
        {
            "the volume is missing: this is the energy at the point.": least,
            "the energy at the point is missing: this is the volume alone.": laplace(least=0.0),
            "the sign of ½ log det: a sharper bowl has less volume, so −log p is larger.": laplace(
                sign=-1.0
            ),
            "the ½ of the log determinant is missing.": laplace(half=1.0),
            "the constant k/2 log 2π is missing.": laplace(constant=0.0),
            "the sign of k/2 log 2π: the volume of a Gaussian grows with it.": laplace(
                constant=0.5
            ),
            "k/2 log 2π: every one of the k numbers brings a ½ log 2π, yours only one.": laplace(
                k=1
            ),
            "the ½ of k log 2π is missing.": laplace(constant=-1.0),
            "the determinant itself where its logarithm belongs.": laplace()
            + 0.5 * (np.exp(log_det) - log_det),
            "the sign of the volume as a whole: subtract its logarithm.": 2 * least - laplace(),
        },
    )


@exercise("6.3", "The energy inside a classifier")
def exercise_6_3(answer):
    outputs = np.random.default_rng(63).normal(size=10) * 2
    log_sum = np.log(np.sum(np.exp(outputs)))
    logs = outputs - log_sum
    got = attempt(answer, jnp.asarray(outputs, jnp.float32))
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake("return two things: the energy, and ten logarithms of probabilities")
    expect(
        got,
        (-log_sum, logs),
        {
            "the sign of the energy: what is likely has a low one.": (log_sum, logs),
            "the mean of the exponentials where their sum belongs.": (-log_sum + np.log(10), logs),
            "the largest output is only part of the sum.": (-outputs.max(), logs),
            "the sum of the outputs: take exponentials first.": (-outputs.sum(), logs),
            "the logarithm of the sum is missing.": (-np.exp(log_sum), logs),
            "probabilities where their logarithms belong.": (-log_sum, np.exp(logs)),
            "the sign of the logarithms: f − log Σ exp f.": (-log_sum, -logs),
            "these are the outputs themselves: subtract log Σ exp f.": (-log_sum, outputs),
            "the two are exchanged: energy first.": (logs, -log_sum),
        },
    )
    large = attempt(answer, jnp.asarray(outputs + 300, jnp.float32))
    if not np.all(np.isfinite(np.concatenate([np.ravel(part) for part in large]))):
        raise Mistake(
            "right for small outputs, but outputs around 300 overflow: take the largest out of "
            "the sum first, or use jax.nn.logsumexp"
        )
    expect(large, (-log_sum - 300, logs), {}, tolerance=1e-3)
