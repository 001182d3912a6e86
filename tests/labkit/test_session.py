"""labkit.session, and what labkit.compare.answers saves."""

import json
import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from labkit import session
from labkit.compare import answers


def test_start_prints_device_versions_data_and_time(tmp_path):
    environment = os.environ | {"LABKIT_DATASET": "digits", "LABKIT_CACHE": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # the reader's own choice would be kept
    script = (
        "from labkit import session; session.start('00_start_here')\n"
        "import jax; print(jax.config.jax_compilation_cache_dir)\n"
        "import jax.numpy as jnp\n"
        "slow = jax.jit(lambda x: [jnp.sort(jnp.sin(x + i)) for i in range(30)])\n"
        "jax.block_until_ready(slow(jnp.ones((50, 50))))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, text=True,
                          capture_output=True, check=True, timeout=120)  # fmt: skip
    for words in ("device  ", "jax ", "equinox ", "handwritten digits", "Run all   took "):
        assert words in done.stdout
    assert str(tmp_path / "jax") in done.stdout
    assert any((tmp_path / "jax").iterdir()), "compiled functions are kept for the next run"


def test_a_new_notebook_says_that_it_was_not_measured_yet():
    assert session.expected_time("99_nothing") == "was not measured yet"


def test_results_are_saved_whole_without_pickle_and_say_where_from(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LABKIT_RESULTS", str(tmp_path / "own"))
    answers.save("01", accuracy=[1.0, 2.0], name="text")
    (path,) = (tmp_path / "own").iterdir()
    with np.load(path, allow_pickle=False) as file:
        assert file["accuracy"].tolist() == [1.0, 2.0] and str(file["name"]) == "text"
        about = json.loads(str(file["about"]))
    assert path.name == f"01-{about['dataset']}.npz"
    assert about["device"] == session.device() and "jax" in about["versions"]
    assert str(tmp_path) not in capsys.readouterr().out


def test_what_was_measured_comes_back_as_it_was(monkeypatch, tmp_path, capsys):
    """From the record on MNIST; with `again`, on the small digits, and without a record: anew."""
    monkeypatch.setattr(answers.resources, "files", lambda package: tmp_path)
    monkeypatch.setenv("LABKIT_RESULTS", str(tmp_path / "recorded"))
    monkeypatch.setattr(answers.data, "course_dataset", lambda: "mnist")
    calls = []

    def measure():
        calls.append(len(calls))
        return {"a b": {"μ, n": np.arange(3), "text": "ends"}, "one": calls[-1], "two": 0.5}

    first = answers.measured("00_run", measure)
    monkeypatch.setenv("LABKIT_RETRAIN", "1")
    second = answers.measured("00_run", measure)
    monkeypatch.delenv("LABKIT_RETRAIN")
    assert "recorded" not in capsys.readouterr().out
    third = answers.measured("00_run", measure)
    out = capsys.readouterr().out
    assert "recorded on mnist" in out and session.device() in out and "RETRAIN = True" in out
    assert (first["one"], second["one"], third["one"]) == (0, 1, 1) and len(calls) == 2
    assert third["two"] == 0.5 and third["a b"]["text"] == "ends"
    assert third["a b"]["μ, n"].tolist() == [0, 1, 2]
    assert answers.measured("00_run", measure, again=True)["one"] == 2
    monkeypatch.setattr(answers.data, "course_dataset", lambda: "digits")
    assert answers.measured("00_run", measure)["one"] == 3
    monkeypatch.setenv("LABKIT_RETRAIN", "1")
    capsys.readouterr()
    assert answers.measured("00_run", measure, long=True)["one"] == 1, "for `again` alone to start"
    assert "RETRAIN" not in capsys.readouterr().out
    assert answers.measured("00_run", measure, True, long=True)["one"] == 4
    for wrong in ({"a": object()}, {"a/b": 1}):
        with pytest.raises(ValueError, match=r"a(/b)?: give an array"):
            answers.measured("00_run", lambda wrong=wrong: wrong)


def test_a_trained_model_comes_back_as_it_was_but_for_rounding(monkeypatch, tmp_path):
    monkeypatch.setattr(answers.resources, "files", lambda package: tmp_path)
    monkeypatch.setenv("LABKIT_RESULTS", str(tmp_path / "recorded"))
    monkeypatch.setattr(answers.data, "course_dataset", lambda: "mnist")
    key = jax.random.key(0)
    models = [(eqx.nn.MLP(3, 2, 4, 1, key=k), jnp.full(2, 1 / 3)) for k in jax.random.split(key)]
    monkeypatch.setenv("LABKIT_RETRAIN", "1")
    here = answers.trained("00_model", lambda: models[0], models[1])
    monkeypatch.delenv("LABKIT_RETRAIN")
    recorded = answers.trained("00_model", lambda: models[1], models[1])
    assert here is models[0], "what is trained here is not rounded"
    weights = [model.layers[0].weight for model in (models[0][0], recorded[0])]
    step = np.abs(weights[0]).max(axis=1, keepdims=True) / 127
    assert 0 < np.max(np.abs(weights[0] - weights[1]) / step) < 0.51, "rounded to 8 bits"
    assert recorded[1][0] == np.float32(1 / 3), "what is no matrix keeps its precision"
    assert recorded[0].activation is models[1][0].activation


def test_results_refuse_what_is_too_large_or_not_an_array(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_RESULTS", str(tmp_path))
    with pytest.raises(ValueError, match="save fewer samples"):
        answers.save("01", samples=np.zeros((1000, 784)))
    with pytest.raises(ValueError, match="Python objects"):
        answers.save("01", thing=object())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_results_leave_the_old_file_when_writing_fails(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LABKIT_RESULTS", str(tmp_path))
    answers.save("01", value=1.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with open("/dev/full", "wb", buffering=0) as full, monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", lambda *args, **kwargs: full.write(b"x"))
        answers.save("01", value=2.0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert "No space left on device" in capsys.readouterr().out


def test_where_nothing_can_be_written_all_goes_on_and_says_so_once(tmp_path):
    """A cell per store: compiled functions, answers, results. Each names its variable."""
    (tmp_path / "blocked").write_text("")
    nowhere = str(tmp_path / "blocked" / "folder")
    script = """if True:
        import jax, numpy as np
        from labkit import check, session
        from labkit.compare import answers
        for _ in range(2):
            session.start("00_start_here")
            jax.jit(lambda x: [jax.numpy.sin(x + i) for i in range(30)])(np.ones(9))
            answers.save("pc", parameters=3)
            check.result("data/mean", 0.158)
        answers.collect(["pc"])"""
    environment = os.environ | {"LABKIT_DATASET": "digits", "LABKIT_CACHE": nowhere,
                                "LABKIT_RESULTS": nowhere}  # fmt: skip
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], env=environment, text=True,
                          capture_output=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "cannot be kept" in line]
    assert [line.split(" cannot")[0] for line in said] == [
        "labkit: compiled functions", "labkit: the results of pc", "labkit: results"]  # fmt: skip
    assert [line.split("; ")[1].split()[0] for line in said] == [
        "LABKIT_CACHE", "LABKIT_RESULTS", "LABKIT_RESULTS"]  # fmt: skip
    assert "Warning" not in done.stderr and str(tmp_path) not in done.stdout + done.stderr
