"""A Sphinx extension: what the book adds to its pages.

The landing page is the site's root, and the site's address follows from the repository's in
_config.yml. A link's preview has the page's first paragraph, and a notebook's has its picture. Code
that only draws is folded. Pagefind lets search find sections.
"""

import ast
import asyncio
import html
import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes

from tools import ROOT, site_address

TITLE = "Predictive coding, VAEs and energy-based models as one idea"  # of the landing page
SUMMARY = re.compile(r"<summary>.*?</summary>", re.DOTALL)
FORMULA = re.compile(r"\$([^$]+)\$")
INDEXED = {
    "root_selector": "article",
    "exclude_selectors": [".cell_output", ".headerlink", "div.math", "script", "summary"],
}


def configure(app, config) -> None:
    options = config.html_theme_options
    config.html_baseurl = config.ogp_site_url = site_address(options["repository_url"])
    if not options["repository_url"].startswith("https://github.com/"):
        options["launch_buttons"].pop("colab_url", None)  # Colab opens GitHub only
    log = ["git", "-C", ROOT, "log", "-1", "--format=, commit %h of %cs"]
    commit = subprocess.run(log, capture_output=True, text=True).stdout.strip()
    version = re.search('(?m)^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"))[1]
    options["extra_footer"] = f"Version {version}{commit}"


def put_landing_page_at_the_root(app) -> None:
    uri, file = app.builder.get_target_uri, app.builder.get_outfilename
    place = lambda page: "index" if page == app.config.root_doc else page
    app.builder.get_target_uri = lambda page, typ=None: uri(place(page), typ)
    app.builder.get_outfilename = lambda page: file(place(page))


def fold(app, page: str, source: list[str]) -> None:
    """Fold solutions and code that only draws, each under words of its own."""
    if not page.startswith("notebooks/0"):
        return
    notebook, own = json.loads(source[0]), set()
    for cell in notebook["cells"]:
        tags, words = cell["metadata"].setdefault("tags", []), "Show the solution"
        if cell["cell_type"] == "code" and "solution" not in tags:
            words = "Show the plotting code" if only_draws(cell, own) else None
            tags += ["hide-input"] if words else []
        if words:
            cell["metadata"].setdefault("mystnb", {})["code_prompt_show"] = words
    source[0] = json.dumps(notebook)


def only_draws(cell: dict, own: set[str]) -> bool:
    """Whether six lines or more mostly draw, print nothing and use none of the `own` functions.

    Those are what the cells before define; if this one draws nothing, its functions join them.
    """
    body = ast.parse(re.sub("(?m)^ *[%!].*", "", "".join(cell["source"]))).body
    names = [{n.id for n in ast.walk(line) if isinstance(n, ast.Name)} for line in body]
    sizes = [statement.end_lineno - statement.lineno + 1 for statement in body]
    drawn = sum(n for n, used in zip(sizes, names) if used & {"plot", "plt", "axes", "axis"})
    if not drawn:
        own |= {s.name for s in body if isinstance(s, ast.FunctionDef | ast.ClassDef)}
    silent = all(output["output_type"] != "stream" for output in cell["outputs"])
    return silent and sum(sizes) > 5 and 2 * drawn > sum(sizes) and not own & set().union(*names)


def describe(app, page: str, template: str, context: dict, doctree) -> None:
    """Put words and picture where sphinxext-opengraph looks for them."""
    if not doctree:
        return
    if page == app.config.root_doc:
        context |= {"title": TITLE, "pageurl": f"{app.config.html_baseurl}index.html"}
    words = next(doctree.findall(nodes.paragraph)).astext().replace("\n", " ")
    context["metatags"] += f'<meta name="description" content="{html.escape(words)}" />\n'
    context["meta"] = (context["meta"] or {}) | {"og:description": html.escape(words)}
    name = page.rsplit("/", 1)[-1]
    if (ROOT / "labkit" / "pictures" / f"{name}.png").is_file():
        context["meta"] |= {
            "og:image": f"{app.config.ogp_site_url}_images/{name}.png",
            "og:image:alt": context["title"],
        }


def finish(app, page: str, template: str, context: dict, doctree) -> None:
    """Let Binder open the student edition. Drop the scripts that Sphinx 7.4 lists twice, because
    they have no file: a second `const` is an error."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []) if group["type"] == "group" else []:
            if button["text"] == "Binder":
                name = f"student?urlpath=lab%2Ftree%2F{page.rsplit('/', 1)[-1]}.ipynb"
                button["url"] = re.sub(r"[^/]+\?urlpath=.*", name, button["url"])
    scripts = {(s.filename or "", str(s.attributes)): s for s in context["script_files"]}
    context["script_files"] = list(scripts.values())


def mark(app, doctree, page: str) -> None:
    """Mark $formulas$ inside <summary> for MathJax: Jupyter sets them there, MyST does not.
    Lead from a control that needs a kernel to Colab."""
    repository = app.config.html_theme_options["repository_url"]
    colab = repository.replace("github.com", "colab.research.google.com/github")
    link = rf'\1<a href="{colab}/blob/main/{page}.ipynb">\2 in Colab</a>'
    for raw in doctree.findall(nodes.raw):
        text = SUMMARY.sub(lambda m: FORMULA.sub(set_formula, m[0]), raw.astext())
        if "colab_url" in app.config.html_theme_options["launch_buttons"]:
            text = re.sub("(<em>)(Run this cell)(?= to move the controls)", link, text)
        raw.children[:] = [nodes.Text(text)]


def set_formula(found: re.Match) -> str:
    return f'<span class="math notranslate nohighlight">\\({found[1]}\\)</span>'


def index(app, exception) -> None:
    """Write Pagefind's index; without Pagefind search.html falls back to Sphinx's own."""
    if not exception and app.builder.name == "html" and find_spec("pagefind"):
        asyncio.run(write_index(app))


async def write_index(app) -> None:
    from pagefind.index import PagefindIndex

    async with PagefindIndex(INDEXED | {"output_path": f"{app.outdir}/pagefind"}) as pagefind:
        for page in app.env.found_docs:
            text = Path(app.builder.get_outfilename(page)).read_text("utf-8")
            # Pagefind looks for a section's id in its heading, and knows no TeX. Code counts less.
            text = re.sub(r'(<section id="([^"]+)">\s*<h\d)>', r'\1 id="\2">', text)
            text = text.replace(
                '<div class="cell_input', '<div data-pagefind-weight="0.1" class="cell_input'
            )
            text = re.sub(r"\\\((.*?)\\\)", lambda m: re.sub(r"[\\{}]", "", m[1]), text)
            await pagefind.add_html_file(content=text, url=app.builder.get_target_uri(page))


def setup(app) -> dict:
    app.connect("config-inited", configure)
    app.connect("builder-inited", put_landing_page_at_the_root)
    app.connect("source-read", fold)
    app.connect("doctree-resolved", mark)
    app.connect("html-page-context", describe, priority=400)  # opengraph has 500
    app.connect("html-page-context", finish, priority=900)  # the theme's buttons have 500
    app.connect("build-finished", index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
