"""What the website's extension and the README promise, without a browser."""

import re
import subprocess

import pytest
import yaml

from tools import ROOT, notebooks, read, site_address
from tools.site import book

PLOT = "figure, axes = plt.subplots()\n" + "axes.plot(x)\n" * 5


def cell(source, *outputs):
    return {"source": source, "outputs": [{"output_type": kind} for kind in outputs]}


@pytest.mark.parametrize(
    "folded, source, outputs",
    [
        (True, PLOT, ["display_data"]),
        (True, f"def frame(t):\n    {PLOT.replace(chr(10), chr(10) + '    ')}", []),
        (False, "axes.plot(x)\n" * 5, ["display_data"]),
        (False, PLOT + "y = 1\n" * 6, ["display_data"]),
        (False, PLOT, ["display_data", "stream"]),
        (False, PLOT + "plot.images(infer(x))", ["display_data"]),
        (False, "y = 1\n" * 8, []),
    ],
)
def test_only_code_that_draws_and_does_nothing_else_is_folded(folded, source, outputs):
    own = set()
    assert not book.only_draws(cell("%pip list\ndef infer(x):\n    return 2 * x"), own)
    assert own == {"infer"}
    assert book.only_draws(cell(source, *outputs), own) == folded


def test_a_site_has_an_address_if_its_server_is_known():
    assert site_address("https://github.com/a/b/") == "https://a.github.io/b/"
    assert site_address("https://gitlab.com/a/b") == "https://a.gitlab.io/b/"
    assert site_address("https://gitea.example.org/a/b") == ""


def test_the_readme_shows_the_notebooks_code_and_fits_a_screen_and_a_half():
    text = (ROOT / "README.md").read_text("utf-8")
    (shown,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (first,) = (path for path in notebooks(ROOT) if path.name.startswith("01_"))
    code = "\n\n\n".join(c.source for c in read(first).cells if c.cell_type == "code")
    for definition in shown.strip().split("\n\n\n"):
        assert definition in code, definition
    lines = [line for line in text.splitlines() if line.strip("`|-: ")]
    assert len(lines) <= 75, "what is for maintainers belongs in CONTRIBUTING"


def test_the_citation_says_what_the_project_says():
    cite = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    version = re.search('version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"))[1]
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]["url"]
    assert (cite["version"], cite["repository-code"]) == (version, url)
    assert cite["url"] == site_address(url)
    changes = (ROOT / "pages" / "changelog.md").read_text("utf-8")
    assert f"## {version} ({cite['date-released']})" in changes
    assert f"version {version}." in (ROOT / "pages" / "index.md").read_text("utf-8")


def test_every_markdown_source_has_one_sentence_a_line():
    listed = subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).split()
    for name in listed:
        text = re.sub(
            r"(?s)<!-- (\w+).*?<!-- /\1 -->|```.*?```", "", (ROOT / name).read_text("utf-8")
        )
        for line in text.splitlines():
            if not line.startswith(("|", "(", ">", "!")):
                assert not re.search(r"[a-z)*`]{3}[.?!] [A-Z][a-z]+ ", line), f"{name}: {line}"
