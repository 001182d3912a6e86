"""Exercises of notebook 04."""

import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Case, Mistake, attempt, exercise, expect, trials


@exercise("4.1", "Between any two Gaussians", stars=2, minutes=10)
def exercise_4_1(answer, random):
    def case(apart=1.0, first=1.0, second=1.0):
        m1, away = random.normal(size=(2, 3))
        m2 = m1 + apart * away
        s1, s2 = random.uniform(-0.7, 0.7, size=(2, 3)) * [[first], [second]]

        def kl(m1=m1, s1=s1, m2=m2, s2=s2):
            return s2 - s1 + 0.5 * (np.exp(2 * s1) + (m1 - m2) ** 2) / np.exp(2 * s2) - 0.5

        def with_variances(first, second):
            return np.sum(s2 - s1 + 0.5 * (first + (m1 - m2) ** 2) / second - 0.5)

        v1, v2 = np.exp(2 * s1), np.exp(2 * s2)
        return Case(
            (m1, s1, m2, s2),
            kl().sum(),
            {
                "the two are exchanged: this is KL of the second from the first, and the KL is not "
                "symmetric.": kl(m2, s2, m1, s1).sum(),
                "you took log σ for log σ²: the variance is exp(2 log σ).": kl(
                    s1=s1 / 2, s2=s2 / 2
                ).sum(),
                "you took log σ for log σ² in the variances: exp(2 log σ).": with_variances(
                    np.exp(s1), np.exp(s2)
                ),
                "the variance of the second is σ₂², not σ₂.": with_variances(v1, np.exp(s2)),
                "the variance of the first is σ₁², not σ₁.": with_variances(np.exp(s1), v2),
                "multiply by 1/σ₂²: you multiplied by σ₂².": with_variances(v1, 1 / v2),
                "the means are added; take their difference.": kl(m2=-m2).sum(),
                "this is the divergence from N(0, I): it ignores the second.": kl(m2=0, s2=0).sum(),
                "the exponential of 2 log σ₂ is missing.": with_variances(v1, 2 * s2),
                "this is the divergence of one unit; sum over all.": kl().max(),
                "this is in bits; one nat is 1.44 of them.": kl().sum() / np.log(2),
                "mean over the units where the divergence is their sum.": kl().mean(),
            },
            terms={
                "log σ₂": s2.sum(),
                "−log σ₁": -s1.sum(),
                "½ σ₁²/σ₂²": 0.5 * np.exp(2 * s1 - 2 * s2).sum(),
                "½ (μ₁ − μ₂)²/σ₂²": 0.5 * np.sum((m1 - m2) ** 2 / np.exp(2 * s2)),
                "the −½ of each unit": -1.5,
            },
            strangers={
                "½ log σ₁²/σ₂²": np.sum(s1 / v2),
                "½/σ₂²": np.sum(0.5 / v2),
                "½ μ₁²/σ₂²": np.sum(0.5 * m1**2 / v2),
                "½ μ₂²/σ₂²": np.sum(0.5 * m2**2 / v2),
                "σ₂²": v2.sum(),
            },
        )

    apart = [
        ("right if the means are equal: look at (μ₁ − μ₂)².", lambda: case(apart=0.0)),
        ("right if σ₁ = 1: look where σ₁ enters.", lambda: case(first=0.0)),
        ("right if σ₂ = 1: look where σ₂ enters.", lambda: case(second=0.0)),
        ("right if σ₁ = σ₂ = 1: look where they enter.", lambda: case(1.0, 0.0, 0.0)),
    ]
    trials(answer, (case() for _ in range(14)), apart=apart)


def _log_likelihood(logits, x):
    """Σ x log p + (1 − x) log(1 − p), in float64."""
    return np.sum(-np.logaddexp(0, -logits) * x - np.logaddexp(0, logits) * (1 - x), axis=-1)


def _kl(mean, log_std):
    return np.sum(0.5 * (mean**2 + np.exp(2 * log_std) - 1) - log_std, axis=-1)


FAR = (
    "right for moderate logits, but {} with a logit of 200, where 1 − sigmoid is zero in float32: "
    "log(1 − sigmoid(a)) is −softplus(a)."
)


@exercise("4.2", "A digit on demand", stars=2, minutes=20)
def exercise_4_2(answer, random):
    def case(far=0.0, noisy=1.0, spread=1.0, tall=1.0):
        x, y = (random.uniform(size=6) < 0.5) * 1.0, np.eye(3)[random.integers(3)]
        noise = noisy * random.normal(size=2)
        A, B = random.normal(size=(4, 9)), 2 * random.normal(size=(6, 5))
        A, B, x[0] = spread * A * [[1], [1], [0.3], [0.3]], tall * B, x[0] * (far == 0)
        offset = far * np.eye(6)[0]

        def checked(v, size, what, parts):
            if np.shape(v) != (size,):
                raise Mistake(
                    f"{what} takes one vector of {size} numbers, {parts}, with the one-hot label "
                    f"last; it got shape {np.shape(v)}"
                )

        def encode(v):
            checked(v, 9, "encode", "image and label")
            out = jnp.asarray(A) @ v
            return out[:2], out[2:]

        def decode(v):
            checked(v, 5, "decode", "z and label")
            return jnp.asarray(B) @ v + offset

        out = A @ np.r_[x, y]

        def parts(read=np.r_[x, y], y_out=y, swap=False, spread=np.exp, eps=noise):
            mean, log_std = (A @ read)[:2], (A @ read)[2:]
            z = mean + spread(log_std) * eps
            logits = B @ (np.r_[y_out, z] if swap else np.r_[z, y_out]) + offset
            return _log_likelihood(logits, x), -_kl(mean, log_std)

        def elbo(*read, **options):
            return sum(parts(*read, **options))

        (likelihood, kl), mean, log_std = parts(), out[:2], out[2:]
        drawn = np.sum(-0.5 * (mean + np.exp(log_std) * noise) ** 2 + 0.5 * noise**2 + log_std)
        return Case(
            (encode, decode, x, y, noise),
            likelihood + kl,
            {
                "the label comes last in both vectors.": elbo(np.r_[y, x], swap=True),
                "the label comes last in the encoder's vector.": elbo(np.r_[y, x]),
                "the label comes last in the decoder's vector.": elbo(swap=True),
                "the encoder does not see the label.": elbo(np.r_[x, 0 * y]),
                "the decoder does not see the label.": elbo(y_out=0 * y),
                "log std is not std: take the exponential.": elbo(spread=lambda s: s),
                "you took log σ for log σ²: σ is exp(log σ).": elbo(spread=lambda s: np.exp(s / 2)),
                "the noise is not used: z is the mean, the posterior a point.": elbo(eps=0 * noise),
                "right in distribution; but add the noise you are given, to make it comparable.": (
                    elbo(eps=-noise)
                ),
                "right on average: this is log p(z) − log q(z) at the z you drew. Take the KL in "
                "closed form, so that the numbers can be compared.": likelihood + drawn,
                "mean over the pixels where the log-likelihood is their sum.": likelihood / 6 + kl,
                "mean over the units where the KL is their sum.": likelihood + kl / 2,
                "log σ² where log σ is given, in the KL.": likelihood - _kl(mean, log_std / 2),
            },
            terms={"the log-likelihood": likelihood, "−KL": kl},
            strangers={
                "½ Σ μ²": 0.5 * np.sum(mean**2),
                "½ Σ σ²": 0.5 * np.sum(np.exp(2 * log_std)),
                "Σ log σ": log_std.sum(),
                "a constant": 1.0,
            },
        )

    apart = [
        ("right if the noise is zero: look how it enters z.", lambda: case(noisy=0.0)),
        ("right if q is the prior: look at the KL.", lambda: case(spread=0.0)),
        ("right if all logits are zero: look at z and the likelihood.", lambda: case(tall=0.0)),
    ]
    trials(answer, (case() for _ in range(9)), apart=apart)
    _stable(answer, case(far=200.0))


def _stable(answer, case) -> None:
    """An answer that is right for moderate logits, asked about a far one."""
    got = np.asarray(attempt(answer, *case.arguments), float)
    if not np.isfinite(got).all():
        raise Mistake(FAR.format(got))
    expect(got, case.want)


@exercise("4.3", "The importance-weighted bound", stars=2, minutes=15)
def exercise_4_3(answer, random):
    def logmeanexp(w, axis=1):
        top = w.max(axis=axis, keepdims=True)
        return np.log(np.exp(w - top).mean(axis=axis)) + top.squeeze(axis)

    def case(within=1.0, between=2.0):
        w = random.normal(0, 1.5 * within, size=(3, 4)) + random.normal(0, between, size=(3, 1))
        want, largest = logmeanexp(w).mean(), w.max(axis=1).mean()
        return Case(
            (w,),
            want,
            {
                "this is the mean of the log-weights, the ELBO: exponentiate before you average.": (
                    w.mean()
                ),
                "log of the *sum* of the weights: subtract log K.": want + np.log(4),
                "log K is subtracted twice: the mean divides by K.": want - np.log(4),
                "the maximum that you subtracted must be added back.": want - largest,
                "average over K along axis 1, one bound for each image.": logmeanexp(w, 0).mean(),
                "this averages the weights of all images before the log; take the log for each "
                "image.": logmeanexp(w.reshape(1, -1)).item(),
                "this is the average weight; take its logarithm.": np.exp(logmeanexp(w)).mean(),
                "this is the largest log-weight; the others count too.": largest,
            },
            terms={"log of the average": want - largest, "the largest": largest},
            strangers={"the mean log-weight": w.mean(), "a constant": 1.0},
        )

    apart = [("right if an image's weights are all alike: look at their average over K.",
              lambda: case(within=0.0))]  # fmt: skip
    trials(answer, (case() for _ in range(6)), apart=apart, batch=3)
    for shifts in (np.array([-400.0, -400, -400]), random.permutation([-60.0, -300, -900]),
                   np.array([90.0, 400, 200])):  # fmt: skip
        w = random.normal(0, 1.5, size=(3, 4)) + shifts[:, None]
        want = logmeanexp(w).mean()
        got = np.asarray(attempt(answer, w), dtype=float)
        if not np.isfinite(got).all():
            raise Mistake(
                f"right for moderate weights, but {got} for rows of log-weights around "
                f"{', '.join(f'{s:.0f}' for s in shifts)}: their exponentials round to zero or "
                "overflow. Subtract the largest *of each image* first."
            )
        expect(got, want)


@exercise("4.4", "β-VAE", stars=1, minutes=10)
def exercise_4_4(answer, random):
    def case(far=0.0, confident=1.0, spread=1.0):
        logits, x = (
            confident * random.normal(size=(5, 6)),
            (random.uniform(size=(5, 6)) < 0.5) * 1.0,
        )
        mean, log_std = spread * random.normal(size=(2, 5, 3)) * [[[1]], [[0.5]]]
        if far:
            logits[0, 0], x[0, 0] = far, 0
        beta = random.uniform(2, 4)
        each, kls = _log_likelihood(logits, x), _kl(mean, log_std)
        likelihood, kl = each.mean(), kls.mean()
        return Case(
            (logits, x, mean, log_std, beta),
            likelihood - beta * kl,
            {
                "β multiplies the KL, not the likelihood.": beta * likelihood - kl,
                "β is not used: this is the ELBO.": likelihood - kl,
                "the KL is divided by β; a large β makes units dear.": likelihood - kl / beta,
                "β multiplies both terms.": beta * (likelihood - kl),
                "mean over pixels and units where both are sums.": likelihood / 6 - beta * kl / 3,
                "mean over the pixels where they are summed.": likelihood / 6 - beta * kl,
                "mean over the units where they are summed.": likelihood - beta * kl / 3,
            },
            terms={"the log-likelihood": likelihood, "−β KL": -beta * kl},
            strangers={"KL without β": kl, "a constant": 1.0},
        )

    apart = [
        ("right if q is the prior: look at the KL.", lambda: case(spread=0.0)),
        ("right if all logits are zero: look at the likelihood.", lambda: case(confident=0.0)),
    ]
    trials(answer, (case() for _ in range(7)), apart=apart, batch=5)
    _stable(answer, case(far=200.0))
