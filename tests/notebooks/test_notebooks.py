"""The structure of every notebook: anatomy, tags, stored outputs, links, stamps."""

import copy
import datetime
import json
import re
import shutil
import statistics
import subprocess
import tomllib

import nbformat
import pytest

from labkit import check
from labkit.exercises import core
from tools import ROOT, execute, plan, stamp

PATHS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
TAGS = {"setup", "exercise", "check", "solution", "hide-input", "nbval-check-output"}
TAGS |= {"timing", "picture"}
HEADING = re.compile(r"### Exercise (\d+)\.(\d+) — .+ \([★☆]{3}, \d+ min\)")
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags_of(cell):
    return set(cell.metadata.get("tags", []))


def text_of(path):
    return "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")


def test_there_are_notebooks():
    assert [path.stem[:2] for path in PATHS] == [f"{i:02}" for i in range(len(PATHS))] and PATHS


@each
def test_was_executed_from_top_to_bottom_and_all_went_well(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o.text for o in outputs if o.get("name") == "stderr"]
    stored = json.dumps(outputs, ensure_ascii=False)
    assert not re.search(r"/(root|home|tmp|work|Users)/|Warning|✗", stored)
    dataset = next(o.text for c in cells if "setup" in tags_of(c) for o in c.outputs if "text" in o)
    assert "MNIST (LeCun" in dataset, "stored outputs are made from MNIST"


@each
def test_is_stamped_with_the_address_the_times_and_the_setup_cell(path):
    notebook = read(path)
    stamped = copy.deepcopy(notebook)
    stamp.stamp_notebook(stamped, path.stem)
    assert stamped == notebook, "run `make stamp`"
    assert [i for i, c in enumerate(notebook.cells) if "setup" in tags_of(c)] == [1]


@each
def test_begins_and_ends_as_every_notebook_does(path):
    head, text = read(path).cells[0].source, text_of(path)
    assert head.startswith(f"# {path.stem[:2]} · ")
    for part in ("**You will**", "**Time**", "*Run all* takes", "**Needs**"):
        assert part in head
    objectives = re.findall(r"^- ", head.split("**You will**")[1].split("**Time**")[0], re.M)
    assert 3 <= len(objectives) <= 5
    for part in ("## What you learned", "**Where next**", "## References"):
        assert part in text
    assert text.count("<details>") == text.count("</details>") >= 3
    assert "```{" not in text and ":::" not in text, "plain Markdown only"
    broken = re.findall(r"[\x00-\x09\x0b-\x1f]|\n(?:Vert|ight|angle|ho)\b", text)
    assert not broken, "a backslash of a formula was taken for an escape"


@each
def test_cells_are_short(path):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(path)]
    assert max(lengths) <= 30
    assert statistics.median(lengths) <= 8
    assert not [line for c in code_cells(path) for line in c.source.splitlines() if len(line) > 100]


@each
def test_tags_and_regression(path):
    cells = code_cells(path)
    assert set().union(*map(tags_of, cells)) <= TAGS
    assert sum("nbval-check-output" in tags_of(cell) for cell in cells) >= 8
    assert sum("picture" in tags_of(cell) for cell in cells) == 1
    for cell in cells:
        if "nbval-check-output" in tags_of(cell):
            assert cell.outputs and "timing" not in tags_of(cell)
            assert all(output.output_type != "display_data" for output in cell.outputs)


@each
def test_exercises_have_four_cells_and_a_check(path):
    cells = read(path).cells
    headings = [i for i, cell in enumerate(cells) if HEADING.search(cell.source)]
    assert len(headings) >= (2 if path.stem.startswith("00") else 3)
    assert sum("exercise" in tags_of(cell) for cell in cells) == len(headings)
    for number, i in enumerate(headings, start=1):
        notebook, exercise = map(int, HEADING.search(cells[i].source).groups())
        assert (notebook, exercise) == (int(path.stem[:2]), number)
        stub, checked, solution = cells[i + 1 : i + 4]
        assert "exercise" in tags_of(stub) and stub.source.rstrip().endswith("...")
        assert tags_of(checked) == {"check", "nbval-check-output"}
        assert {"solution", "hide-input", "nbval-check-output"} <= tags_of(solution)
        name = re.search(r"def (\w+)\(", stub.source)[1]
        call = f"check.exercise_{notebook}_{exercise}("
        assert checked.source == f"{call}{name})"
        assert checked.outputs[0].text.rstrip().endswith("not attempted yet")
        assert f"def {name}_solution(" in solution.source
        assert solution.source.endswith(f"{call}{name}_solution)")
        assert solution.outputs[0].text.startswith("✓")
        assert callable(getattr(check, f"exercise_{notebook}_{exercise}"))


@each
def test_what_follows_never_needs_a_solution(path):
    cells = code_cells(path)
    names = set()
    for cell in cells:
        if "solution" in tags_of(cell):
            names |= set(re.findall(r"^def (\w+)\(|^class (\w+)", cell.source, re.M)[0]) - {""}
        else:
            used = {name for name in names if re.search(rf"\b{name}\b", cell.source)}
            assert not used, f"the student edition drops {used}"


@each
def test_pictures_have_words(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata["image/png"]["alt"]
                assert len(alt) > 20 or alt.startswith("What you will")
            page = output.get("data", {}).get("text/html", "")
            if "labkit-scrubber" in page:
                assert re.search(r'<img [^>]*alt="[^"]{20,}"', page) and "image/png" in output.data


@each
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", text_of(path)):
        assert (path.parent / target).exists(), target


@each
def test_results_have_expected_ranges(path):
    names = [
        n for c in code_cells(path) for n in re.findall(r'check\.result\(\s*"([^"]+)"', c.source)
    ]
    assert names and set(names) <= set(core._expected())


@each
def test_what_is_stored_is_what_a_run_would_say_today(path):
    """Ranges and run times stand in files of their own, and go on changing after a run."""
    text = "".join(o.get("text", "") for cell in code_cells(path) for o in cell.outputs)
    shown = re.findall(r"✓ (\S+/\S+) = [^(]+ \(expected (.+?) on mnist\)", text)
    assert shown
    for name, span in shown:
        entry = core._expected()[name]
        low, high = (core._show(end, entry) for end in entry["mnist"]["range"])
        assert span == f"{low} to {high}", f"{name}: run `make execute`"
    took = int(re.search(r"Run all .*took (\d+) s", text)[1])
    measured = plan.measured(ROOT)[path.stem]["cpu"]["seconds"]
    assert 0.5 <= took / measured <= 2, "run `make execute`"  # as `execute.same_story` has it


@each
def test_size(path):
    assert path.stat().st_size < 2.5e6


def test_every_expected_range_is_used():
    sources = "\n".join(cell.source for path in PATHS for cell in code_cells(path))
    assert not [name for name in core._expected() if f'"{name}"' not in sources]


def test_readme_and_book_list_every_notebook():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert stamp.stamp_readme(readme) == readme, "run `make stamp`"
    assert stamp.readme_table() in readme and f"git clone {stamp.address()[0]}\n" in readme
    toc = (ROOT / "_toc.yml").read_text("utf-8")
    assert [path.stem for path in PATHS if f"notebooks/{path.stem}\n" not in toc] == []


def tracked(pattern):
    """The tracked files, tests apart, whose text holds the pattern, with what it found there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            text = (ROOT / name).read_bytes().decode("utf-8", "ignore").replace("%2F", "/")
            if hits := set(re.findall(pattern, text)):
                found[name] = hits
    return found


def test_the_address_agrees_wherever_it_stands():
    slug = stamp.address()[0].split("github.com/")[1]
    found = tracked(rf"(?<!lab/)\b[\w.-]+/{re.escape(slug.split('/')[1])}\b")
    assert {"README.md", "_config.yml", "pages/hosting.md"} < set(found)
    for name, hits in found.items():
        assert hits == {slug}, f"{name}: run `make stamp`"


def test_publishing_writes_the_address_everywhere(tmp_path, monkeypatch, capsys):
    before, new = stamp.address()[0], "https://github.com/someone/lab.book"
    slug = before.split("github.com/")[1]
    named = tracked(re.escape(slug))
    assert len(named) > 5
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    for name in {*named, "labkit/times.toml"}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(stamp, "ROOT", tmp_path)
    for bad in ("someone/lab", "https://example.org/a/b", new + "/tree/main"):
        with pytest.raises(SystemExit):
            stamp.main([bad])
        assert "https://github.com/owner/name" in capsys.readouterr().err
        assert stamp.address()[0] == before
    stamp.main([new + ".git/"])
    for name in named:
        text = (tmp_path / name).read_text("utf-8").replace("%2F", "/")
        assert slug not in text and "someone/lab.book" in text, name
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert "git clone https://github.com/someone/lab.book\ncd lab.book" in readme
    cell = stamp.setup("00_start_here")
    assert stamp.UNPUBLISHED not in cell and stamp.FAILED in cell
    link = "git-pull?repo=https%3A%2F%2Fgithub.com%2Fsomeone%2Flab.book&branch=main"
    assert link in (tmp_path / "pages/hosting.md").read_text("utf-8")


def output(text):
    return [nbformat.v4.new_output("stream", name="stdout", text=text)]


def test_times_are_kept_while_they_tell_the_same_story():
    kept = execute.same_story
    assert kept(output("loop 14.2 ms, 5.1 times"), output("loop 12.9 ms, 5.4 times"))
    assert not kept(output("loop 14.2 ms"), output("loop 40.0 ms"))
    assert not kept(output("loop 14.2 ms"), output("scan 14.2 ms"))
    assert not kept(output("loop 14.2 ms"), [])


def test_times_are_written_beside_others_and_sections_by_heading(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "TIMES", tmp_path / "times.toml")
    execute.TIMES.write_text("# a comment\n[01_a.gpu]\nseconds = 3\ndevice = 'GPU'\n", "utf-8")
    run = execute.Run(12.4, {"Setup": 1.26, '1 A "quoted" heading': 2.0}, 1.04)
    execute.write_times({"01_a": run}, "cpu", {"device": "2-core CPU", "dataset": "MNIST"})
    text = execute.TIMES.read_text("utf-8")
    written = tomllib.loads(text)["01_a"]
    assert text.startswith("# a comment\n") and written["gpu"]["seconds"] == 3
    assert written["sections"] == {"Setup": 1.3, '1 A "quoted" heading': 2.0}
    assert (written["cpu"]["seconds"], written["cpu"]["memory"]) == (12, 1.0)
    assert written["cpu"]["date"] == datetime.date.today()


def test_execute_gives_no_diff_the_second_time_and_keeps_the_file_when_a_cell_fails(tmp_path):
    source = 'print("about", __import__("time").perf_counter_ns() % 7 + 8, "ms")'
    picture = (
        "from labkit import plot; import matplotlib.pyplot as plt\n"
        'plot.show(plt.subplots()[0], alt="an empty figure, for a test")'
    )
    cells = [
        nbformat.v4.new_code_cell("1 + 1", metadata={"tags": ["setup"]}),
        nbformat.v4.new_code_cell(source, metadata={"tags": ["timing"]}),
        nbformat.v4.new_code_cell(picture, metadata={"tags": ["picture"]}),
    ]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    pictures, execute.PICTURES = execute.PICTURES, tmp_path / "pictures"
    try:
        run = execute.execute(path)
        assert list(run.sections) == ["Setup"] and 0 < run.sections["Setup"] < run.seconds
        assert run.memory is None or 0.01 < run.memory < 4
        first = path.read_bytes()
        execute.execute(path)
        assert path.read_bytes() == first
        assert (tmp_path / "pictures" / "notebook.png").is_file()
        assert "image/png" in str(read(path).cells[0].outputs)
        broken = read(path)
        broken.cells[1].source = "1 / 0"
        nbformat.write(broken, path)
        before = path.read_bytes()
        with pytest.raises(Exception, match="ZeroDivisionError"):
            execute.execute(path)
        assert path.read_bytes() == before
    finally:
        execute.PICTURES = pictures
