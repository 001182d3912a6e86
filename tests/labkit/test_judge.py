"""The judge: Fréchet distance against closed forms, shipped weights, accuracy, bad input."""

import numpy as np
import pytest
import scipy.linalg

from labkit import data
from labkit.compare import judge
from tools import ROOT


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def judged(digits):
    return judge.load(digits)


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """Instead of training, weights at their start; returns the datasets it was asked for."""
    import jax

    asked = []

    def train(dataset, seed):
        asked.append((dataset.name, len(dataset.train_images), seed))
        return {k: np.asarray(w) for k, w in judge._initial(jax.random.key(seed)).items()}

    monkeypatch.setattr(judge, "_train", train)
    return asked


# Fréchet distance


def with_moments(rng, n, mean, covariance):
    """A sample with exactly this mean and (n−1-normalised) covariance."""
    d = len(mean)
    sample = rng.normal(size=(n, d))
    sample -= sample.mean(axis=0)
    whitened = sample @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(sample.T)))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def test_frechet_in_one_dimension():
    rng = np.random.default_rng(0)
    a = with_moments(rng, 50, [1.0], np.array([[4.0]]))
    b = with_moments(rng, 70, [-2.0], np.array([[0.25]]))
    assert judge.frechet_distance(a, b) == pytest.approx(3.0**2 + (2.0 - 0.5) ** 2)


def test_frechet_of_diagonal_gaussians():
    rng = np.random.default_rng(1)
    sa, sb = np.array([1.0, 2.0, 0.1]), np.array([3.0, 0.5, 0.2])
    ma, mb = np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.0, -1.0])
    a = with_moments(rng, 90, ma, np.diag(sa**2))
    b = with_moments(rng, 60, mb, np.diag(sb**2))
    want = np.sum((ma - mb) ** 2) + np.sum((sa - sb) ** 2)
    assert judge.frechet_distance(a, b) == pytest.approx(want)


@pytest.mark.parametrize("seed", range(3))
def test_frechet_against_scipy(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)
    b = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(ca @ cb).real
    want = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * root)
    assert judge.frechet_distance(a, b) == pytest.approx(want, rel=1e-6)
    assert judge.frechet_distance(b, a) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("n", [5, 500])
def test_frechet_of_a_sample_with_itself(n):
    """Rank-deficient ones included (5 points, 30 dimensions), and dead features."""
    sample = np.random.default_rng(2).normal(size=(n, 30)) * 10
    sample[:, 3] = 0
    assert 0 <= judge.frechet_distance(sample, sample) < 1e-4


@pytest.mark.parametrize("shapes", [((1, 4), (9, 4)), ((9, 4), (9, 5)), ((9,), (9,))])
def test_frechet_of_impossible_samples(shapes):
    with pytest.raises(ValueError, match="two samples"):
        judge.frechet_distance(*(np.zeros(shape) for shape in shapes))


# Scores


def test_accuracy(judged, digits):
    assert judged.dataset == "digits" and judged.accuracy >= 98.0
    score = judged.score(digits.test_images, digits.test_labels)
    assert score.agreement == pytest.approx(judged.accuracy)
    assert score.n == 297 and 0.9 < score.confidence <= 1 and 2.2 < score.entropy < 2.31
    assert "297 images" in str(score) and "digits: reads" in repr(judged)


def test_shapes_and_chunks(judged, digits):
    images = np.tile(digits.test_images, (4, 1, 1))  # 1188: more than two chunks
    flat = judged.probabilities(images.reshape(-1, 784))
    assert flat.shape == (1188, 10) and judged.features(images).shape == (1188, judge.FEATURES)
    np.testing.assert_allclose(flat.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(flat, judged.probabilities(images), atol=1e-6)
    np.testing.assert_allclose(flat[:1], judged.probabilities(images[:1]), atol=1e-5)


def test_entropy_counts_classes(judged, digits):
    sevens = judged.score(digits.test_images[digits.test_labels == 7])
    assert sevens.entropy < 0.5 and np.isnan(sevens.agreement)
    assert "agreement" not in str(sevens)


def test_real_images_are_near_and_noise_is_far(judged, digits):
    halves = judged.frechet(digits.test_images[::2], digits.test_images[1::2])
    noise = np.random.default_rng(0).random((149, 784))
    far = judged.frechet(noise, digits.test_images[1::2])
    assert halves[1:] == (149, 148) and 10 * halves.distance < far.distance
    assert "149 images against 148" in str(halves)
    assert judged.frechet(noise, noise).distance < 0.01


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 100)), "shape"),
        (np.zeros((28, 28)), "shape"),
        (np.zeros((0, 784)), "no images"),
        (np.full((3, 784), np.nan), "NaN"),
        (np.full((3, 784), 2.8), "between 2.80 and 2.80"),
        (np.full((3, 784), -0.42), "standardising"),
    ],
)
def test_bad_images(judged, images, message):
    with pytest.raises(ValueError, match=message):
        judged.score(images)


@pytest.mark.parametrize(
    "labels", [np.eye(10)[:3], np.zeros(4, int), np.array([0, 1, 10]), np.array([0.0, 1.0, 2.0])]
)
def test_bad_labels(judged, labels):
    with pytest.raises(ValueError, match="labels must"):
        judged.score(np.zeros((3, 784)), labels)


# Where the weights come from


def test_those_of_labkit_are_small_and_as_good_as_they_say(digits, judged, no_training):
    for name, least in (("digits", 98.0), ("mnist", 99.0)):
        if name == "mnist" and data.load("mnist").name != "mnist":
            pytest.skip("MNIST is not at hand")
        dataset = data.load(name)
        shipped = judge.load(dataset)
        score = shipped.score(dataset.test_images, dataset.test_labels)
        assert shipped.accuracy == pytest.approx(score.agreement, abs=0.03) and score.n >= 297
        assert shipped.accuracy > least
        assert all(np.array_equal(w, w.astype(np.float16)) for w in shipped.weights.values())
    assert no_training == []
    kept = sorted((ROOT / "labkit" / "compare" / "recorded").glob("judge-*.npz"))
    assert len(kept) == 2 and sum(path.stat().st_size for path in kept) < 500_000


def test_default_is_the_dataset_of_the_course(monkeypatch):
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    assert judge.load().dataset == "digits"


def test_other_data_and_seeds_get_a_judge_of_their_own(digits, no_training, capsys):
    judge.load(digits._replace(name="kmnist"))
    judge.load(digits._replace(train_images=1 - digits.train_images))
    judge.load(data.load("digits", digits=range(9)))
    judge.load(digits, seed=1)
    assert [n for _, n, _ in no_training] == [
        1500,
        1500,
        len(digits.train_labels[digits.train_labels < 9]),
        1500,
    ]
    assert capsys.readouterr().out.count("labkit: training the judge on") == 4
    assert judge.load(digits, train=True).accuracy < 50 and len(no_training) == 5


def test_a_judge_that_is_trained_here_can_read(digits, monkeypatch, tmp_path, capsys):
    """The real thing, once, on few images; and what is exported comes back from the file."""
    monkeypatch.undo()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(judge.data, "load", lambda name: digits)
    judge.export(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "judge-digits.npz" and "reads 9" in capsys.readouterr().out.replace(
        "100", "9"
    )
    monkeypatch.setattr(judge.resources, "files", lambda package: tmp_path.parent)
    tmp_path.rename(tmp_path.parent / "recorded")
    again = judge.load(digits)
    assert again.accuracy > 98 and capsys.readouterr().out == ""
