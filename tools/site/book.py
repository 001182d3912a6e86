"""A Sphinx extension: what the book adds to its pages.

The site's address follows from the repository's in _config.yml. Where a link to a page is shown
elsewhere, its words are the page's first paragraph and a notebook's preview is its picture, which
the landing page puts among the site's images.
"""

import html
import re
from pathlib import Path

from docutils import nodes

PICTURES = Path(__file__).resolve().parent.parent.parent / "labkit" / "pictures"

SUMMARY = re.compile(r"<summary>.*?</summary>", re.DOTALL)
FORMULA = re.compile(r"\$([^$]+)\$")


def site_address(repository: str) -> str:
    """Where GitHub Pages or GitLab Pages serve a repository's site; "" for any other server."""
    host, owner, name = repository.rstrip("/").split("/", 4)[2:]
    pages = {"github.com": "github.io", "gitlab.com": "gitlab.io"}.get(host)
    return f"https://{owner}.{pages}/{name}/" if pages else ""


def set_addresses(app, config) -> None:
    options = config.html_theme_options
    config.html_baseurl = config.ogp_site_url = site_address(options["repository_url"])
    if not options["repository_url"].startswith("https://github.com/"):
        options["launch_buttons"].pop("colab_url", None)  # Colab opens GitHub only


def describe(app, page: str, template: str, context: dict, doctree) -> None:
    """Put words and picture where sphinxext-opengraph looks for them."""
    if not doctree:
        return
    words = next(doctree.findall(nodes.paragraph)).astext().replace("\n", " ")
    context["metatags"] += f'<meta name="description" content="{html.escape(words)}" />\n'
    context["meta"] = (context["meta"] or {}) | {"og:description": html.escape(words)}
    name = page.rsplit("/", 1)[-1]
    if (PICTURES / f"{name}.png").is_file():
        context["meta"] |= {
            "og:image": f"{app.config.ogp_site_url}_images/{name}.png",
            "og:image:alt": context["title"],
        }


def mark_formulas(app, doctree, page: str) -> None:
    """Mark $formulas$ inside <summary> for MathJax: Jupyter sets them there, MyST does not."""
    for raw in doctree.findall(nodes.raw):
        text = SUMMARY.sub(lambda m: FORMULA.sub(set_formula, m[0]), raw.astext())
        raw.children[:] = [nodes.Text(text)]


def set_formula(found: re.Match) -> str:
    return f'<span class="math notranslate nohighlight">\\({found[1]}\\)</span>'


def drop_repeated_scripts(app, page: str, template: str, context: dict, doctree) -> None:
    """Sphinx 7.4 lists a script that has no file twice, and its second `const` is an error."""
    scripts = {(s.filename or "", str(s.attributes)): s for s in context["script_files"]}
    context["script_files"] = list(scripts.values())


def setup(app) -> dict:
    app.connect("config-inited", set_addresses)
    app.connect("doctree-resolved", mark_formulas)
    app.connect("html-page-context", describe, priority=400)  # opengraph has 500
    app.connect("html-page-context", drop_repeated_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
