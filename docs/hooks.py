"""What the site is made of beyond its own pages, built without network and read without scripts.

- `<!-- include FILE -->` on a page stands for a file of the repository, and
  `<!-- include FILE ## Heading -->` for one section of it, so that nothing is written twice.
- `` `name` `` of an exported name is a link to its place in the API.
- `::: jaxent.module` documents what `jaxent/_public.py` exports from that module. A module that
  exports and is on no page ends a strict build.
- Notebooks of the repository become pages: the executed copy in `results/notebooks` where there is
  one, else the file as it is. In `mkdocs.yml`, `notebooks/` stands for all of them.
- Formulas become MathML, which browsers draw by themselves.
"""

import ast
import html
import logging
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
log = logging.getLogger("mkdocs.hooks")

_INCLUDE = re.compile(r"^<!-- include (\S+?)(?: (#+ .+?))? -->$", flags=re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s:#]+)([^)]*\))")
_DOCUMENTED = re.compile(r"^::: (jaxent\S*)$", flags=re.MULTILINE)
_NAME = re.compile(r"(?<![\[`])`((?:bounds\.)?\w+)`(?![\]`])")
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', flags=re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', flags=re.DOTALL)


def on_config(config):
    """Put the notebooks in the navigation."""
    for entry in config.nav:
        for title, pages in entry.items():
            if pages == "notebooks/":
                entry[title] = ["notebooks/index.md", *(f"notebooks/{n}.md" for n in notebooks())]
    return config


def on_files(files, config):
    """Add the notebooks with their pictures."""
    for name, path in notebooks().items():
        executed = ROOT / "results" / "notebooks" / path.name
        source = executed if executed.exists() else path
        body, resources = MarkdownExporter().from_filename(str(source))
        body = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", body)
        for file, content in (resources["outputs"] or {}).items():
            body = body.replace(f"({file})", f"({name}/{file})")
            files.append(File.generated(config, f"notebooks/{name}/{file}", content=content))
        files.append(File.generated(config, f"notebooks/{name}.md", content=body))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fill in what is kept elsewhere."""

    def include(found: re.Match) -> str:
        return included(found[1], found[2], page.file.src_uri)

    def document(found: re.Match) -> str:
        names = in_order(found[1], exports().get(found[1], []))  # none: all that is public
        chosen = f"\n    options:\n      members: [{', '.join(names)}]" if names else ""
        return found[0] + chosen

    def refer(found: re.Match) -> str:
        return f"[{found[0]}][{targets[found[1]]}]" if found[1] in targets else found[0]

    targets = places()
    return _DOCUMENTED.sub(document, _NAME.sub(refer, _INCLUDE.sub(include, markdown)))


def on_page_content(html_text, page, config, files):
    """Draw formulas."""
    inline = _INLINE.sub(lambda found: mathml(found[1], "inline", page), html_text)
    return _DISPLAY.sub(lambda found: mathml(found[1], "block", page), inline)


def on_env(env, config, files):
    """See that no exported name is missing."""
    pages = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
    for module in sorted(set(exports()) - set(_DOCUMENTED.findall(pages))):
        log.warning(f"docs/api: no page has '::: {module}', from which jaxent exports names")
    return env


def notebooks() -> dict[str, Path]:
    """Notebooks of the repository by the name of their page."""
    return {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def exports() -> dict[str, list[str]]:
    """Exported names by the module that defines them; none listed for a whole module."""
    found: dict[str, list[str]] = {}
    for node in ast.parse((ROOT / "jaxent" / "_public.py").read_text()).body:
        if not isinstance(node, ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names]
        module = f"jaxent.{node.module}"
        if (ROOT / module.replace(".", "/")).is_dir():
            files = {name: ROOT / module.replace(".", "/") / f"{name}.py" for name in names}
            # A file that defines nothing only gathers names of others.
            own = [name for name, file in files.items() if "\ndef " in file.read_text()]
            found |= {f"{module}.{name}": [] for name in own}
            continue
        for name in names:
            found.setdefault(module, []).append(name)
    return found


def in_order(module: str, names: list[str]) -> list[str]:
    """The names as they follow each other in the source."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    defined = re.findall(r"^(?:class |def )?(\w+)\b", path.read_text(), flags=re.MULTILINE)
    return sorted(names, key=defined.index)


def places() -> dict[str, str]:
    """Where in the API every exported name is, and what `bounds` holds."""
    found = {name: f"{module}.{name}" for module, all_ in exports().items() for name in all_}
    for node in ast.parse((ROOT / "jaxent" / "values" / "bounds.py").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[f"bounds.{node.name}"] = f"jaxent.values.bounds.{node.name}"
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            # One function under two names.
            for target in node.targets:
                found[f"bounds.{ast.unparse(target)}"] = f"jaxent.values.bounds.{node.value.id}"
    return found


def included(source: str, heading: str | None, page: str) -> str:
    """A file or one of its sections, without that heading, its links as the page needs them."""
    text = (ROOT / source).read_text()
    if heading is not None:
        level = heading.split(" ")[0]
        _, _, text = text.partition(f"\n{heading}\n")
        text = re.split(rf"^{level} ", text, maxsplit=1, flags=re.MULTILINE)[0]
        if not text:
            log.warning(f"{page}: {source} has no section '{heading}'")
    homes = {file: host for host in DOCS.rglob("*.md") for file in whole(host)}
    homes |= {f"notebooks/{name}.ipynb": DOCS / f"notebooks/{name}.md" for name in notebooks()}

    def relink(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        host = homes.get(target, ROOT / target)
        if not host.is_relative_to(DOCS):
            return found[0]
        place = posixpath.relpath(host.relative_to(DOCS).as_posix(), posixpath.dirname(page) or ".")
        return found[1] + place + found[3]

    return _LINK.sub(relink, text)


def whole(host: Path) -> list[str]:
    """The files that a page includes whole."""
    return [file for file, heading in _INCLUDE.findall(host.read_text()) if not heading]


def mathml(escaped: str, display: str, page) -> str:
    """One formula."""
    try:
        drawn = convert(html.unescape(escaped), display=display)
    except Exception as error:
        log.warning(f"{page.file.src_uri}: cannot draw {escaped!r} ({error!r})")
        return escaped
    if "\\" in drawn:  # A command that the converter does not know is left as it is.
        log.warning(f"{page.file.src_uri}: cannot draw all of {escaped!r}")
    return drawn
