"""Exercises of notebook 07."""

import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Case, Mistake, attempt, exercise, expect, trials


@exercise("7.1", "The area under the ROC curve", stars=2, minutes=10)
def exercise_7_1(answer, random):
    def case():
        known, unknown = random.integers(0, 5, size=7) / 2, random.integers(1, 6, size=5) / 2
        unknown[0] = known[0]  # at least one tie
        difference = unknown[None, :] - known[:, None]
        won, tied = np.mean(difference > 0), np.mean(difference == 0)
        return Case(
            (known, unknown),
            won + tied / 2,
            {
                "the other way round: a stranger is to have the larger energy.": (
                    1 - won - tied / 2
                ),
                "ties count one half; yours count nothing.": won,
                "ties count one half; yours count as won.": won + tied,
                "only the ties are counted.": tied / 2,
                "this is the number of pairs; divide by how many pairs there are.": 35
                * (won + tied / 2),
                "this is the mean difference; only who is larger counts.": difference.mean(),
                "compare all pairs, not the strangers with the digits' median.": np.mean(
                    unknown > np.median(known)
                ),
                "compare all pairs, not the strangers with the digits' mean.": np.mean(
                    unknown > known.mean()
                ),
            },
            terms={"the share of pairs won": won, "half the share of ties": tied / 2},
            strangers={"a constant": 1.0},
        )

    trials(answer, (case() for _ in range(6)))


@exercise("7.2", "The volume that a point forgets", stars=2, minutes=15)
def exercise_7_2(answer, random):
    def case():
        root, best, least = random.normal(size=(3, 3)), random.normal(size=3), random.normal()
        curvature = root @ root.T + np.diag(random.uniform(0.5, 3, size=3))

        def energy(z):
            d = z - jnp.asarray(best)
            return least + 0.5 * d @ jnp.asarray(curvature) @ d + jnp.sum(d**4)

        half = 0.5 * np.linalg.slogdet(curvature)[1]
        constant = -1.5 * np.log(2 * np.pi)
        return Case(
            (energy, best),
            least + half + constant,
            {
                "the volume is missing: this is the energy at the point.": least,
                "the sign of ½ log det: a sharper bowl has less volume, so −log p is larger.": (
                    least - half + constant
                ),
                "k/2 log 2π: every one of the k numbers brings a ½ log 2π, yours only one.": (
                    least + half + constant / 3
                ),
                "the determinant itself where its logarithm belongs.": (
                    least + 0.5 * np.exp(2 * half) + constant
                ),
                "this is the *sign* of the determinant; slogdet's second value is its logarithm.": (
                    least + 0.5 + constant
                ),
                "the curvature has entries beside its diagonal; take the whole determinant.": (
                    least + 0.5 * np.log(np.diag(curvature)).sum() + constant
                ),
                "the trace of the curvature where its log determinant belongs.": (
                    least + 0.5 * np.trace(curvature) + constant
                ),
                "the sign of the volume as a whole: subtract its logarithm.": (
                    least - half - constant
                ),
                "the logarithm of 2π is missing.": least + half - 1.5 * 2 * np.pi,
            },
            terms={"F(z*)": least, "½ log det": half, "−k/2 log 2π": constant},
        )

    trials(answer, (case() for _ in range(6)))


@exercise("7.3", "The energy inside a classifier", stars=1, minutes=10)
def exercise_7_3(answer, random):
    def case():
        outputs = random.normal(size=10) * 2
        log_sum = np.log(np.sum(np.exp(outputs)))
        logs = outputs - log_sum
        return Case(
            (outputs,),
            (-log_sum, logs),
            {
                "the mean of the exponentials where their sum belongs.": (
                    np.log(10) - log_sum, logs,
                ),
                "the largest output is only part of the sum.": (-outputs.max(), logs),
                "the sum of the outputs: take exponentials first.": (-outputs.sum(), logs),
                "the mean of the outputs: take exponentials first.": (-outputs.mean(), logs),
                "the first output is left out.": (-np.log(np.exp(outputs[1:]).sum()), logs),
                "the last output is left out.": (-np.log(np.exp(outputs[:-1]).sum()), logs),
                "the logarithm of the sum is missing.": (-np.exp(log_sum), logs),
                "probabilities where their logarithms belong.": (-log_sum, np.exp(logs)),
                "these are the outputs themselves: subtract log Σ exp f.": (-log_sum, outputs),
            },
            terms={"f": (0.0, outputs), "−log Σ exp f": (-log_sum, 0 * logs - log_sum)},
        )  # fmt: skip

    trials(answer, (case() for _ in range(4)), names=["the energy", "the log-probabilities"])
    for shift in (300, -300):
        outputs = random.normal(size=10) * 2 + shift
        log_sum = np.log(np.sum(np.exp(outputs)))
        large = attempt(answer, outputs)
        if not np.all(np.isfinite(np.concatenate([np.ravel(part) for part in large]))):
            raise Mistake(
                f"right for small outputs, but outputs around {shift} overflow: take the largest "
                "out of the sum first, or use jax.nn.logsumexp"
            )
        expect(large, (-log_sum, outputs - log_sum), tolerance=1e-3)
