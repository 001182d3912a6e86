"""tools/reference.py and what it made: whole, small, from MNIST, several seeds."""

import json

import nbformat
import numpy as np
import pytest

from labkit import data
from labkit.compare import answers
from tools import ROOT, reference

MODELS = ("pc", "generative_pc", "bpc", "hybrid", "vae", "ebm")
FILES = sorted((ROOT / "labkit" / "compare" / "reference").glob("*.npz"))


def test_every_random_key_of_a_notebook_changes_with_the_seed():
    source = "a, b = jax.random.key(0), jax.random.split(jax.random.key(seed + 1))"
    cells = [nbformat.v4.new_code_cell(source), nbformat.v4.new_markdown_cell(source)]
    shifted = reference.with_seed(nbformat.v4.new_notebook(cells=cells), 2)
    assert shifted.cells[0].source == (
        "a, b = jax.random.key(2000 + 0), jax.random.split(jax.random.key(2000 + seed + 1))"
    )
    assert shifted.cells[1].source == source


def saved(path, dataset="mnist", **arrays):
    np.savez(path, about=json.dumps({"dataset": dataset, "device": path.stem}), **arrays)
    return path


def test_runs_are_merged_side_by_side_and_times_are_the_first_runs(tmp_path):
    pictures = np.zeros((10, 784), np.uint8)
    files = [
        saved(tmp_path / f"{seed}.npz", accuracy=90.0 + seed, classify_ms=seed + 1.0,
              training_seconds=5.0 + seed, picture_draw=pictures + seed, curve_name="x")
        for seed in range(3)
    ]  # fmt: skip
    merged = reference.merge(files)
    assert merged["accuracy"].tolist() == [90.0, 91.0, 92.0]
    assert merged["classify_ms"] == 1.0 and merged["training_seconds"] == 5.0
    assert merged["picture_draw"].max() == 0 and str(merged["curve_name"]) == "x"
    assert json.loads(str(merged["about"]))["device"] == "0"


def test_a_reference_from_another_dataset_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="made from MNIST, not from digits"):
        reference.merge([saved(tmp_path / "a.npz", "digits", accuracy=1.0)])


def test_the_reference_is_there_for_every_model_and_small():
    assert [path.stem for path in FILES] == sorted(MODELS)
    assert sum(path.stat().st_size for path in FILES) < 500_000


def test_the_reference_answers_what_the_capstone_asks(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_RESULTS", str(tmp_path))
    monkeypatch.setattr(data, "_course", "mnist")
    collected = answers.collect(MODELS)
    truth = collected["pc"].values["picture_truth"]
    for name, model in collected.items():
        values = model.values
        assert not model.yours and model.about["dataset"] == "mnist" and model.about["date"]
        assert len(values["accuracy"]) == len(values["complete_error"]) >= 2, name
        np.testing.assert_array_equal(values["picture_truth"], truth, "the same test images")
        assert values["picture_complete"].shape == (10, 784)
        assert {"area_uniform noise", "area_swapped halves", "curve", "training_seconds"} <= set(
            values
        )
        assert 10 < values["accuracy"].min() <= values["accuracy"].max() <= 100
    assert {name for name in MODELS if "draw_any_frechet" in collected[name].values} == {
        "vae", "ebm"
    }  # fmt: skip


def test_recorded_weights_come_back_as_they_were_saved(monkeypatch, tmp_path):
    import equinox as eqx
    import jax

    (tmp_path / "recorded").mkdir()
    layer = eqx.nn.Linear(3, 2, key=jax.random.key(1))
    eqx.tree_serialise_leaves(tmp_path / "recorded" / "run.eqx", layer)
    monkeypatch.setattr(answers.resources, "files", lambda package: tmp_path)
    other = eqx.nn.Linear(3, 2, key=jax.random.key(2))
    assert eqx.tree_equal(answers.recorded_model("run", other), layer)
