"""Exercise checks of notebook 04: typical wrong answers, right answer."""

import jax
import jax.numpy as jnp
import pytest

from labkit import check

# 4.1


def kl(half=0.5, constant=0.5, sign=1, swap=False, log_of=2, reduce=jnp.sum, distance=1):
    def answer(m1, s1, m2, s2):
        if swap:
            m1, s1, m2, s2 = m2, s2, m1, s1
        squares = jnp.exp(log_of * s1) + distance * (m1 - m2) ** 2
        return reduce(sign * (s2 - s1) + half * squares / jnp.exp(log_of * s2) - constant)

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (kl(), None),
        (kl(swap=True), "exchanged"),
        (kl(half=1.0), "½ of the squares"),
        (kl(constant=0.0), "−½ of each unit"),
        (kl(constant=1.0), "½ of the constant"),
        (kl(sign=-1), "wrong sign"),
        (kl(sign=0.5), "logs are halved"),
        (kl(distance=0), "distance between the means"),
        (kl(log_of=1), "log σ for log σ²"),
        (kl(reduce=jnp.mean), "mean over the units"),
        (kl(reduce=lambda v: v), "one number is expected"),
        (lambda *a: -kl()(*a), "the sign"),
        (lambda m1, s1, m2, s2: kl()(m1, s1, 0 * m2, 0 * s2), "ignores the second"),
        (lambda *a: jnp.array(7.0), "the value is off"),
    ],
)
def test_4_1(judge, answer, words):
    judge(check.exercise_4_1, answer, words)


# 4.2


def conditional(kl=1.0, order=1, exp=jnp.exp, sampled=True, see=(1, 1), mean=False, sign=1):
    def answer(encode, decode, x, y, noise):
        m, s = encode(jnp.concatenate([x, see[0] * y][::order]))
        z = m + exp(s) * noise * sampled
        logits = decode(jnp.concatenate([z, see[1] * y][::order]))
        pixels = x * logits - jax.nn.softplus(logits)
        likelihood = pixels.mean() if mean else pixels.sum()
        return sign * (likelihood - kl * jnp.sum(0.5 * (m**2 + jnp.exp(2 * s) - 1) - s))

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (conditional(), None),
        (conditional(sign=-1), "the sign"),
        (conditional(kl=-1.0), "you added it"),
        (conditional(kl=0.0), "the KL is missing"),
        (conditional(order=-1), "the label comes last"),
        (conditional(see=(0, 1)), "the encoder does not see"),
        (conditional(see=(1, 0)), "the decoder does not see"),
        (conditional(exp=lambda s: s), "take the exponential"),
        (conditional(exp=lambda s: jnp.exp(s / 2)), "log σ for log σ²"),
        (conditional(sampled=False), "the noise is not used"),
        (conditional(mean=True), "mean over the pixels"),
        (lambda encode, *rest: encode(rest[1])[0].sum(), "encode takes one vector of 9 numbers"),
        (lambda e, decode, x, y, noise: decode(noise).sum(), "decode takes one vector of 5"),
        (lambda encode, decode, x, y, noise: encode(x, y), "your code raised TypeError"),
    ],
)
def test_4_2(judge, answer, words):
    judge(check.exercise_4_2, answer, words)


# 4.3


def stable(w, axis=1):
    return jax.nn.logsumexp(w, axis=axis) - jnp.log(w.shape[axis])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda w: stable(w).mean(), None),
        (lambda w: w.mean(), "exponentiate before"),
        (lambda w: jax.nn.logsumexp(w, axis=1).mean(), "subtract log K"),
        (lambda w: (stable(w) - w.max(axis=1)).mean(), "must be added back"),
        (lambda w: stable(w, 0).mean(), "along axis 1"),
        (lambda w: jax.nn.logsumexp(w) - jnp.log(w.size), "all images before the log"),
        (lambda w: stable(w).sum(), "sum over the images"),
        (stable, "one number is expected"),
        (lambda w: -stable(w).mean(), "the sign"),
        (lambda w: jnp.log(jnp.exp(w).mean(axis=1)).mean(), "around −400"),
    ],
)
def test_4_3(judge, answer, words):
    judge(check.exercise_4_3, answer, words)


# 4.4


def beta_elbo(sign=1, swap=False, use=lambda b: b, pixels=jnp.sum, units=jnp.sum, over=jnp.mean):
    def answer(logits, x, m, s, beta):
        likelihood = pixels(x * logits - jax.nn.softplus(logits), axis=1)
        kl = units(0.5 * (m**2 + jnp.exp(2 * s) - 1) - s, axis=1)
        if swap:
            return jnp.mean(beta * likelihood - kl)
        return sign * over(likelihood - use(beta) * kl)

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (beta_elbo(), None),
        (beta_elbo(sign=-1), "the sign"),
        (beta_elbo(swap=True), "not the likelihood"),
        (beta_elbo(use=lambda b: 1.0), "β is not used"),
        (beta_elbo(use=lambda b: 1 / b), "divided by β"),
        (beta_elbo(use=lambda b: -b), "must be subtracted"),
        (lambda *a: a[-1] * beta_elbo(use=lambda b: 1.0)(*a), "both terms"),
        (beta_elbo(over=jnp.sum), "sum over the batch"),
        (beta_elbo(over=lambda v: v), "one number is expected"),
        (beta_elbo(pixels=jnp.mean), "mean over the pixels"),
        (beta_elbo(units=jnp.mean), "mean over the units"),
        (beta_elbo(pixels=jnp.mean, units=jnp.mean), "mean over pixels and units"),
    ],
)
def test_4_4(judge, answer, words):
    judge(check.exercise_4_4, answer, words)
