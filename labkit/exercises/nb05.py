"""Exercises of notebook 05."""

import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Case, Mistake, attempt, exercise, expect, trials


@exercise("5.1", "A Langevin step", stars=1, minutes=5)
def exercise_5_1(answer, random):
    given = "right in distribution; but add the noise you are given, to make it comparable."
    own = []

    def case(noisy=1.0, steep=1.0):
        x, xi = random.normal(size=(2, 3, 40)) * [[[1]], [[noisy]]]
        step, temperature = random.uniform(0.2, 0.4), random.uniform(1.5, 3)
        slope = steep * random.uniform(0.5, 3, size=40)  # the gradient of ½ Σ slope · x²
        right = np.sqrt(2 * step * temperature)

        def moved(drift=step, width=right, at=0.0):
            return x - drift * slope * (x + at) + width * xi

        own.append((moved(width=0.0), right))
        widths = {
            "the 2 under the root is missing: the noise has variance 2·step·T.": step * temperature,
            "the root is missing: the noise has *variance* 2·step·T.": right**4,
            "the step size is missing under the root.": 2 * temperature,
            "the temperature is not used.": 2 * step,
            "T belongs under the root, with the 2 and the step.": 2 * step * temperature**2,
            "the step belongs under the root, with the 2 and T.": 2 * temperature * step**2,
            "multiply by the temperature under the root; you divided.": 2 * step / temperature,
            "multiply by the step under the root; you divided.": 2 / step * temperature,
        }
        return Case(
            (lambda x: x * jnp.asarray(slope), x, xi, float(step), float(temperature)),
            moved(),
            {words: moved(width=variance**0.5) for words, variance in widths.items()}
            | {
                "the temperature scales the noise, not the descent.": moved(
                    step / temperature, np.sqrt(2 * step)
                ),
                "the step size is missing before the gradient.": moved(1.0),
                "take the gradient where the chain is, before the noise is added.": moved(
                    at=right * xi
                ),
                given: moved(width=-right),
            },
            terms={"x": x, "−s ∇E(x)": -step * slope * x, "√(2 s T) ξ": right * xi},
        )

    def watched(*arguments):
        got = answer(*arguments)
        if np.shape(got) == own[-1][0].shape:
            noise = (np.asarray(got, float) - own[-1][0]) / own[-1][1]
            far = np.abs(np.corrcoef(noise.ravel(), np.ravel(arguments[2]))[0, 1]) < 0.4
            if far and abs(noise.std() - 1) < 0.25 and abs(noise.mean()) < 0.4:
                raise Mistake(given)
        return got

    apart = [
        ("right if the noise is zero: look at its factor.", lambda: case(noisy=0.0)),
        ("right if the gradient is zero: look at the step down.", lambda: case(steep=0.0)),
    ]
    trials(watched, (case() for _ in range(3)), apart=apart)


def _log_q(to, start, slope, step, at=None, drift=1.0, width=4.0, power=2) -> float:
    mean = start - drift * step * slope * (start if at is None else at)
    return -np.sum((to - mean) ** power) / (width * step)


@exercise("5.2", "Accept or refuse", stars=3, minutes=15)
def exercise_5_2(answer, random):
    def case(uphill=True, flat=False):
        while True:
            slope, step = random.uniform(0.5, 2.5, size=3), random.uniform(0.15, 0.3)
            slope = 0 * slope if flat else slope
            x, new = random.normal(size=(2, 3))
            drop = 0.5 * np.sum(slope * (x**2 - new**2))

            there, back = _log_q(new, x, slope, step), _log_q(x, new, slope, step)
            want = drop + back - there
            if flat or ((-8 < want < -0.5) if uphill else (0.5 < want < 8)):
                break

        def other(**options):
            return drop + (
                _log_q(x, new, slope, step, **options) - _log_q(new, x, slope, step, **options)
            )

        capped = {
            "the sign: a move to lower energy must be *more* acceptable.": -want,
            "add log q(x | x') − log q(x' | x): Langevin's proposal is not symmetric.": drop,
            "the energies are missing: you compare the two proposals only.": back - there,
            "the two proposal densities are exchanged: the way *back* comes with a plus.": (
                drop + there - back
            ),
            "the energies have the wrong sign: E(x) − E(proposal).": back - there - drop,
            "the proposal's variance is 2·step: divide by 4·step.": other(width=2.0),
            "divide the exponent by 4·step: ½ over the variance 2·step.": other(width=1.0),
            "divide the exponent by 4·step, not by 8·step.": other(width=8.0),
            "divide the exponent by the step; you multiplied.": other(width=4 / step**2),
            "the proposal's mean is x − step·∇E(x), with a minus.": other(drift=-1.0),
            "the proposal's mean is x − step·∇E(x): the step is missing.": other(drift=1 / step),
            "the proposal's mean is x − step·∇E(x): the gradient is missing.": other(drift=0.0),
            "the proposal's mean is x − step·∇E(x): you took two steps.": other(drift=2.0),
            "the proposal's mean is x − step·∇E(x): you took half a step.": other(drift=0.5),
            "the way back starts from the proposal: its gradient belongs there.": (
                drop + _log_q(x, new, slope, step, at=x) - there
            ),
            "E(x) is missing.": want - 3 - 0.5 * np.sum(slope * x**2),
            "E(x'), the energy of the proposal, is missing.": want
            + 3
            + 0.5 * np.sum(slope * new**2),
            "log q(x | x'), the way back, is missing.": drop - there,
            "log q(x' | x), the way there, is missing.": drop + back,
            "log q: the square of x' − mean is missing.": other(power=1),
            "log q: the power of x' − mean is 2, not 3.": other(power=3),
            "log q sums over the pixels; you took the mean.": drop + (back - there) / 3,
        }
        return Case(
            (lambda x: 3 + 0.5 * jnp.sum(jnp.asarray(slope) * x**2), x, new, float(step)),
            min(want, 0.0),
            {words: min(value, 0.0) for words, value in capped.items()}
            | {"this is the probability; return its logarithm.": np.exp(min(want, 0.0)),
               "take the smaller of 0 and the sum, not the larger.": max(want, 0.0),
                "wrong sign, and the cap at 0 is missing.": -want,
               "a probability is at most 1, its logarithm at most 0: take the smaller of 0 and the "
               "sum.": want},
        )  # fmt: skip

    flat = "right on a flat energy: look at log q, at its mean x − step·∇E(x) and its exponent."
    trials(answer, (case(i < 6) for i in range(9)), apart=[(flat, lambda: case(flat=True))])


@exercise("5.3", "Persistent chains", stars=2, minutes=15)
def exercise_5_3(answer, random):
    buffer, noise = random.normal(size=(7, 2)), 5 + random.normal(size=(4, 2))
    rows = random.permutation(6)[:4]
    rows[random.integers(4)] = 6  # the last is among them, and goes on from the buffer
    fresh = rows == random.choice(rows[rows != 6])
    calls = []

    def run(chains):  # stands in for the Langevin chains
        if np.shape(chains) != (4, 2):
            raise Mistake(
                f"run is given chains of shape {np.shape(chains)}; it is to run the chains of "
                "`rows` only, (4, 2) here, all at once"
            )
        calls.append(chains)
        if len(calls) > 1:
            raise Mistake(
                "run is called twice: Langevin chains are random, so the samples and the buffer "
                "would be different ones, at twice the cost"
            )
        return 2 * chains + 1

    def put(values, where=rows):
        new = buffer.copy()
        new[where] = values
        return new

    def ran(starts, where=rows):
        return 2 * starts + 1, put(2 * starts + 1, where)

    pick = fresh[:, None]
    starts = np.where(pick, noise, buffer[rows])
    ends, kept = ran(starts)
    got = attempt(answer, buffer, rows, fresh, noise, run)
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mistake("return two things: the samples, and the new buffer")
    moved = np.where(pick, noise, buffer[:4])
    expect(
        got,
        (ends, kept),
        {
            "the buffer you return is the old one: a JAX array is never changed in place, "
            "`buffer.at[rows].set(...)` returns a new one.": (ends, buffer),
            "the buffer gets the chains' *starts*; it must keep their ends.": (ends, put(starts)),
            "the samples are the chains' ends, not their starts.": (starts, kept),
            "the chains are never run.": (starts, put(starts)),
            "no chain is restarted: `fresh` and `noise` are not used.": ran(buffer[rows]),
            "every chain is restarted, so nothing persists.": ran(noise),
            "`fresh` is the wrong way round: where it is true the chain starts from noise.": ran(
                np.where(pick, buffer[rows], noise)
            ),
            "the ends go to the first rows, not to where they came from.": ran(
                starts, np.arange(4)
            ),
            "the chains are the first of the buffer, not those of `rows`.": ran(
                moved, np.arange(4)
            ),
            "the chains start from the first rows of the buffer, not from `rows`.": ran(moved),
            "the buffer gets the noise; it must keep the chains' ends.": (ends, put(noise)),
            "return the whole new buffer, not its changed rows.": (ends, ends),
        },
        names=["the ends", "the new buffer"],
    )


@exercise("5.4", "Denoising score matching", stars=2, minutes=15)
def exercise_5_4(answer, random):
    def case(noisy=1.0, steep=1.0):
        x, noise = random.normal(size=(2, 5, 3)) * [[[1]], [[noisy]]]
        slope, sigma = steep * random.uniform(0.5, 2, size=3), random.uniform(0.4, 0.7)

        def difference(at=sigma, sign=-1.0, target=-1 / sigma):
            return sign * slope * (x + at * noise) - target * noise

        def squares(**options):
            return difference(**options) ** 2

        def loss(**options):
            return 0.5 * squares(**options).sum(axis=1).mean()

        return Case(
            (lambda x: 0.5 * jnp.sum(jnp.asarray(slope) * x**2), x, noise, float(sigma)),
            loss(),
            {
                "a sign: the score is *minus* the gradient of the energy, and the target points "
                "from the noisy image back, along −noise.": loss(sign=1.0),
                "the target is −noise/σ: the variance is σ².": loss(target=-1.0),
                "(x − noisy)/σ² is −noise/σ: you divided by σ twice.": loss(target=-1 / sigma**2),
                "the target is −noise/σ, not the noise that was added.": loss(target=-sigma),
                "the target −noise/σ is missing.": loss(target=0.0),
                "the score is missing: this is the size of the target.": loss(sign=0.0),
                "take the score at the noisy image, not at the clean one.": loss(at=0.0),
                "take the score at x + σ·noise, with a plus.": loss(at=-sigma),
                "multiply the noise by σ before you add it.": loss(at=1.0),
                "multiply the noise by σ, do not divide.": loss(at=1 / sigma),
                "mean over the pixels where the squared distance is their sum.": loss() / 3,
                "the difference is not squared.": 0.5 * np.mean(difference().sum(axis=1)),
                "the difference is cubed; square it.": 0.5 * np.mean(np.sum(difference() ** 3, 1)),
                "the distance is squared: you return its root.": 0.5
                * np.mean(np.sqrt(squares().sum(axis=1))),
            },
        )

    apart = [
        ("right if the noise is zero: look where it enters.", lambda: case(noisy=0.0)),
        ("right if the energy is flat: look at the score.", lambda: case(steep=0.0)),
    ]
    trials(answer, (case() for _ in range(5)), apart=apart, batch=5)
