"""tools/stamp.py and the markers: what the pages say is what the notebooks and times.toml hold."""

import re
import shutil
import subprocess
import tomllib

import nbformat
import pytest

from tools import ROOT, fill, notebooks, read, stamp

TIMES = """
[00_a.cpu]
seconds = 40
device = "2-core CPU"
memory = 1.25
dataset = "MNIST"
date = 2026-01-02
versions = "jax 1"
[00_a.sections]
Setup = 3.0
"1 One" = 30.4
[01_b.cpu]
seconds = 7
device = "2-core CPU"
versions = "jax 1"
[01_b.gpu]
seconds = 5
device = "some GPU"
versions = "jax 2"
"""
OHM = "- B. Öhm et al., *Two*. [arXiv:2](https://arxiv.org/abs/2)"


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of three notebooks, the last one neither run nor measured."""
    for folder in ("labkit", "notebooks"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "_config.yml", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "labkit" / "times.toml").write_text(TIMES, "utf-8")
    badge = stamp.badge("any")
    texts = {
        "00_a": ["## 1 One\n\n### Exercise 0.1 — First (★☆☆, 10 min)", "more\n\n## 2 Two\n\ntext",
                 "### Exercise 0.2 — Second (★★☆, 15 min)", "## Questions\n\n### Exercise 0.9 — No",
                 f"- not here\n## References\n\n{OHM}\n- *A script*, without a link."],
        "01_b": ["### Exercise 1.1\n\nWhat to write.\n\n## References\n- C. D. Abe, *One*, 1999."
                 f"\n  [doi:1](https://doi.org/1)\n{OHM}\n- Symbols: [Notation](notation.md)."],
        "02_c": ["## Questions"],
    }  # fmt: skip
    for name, parts in texts.items():
        head = f"# {name[:2]} · Title\n\nA sentence.\n\n{badge}\n\n*Run all* takes 1 s."
        cells = [nbformat.v4.new_markdown_cell(text) for text in (head, *parts)]
        setup = nbformat.v4.new_code_cell(metadata={"tags": ["setup", "picture"]})
        setup.outputs = [nbformat.v4.new_output("stream", name="stdout", text="Run all   old\n")]
        book = nbformat.v4.new_notebook(cells=[cells[0], setup, *cells[1:]])
        nbformat.write(book, tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr(stamp, "ROOT", tmp_path)
    return tmp_path


def test_what_is_between_markers_is_filled_and_a_missing_marker_is_an_error():
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n  # <!-- y 1 2 -->\n  # <!-- /y -->\n"
    assert fill(page, "x", "new\nlines") == page.replace("old", "new\nlines")
    assert fill(page, "y 1 2", "  z") == page.replace("1 2 -->\n", "1 2 -->\n  z\n")
    for bad in (page.replace("<!-- /x -->", ""), page.replace("<!-- x -->", ""), page + page):
        with pytest.raises(ValueError, match="must have <!-- x --> and <!-- /x -->, once each"):
            fill(bad, "x", "new")


@pytest.mark.parametrize("name", stamp.PAGES)
def test_every_page_is_up_to_date(name):
    assert stamp.page(name) == (ROOT / name).read_text("utf-8"), "run `make stamp`"
    written = stamp.PAGES[name]
    assert written is None or f"<!-- {written[0]} -->" in stamp.page(name)


def test_a_plan_names_sections_exercises_and_what_was_measured(course):
    table = stamp.plan("00_a", "1=20 2=0")
    assert "| 1 One | 20 | 0.1 (10 min) | 30 s |" in table
    assert "| 2 Two | at home | 0.2 (15 min) | not measured |" in table
    assert "| **in all** | **20** |" in table and "0.9" not in table
    for minutes in ("1=20", "1=20 2=3 3=4", "1=100 2=6"):
        with pytest.raises(ValueError, match="at most 105 in all"):
            stamp.plan("00_a", minutes)


def test_the_guide_has_a_plan_for_every_model():
    text = (ROOT / "pages" / "lecturers_guide.md").read_text("utf-8")
    labs = [path.stem for path in notebooks()][1:-1]  # the first and the last are for home
    assert [name for _, name, _ in stamp.PLAN.findall(text)] == labs


def test_the_status_page_says_what_is_known_and_no_more(course):
    rows = stamp.status().splitlines()[2:]
    all_known = "| 40 s | not measured | 1.2 GiB | section 1 One: 30 s | MNIST | 2026-01-02 |"
    assert rows[0] == f"| [00 · Title](../notebooks/00_a.ipynb) {all_known}"
    assert rows[1].startswith("| [01 · Title](../notebooks/01_b.ipynb) | 7 s | 5 s |")
    assert [row.count("not measured") for row in rows] == [1, 4, 6, 0, 0, 0]
    assert rows[3:] == ["", "- 00, 01 on 2-core CPU: jax 1", "- 01 on some GPU: jax 2"]
    assert "| 7 s on a 2-core CPU and 5 s on an some GPU |" in stamp.readme()


def test_a_work_is_listed_once_with_every_notebook_that_cites_it(course):
    assert stamp.cited() == [
        ("*A script*, without a link", ["00_a"]),
        ("C. D. Abe, *One*, 1999.\n  [doi:1](https://doi.org/1)", ["01_b"]),
        (OHM[2:], ["00_a", "01_b"]),
    ]


def test_a_row_of_the_literature_has_the_value_that_a_notebook_stored(course, monkeypatch):
    path, list_of_rows = course / "notebooks" / "01_b.ipynb", course / "literature.toml"
    monkeypatch.setattr(stamp, "LITERATURE", list_of_rows)
    row = "[[row]]\nwhat = 'Loss'\nresult = 'a/b'\npublished = '2 %'\nsource = 'S'\n"
    list_of_rows.write_text(row + "url = 'https://s'\ncomparable = 'no: older'\n", "utf-8")
    book, marked = read(path), "# T\n\n<!-- literature -->\n<!-- /literature -->"
    for told in ("", "✓ a/b = 1.5 % (expected 1 % to 2 % on digits)\n"):
        book.cells[1].outputs[0].text = told
        nbformat.write(book, path)
        with pytest.raises(ValueError, match="no notebook has stored 'a/b'"):
            stamp.with_literature(marked)
    book.cells[1].outputs[0].text = "so\n✓ a/b = -1.5 % (expected -2 % to 2 % on mnist)\nand\n"
    nbformat.write(book, path)
    filled = stamp.with_literature(marked)
    assert "\n| Loss | -1.5 % (01) | 2 % | [S](https://s) | no: older |\n<!-- /" in filled
    assert stamp.with_literature(filled) == filled
    assert stamp.with_literature("no marker") == "no marker"


def test_the_literature_has_a_row_for_each_entry_and_is_where_it_belongs():
    shown = "\n".join(o.get("text", "") for path in notebooks() for cell in read(path).cells
                      for o in cell.get("outputs", []))  # fmt: skip
    rows = tomllib.loads(stamp.LITERATURE.read_text("utf-8"))["row"]
    table = stamp.literature()
    assert len(table.splitlines()) == 2 + len(rows)
    for row, line in zip(rows, table.splitlines()[2:], strict=True):
        what, ours, published, source, comparable = line.strip("| ").split(" | ")
        value, notebook = ours.rsplit(" ", 1)
        assert f"✓ {row['result']} = {value} (expected" in shown and len(notebook) == 4
        assert (what, published) == (row["what"], row["published"]) and row["url"] in source
        assert re.match(r"(yes|nearly|no): ", comparable)
    capstone = "\n".join(cell.source for cell in read(notebooks()[-1]).cells)
    assert table in capstone and table in stamp.page("pages/status.md")


def test_a_notebook_gets_its_time_wherever_it_is_said_and_its_headings(course, monkeypatch):
    def exercise_1_1():
        pass

    exercise_1_1.__dict__.update(number="1.1", title="The idea", stars=2, minutes=15)
    monkeypatch.setattr(stamp.check, "exercise_1_1", exercise_1_1, raising=False)
    for name, told, shown in (
        ("00_a", "40 s on a 2-core CPU", "Run all   took 40 s on 2-core CPU\n"),
        ("02_c", "a time that was not measured yet", "Run all   old\n"),
    ):
        book = read(course / "notebooks" / f"{name}.ipynb")
        stamp.stamp_notebook(book, name)
        assert f"*Run all* takes {told}." in book.cells[0].source
        assert book.cells[1].outputs[0].text == shown
    book = read(course / "notebooks" / "01_b.ipynb")
    for _ in range(2):
        stamp.stamp_notebook(book, "01_b")
        assert book.cells[2].source.startswith("### Exercise 1.1 — The idea (★★☆, 15 min)\n\nWhat")


def test_publishing_writes_the_address_everywhere(tmp_path, monkeypatch, capsys):
    before, new = stamp.address()[0], "https://github.com/someone/lab.book"
    slug = before.split("github.com/")[1]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [n for n in listed.stdout.split("\0") if n and not n.startswith("tests/")]
    holds = lambda root, name: (
        (root / name).read_bytes().decode("utf-8", "ignore").replace("%2F", "/")
    )
    named = [name for name in files if (ROOT / name).is_file() and slug in holds(ROOT, name)]
    assert {"README.md", "_config.yml", "pages/hosting.md"} < set(named)
    for name in {*named, *stamp.PAGES, "labkit/times.toml", "pyproject.toml"}:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(stamp, "ROOT", tmp_path)
    for bad in ("someone/lab", "http://example.org/a/b", "https://github.com/a_b_/c"):
        with pytest.raises(SystemExit):
            stamp.main([bad])
        assert "https://github.com/owner/name" in capsys.readouterr().err
        assert stamp.address()[0] == before
    stamp.main([new + ".git/"])
    for name in named:
        assert slug not in holds(tmp_path, name) and "someone/lab.book" in holds(tmp_path, name), (
            name
        )
    assert "git clone https://github.com/someone/lab.book\ncd lab.book" in holds(
        tmp_path, "README.md"
    )
