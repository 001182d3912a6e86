"""labkit.compare: the same questions, right scores, and whose answers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from labkit import data
from labkit.compare import answers, judge, questions


class Eye:
    """A judge that sees ink only: more than half of an image white is a 1, else a 0."""

    def score(self, images, labels=None):
        read = (np.mean(images, axis=1) > 0.5).astype(int)
        agreement = np.nan if labels is None else 100 * np.mean(read == labels)
        return judge.Score(agreement, 1.0, 0.0, len(images))

    def frechet(self, images, reference):
        return judge.Frechet(float(np.mean(images)), len(images), len(reference))


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setenv("LABKIT_DATASET", "digits")
    monkeypatch.setattr(judge, "load", Eye)
    questions.questions.cache_clear()
    yield questions.questions()
    questions.questions.cache_clear()


def test_questions_are_the_same_each_time_and_about_test_images(asked):
    assert questions.questions() is asked
    again = questions.questions.__wrapped__()
    digits = data.load("digits")
    assert len(asked.images) == 297 and asked.seen.sum() == 392
    np.testing.assert_array_equal(asked.images, data.flatten(digits.test_images))
    for name, images in asked.others.items():
        assert images.shape == asked.images.shape and images.dtype == np.float32
        np.testing.assert_array_equal(images, again.others[name])
    shuffled, halves = asked.others["shuffled pixels"], asked.others["swapped halves"]
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), np.sort(asked.images, axis=1))
    np.testing.assert_array_equal(halves[:, :392], asked.images[:, :392])
    lower = {images[392:].tobytes(): label for images, label in zip(asked.images, asked.labels)}
    foreign = [lower[image[392:].tobytes()] != label for image, label in zip(halves, asked.labels)]
    assert np.mean(foreign) > 0.99  # two digits may share an empty lower edge


def test_damage_is_what_its_name_says(asked):
    images = asked.images.reshape(-1, 28, 28)
    for name, damaged in asked.damaged.items():
        kind, strength = name.split()
        assert damaged.shape == asked.images.shape and damaged.dtype == np.float32
        damaged, strength = damaged.reshape(-1, 28, 28), float(strength)
        if kind == "noise":  # where nothing is clipped, its size; elsewhere it stays in [0, 1]
            assert damaged.min() >= 0 and damaged.max() <= 1
            grey = np.abs(images - 0.5) < 0.05
            inside = (damaged - images)[grey & (damaged > 0) & (damaged < 1)]
            assert abs(inside.mean()) < 0.05 and inside.std() < strength
            share = np.mean(damaged[images == 0] > 0)  # half of the black pixels rise
            assert abs(share - 0.5) < 0.02
        elif kind == "shift":
            s, found = int(strength), []
            for before, after in zip(images, damaged):
                wide = np.pad(before, s)
                moves = [
                    (i, j)
                    for i in (-s, 0, s)
                    for j in (-s, 0, s)
                    if (wide[s + i : s + i + 28, s + j : s + j + 28] == after).all()
                ]
                found.append(moves)
            assert all(found) and len({moves[0] for moves in found}) >= 8
        else:
            changed = damaged != images
            assert not damaged[changed].any()
            rows, columns = (changed.any(axis=axis).sum(axis=1) for axis in (2, 1))
            assert (
                max(rows.max(), columns.max()) <= strength and changed.any(axis=(1, 2)).mean() > 0.9
            )


def test_letters_are_as_large_as_digits_and_many(asked):
    letters = asked.others["letters"]
    assert letters.min() == 0 and 0.9 < letters.max() <= 1
    assert len(np.unique(letters, axis=0)) > 0.9 * len(letters)
    assert 0.3 < letters.mean() / data.load("mnist").train_images.mean() < 1.5


def test_calibration_error_by_hand():
    belief = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.35, 0.65]])
    labels = np.array([0, 1, 0, 0])  # bins: 0.9 twice, half right; two of about 0.6, half right
    want = (abs(1 - 1.8) + abs(1 - 1.25)) / 4
    assert questions.calibration_error(belief, labels) == pytest.approx(want)
    assert questions.calibration_error(np.eye(2)[[0, 1]], np.array([0, 1])) == 0


def test_the_temperature_undoes_what_scores_were_multiplied_by():
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 10))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)  # softmax, by Gumbel
    assert questions.temperature(0.01 * logits, labels) == pytest.approx(0.01, rel=0.15)
    assert questions.temperature(30 * logits, labels) == pytest.approx(30, rel=0.15)


def test_fashion_mnist_joins_if_it_is_in_the_data_folder(asked, monkeypatch, capsys):
    assert "Fashion-MNIST" not in asked.others and capsys.readouterr().out == ""
    clothes = data.load("digits")._replace(name="fashion_mnist")
    monkeypatch.setattr(data, "stored", {"fashion_mnist": clothes}.get)
    others = questions.questions.__wrapped__().others
    np.testing.assert_array_equal(others["Fashion-MNIST"], data.flatten(clothes.test_images))


def test_answers_are_scored_against_what_a_reader_would_compute(asked, capsys):
    weights = jnp.arange(1.0, 4)

    def classify(model, images):
        return 3 * jax.nn.one_hot(jnp.full(len(images), 4), 10)

    def code(model, images):
        return model[0] * images[:, 300:320]

    def draw(model, labels, key):
        return jnp.where((labels == 1)[:, None], 1.5, 0.0) * jnp.ones(784)

    def draw_any(model, key, n):
        return jax.random.uniform(key, (n, 784))

    def complete(model, images, seen):
        assert not images.shape[0] == 784
        return images + 0.25

    def energy(model, images):
        return -jnp.abs(images - 0.5).mean(axis=1)

    answers = questions.ask(
        weights, classify=classify, draw=draw, draw_any=draw_any, complete=complete, energy=energy,
        code=code, untrained=jnp.zeros(3),
    )  # fmt: skip
    labels, images = asked.labels, asked.images
    assert answers["parameters"] == 3
    assert answers["accuracy"] == pytest.approx(100 * np.mean(labels == 4))
    assert all(answers[f"read_{name}"] == answers["accuracy"] for name in asked.damaged)
    sure = np.exp(3) / (np.exp(3) + 9)
    wrong = abs(sure - np.mean(labels == 4))
    assert answers["calibration"] == pytest.approx(wrong, rel=1e-5)
    assert answers["calibration_fitted"] < wrong / 5, "a tenth of the answers are right"
    assert answers["readout"] > 40 > 20 > answers["readout_untrained"], "zeros tell nothing"
    assert answers["draw_agreement"] == pytest.approx(100 * np.mean(labels <= 1))
    assert answers["draw_frechet"] == pytest.approx(np.mean(labels == 1)), "clipped to [0, 1]"
    assert np.isnan(answers["draw_any_agreement"]) and answers["draw_any_n"] == len(images)
    # the lower half was hidden: the answer saw black there
    want = np.mean((0.25 - images[:, 392:]) ** 2)
    assert answers["complete_error"] == pytest.approx(want, rel=1e-5)
    known, noise = (-np.abs(i - 0.5).mean(axis=1) for i in (images, asked.others["uniform noise"]))
    assert answers["area_uniform noise"] == pytest.approx(np.mean(noise[None] > known[:, None]))
    for kind in ("truth", "complete"):
        assert answers[f"picture_{kind}"].shape == (10, 784)
    np.testing.assert_array_equal(
        answers["picture_complete"][:, :392], answers["picture_truth"][:, :392]
    )
    assert answers["picture_draw"].max(axis=1).tolist() == [0, 255, *[0] * 8] * 2
    assert all(answers[k] > 0 for k in ("classify_ms", "draw_ms", "complete_ms", "energy_ms"))
    assert not capsys.readouterr().out
    questions.report(answers)
    out = capsys.readouterr().out
    assert "reads" in out and "ROC area" in out and " ms" not in out


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda model, images: images.mean(axis=0), r"shape \(784,\); \(297, 10\) is asked for"),
        (lambda model, images: images, r"shape \(297, 784\); \(297, 10\) is asked for"),
        (lambda model, images: images[:, :10] / 0, "not finite; lower the inference rate"),
    ],
)
def test_answers_of_the_wrong_kind_are_refused(asked, answer, words):
    with pytest.raises(ValueError, match=words):
        questions.ask(jnp.zeros(1), classify=answer)


def test_what_a_model_cannot_answer_is_left_out(asked):
    answers = questions.ask(jnp.zeros(2))
    assert answers.keys() == {"parameters", "picture_truth"}


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A labkit whose reference holds two models, and an own folder."""
    (tmp_path / "reference").mkdir()
    about = {"dataset": "mnist", "device": "their CPU", "versions": {}, "date": "2026-01-02"}
    for name, accuracy in (("pc", [97.0, 98.0]), ("vae", [80.0, 81.0])):
        np.savez(
            tmp_path / "reference" / f"{name}.npz",
            accuracy=accuracy, parameters=[3, 3], about=json.dumps(about),
        )  # fmt: skip
    monkeypatch.setattr(answers.resources, "files", lambda package: tmp_path)
    monkeypatch.setenv("LABKIT_RESULTS", str(tmp_path / "own"))
    monkeypatch.setattr(data, "_course", "mnist")
    return tmp_path


def test_yours_come_first_and_the_reference_stands_in(package, capsys):
    answers.save("pc", accuracy=99.0, parameters=3)
    capsys.readouterr()
    collected = answers.collect(["pc", "vae"])
    assert collected["pc"].yours and collected["pc"].values["accuracy"].tolist() == [99.0]
    assert not collected["vae"].yours and collected["vae"].source == "reference"
    assert collected["vae"].values["accuracy"].tolist() == [80.0, 81.0]
    yours, reference = capsys.readouterr().out.splitlines()
    assert "pc" in yours and "yours" in yours and "1 run" in yours and "runs" not in yours
    assert "reference  mnist, their CPU, 2026-01-02, 2 runs" in reference


def test_datasets_are_not_mixed(package, monkeypatch, capsys):
    monkeypatch.setattr(data, "_course", "digits")
    answers.save("pc", accuracy=50.0, parameters=3)
    collected = answers.collect(["pc", "vae"])
    assert not collected["pc"].yours and collected["pc"].values["accuracy"][0] == 97.0
    assert "there is no reference for digits" in capsys.readouterr().out
    answers.save("vae", accuracy=40.0, parameters=3)
    assert all(model.yours for model in answers.collect(["pc", "vae"]).values())


def test_a_damaged_file_is_said_and_replaced(package, capsys):
    answers.save("pc", accuracy=99.0, parameters=3)
    (path,) = (package / "own").iterdir()
    path.write_bytes(path.read_bytes()[:40])
    assert not answers.collect(["pc"])["pc"].yours
    out = capsys.readouterr().out
    assert "pc-mnist.npz is damaged" in out and str(package) not in out


def test_a_name_without_reference_is_refused(package):
    with pytest.raises(ValueError, match=r"no reference results 'gan'; labkit has \['pc', 'vae'\]"):
        answers.collect(["gan"])
