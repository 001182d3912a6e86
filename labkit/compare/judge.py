"""An independent judge of generated digits: a small convolutional network, trained once.

It says what a picture looks like to someone who did not make it: which digit, how surely, and how
far a set of pictures lies from real ones (a Fréchet distance in its features). It was trained on
clean digits only, so it has an opinion about noise as well: a high agreement alone is no quality.

    judged = judge.load()
    print(judged.score(images, labels), judged.frechet(images, digits.test_images))
"""

import hashlib
import io
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.special import softmax

from labkit import data, files
from labkit.fit import fit

RECIPE = "1: conv 5×5/2 32, conv 3×3/2 64, dense 64; adam one-cycle 4e-3, shifts of a pixel"
FEATURES = 64
CHUNK = 500  # images that go through the network at once; bounds memory


class Score(NamedTuple):
    """What the judge thinks of n images.

    agreement: share of the images that it reads as their label, in % (NaN without labels).
    confidence: mean of its largest probability, 0.1 to 1.
    entropy: entropy of its mean prediction in nats; ln 10 = 2.30 if all digits come up equally
    often, 0 if only one does.
    """

    agreement: float
    confidence: float
    entropy: float
    n: int

    def __str__(self) -> str:
        agreement = "" if np.isnan(self.agreement) else f"agreement {self.agreement:.1f} %, "
        return (
            f"{agreement}confidence {self.confidence:.3f}, entropy {self.entropy:.2f} nats "
            f"({self.n:,} images)"
        )


class Frechet(NamedTuple):
    """Fréchet distance (squared, as in FID) of n images from reference_n others, in features.

    It is biased upwards, the more so the smaller the samples: compare at equal sizes only.
    """

    distance: float
    n: int
    reference_n: int

    def __str__(self) -> str:
        sizes = f"{self.n:,} images against {self.reference_n:,}"
        return f"Fréchet distance {self.distance:.2f} ({sizes})"


class Judge(NamedTuple):
    """A trained judge; `load` makes one. accuracy: in % of the dataset's test images."""

    weights: dict[str, np.ndarray]
    dataset: str
    accuracy: float

    def __repr__(self) -> str:
        return f"judge of {self.dataset}: reads {self.accuracy:.2f} % of its test images correctly"

    def features(self, images: Float[np.ndarray, "n 784"]) -> Float[np.ndarray, "n 64"]:
        """The last hidden layer for images (n, 784) or (n, 28, 28) in [0, 1]."""
        return self._run(images)[0]

    def probabilities(self, images: Float[np.ndarray, "n 784"]) -> Float[np.ndarray, "n 10"]:
        """Probabilities of the ten classes for images (n, 784) or (n, 28, 28) in [0, 1]."""
        return softmax(self._run(images)[1], axis=1)

    def score(
        self, images: Float[np.ndarray, "n 784"], labels: Int[np.ndarray, " n"] | None = None
    ) -> Score:
        """Agreement with `labels` (if given), confidence and entropy; see `Score`.

        Raises ValueError for images of another shape or outside [0, 1] and for other labels.
        """
        probabilities = self.probabilities(images)
        agreement = np.nan
        if labels is not None:
            labels = _checked_labels(labels, len(probabilities))
            agreement = 100 * np.mean(probabilities.argmax(axis=1) == labels)
        mean = probabilities.mean(axis=0, dtype=np.float64)
        entropy = -np.sum(mean * np.log(np.maximum(mean, 1e-30)))
        confidence = probabilities.max(axis=1).mean(dtype=np.float64)
        return Score(float(agreement), float(confidence), float(entropy), len(probabilities))

    def frechet(
        self, images: Float[np.ndarray, "n 784"], reference: Float[np.ndarray, "m 784"]
    ) -> Frechet:
        """Fréchet distance between two sets of images in the judge's features; see `Frechet`."""
        both = self.features(images), self.features(reference)
        return Frechet(frechet_distance(*both), *map(len, both))

    def _run(self, images) -> tuple[np.ndarray, np.ndarray]:
        images = _checked_images(images)
        parts = []
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            filled = np.pad(chunk, ((0, CHUNK - len(chunk)), (0, 0)))  # one shape, one compile
            parts.append([np.asarray(out)[: len(chunk)] for out in _compiled(self.weights, filled)])
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def load(dataset: data.Dataset | None = None, *, train: bool = False, seed: int = 0) -> Judge:
    """The judge of a dataset, by default the one of the course (`data.load("mnist")`).

    The weights for MNIST and for the small digits come with labkit; for other data, or with
    `train=True`, it is trained here and now, in less than a minute on two CPU cores.
    """
    dataset = data.load("mnist") if dataset is None else dataset
    shipped = resources.files(__package__).joinpath("recorded", f"judge-{dataset.name}.npz")
    if not train and shipped.is_file():
        with np.load(io.BytesIO(shipped.read_bytes()), allow_pickle=False) as file:
            weights = {name: file[name] for name in file.files}
        accuracy = float(weights.pop("accuracy"))
        if str(weights.pop("fingerprint")) == _fingerprint(dataset, seed):
            weights = {name: np.float32(weight) for name, weight in weights.items()}
            return Judge(weights, dataset.name, accuracy)
    print(f"labkit: training the judge on {dataset.name} …", flush=True)
    return _judge(_train(dataset, seed), dataset)


def export(folder: str | Path) -> None:
    """Train the judges that come with labkit; write their weights (float16) into a folder."""
    for dataset in (data.load("mnist"), data.load("digits")):
        weights = {name: np.float16(weight) for name, weight in _train(dataset, 0).items()}
        judge = _judge({name: np.float32(weight) for name, weight in weights.items()}, dataset)
        about = {"accuracy": judge.accuracy, "fingerprint": _fingerprint(dataset, 0)}
        with files.whole(Path(folder, f"judge-{dataset.name}.npz")) as file:
            np.savez_compressed(file, **weights, **about)
        print(judge)


def _judge(weights: dict[str, np.ndarray], dataset: data.Dataset) -> Judge:
    judge = Judge(weights, dataset.name, 0.0)
    score = judge.score(dataset.test_images, dataset.test_labels)
    return judge._replace(accuracy=score.agreement)


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2(Σ_a^½ Σ_b Σ_a^½)^½), the squared 2-Wasserstein distance
    between Gaussians fitted to two samples (Dowson & Landau 1982; Heusel et al. 2017).

    In float64 and with symmetric eigenvalues only, so it is real and not negative, for samples
    smaller than d as well. Raises ValueError for fewer than two rows or other shapes.
    """
    a, b = (np.asarray(sample, dtype=np.float64) for sample in (a, b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"a Fréchet distance needs two samples (n, d) and (m, d) of at least two rows each, "
            f"not {a.shape} and {b.shape}"
        )
    covariances = [np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ covariances[1] @ root)
    between = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    within = np.trace(covariances[0]) + np.trace(covariances[1])
    return float(max(0.0, between + within - 2 * np.sqrt(np.maximum(cross, 0)).sum()))


def _patches(x: Float[Array, "n h w c"], size: int, stride: int) -> Float[Array, "n k l p"]:
    """All size×size windows, flattened: one product, which a CPU computes faster."""
    end = x.shape[1] - size + 1
    windows = [x[:, i : i + end : stride, j : j + end : stride] for i, j in np.ndindex(size, size)]
    return jnp.concatenate(windows, axis=-1)


def _network(weights: dict[str, Array], images: Float[Array, "n 784"]) -> tuple[Array, Array]:
    """Features (n, 64) and logits (n, 10)."""
    x = images.reshape(-1, 28, 28, 1)
    x = jax.nn.relu(_patches(x, 5, 2) @ weights["W1"] + weights["b1"])  # 12 × 12 × 32
    x = jax.nn.relu(_patches(x, 3, 2) @ weights["W2"] + weights["b2"])  # 5 × 5 × 64
    features = jax.nn.relu(x.reshape(len(x), -1) @ weights["W3"] + weights["b3"])
    return features, features @ weights["W4"] + weights["b4"]


_compiled = jax.jit(_network)
_SHAPES = {"1": (25, 32), "2": (9 * 32, 64), "3": (25 * 64, FEATURES), "4": (FEATURES, 10)}


def _initial(key: PRNGKeyArray) -> dict[str, Array]:
    weights = {}
    for part, (layer, shape) in zip(jax.random.split(key, 4), _SHAPES.items(), strict=True):
        weights[f"W{layer}"] = jax.random.normal(part, shape) * np.sqrt(2 / shape[0])
        weights[f"b{layer}"] = jnp.zeros(shape[1])
    return weights


def _shifted(images: Float[Array, "n 784"], key: PRNGKeyArray) -> Float[Array, "n 784"]:
    """Every image moved by −1, 0 or 1 pixels each way, at random."""
    padded = jnp.pad(images.reshape(-1, 28, 28), ((0, 0), (1, 1), (1, 1)))
    moves = jax.random.randint(key, (len(images), 2), 0, 3)
    cut = jax.vmap(lambda image, move: jax.lax.dynamic_slice(image, move, (28, 28)))
    return cut(padded, moves).reshape(len(images), -1)


def _train(dataset: data.Dataset, seed: int) -> dict[str, np.ndarray]:
    batch_size = min(256, len(dataset.train_images))
    iterations = max(400, 5 * (len(dataset.train_images) // batch_size))
    optimiser = optax.adam(optax.cosine_onecycle_schedule(iterations, 4e-3, 0.2))

    def loss(weights, images, labels):
        logits = _network(weights, images)[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(state, batch, key):
        weights, optimiser_state = state
        images, labels = batch
        value, gradients = jax.value_and_grad(loss)(weights, _shifted(images, key), labels)
        updates, optimiser_state = optimiser.update(gradients, optimiser_state)
        return (eqx.apply_updates(weights, updates), optimiser_state), {"loss": value}

    weights, pairs = _initial(jax.random.key(seed)), (dataset.train_images, dataset.train_labels)
    (weights, _), _ = fit(step, (weights, optimiser.init(weights)), pairs, batch_size=batch_size,
                          key=jax.random.key(seed), iterations=iterations)  # fmt: skip
    return {name: np.asarray(weight) for name, weight in weights.items()}


def _fingerprint(dataset: data.Dataset, seed: int) -> str:
    """Eight letters that change with the recipe, the seed and the training data."""
    digest = hashlib.sha256(f"{RECIPE}|{seed}|{dataset.train_images.shape}".encode())
    digest.update(np.ascontiguousarray(dataset.train_labels).tobytes())
    digest.update(np.ascontiguousarray(dataset.train_images[::101]).tobytes())
    return digest.hexdigest()[:8]


def _checked_images(images) -> Float[np.ndarray, "n 784"]:
    images = np.asarray(images, dtype=np.float32)
    if not (images.ndim == 2 and images.shape[1] == 784 or images.shape[1:] == (28, 28)):
        raise ValueError(f"images have shape {images.shape}; the judge reads (n, 784), (n, 28, 28)")
    if not len(images):
        raise ValueError("no images to judge")
    if not np.isfinite(images).all():
        raise ValueError("some pixels are NaN or infinite")
    low, high = images.min(), images.max()
    if low < -1e-3 or high > 1 + 1e-3:
        span = f"pixels lie between {low:.2f} and {high:.2f}, the judge reads [0, 1]"
        raise ValueError(f"{span}: undo the standardising (image * std + mean) and clip")
    return images.reshape(len(images), 784)


def _checked_labels(labels, n: int) -> Int[np.ndarray, " n"]:
    labels = np.asarray(labels)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be {n} whole numbers, one for each image, not {labels.dtype} of shape "
            f"{labels.shape}; one-hot labels need .argmax(axis=1)"
        )
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"labels must lie in 0 … 9, not {labels.min()} to {labels.max()}")
    return labels
