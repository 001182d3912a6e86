"""The student edition: nothing given away, nothing of others deleted, pulled again and again."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest

from tools import ROOT, notebooks, read, stamp, student, tags

CALL = re.compile(r"check\.(exercise_\d+_\d+)\((\w+)\)")
each = pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)


def code_of(notebook, *, solutions):
    return [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and ("solution" in tags(cell)) == solutions
    ]


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edition") / "student"
    student.main([str(folder)])
    return folder


# What is in it ------------------------------------------------------------------------------------


@each
def test_no_solution_is_left(path, edition):
    ours, text = read(path), (edition / path.name).read_text("utf-8")
    public = "\n".join(code_of(ours, solutions=False))
    solutions = [cell for cell in ours.cells if "solution" in tags(cell)]
    secret = 0
    for cell in solutions:
        for name in re.findall(r"def (\w+_solution)\(", cell.source):
            assert name not in text
        for line in map(str.strip, cell.source.splitlines()):
            if len(line) > 15 and line not in public:
                secret += 1
                assert json.dumps(line, ensure_ascii=False)[1:-1] not in text, line
    assert solutions and secret >= len(solutions)


@each
def test_questions_are_kept_and_answers_are_not(path, edition):
    ours = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    theirs = "\n".join(c.source for c in read(edition / path.name).cells)
    assert "<details" not in theirs and "</details>" not in theirs and "<summary" not in theirs
    folded = re.findall(r"<summary>(.*?)</summary>(.*?)</details>", ours, re.DOTALL)
    assert folded
    for question, answer in folded:
        assert re.sub(r"</?b>", "**", question) in theirs
        longest = max(answer.splitlines(), key=len)
        assert len(longest) > 40 and longest not in theirs


@each
def test_everything_else_is_there_without_outputs(path, edition):
    theirs = read(edition / path.name)
    nbformat.validate(theirs)
    ours = [cell for cell in read(path).cells if "solution" not in tags(cell)]
    assert [cell.id for cell in theirs.cells] == [cell.id for cell in ours]
    for mine, cell in zip(ours, theirs.cells, strict=True):
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        if not stamp.BADGE_PATTERN.search(mine.source) and "<details" not in mine.source:
            assert cell.source == mine.source


@each
def test_links_lead_somewhere_in_the_folder_and_badges_open_the_branch(path, edition):
    pages = [c.source for c in read(edition / path.name).cells if c.cell_type == "markdown"]
    pages += [(edition / page).read_text("utf-8") for page in ("README.md", "notation.md")]
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", "\n".join(pages)):
        assert (edition / target).exists(), target
    url, _ = stamp.address()
    place = url.replace("https://github.com", "https://colab.research.google.com/github")
    for file in (edition / path.name, edition / "README.md"):
        assert f"{place}/blob/student/{path.name})" in file.read_text("utf-8")


@each
def test_checks_carry_nbgraders_metadata(path, edition):
    stars = [
        heading.count("★")
        for cell in read(path).cells
        for heading in re.findall(r"### Exercise .+ \(([★☆]{3}),", cell.source)
    ]
    graded = [c for c in read(edition / path.name).cells if "nbgrader" in c.metadata]
    assert [cell.metadata.nbgrader.points for cell in graded] == stars
    for cell in graded:
        about = cell.metadata.nbgrader
        assert about.grade and about.locked and not about.solution
        assert about.grade_id == CALL.fullmatch(cell.source)[1]


def test_tags_decide_and_words_do_not():
    new = nbformat.v4
    cells = [new.new_markdown_cell("The fixed point is the solution of $Az = b$."),
             new.new_markdown_cell("> An aside.", metadata={"tags": ["solution"]}),
             new.new_code_cell("solution = 1")]  # fmt: skip
    kept = student.student_edition(new.new_notebook(cells=cells), "00_start_here").cells
    assert [cell.source for cell in kept] == [cells[0].source, cells[2].source]


def test_the_zip_holds_the_folder_as_it_is_handed_out(edition):
    with zipfile.ZipFile(edition / student.ZIP) as archive:
        held = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    others = {"binder", student.ZIP, student.LISTED}  # nothing that a student needs
    assert held.keys() == {path.name for path in edition.iterdir()} - others
    assert all((edition / name).read_bytes() == held[name] for name in held)
    assert {"README.md", "LICENSE", "00_start_here.ipynb"} <= held.keys()


# What it never deletes ----------------------------------------------------------------------------


def snapshot(folder):
    return {p: p.is_file() and p.read_bytes() for p in [folder, *sorted(folder.rglob("*"))]}


@pytest.mark.skipif(os.name == "nt", reason="the commands are for a Unix shell")
@pytest.mark.parametrize(
    "work",
    ["git init -q", "mkdir submissions", "echo {} > 99_lecture.ipynb", "echo Note. >> notation.md",
     "echo {} > 00_start_here.ipynb", f"rm {student.LISTED}",
     "mv notation.md .. && ln -s ../notation.md notation.md"],
)  # fmt: skip
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_folder_with_anything_else_in_it_is_left_as_it_is(
    work, when, edition, tmp_path, monkeypatch, capsys
):
    folder, seen = shutil.copytree(edition, tmp_path / "student"), []

    def fill(new=None):  # the real one takes seconds, in which someone may do this
        subprocess.run(work, shell=True, cwd=folder, check=True)
        seen.append(snapshot(folder))

    if when == "before":
        fill()
    monkeypatch.setattr(student, "fill", fill)
    with pytest.raises(SystemExit):
        student.main([str(folder)])
    assert "is left as it is" in capsys.readouterr().err
    assert seen == [snapshot(folder)] and not list(tmp_path.glob(".student-*"))


def test_an_unchanged_one_is_replaced_and_a_file_is_no_folder(edition, tmp_path, monkeypatch):
    folder = shutil.copytree(edition, tmp_path / "student")
    (folder / "notation.md").unlink()  # what is gone cannot be lost
    monkeypatch.setattr(student, "fill", lambda new: (new / "new").write_text(""))
    student.main([str(folder)])
    assert [path.name for path in folder.iterdir()] == ["new"]
    with pytest.raises(SystemExit):
        student.main([str(folder / "new")])
    assert (folder / "new").is_file()


# The branch ---------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="the script is for a Unix shell")
def test_a_students_edit_survives_a_second_pull_from_the_branch(edition, tmp_path, monkeypatch):
    """Twice published, twice pulled by nbgitpuller; in between a student worked in a notebook."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "lane")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "lane@example.org")
    lab, hub = tmp_path / "energy-lab", (tmp_path / "hub.git").as_uri()
    home, folder = tmp_path / "home", shutil.copytree(edition, tmp_path / "student")

    def run(*command, where=tmp_path, fails=False):
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=120)
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit():
        run("git", "add", "--all", where=lab)
        run("git", "commit", "--quiet", "--message", "x", where=lab)

    run("git", "init", "--quiet", "--bare", "hub.git")
    run("git", "init", "--quiet", "--initial-branch=main", lab)
    for name in ("tools/publish.sh", "pyproject.toml", "labkit/__init__.py"):
        (lab / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, lab / name)
    commit()
    publish, pull = (
        [lab / "tools/publish.sh", folder, hub],
        [sys.executable, "-m", "nbgitpuller.pull", hub, "student", home],
    )
    run(*publish)
    run(*pull)
    published = {path.name for path in home.iterdir()} - {".git"}
    assert published == {p.name for p in edition.iterdir() if p.suffix not in {".whl", ".zip"}}
    notebook, notes = home / "00_start_here.ipynb", home / "notation.md"
    edited = notebook.read_text("utf-8").replace("velocity, rate, beta):", "velocity, *mine):")
    notebook.write_text(edited, "utf-8")

    (folder / "notation.md").write_text("corrected\n")
    (folder / "07_capstone.ipynb").unlink()
    lines = (folder / student.LISTED).read_text("utf-8").splitlines(keepends=True)
    (folder / student.LISTED).write_text("".join(x for x in lines if "07_capstone" not in x))
    run(*publish)
    run(*publish)  # nothing changed: nothing is committed
    run(*pull)
    assert notes.read_text("utf-8") == "corrected\n" and not (home / "07_capstone.ipynb").exists()
    assert notebook.read_text("utf-8") == edited
    log = run("git", "--git-dir=hub.git", "log", "--format=%s", "student").splitlines()
    version = stamp.words()["version"]
    assert log == [f"Student edition of v{version}"] * 2

    (lab / "labkit/__init__.py").write_text("changed = True\n")
    commit()
    assert "raise version in pyproject.toml" in run(*publish, fails=True)
    project = (lab / "pyproject.toml").read_text("utf-8")
    (lab / "pyproject.toml").write_text(project.replace(f'"{version}"', '"99.0"'), "utf-8")
    commit()
    run(*publish)
    assert "refs/tags/v99.0" in run("git", "ls-remote", hub)
