"""Exercises of notebook 01."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from labkit.exercises.core import Mistake, attempt, exercise, expect

SIZES, BATCH = [6, 5, 4, 3], 4


def _network():
    """A tanh network 6-5-4-3 with large weights; its layers are for one example."""
    keys = jax.random.split(jax.random.key(11), 3)
    layers = [eqx.nn.Linear(a, b, key=k) for a, b, k in zip(SIZES, SIZES[1:], keys, strict=False)]
    layers = [eqx.tree_at(lambda m: m.weight, layer, 2 * layer.weight) for layer in layers]
    hidden = [eqx.nn.Sequential([layer, eqx.nn.Lambda(jnp.tanh)]) for layer in layers[:-1]]
    return [*hidden, layers[-1]]


def _problem():
    """Model, activities that are not predictions, input and one-hot target for four examples."""
    keys = jax.random.split(jax.random.key(12), 4)
    activities = [jax.random.normal(k, (BATCH, n)) for k, n in zip(keys, SIZES[1:], strict=False)]
    x = jax.random.normal(keys[3], (BATCH, SIZES[0]))
    return _network(), activities, x, jax.nn.one_hot(jnp.array([0, 2, 1, 2]), 3)


def _predictions(model, activities, x) -> list[np.ndarray]:
    """What each layer predicts, in NumPy, in float64."""
    outputs = []
    for layer, below in zip(model, [x, *activities[:-1]], strict=True):
        linear = layer.layers[0] if isinstance(layer, eqx.nn.Sequential) else layer
        weight, bias = np.asarray(linear.weight, float), np.asarray(linear.bias, float)
        output = np.asarray(below, float) @ weight.T + bias
        outputs.append(output if linear is layer else np.tanh(output))
    return outputs


def _errors(model, activities, x, y) -> list[np.ndarray]:
    here = [*activities[:-1], y]
    predictions = _predictions(model, activities, x)
    return [np.asarray(z, float) - p for z, p in zip(here, predictions, strict=True)]


@exercise("1.1", "An energy for classes")
def exercise_1_1(answer):
    model, activities, x, y = _problem()
    errors = _errors(model, activities, x, y)
    logits = _predictions(model, activities, x)[-1]
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    hidden = 0.5 * sum(np.sum(e**2) for e in errors[:-1]) / BATCH
    top = -np.sum(np.asarray(y) * log_softmax) / BATCH
    own = np.asarray(activities[-1], float)
    own = -np.sum(np.asarray(y) * (own - np.log(np.exp(own).sum(1, keepdims=True)))) / BATCH
    expect(
        attempt(answer, model, activities, x, y),
        hidden + top,
        {
            "the hidden layers' errors are missing; you returned only the cross-entropy.": top,
            "the cross-entropy is missing; you returned only the hidden errors.": hidden,
            "sum over the batch where the energy takes the mean.": BATCH * (hidden + top),
            "the sign of the cross-entropy: it is minus the log-probability.": hidden - top,
            "the ½ of the hidden layers' squared errors is missing.": 2 * hidden + top,
            "the cross-entropy has no ½; only the squares do.": hidden + 0.5 * top,
            "the top layer still has its squared error as well; replace it.": (
                hidden + top + 0.5 * np.sum(errors[-1] ** 2) / BATCH
            ),
            "the logits must be the top layer's prediction from the activity below it, "
            "not activities[-1].": hidden + own,
            "this is the energy with squared error at the top, unchanged.": (
                hidden + 0.5 * np.sum(errors[-1] ** 2) / BATCH
            ),
            "the cross-entropy is averaged over the classes too; sum over them.": hidden + top / 3,
        },
    )


@exercise("1.2", "Start somewhere else")
def exercise_1_2(answer):
    model, x, key = _wide_network(), jnp.ones((200, 6)), jax.random.key(5)
    got = attempt(answer, model, x, 0.5, key=key)
    shapes = [np.shape(z) for z in got]
    want = [(200, 50), (200, 50), (200, 3)]
    if shapes != want:
        raise Mistake(f"expected a list of arrays of shapes {want}, yours has {shapes}.")
    first, second, top = (np.asarray(z) for z in got)
    if np.allclose(first, second):
        raise Mistake("both hidden layers got the same numbers; split the key, one per layer.")
    if np.allclose(first[0], first[1]):
        raise Mistake("all examples got the same numbers; draw the whole (batch, width).")
    if first.min() >= 0:
        raise Mistake("all numbers are positive; draw from a Gaussian (jax.random.normal).")
    for z in (first, second, top):
        deviation = z.std()
        if abs(deviation - 1.0) < 0.1:
            raise Mistake("the standard deviation is 1; multiply by scale.")
        if abs(deviation - 0.25) < 0.03 or abs(deviation - 0.5**0.5) < 0.05:
            raise Mistake("scale is the standard deviation, not the variance or its root.")
        if abs(deviation - 0.5) > 0.1 or abs(z.mean()) > 0.1:
            raise Mistake(
                f"mean {z.mean():.2f} and standard deviation {deviation:.2f} where 0 and 0.5 "
                "were asked; is the feedforward pass still in it?"
            )
    again = attempt(answer, model, x, 0.5, key=key)
    other = attempt(answer, model, x, 0.5, key=jax.random.key(6))
    if not np.allclose(first, again[0]) or np.allclose(first, other[0]):
        raise Mistake("the numbers must come from the key given: same key, same numbers.")


def _wide_network():
    keys = jax.random.split(jax.random.key(13), 3)
    sizes = [6, 50, 50, 3]
    return [eqx.nn.Linear(a, b, key=k) for a, b, k in zip(sizes, sizes[1:], keys, strict=False)]


@exercise("1.3", "Errors with precision")
def exercise_1_3(answer):
    model, activities, x, y = _problem()
    errors = _errors(model, activities, x, y)
    logs = np.array([0.3, -0.5, 0.9])

    def energy(weights, squares=0.5, logarithms=0.5, widths=True):
        total = squares * sum(w * np.sum(e**2) for w, e in zip(weights, errors, strict=True))
        counts = [e.size if widths else BATCH for e in errors]
        return (total - logarithms * np.dot(logs, counts)) / BATCH

    precisions = np.exp(logs)
    expect(
        attempt(answer, model, activities, x, y, jnp.array(logs)),
        energy(precisions),
        {
            "the normalisation −½ d log π is missing: without it the best precision is zero.": (
                energy(precisions, logarithms=0.0)
            ),
            "the sign of the normalisation: it is −½ d log π.": energy(precisions, logarithms=-0.5),
            "log_precisions holds log π; take its exponential before weighting.": energy(logs),
            "the precision weights the squared error; it is not squared itself.": energy(
                precisions**2
            ),
            "you divided by the precision; it is one over the variance, so multiply.": energy(
                1 / precisions
            ),
            "the ½ is missing from both terms.": 2 * energy(precisions),
            "the ½ of the normalisation is missing.": energy(precisions, logarithms=1.0),
            "the ½ of the squares is missing.": energy(precisions, squares=1.0),
            "each of a layer's d numbers brings a −½ log π; you counted one per layer.": energy(
                precisions, widths=False
            ),
            "sum over the batch where the energy takes the mean.": BATCH * energy(precisions),
        },
    )


@exercise("1.4", "Stop when there is nothing left to do")
def exercise_1_4(answer):
    model, activities, x, y = _problem()
    rate, tolerance = 0.1, 0.05
    z, history = activities, []
    for _ in range(60):
        gradients = _gradients(model, z, x, y)
        history.append((z, max(np.abs(g).max() for g in gradients)))
        z = [a - rate * BATCH * g for a, g in zip(z, gradients, strict=True)]
    small = [step for step, (_, size) in enumerate(history) if BATCH * size < tolerance]
    needed, state = small[0], history[small[0]][0]
    got = attempt(answer, model, activities, x, y, rate, tolerance, 50)
    if not (isinstance(got, (tuple, list)) and len(got) == 2):
        raise Mistake("return two things: the activities and the number of steps taken.")
    taken = int(got[1])
    limited = attempt(answer, model, activities, x, y, rate, tolerance, 3)
    if taken == 50:
        raise Mistake("it ran to max_steps although the gradients had become small long before.")
    if taken in (needed - 1, needed + 1):
        raise Mistake(
            f"off by one: you took {taken} steps, {needed} are needed. Look at the gradient at "
            "the current activities before deciding on the next step."
        )
    if taken != needed:
        raise Mistake(
            f"you took {taken} steps, expected {needed}. Compare the largest absolute entry of "
            "all activity gradients, per example (N times that of F), with the tolerance."
        )
    expect(
        list(got[0])[:-1],
        state[:-1],
        {"you stopped at the right time but returned the start.": activities[:-1]},
    )
    if int(limited[1]) != 3:
        raise Mistake(f"max_steps=3 was given and you took {int(limited[1])} steps.")


def _gradients(model, activities, x, y) -> list[np.ndarray]:
    """∂F/∂z by hand for the tanh network, in float64; zero for the clamped top."""
    errors, gradients = _errors(model, activities, x, y), []
    predictions = _predictions(model, activities, x)
    for layer in range(len(model) - 1):
        above = model[layer + 1]
        last = isinstance(above, eqx.nn.Linear)
        weight = np.asarray((above if last else above.layers[0]).weight, float)
        slope = 1.0 if last else 1 - predictions[layer + 1] ** 2
        gradients.append((errors[layer] - (slope * errors[layer + 1]) @ weight) / BATCH)
    return [*gradients, np.zeros_like(errors[-1])]
