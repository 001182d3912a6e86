"""Exercises of notebook 01."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Case, Mistake, attempt, exercise, expect, trials

SIZES, BATCH = [7, 6, 4, 3], 5


def linear(random, inputs: int, outputs: int) -> eqx.nn.Linear:
    """A layer with large weights, drawn without JAX, which would compile it."""
    layer = eqx.filter_eval_shape(eqx.nn.Linear, inputs, outputs, key=jax.random.key(0))
    weight = random.normal(size=(outputs, inputs)) * 1.5 / inputs**0.5
    bias = random.normal(size=outputs) / 2
    parts = jnp.asarray(weight, jnp.float32), jnp.asarray(bias, jnp.float32)
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, parts)


def _problem(random):
    """A tanh network, activities that are not predictions, input and one-hot target."""
    layers = [linear(random, a, b) for a, b in zip(SIZES, SIZES[1:], strict=False)]
    tanh = eqx.nn.Lambda(jnp.tanh)
    model = [*(eqx.nn.Sequential([layer, tanh]) for layer in layers[:-1]), layers[-1]]
    x, *activities = (random.normal(size=(BATCH, n)) for n in SIZES)
    return model, activities, x, np.eye(3)[random.permutation([0, 1, 2, 0, 1])]


def _predictions(model, below) -> list[np.ndarray]:
    """What each layer predicts from the one below it, in NumPy, in float64."""
    outputs = []
    for layer, z in zip(model, below, strict=True):
        flat = layer if isinstance(layer, eqx.nn.Linear) else layer.layers[0]
        output = z @ np.asarray(flat.weight, float).T + np.asarray(flat.bias, float)
        outputs.append(output if flat is layer else np.tanh(output))
    return outputs


def _feedforward(model, z) -> list[np.ndarray]:
    return [z := _predictions([layer], [z])[0] for layer in model]


def _errors(model, activities, x, y) -> list[np.ndarray]:
    predictions = _predictions(model, [x, *activities[:-1]])
    return [z - p for z, p in zip([*activities[:-1], y], predictions, strict=True)]


@exercise("1.1", "An energy for classes", stars=2, minutes=10)
def exercise_1_1(answer, random):
    def case(settled=False, labels=1.0):
        model, activities, x, y = _problem(random)
        activities, y = _feedforward(model, x) if settled else activities, labels * y
        errors = _errors(model, activities, x, y)
        logits = _predictions(model, [x, *activities[:-1]])[-1]
        first, second, squared = (0.5 * np.sum(e**2) / BATCH for e in errors)
        hidden = first + second

        def log_softmax(logits, axis=1):
            return logits - np.log(np.exp(logits).sum(axis, keepdims=True))

        def entropy(logarithms):
            return -np.sum(y * logarithms) / BATCH

        softmax = np.exp(log_softmax(logits))
        top = entropy(log_softmax(logits))
        tops = {
            "the top layer still has its squared error as well; replace it.": top + squared,
            "this is the energy with squared error at the top, unchanged.": squared,
            "the logits are the prediction from activities[-2], not activities[-1].": entropy(
                log_softmax(activities[-1])
            ),
            "the logits come from a feedforward pass; predict from activities[-2].": entropy(
                log_softmax(_feedforward(model, x)[-1])
            ),
            "the logits are the prediction f_L(z), not the error y − f_L(z).": entropy(
                log_softmax(errors[-1])
            ),
            "the softmax runs over the batch; it belongs over the classes, axis 1.": entropy(
                log_softmax(logits, 0)
            ),
            "the softmax is taken twice: Optax takes logits, not probabilities.": entropy(
                log_softmax(softmax)
            ),
            "the logarithm of the softmax is missing.": entropy(softmax),
            "the cross-entropy is averaged over the classes too; sum over them.": top / 3,
        }
        means = 0.5 * sum(np.mean(e**2) for e in errors[:-1])
        return Case(
            (model, activities, x, y),
            hidden + top,
            {words: hidden + value for words, value in tops.items()}
            | {"mean over a layer's numbers where the energy sums over them.": means + top},
            terms={"½‖ε₁‖²": first, "½‖ε₂‖²": second, "the cross-entropy": top},
            strangers={"the squared error of the top layer": squared, "a constant": 1.0},
        )

    apart = [
        ("right if the hidden errors are zero: look at their squares.", lambda: case(True)),
        ("right without labels (y = 0): look at the cross-entropy.", lambda: case(labels=0.0)),
    ]
    trials(answer, (case() for _ in range(8)), apart=apart, batch=BATCH)


@exercise("1.2", "Start somewhere else", stars=1, minutes=10)
def exercise_1_2(answer, random):
    sizes, batch, scale = [6, 50, 50, 10], 400, random.uniform(0.4, 0.6)
    model = [linear(random, a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    x = random.normal(size=(batch, sizes[0]))
    key, other = (jax.random.key(int(seed)) for seed in random.integers(2**31, size=2))
    direct = [scale * np.asarray(jax.random.normal(key, (batch, n))) for n in sizes[1:]]
    once = scale * np.asarray(jax.random.normal(key, (batch * sum(sizes[1:]),)))
    got = attempt(answer, model, x, scale, key=key)
    shapes, want = [np.shape(z) for z in jax.tree.leaves(got)], [z.shape for z in direct]
    if shapes != want:
        raise Mistake(f"expected a list of arrays of shapes {want}, yours has {shapes}.")
    layers = [np.asarray(z, float) for z in jax.tree.leaves(got)]
    for z in layers:
        if np.allclose(z[0], z[1]):
            raise Mistake("all examples got the same numbers; draw the whole (batch, width).")
        if np.allclose(z[:, 0], z[:, 1]):
            raise Mistake("all units got the same numbers; draw the whole (batch, width).")
        deviation, error = z.std(), 6 / (2 * z.size) ** 0.5
        if z.min() >= 0:
            raise Mistake("all numbers are positive; draw from a Gaussian (jax.random.normal).")
        if abs(deviation - 1) < error:
            raise Mistake("the standard deviation is 1; multiply by scale.")
        if any(abs(deviation / wrong - 1) < error for wrong in (scale**2, scale**0.5)):
            raise Mistake("scale is the standard deviation, not the variance or its root.")
        if abs(deviation / scale - 1) > error or abs(z.mean()) > 2 * error * scale:
            raise Mistake(
                f"mean {z.mean():.2f} and standard deviation {deviation:.2f} where 0 and "
                f"{scale:.2f} were asked; is the feedforward pass still in it?"
            )
        if abs(np.mean(z**4) / deviation**4 - 3) > 0.6:
            raise Mistake("right mean and deviation, but no Gaussian: use jax.random.normal.")
    for i, z in enumerate(layers):
        for later in layers[i + 1 :]:
            n = min(z.size, later.size)
            wide = min(z.shape[1], later.shape[1])
            same = np.corrcoef(z.ravel()[:n], later.ravel()[:n])[0, 1]
            beside = np.corrcoef(z[:, :wide].ravel(), later[:, :wide].ravel())[0, 1]
            if max(abs(same), abs(beside)) > 0.2:
                raise Mistake("two layers got the same numbers; split the key, one per layer.")
    used = any(np.allclose(z, d, atol=1e-4) for z, d in zip(layers, direct, strict=True))
    if used and not np.allclose(np.concatenate([z.ravel() for z in layers]), once, atol=1e-4):
        raise Mistake(
            "the key was used for a draw and for other keys as well: split it first, and then "
            "use its children only."
        )
    again, changed = (
        jax.tree.leaves(attempt(answer, model, x, scale, key=k)) for k in (key, other)
    )
    for z, same, new in zip(layers, again, changed, strict=True):
        if not np.allclose(z, same) or np.allclose(z, new):
            raise Mistake("the numbers must come from the key given: same key, same numbers.")


@exercise("1.3", "The inference step", stars=2, minutes=10)
def exercise_1_3(answer, random):
    model, start, x, y = _problem(random)
    rate = random.uniform(0.5, 1.0)

    def walk(steps, factor=1.0, own=1.0, above=1.0, one_by_one=False):
        states = list(start)
        for _ in range(steps):
            before = states[:]
            for i in range(2):
                now = states if one_by_one else before
                gradient = _gradients(model, now, x, y)[i]
                error = _errors(model, now, x, y)[i]
                slope = own * error + above * (gradient - error)
                states[i] = now[i] - factor * rate / BATCH * slope
        return states[:-1]

    for steps in (4, 1, 0):
        got, want = attempt(answer, model, start, x, y, rate, steps), walk(steps)
        if not isinstance(got, (tuple, list)) or len(got) != len(start):
            raise Mistake(f"return the list of all {len(start)} activities, the top one as well.")
        mistakes = {
            "you climb: the step goes against the gradient.": walk(steps, -1.0),
            "N times too far: pc_energy is a mean already, so is its gradient.": walk(steps, BATCH),
            "divided by N once too often: pc_energy is a mean already.": walk(steps, 1 / BATCH),
            "layer 2 has seen where layer 1 moved to: take all gradients first, then move.": walk(
                steps, one_by_one=True
            ),
            "the error above is missing from the gradient.": walk(steps, above=0.0),
            "the layer's own error is missing from the gradient.": walk(steps, own=0.0),
            "this is the start: nothing has moved.": start[:-1],
            "one step too many.": walk(steps + 1),
            "one step is missing.": walk(max(steps - 1, 0)),
            "one step only, however many are asked for.": walk(1),
        }
        expect(
            list(got)[:-1], want, {} if steps == 0 else mistakes, names=["z₁", "z₂"], batch=BATCH,
            terms={"the start": start[:-1],
                   "the way from it": [w - s for w, s in zip(want, start, strict=False)]},
        )  # fmt: skip


@exercise("1.4", "Find the bug", stars=2, minutes=10)
def exercise_1_4(answer, random):
    gradient = random.normal(size=(4, 3)) * 10.0 ** random.integers(-3, 2, size=(4, 3))
    gradient[random.integers(4), random.integers(3)] = 0.0
    rate = random.uniform(0.01, 0.1)
    sign = np.sign(gradient)
    got = attempt(answer, gradient, rate)
    if np.any(np.isnan(np.asarray(got, float))):
        raise Mistake("nan where the gradient is zero: Adam adds a small ε to the root.")
    moved = np.ravel(sign) != 0
    sizes = np.abs(np.ravel(np.broadcast_to(got, sign.shape))[moved]) / rate
    uneven = "after the division a large gradient must move its weight as far as a small one does."
    expect(
        got,
        -rate * sign,
        {
            "this is plain gradient descent; Adam also divides by a root.": -rate * gradient,
            "the bias correction is missing: m / (1 − 0.9) and v / (1 − 0.999).": (
                -rate * sign * 0.1 / 0.001**0.5
            ),
            "m lacks its bias correction, 1 / (1 − 0.9).": -rate * sign * 0.1,
            "v lacks its bias correction, 1 / (1 − 0.999).": -rate * sign / 0.001**0.5,
            "divide by the root of the square, entry by entry, not by one norm.": (
                -rate * gradient / np.linalg.norm(gradient)
            ),
            "the update is what is *added* to the weights: it goes downhill.": rate * sign,
            "the rate is missing.": -sign,
            uneven: got if len(set(np.round(sizes, 4))) > 1 else sign,
            "the size is off by one factor for all: see where rate and corrections stand.": (
                got if np.ptp(np.ravel(got)[moved] / np.ravel(sign)[moved]) < 1e-6 else sign
            ),
        },
    )


@exercise("1.5", "Errors with precision", stars=2, minutes=15)
def exercise_1_5(answer, random):
    def case(settled=False, precise=1.0):
        model, activities, x, y = _problem(random)
        activities = _feedforward(model, x) if settled else activities
        errors = _errors(model, activities, x, activities[-1] if settled else y)
        logs = precise * random.uniform(0.3, 1.2, size=3) * random.permutation([1, -1, 1])
        widths = np.array(SIZES[1:])
        squared = np.array([0.5 * np.sum(e**2) / BATCH for e in errors])

        def energy(pi=None, logs=logs, widths=widths):
            return (np.exp(logs) if pi is None else pi) @ squared - 0.5 * logs @ widths

        return Case(
            (model, activities, x, activities[-1] if settled else y, logs),
            energy(),
            {
                "log_precisions holds log π; take its exponential.": energy(logs),
                "π weights the squared error; it is not squared itself.": energy(np.exp(2 * logs)),
                "π weights the squared error, not its root.": energy(np.exp(logs / 2)),
                "you divided by π; it is one over the variance: multiply.": energy(np.exp(-logs)),
                "log_precisions holds log π, not the log of the variance, 1/π.": energy(logs=-logs),
                "the precision is 1/σ², one over the variance, not 1/σ.": energy(logs=2 * logs),
                "each of a layer's d numbers brings a −½ log π; you counted one per layer.": energy(
                    widths=1 + 0 * widths
                ),
                "the normalisation is divided by N twice: each example brings −½ d log π.": energy(
                    widths=widths / BATCH
                ),
                "½ log 2π for each number is still there; drop it, it does not depend on π.": (
                    energy() + 0.5 * np.log(2 * np.pi) * sum(widths)
                ),
                "mean over a layer's numbers where the energy sums over them.": energy(
                    np.exp(logs) / widths
                ),
            },
            terms={
                "the sum of ½ π ‖ε‖²": np.exp(logs) @ squared,
                "the normalisation −½ d log π": -0.5 * logs @ widths,
            },
            strangers={
                "a square without its precision": squared.sum(),
                "Σ log π without d": logs.sum(),
                "a constant": 1.0,
            },
        )

    apart = [
        ("right if all errors are zero: look at the squares.", lambda: case(True)),
        ("right if all precisions are 1: look where they enter.", lambda: case(precise=0.0)),
    ]
    trials(answer, (case() for _ in range(8)), apart=apart, batch=BATCH)


def _gradients(model, activities, x, y) -> list[np.ndarray]:
    """N ∂F/∂z by hand for the tanh network, in float64; zero for the clamped top."""
    errors, gradients = _errors(model, activities, x, y), []
    predictions = _predictions(model, [x, *activities[:-1]])
    for i, above in enumerate(model[1:]):
        flat = above if isinstance(above, eqx.nn.Linear) else above.layers[0]
        slope = 1.0 if flat is above else 1 - predictions[i + 1] ** 2
        gradients.append(errors[i] - (slope * errors[i + 1]) @ np.asarray(flat.weight, float))
    return [*gradients, np.zeros_like(errors[-1])]


MEASURES = {  # what an answer may compare with the tolerance; the first is right
    "": lambda g: max(np.abs(part).max() for part in g),
    "the gradient of the batch mean is N times smaller than an example's own: compare N·∂F/∂z "
    "with the tolerance.": lambda g: max(np.abs(part).max() for part in g) / BATCH,
    "look at all layers: the first one alone was compared.": lambda g: np.abs(g[0]).max(),
    "look at all layers: the last hidden one alone was compared.": lambda g: np.abs(g[1]).max(),
    "look at all images, not at the first alone.": lambda g: max(np.abs(p[0]).max() for p in g),
    "take absolute values: a large negative gradient is not small.": lambda g: max(
        part.max() for part in g
    ),
    "the largest entry counts, not the mean.": lambda g: max(np.abs(part).mean() for part in g),
    "the largest entry counts, not the norm.": lambda g: sum(np.sum(part**2) for part in g) ** 0.5,
    "*every* entry is to be small, of all layers.": lambda g: min(
        np.abs(part).max() for part in g[:-1]
    ),
}


def _descent(random, rate, *, last: int):
    """A problem, its states at each step, a tolerance, and at which step each measure is below it.

    The layer `last` is small last; each other measure stops at another step than the right one.
    """
    while True:
        problem = _problem(random)
        states, slopes = [problem[1]], []
        for _ in range(30):
            slopes.append(_gradients(problem[0], states[-1], *problem[2:]))
            states.append([a - rate * g for a, g in zip(states[-1], slopes[-1], strict=True)])
        sizes = np.array([[measure(g) for g in slopes] for measure in MEASURES.values()])
        for needed in random.permutation(np.arange(6, 16)):
            before, after = sizes[0, needed - 1 : needed + 1]
            tolerance = (before * after) ** 0.5
            below = [int(np.argmax(row < tolerance)) if min(row) < tolerance else 30
                     for row in sizes]  # fmt: skip
            other = [step for i, step in enumerate(below) if i not in (0, 2 + last)]
            apart = needed not in other and needed - 1 not in other
            if below[0] == needed and after < 0.97 * before and apart:
                return problem, states, tolerance, below, sizes[0, 0]


@exercise("1.6", "Stop when there is nothing left to do", stars=3, minutes=15)
def exercise_1_6(answer, random):
    rate = 0.15
    for last in (1, 0):
        (model, *given), states, tolerance, steps, first = _descent(random, rate, last=last)
        inputs, needed = (model, *given, rate), steps[0]
        got, taken = _stopped(attempt(answer, *inputs, tolerance, 50))
        if taken == 50:
            raise Mistake("it ran to max_steps although the gradients became small long before.")
        for words, step in zip(MEASURES, steps, strict=True):
            if taken == step != needed:
                raise Mistake(f"{words} You took {taken} steps, {needed} are needed.")
        if abs(taken - needed) == 1:
            raise Mistake(
                f"off by one: you took {taken} steps, {needed} are needed. Look at the gradient "
                "at the current activities before deciding on the next step."
            )
        _same(got, states[needed], taken, needed, states)
    got, taken = _stopped(attempt(answer, *inputs, tolerance, 3))
    if taken != 3:
        raise Mistake(f"max_steps=3 was given and you took {taken} steps.")
    _same(got, states[3], taken, 3, states)
    got, taken = _stopped(attempt(answer, *inputs, 2 * first, 50))
    if taken:
        raise Mistake(
            f"all gradients were small at the start, and you took {taken} steps: look before "
            "you step."
        )
    _same(got, states[0], 0, 0, states)


def _stopped(got) -> tuple[list, int]:
    if not (isinstance(got, (tuple, list)) and len(got) == 2 and np.size(got[1]) == 1):
        raise Mistake("return two things: the activities and the number of steps taken.")
    if not isinstance(got[0], (tuple, list)) or len(got[0]) != len(SIZES) - 1:
        raise Mistake(
            f"return all {len(SIZES) - 1} activities that you were given, the top one as well."
        )
    return list(got[0]), int(np.asarray(got[1]).item())


def _same(got, want, taken, needed, states) -> None:
    """Compare the hidden activities, and the steps that were counted, with the right ones."""
    for step in (needed - 1, needed + 1, 0):
        if 0 <= step != needed and all(
            np.shape(z) == w.shape and np.allclose(z, w, atol=1e-3)
            for z, w in zip(got[:-1], states[step][:-1], strict=True)
        ):
            where = "the start" if step == 0 else f"those after {step}"
            raise Mistake(f"you counted {needed} steps, but the activities returned are {where}.")
    if taken != needed:
        raise Mistake(
            f"you took {taken} steps, expected {needed}. Compare the largest absolute entry of "
            "all activity gradients, per example (N times that of F), with the tolerance."
        )
    moved = [w - s for w, s in zip(want, states[0], strict=True)]
    expect(
        got[:-1],
        want[:-1],
        names=["z₁", "z₂"],
        terms={
            "the start": states[0][:-1],
            "the way from the start": moved[:-1],
        },
    )
