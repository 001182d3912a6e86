"""Exercises of notebook 05."""

import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Mistake, attempt, exercise, expect


def _float(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


@exercise("5.1", "Langevin step")
def exercise_5_1(answer):
    rng = np.random.default_rng(51)
    x, xi = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    step, temperature = 0.3, 2.5
    slope = np.array([0.5, 2.0, 1.0, 3.0])  # the gradient of ½ Σ slope · x²

    right = np.sqrt(2 * step * temperature)

    def moved(sign=-1.0, drift=step, width=right, at=0.0):
        return x + sign * drift * slope * (x + at) + width * xi

    want = moved()
    expect(
        attempt(
            answer,
            lambda x: x * jnp.asarray(slope, jnp.float32),
            *_float(x, xi),
            jnp.float32(step),
            jnp.float32(temperature),
        ),
        want,
        {
            "the sign: this climbs the energy; descend it.": moved(sign=1.0),
            "the noise is missing: this is plain descent, and ends in a minimum.": moved(width=0.0),
            "the 2 under the root is missing: the noise has variance 2·step·temperature.": moved(
                width=np.sqrt(step * temperature)
            ),
            "the root is missing: the noise has *variance* 2·step·temperature.": moved(
                width=2 * step * temperature
            ),
            "the step size is missing under the root.": moved(width=np.sqrt(2 * temperature)),
            "the temperature is not used.": moved(width=np.sqrt(2 * step)),
            "the temperature belongs under the root, with the 2 and the step.": moved(
                width=temperature * np.sqrt(2 * step)
            ),
            "the temperature scales the noise, not the descent.": moved(
                drift=step / temperature, width=np.sqrt(2 * step)
            ),
            "half the descent: with noise √(2·step) the gradient is multiplied by the whole "
            "step.": moved(drift=step / 2),
            "the step size is missing before the gradient.": moved(drift=1.0),
            "the gradient is to be taken where the chain stands, before the noise is added.": moved(
                at=right * xi
            ),
            "right in distribution; but add the noise you are given, so that the numbers can be "
            "compared.": moved(width=-right),
        },
    )


@exercise("5.2", "Metropolis-adjusted acceptance")
def exercise_5_2(answer):
    rng = np.random.default_rng(3293)
    slope, step = np.array([0.5, 2.0, 1.0]), 0.2
    x, new = rng.normal(size=(2, 3))

    def energy(x):
        return 0.5 * np.sum(slope * x**2)

    def log_ratio(x, new, energies=1.0, proposals=1.0, width=4 * step, drift=step, at=None):
        there = -np.sum((new - x + drift * slope * x) ** 2) / width
        back = -np.sum((x - new + drift * slope * (new if at is None else at)) ** 2) / width
        return energies * (energy(x) - energy(new)) + proposals * (back - there)

    def judged(x, new):
        slopes = jnp.asarray(slope, jnp.float32)
        return attempt(
            answer, lambda x: 0.5 * jnp.sum(slopes * x**2), *_float(x, new), jnp.float32(step)
        )

    want = log_ratio(x, new)  # below 0, as nearly all the mistakes are: the cap hides none
    sign = "the sign: a move to lower energy must be *more* acceptable."
    expect(
        judged(x, new),
        want,
        {
            sign: -want,
            sign + " ": 0.0,  # the same, capped
            "this is the probability; return its logarithm.": np.exp(want),
            "this is Metropolis for a symmetric proposal, and Langevin's is not: add "
            "log q(x | proposal) − log q(proposal | x).": log_ratio(x, new, proposals=0.0),
            "the energies are missing: you compare the two proposals only.": log_ratio(
                x, new, energies=0.0
            ),
            "the two proposal densities are exchanged: the way *back* comes with a plus.": (
                log_ratio(x, new, proposals=-1.0)
            ),
            "the energies have the wrong sign: E(x) − E(proposal).": log_ratio(x, new, -1.0),
            "the proposal's variance is 2·step, so its exponent is divided by 4·step.": log_ratio(
                x, new, width=2 * step
            ),
            "the exponent of the proposal is divided by 4·step: ½ over the variance 2·step.": (
                log_ratio(x, new, width=step)
            ),
            "the proposal's mean is x − step·∇E(x), with a minus.": log_ratio(x, new, drift=-step),
            "the way back starts from the proposal: its gradient belongs there.": log_ratio(
                x, new, at=x
            ),
        },
    )
    downhill = 0.1 * new
    expect(
        judged(x, downhill),
        0.0,
        {
            "a probability is at most 1, its logarithm at most 0: take the smaller of 0 and the "
            "sum.": log_ratio(x, downhill)
        },
    )


@exercise("5.3", "Persistent chains with a buffer")
def exercise_5_3(answer):
    rng = np.random.default_rng(53)
    buffer, noise = rng.normal(size=(7, 2)), 5 + rng.normal(size=(4, 2))
    rows, fresh = np.array([5, 0, 3, 6]), np.array([False, True, False, False])

    def run(chains):  # stands in for the Langevin chains
        if chains.shape != (4, 2):
            raise Mistake(
                f"run is given chains of shape {chains.shape}; it is to run the chains of `rows` "
                "only, (4, 2) here"
            )
        return 2 * chains + 1

    def put(values, where=rows):
        new = buffer.copy()
        new[where] = values
        return new

    starts = np.where(fresh[:, None], noise, buffer[rows])
    ends = run(starts)
    inverted = np.where(fresh[:, None], buffer[rows], noise)
    got = attempt(answer, *_float(buffer), rows, fresh, *_float(noise), run)
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake("return two things: the samples, and the new buffer")
    expect(
        tuple(got),
        (ends, put(ends)),
        {
            "the two are exchanged: samples first, then the new buffer.": (put(ends), ends),
            "the buffer you return is the old one: a JAX array is never changed in place, "
            "`buffer.at[rows].set(...)` returns a new one.": (ends, buffer),
            "the buffer gets the chains' *starts*; it must keep their ends.": (ends, put(starts)),
            "the samples are the chains' ends, not their starts.": (starts, put(ends)),
            "the chains are never run.": (starts, put(starts)),
            "no chain is restarted: `fresh` and `noise` are not used.": (
                run(buffer[rows]),
                put(run(buffer[rows])),
            ),
            "every chain is restarted, so nothing persists.": (run(noise), put(run(noise))),
            "`fresh` is the wrong way round: where it is true the chain starts from noise.": (
                run(inverted),
                put(run(inverted)),
            ),
            "the ends are written to the first rows, not to the rows they came from.": (
                ends,
                put(ends, np.arange(4)),
            ),
            "the chains are the first of the buffer, not those of `rows`.": (
                run(np.where(fresh[:, None], noise, buffer[:4])),
                put(run(np.where(fresh[:, None], noise, buffer[:4])), np.arange(4)),
            ),
            "return the whole new buffer, not its changed rows.": (ends, ends),
        },
    )


@exercise("5.4", "Denoising score matching")
def exercise_5_4(answer):
    rng = np.random.default_rng(54)
    x, noise = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    slope, sigma = np.array([0.5, 2.0, 1.0]), 0.4

    def loss(at=1.0, sign=-1.0, target=-1.0 / sigma, half=0.5, reduce=np.sum):
        score = sign * slope * (x + at * sigma * noise)
        return half * np.mean(reduce((score - target * noise) ** 2, axis=1))

    want = loss()
    slopes = jnp.asarray(slope, jnp.float32)
    expect(
        attempt(
            answer,
            lambda x: 0.5 * jnp.sum(slopes * x**2),
            *_float(x, noise),
            jnp.float32(sigma),
        ),
        want,
        {
            "a sign: the score is *minus* the gradient of the energy, and the target points from "
            "the noisy image back, along −noise.": loss(sign=1.0),
            "the target is −noise/σ: the noise that was added is σ·noise, the variance σ².": loss(
                target=-1.0
            ),
            "the target is divided by σ once too often: (x − noisy)/σ² is −noise/σ.": loss(
                target=-1 / sigma**2
            ),
            "the target is −noise/σ, not the noise that was added.": loss(target=-sigma),
            "the score is to be taken at the noisy image, not at the clean one.": loss(at=0.0),
            "the noise is to be multiplied by σ before it is added.": loss(at=1 / sigma),
            "the ½ is missing.": loss(half=1.0),
            "mean over the pixels where the squared distance is their sum.": want / 3,
            "sum over the batch where the loss takes the mean.": 4 * want,
            "the distance is squared: you return its root.": loss(
                reduce=lambda v, axis: np.sqrt(np.sum(v, axis=axis))
            ),
            "one number is expected: take the mean over the images.": 0.5
            * np.sum((-slope * (x + sigma * noise) + noise / sigma) ** 2, axis=1),
        },
    )
