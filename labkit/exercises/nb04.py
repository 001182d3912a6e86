"""Exercises of notebook 04."""

import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Mistake, attempt, exercise, expect


def _float(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


@exercise("4.1", "KL between two Gaussians")
def exercise_4_1(answer):
    m1, s1 = np.array([0.5, -1.0, 2.0]), np.array([0.2, -0.5, 0.4])
    m2, s2 = np.array([-0.3, 0.4, 1.0]), np.array([-0.1, 0.3, 0.6])

    def kl(m1, s1, m2, s2, half=0.5, constant=0.5, logs=1.0, squares=1.0):
        ratio = (np.exp(2 * s1) + squares * (m1 - m2) ** 2) / np.exp(2 * s2)
        return np.sum(logs * (s2 - s1) + half * ratio - constant)

    want = kl(m1, s1, m2, s2)
    expect(
        attempt(answer, *_float(m1, s1, m2, s2)),
        want,
        {
            "the two are exchanged: this is KL of the second from the first, and the KL is not "
            "symmetric.": kl(m2, s2, m1, s1),
            "the sign: the KL is E₁[log q₁ − log q₂], and never negative.": -want,
            "the −½ of each unit is missing: E₁ of (z − μ₁)²/σ₁² is one.": kl(
                m1, s1, m2, s2, constant=0.0
            ),
            "the ½ of the squares is missing.": kl(m1, s1, m2, s2, half=1.0),
            "the ½ of the constant is missing.": kl(m1, s1, m2, s2, constant=1.0),
            "the logs have the wrong sign: log σ₂ − log σ₁.": kl(m1, s1, m2, s2, logs=-1.0),
            "the logs are halved: ½ log σ² is log σ.": kl(m1, s1, m2, s2, logs=0.5),
            "the distance between the means is missing.": kl(m1, s1, m2, s2, squares=0.0),
            "you took log σ for log σ²: the variance is exp(2 log σ).": kl(m1, s1 / 2, m2, s2 / 2),
            "you took log σ for log σ² in the variances: exp(2 log σ).": np.sum(
                s2 - s1 + 0.5 * (np.exp(s1) + (m1 - m2) ** 2) / np.exp(s2) - 0.5
            ),
            "the divergence from N(0, I) ignores the second Gaussian.": kl(m1, s1, 0 * m1, 0 * s1),
            "mean over the units where the divergence is their sum.": want / 3,
            "sum over the units: one number is expected, you return one for each.": (
                s2 - s1 + 0.5 * (np.exp(2 * s1) + (m1 - m2) ** 2) / np.exp(2 * s2) - 0.5
            ),
        },
    )


def _log_likelihood(logits, x):
    """Σ x log p + (1 − x) log(1 − p), in float64."""
    return np.sum(-np.logaddexp(0, -logits) * x - np.logaddexp(0, logits) * (1 - x), axis=-1)


def _kl(mean, log_std):
    return np.sum(0.5 * (mean**2 + np.exp(2 * log_std) - 1) - log_std, axis=-1)


@exercise("4.2", "Conditional VAE")
def exercise_4_2(answer):
    rng = np.random.default_rng(421)
    x, y = (rng.uniform(size=6) < 0.5) * 1.0, np.eye(3)[1]
    noise = rng.normal(size=2)
    A, B = rng.normal(size=(4, 9)), 2 * rng.normal(size=(6, 5))

    def checked(v, size, what, parts):
        if v.shape != (size,):
            raise Mistake(
                f"{what} takes one vector of {size} numbers, {parts}, with the one-hot label "
                f"last; it got shape {v.shape}"
            )

    def encode(v):
        checked(v, 9, "encode", "image and label")
        out = jnp.asarray(A, jnp.float32) @ v
        return out[:2], 0.5 * out[2:]

    def decode(v):
        checked(v, 5, "decode", "z and label")
        return jnp.asarray(B, jnp.float32) @ v

    def elbo(x_, y_in=y, y_out=y, kl=1.0, swap=False, spread=np.exp, eps=noise):
        out = A @ (np.r_[y_in, x_] if swap else np.r_[x_, y_in])
        mean, log_std = out[:2], 0.5 * out[2:]
        z = mean + spread(log_std) * eps
        logits = B @ (np.r_[y_out, z] if swap else np.r_[z, y_out])
        return _log_likelihood(logits, x_) - kl * _kl(mean, log_std)

    want = elbo(x)
    expect(
        attempt(answer, encode, decode, *_float(x, y, noise)),
        want,
        {
            "the sign: the ELBO is to be maximised; you return the free energy.": -want,
            "the KL must be subtracted; you added it.": elbo(x, kl=-1.0),
            "the KL is missing: this is the reconstruction alone.": elbo(x, kl=0.0),
            "the label comes last in both vectors.": elbo(x, swap=True),
            "the encoder does not see the label.": elbo(x, y_in=0 * y),
            "the decoder does not see the label.": elbo(x, y_out=0 * y),
            "log std is not std: take the exponential before it multiplies the noise.": elbo(
                x, spread=lambda s: s
            ),
            "you took log σ for log σ²: σ is exp(log σ).": elbo(x, spread=lambda s: np.exp(s / 2)),
            "the noise is not used: z is the mean, so the posterior is a point.": elbo(
                x, eps=0 * noise
            ),
            "mean over the pixels where the log-likelihood is their sum.": want
            - 5 / 6 * elbo(x, kl=0.0),
        },
    )


@exercise("4.3", "Importance-weighted bound")
def exercise_4_3(answer):
    rng = np.random.default_rng(43)

    def logmeanexp(w, axis):
        top = w.max(axis=axis, keepdims=True)
        return np.log(np.exp(w - top).mean(axis=axis)) + top.squeeze(axis)

    small = rng.normal(0, 1.5, size=(3, 4))
    want = logmeanexp(small, 1).mean()
    spread = small.max(axis=1).mean()
    expect(
        attempt(answer, *_float(small)),
        want,
        {
            "this is the mean of the log-weights, the ELBO: exponentiate before you average.": (
                small.mean()
            ),
            "log of the *sum* of the weights: subtract log K.": want + np.log(4),
            "the maximum that you subtracted must be added back.": want - spread,
            "the average over K must run along axis 1, one bound for each image.": logmeanexp(
                small, 0
            ).mean(),
            "this averages the weights of all images before the log; take the log for each "
            "image.": logmeanexp(small.reshape(1, -1), 1).item(),
            "sum over the images where the bound is their mean.": 3 * want,
            "mean over the images: one number is expected, you return one for each.": logmeanexp(
                small, 1
            ),
            "the sign: the bound is +log of the average.": -want,
        },
    )
    deep = small - 400
    got = np.asarray(attempt(answer, *_float(deep)), dtype=float)
    if not np.isfinite(got).all():
        raise Mistake(
            f"right for moderate weights, but {got} for log-weights around −400: their "
            "exponentials round to zero. Subtract the largest of each image first."
        )
    expect(got, want - 400, {})


@exercise("4.4", "β-VAE")
def exercise_4_4(answer):
    rng = np.random.default_rng(44)
    logits, x = rng.normal(size=(4, 6)), (rng.uniform(size=(4, 6)) < 0.5) * 1.0
    mean, log_std = rng.normal(size=(4, 3)), 0.5 * rng.normal(size=(4, 3))
    likelihood, kl, beta = _log_likelihood(logits, x), _kl(mean, log_std), 2.5

    def objective(pixels=1.0, units=beta):
        return np.mean(pixels * likelihood - units * kl)

    want = objective()
    expect(
        attempt(answer, *_float(logits, x, mean, log_std, beta)),
        want,
        {
            "the sign: write the objective to be maximised.": -want,
            "β multiplies the KL, not the likelihood.": objective(pixels=beta, units=1.0),
            "β is not used: this is the ELBO.": objective(units=1.0),
            "the KL is divided by β; a large β makes units dear.": objective(units=1 / beta),
            "β multiplies both terms.": objective(pixels=beta),
            "the KL must be subtracted.": objective(units=-beta),
            "sum over the batch where the objective takes the mean.": 4 * want,
            "mean over pixels and units where both are sums.": np.mean(
                likelihood / 6 - beta * kl / 3
            ),
            "mean over the pixels where the log-likelihood is their sum.": objective(pixels=1 / 6),
            "mean over the units where the KL is their sum.": objective(units=beta / 3),
            "mean over the images: one number is expected, you return one for each.": (
                likelihood - beta * kl
            ),
        },
    )
