"""labkit.check: claims, ranges, and the words a wrong answer gets."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from labkit import check, data


def test_close_says_shape_or_size_of_the_difference(capsys):
    check.close("equal", [jnp.ones(3)], [np.ones(3)])
    assert capsys.readouterr().out == "✓ equal\n"
    with pytest.raises(check.CheckFailed, match="0.1, is over 1e-05"):
        check.close("unequal", jnp.ones(3), jnp.ones(3) + 0.1)
    with pytest.raises(check.CheckFailed, match="shapes"):
        check.close("shapes", jnp.ones(3), jnp.ones((3, 1)))
    for got, want in ((jnp.nan, 1.0), (1.0, np.inf)):
        with pytest.raises(check.CheckFailed):
            check.close("not finite", got, want)


def test_that(capsys):
    check.that("two is less than three", jnp.array(2) < 3)
    assert capsys.readouterr().out == "✓ two is less than three\n"
    with pytest.raises(check.CheckFailed, match="does not hold here. Look again."):
        check.that("three is less", False, "Look again.")


@pytest.fixture
def ranges(monkeypatch):
    entry = {"unit": "%", "mnist": {"range": [90.0, 95.0]}, "digits": {"range": [80.0, 99.0]}}
    monkeypatch.setattr(check, "_expected", lambda: {"a/b": entry | {"hint": "More epochs."}})
    monkeypatch.delenv("LABKIT_RESULTS", raising=False)


@pytest.mark.parametrize(("dataset", "value"), [("mnist", 92.0), ("digits", 81.0)])
def test_result_inside_its_range(ranges, monkeypatch, capsys, dataset, value):
    monkeypatch.setattr(data, "course_dataset", lambda: dataset)
    check.result("a/b", jnp.array(value))
    assert capsys.readouterr().out.startswith(f"✓ a/b = {value:.4g} % (expected ")


@pytest.mark.parametrize("value", [81.0, 96.0, float("nan")])
def test_result_outside_fails_and_says_what_to_do(ranges, monkeypatch, value):
    monkeypatch.setattr(data, "course_dataset", lambda: "mnist")
    with pytest.raises(check.CheckFailed, match="expected 90 % to 95 % on mnist. More epochs."):
        check.result("a/b", value)


def test_result_without_an_entry(ranges):
    with pytest.raises(KeyError, match="expected.toml has no range for 'a/c'"):
        check.result("a/c", 1.0)


def test_results_are_recorded_also_when_they_fail(ranges, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "course_dataset", lambda: "mnist")
    monkeypatch.setenv("LABKIT_RESULTS", str(tmp_path / "new"))
    check.result("a/b", 92.0)
    with pytest.raises(check.CheckFailed):
        check.result("a/b", 1.0)
    lines = (tmp_path / "new" / "results.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["name"], first["value"], first["dataset"]) == ("a/b", 92.0, "mnist")
    assert second["value"] == 1.0
    assert {"jax", "python", "numpy"} <= first["versions"].keys() and first["device"]
