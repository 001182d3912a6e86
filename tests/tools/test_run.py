"""tools/run.py and tools/refresh.py, and what they made: outputs, times, seeds, the reference."""

import json
import os
import re
import subprocess
import sys
import tomllib

import equinox as eqx
import jax
import nbformat
import numpy as np
import pytest

from labkit import data
from labkit.compare import answers
from tools import ROOT, read, refresh, run, stamp

MODELS = ("pc", "generative_pc", "bpc", "hybrid", "vae", "ebm", "deep")
UNMARKED = {  # records of hours, older than the marks
    "04_collapse", "04_hundred_epochs_decay", "04_thousand_epochs", "05_ten_digits",
    "05_ten_lengths",
}  # fmt: skip
FILES = sorted((ROOT / "labkit" / "compare" / "reference").glob("*.npz"))
RANDOM = """\
import jax, json, numpy as np
from labkit import data
def draws(shift=0):
    numbers = np.arange(100)
    return [
        float(jax.random.normal(jax.random.key(shift))),
        float(jax.random.normal(jax.random.PRNGKey(seed=shift))),
        float(jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed)))(numbers + shift)[0]),
        float(jax.random.normal(jax.vmap(jax.random.key)(numbers + shift)[0])),
        float(np.random.default_rng(shift).normal()),
        float(next(data.batches([numbers], 10, seed=shift))[0][0]),
    ]
import labkit.check
ours = "import jax\\ndef ours(): return float(jax.random.normal(jax.random.key(0)))"
exec(ours, vars(labkit.check))
print(json.dumps([draws(), labkit.check.ours()]))"""


def notebook(tmp_path, *cells, **tagged):
    """A notebook of these code cells, and of some with a tag; returns its path."""
    cells = [nbformat.v4.new_code_cell(source) for source in cells]
    cells += [nbformat.v4.new_code_cell(s, metadata={"tags": [t]}) for t, s in tagged.items()]
    head = nbformat.v4.new_markdown_cell(f"# 00 · A\n\nSentence.\n\n{stamp.badge('a')}")
    path = tmp_path / "00_a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[head, *cells]), path)
    return path


def test_a_seed_shifts_what_the_notebook_draws_and_nothing_of_ours(tmp_path):
    last = 'json.dump([draws(), draws(-2000), labkit.check.ours()], open("seen.json", "w"))'
    path = notebook(tmp_path, RANDOM, last)
    before = path.read_bytes()
    run.execute(path, {"PYTHONPATH": str(ROOT)}, seed=2)
    assert path.read_bytes() == before
    shifted, back, ours = json.loads((tmp_path / "seen.json").read_text())
    plain = subprocess.run(
        [sys.executable, "-c", RANDOM], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    want, same = json.loads(plain.stdout)
    assert back == want and ours == same
    assert all(a != b for a, b in zip(shifted, want, strict=True))


def test_no_notebook_draws_from_a_source_that_a_seed_does_not_reach():
    sources = "\n".join(c.source for p in run.notebooks() for c in read(p).cells)
    assert set(re.findall(r"np\.random\.(\w+)", sources)) <= {"default_rng"}
    assert "import random" not in sources and "from jax.random" not in sources


def test_execute_gives_no_diff_the_second_time_and_keeps_the_file_when_a_cell_fails(
    tmp_path, monkeypatch
):
    picture = (
        "from labkit import plot; import matplotlib.pyplot as plt\n"
        'plot.show(plt.subplots()[0], alt="an empty figure, for a test")'
    )
    timing = 'f = open("n", "a+"); f.write("x"); print("about", 8 + f.tell(), "ms")'
    path = notebook(tmp_path, setup="1 + 1", timing=timing, picture=picture)
    monkeypatch.setattr(run, "PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(stamp, "setup", lambda name: "1 + 1")
    here = {"PYTHONPATH": str(ROOT)}
    took = run.execute(path, here)
    assert list(took.sections) == ["Setup"] and 0 < took.sections["Setup"] < took.seconds
    assert took.memory is None or 0.01 < took.memory < 4
    first = path.read_bytes()
    run.execute(path, here)
    assert path.read_bytes() == first and b"about 9 ms" in first
    run.execute(path, here, times=True)
    assert b"about 11 ms" in path.read_bytes()
    assert (tmp_path / "pictures" / "00_a.png").is_file()
    assert "image/png" in str(read(path).cells[1].outputs)
    broken = read(path)
    broken.cells[1].source = "1 / 0"
    nbformat.write(broken, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        run.execute(path, here)
    assert path.read_bytes() == before


def test_times_are_kept_while_they_tell_the_same_story():
    kept = lambda *texts: run.same_words(
        *([nbformat.v4.new_output("stream", name="stdout", text=t)] if t else [] for t in texts)
    )
    assert kept("loop 14.2 ms, 5.1 times", "loop 12.9 ms, 5.4 times")
    assert not kept("loop 14.2 ms", "loop 40.0 ms")
    assert not kept("loop 14.2 ms", "scan 14.2 ms")
    assert not kept("loop 14.2 ms", None)


def test_times_are_written_beside_others_and_sections_by_heading(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TIMES", tmp_path / "times.toml")
    run.TIMES.write_text("# a comment\n[01_a.gpu]\nseconds = 3\ndevice = 'GPU'\n", "utf-8")
    run.write_times("01_a", run.Run(12.4, {"Setup": 1.26, '1 A "quoted" one': 2.0}, 1.04), "cpu")
    text = run.TIMES.read_text("utf-8")
    written = tomllib.loads(text)["01_a"]
    assert text.startswith("# a comment\n") and written["gpu"]["seconds"] == 3
    assert written["sections"] == {"Setup": 1.3, '1 A "quoted" one': 2.0}
    assert (written["cpu"]["seconds"], written["cpu"]["memory"]) == (12, 1.0)
    run.write_times("01_a", run.Run(2.0, {"Setup": 9.0}, None), "gpu")
    assert tomllib.loads(run.TIMES.read_text("utf-8"))["01_a"]["sections"] == written["sections"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A notebook, a module and a table, with three steps that only note that they ran."""
    for name, text in {"n.py": "x = 1\n", "t.csv": "1", "tools/expected.toml": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "note.py").write_text(
        "import sys; name = sys.argv[1]; open('ran', 'a').write(name)\n"
        "sys.exit(name in open('bad').read())"
    )
    (tmp_path / "bad").write_text("none")
    needs = {"a": ["n.py"], "b": ["n.py", "t.csv"], "c": ["t.csv"]}
    steps = lambda: (
        refresh.Step(name, ["note.py", name], [tmp_path / file for file in files])
        for name, files in needs.items()
    )
    monkeypatch.setattr(refresh, "ROOT", tmp_path)
    monkeypatch.setattr(refresh, "STATE", tmp_path / "refresh.json")
    monkeypatch.setattr(refresh, "steps", steps)
    monkeypatch.setattr(refresh, "finish", lambda: None)

    def ran(*arguments):
        (tmp_path / "ran").write_text("")
        try:
            refresh.main(list(arguments))
        except subprocess.CalledProcessError:
            pass
        return (tmp_path / "ran").read_text()

    return tmp_path, ran


def test_refresh_runs_what_changed_in_order_and_goes_on_where_it_was_interrupted(project, capsys):
    folder, ran = project
    assert ran("--dry-run") == "" and capsys.readouterr().out.count("python note.py") == 3
    (folder / "bad").write_text("b")
    assert ran() == "ab", "it stops at what fails"
    (folder / "bad").write_text("none")
    assert (ran(), ran()) == ("bc", "")
    (folder / "n.py").write_text("x = 1\n    # only a comment\n")
    assert ran() == ""
    (folder / "n.py").write_text("x = 2\n")
    assert ran() == "ab"
    (folder / "t.csv").write_text("2")
    assert (ran(), ran("--all"), ran()) == ("bc", "abc", "")


def test_the_steps_of_this_course_end_with_the_capstone_and_the_benchmark():
    names = [step.name for step in refresh.steps()]
    assert names[:2] == ["judge", "00_start_here"]
    assert names[-3:] == ["07_capstone", "live", "bench"]
    first = names.index("03_bidirectional_pc")
    assert [name.split()[-1] for name in names[first + 1 : first + 4]] == ["1", "2", "merged"]
    assert all(path.is_file() for step in refresh.steps() for path in step.needs)
    for step in refresh.steps():  # else one notebook's new record would have the others made anew
        records = {path.name[:2] for path in step.needs if path.parent.name == "recorded"}
        assert {name for name in records if name.isdigit()} <= {step.name[:2]}, step.name
        assert not (step.name.endswith(" recorded") and records), step.name
    assert names.index("02_generative_pc recorded") + 1 == names.index("02_generative_pc")


def test_values_seen_are_added_when_they_say_something_new(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(refresh, "EXPECTED", tmp_path / "expected.toml")
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    text = """# head

["a/b"]
unit = "%"
mnist = { range = [1, 9], seen = [2, 3, 4], note = "n" }
digits = { range = [1, 9], seen = [] }

["a/c"]
mnist = { range = [1, 9], seen = [5] }
"""
    refresh.EXPECTED.write_text(text)
    lines = [("a/b", 3.5, "mnist"), ("a/b", 10.0, "mnist"), ("a/c", 5.0, "mnist"),
             ("a/b", 7.123456, "digits"), ("gone", 1.0, "mnist")]  # fmt: skip
    (tmp_path / "01_a" / "0").mkdir(parents=True)
    (tmp_path / "01_a" / "0" / "results.jsonl").write_text(
        "".join(json.dumps(dict(zip(("name", "value", "dataset"), line))) + "\n" for line in lines)
    )
    for _ in range(2):
        refresh.add_seen()
        new = text.replace("[2, 3, 4]", "[2, 3, 4, 10.0]").replace("seen = []", "seen = [7.1235]")
        assert refresh.EXPECTED.read_text() == new
        assert "a/b = 10.0" in capsys.readouterr().out, "outside its range: for a person to decide"


def saved(path, dataset="mnist", **arrays):
    path.parent.mkdir(exist_ok=True, parents=True)
    np.savez(path, about=json.dumps({"dataset": dataset, "device": path.parent.name}), **arrays)
    return path


def test_runs_are_merged_side_by_side_and_times_are_the_first_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "REFERENCE", tmp_path / "reference")
    pictures = np.zeros((10, 784), np.uint8)
    for seed in range(3):
        saved(tmp_path / "01_a" / str(seed) / "pc-mnist.npz", accuracy=90.0 + seed,
              classify_ms=seed + 1.0, training_seconds=5.0 + seed, picture_draw=pictures + seed,
              curve_name="x")  # fmt: skip
    run.main(["--merge", "notebooks/01_a.ipynb"])
    with np.load(tmp_path / "reference" / "pc.npz") as merged:
        assert merged["accuracy"].tolist() == [90.0, 91.0, 92.0]
        assert merged["classify_ms"] == 1.0 and merged["training_seconds"] == 5.0
        assert merged["picture_draw"].max() == 0 and str(merged["curve_name"]) == "x"
        assert json.loads(str(merged["about"]))["device"] == "0"
    with pytest.raises(SystemExit, match="made from MNIST, not from digits"):
        run.merge([saved(tmp_path / "a.npz", "digits", accuracy=1.0)])


def test_without_a_gpu_its_column_is_not_written(capsys):
    if jax.default_backend() == "gpu":
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        run.main(["--gpu"])
    assert "JAX finds no GPU here" in capsys.readouterr().err


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
        assert len(values["accuracy"]) == len(values["readout"]) >= 3, name
        np.testing.assert_array_equal(values["picture_truth"], truth, "the same test images")
        if name != "deep":  # it draws nothing
            assert values["picture_complete"].shape == (10, 784)
        areas = {"area_uniform noise", "area_swapped halves", "curve", "training_seconds"}
        assert areas <= set(values)
        assert 10 < values["accuracy"].min() <= values["accuracy"].max() <= 100
    drawn = {name for name in MODELS if "draw_any_frechet" in collected[name].values}
    assert drawn == {"vae", "ebm"}


def test_recorded_weights_come_back_as_they_were_saved(monkeypatch, tmp_path):
    (tmp_path / "recorded").mkdir()
    layer = eqx.nn.Linear(3, 2, key=jax.random.key(1))
    eqx.tree_serialise_leaves(tmp_path / "recorded" / "run.eqx", layer)
    monkeypatch.setattr(answers.resources, "files", lambda package: tmp_path)
    other = eqx.nn.Linear(3, 2, key=jax.random.key(2))
    assert eqx.tree_equal(answers.recorded_model("run", other), layer)


def test_records_are_of_the_code_that_the_notebooks_have():
    """Else what a notebook shows is not what its cells would give: make the records anew."""
    kept = answers.resources.files("labkit.compare").joinpath("recorded")
    records = {file.name.removesuffix(".npz"): file for file in kept.glob("[0-9]*.npz")}
    assert records
    for name, file in records.items():
        (path,) = (path for path in run.notebooks() if path.name[:2] == name[:2])
        with np.load(file, allow_pickle=False) as saved:
            about = json.loads(str(saved["about"]))
        again = f"python -m tools.run --retrain notebooks/{path.name}"
        if name in UNMARKED:
            assert "source" not in about
        else:
            assert about["source"] == run.source_of(path, name), again
        assert about["dataset"] == "mnist" and file.stat().st_size <= 1.5e6
    code = "".join(c.source for p in run.notebooks() for c in read(p).cells)
    named = set(re.findall(r'"(\d\d_\w+)"', code)) - {path.stem for path in run.notebooks()}
    assert named == set(records) >= UNMARKED


def test_a_mark_follows_the_code_that_a_record_needs_and_no_other(tmp_path):
    head = "import numpy as np\nfrom labkit.compare import answers\nrate = 0.1"
    cells = [head, "def run():\n    return {'a': rate * 2}  # twice", "other = 3",
             'found = answers.measured("00_run", run, False)']  # fmt: skip
    mark = lambda *cells: run.source_of(notebook(tmp_path, *cells), "00_run")
    first = mark(*cells)
    assert first == mark(*cells[:2], "other = 4", cells[3])
    assert first == mark(cells[0], cells[1].replace("rate * 2", "rate*2"), *cells[2:])
    assert first != mark(head.replace("0.1", "0.2"), *cells[1:])
    assert first != mark(cells[0], cells[1].replace("2", "3"), *cells[2:])
    assert first != mark(cells[0], "@np.vectorize\n" + cells[1], *cells[2:])
