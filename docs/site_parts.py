"""What the site has beyond Sphinx: formulas that need no script, names that are links, the API.

- Formulas become MathML, which browsers draw by themselves.
- `` `name` `` of an exported name, or of one in a group such as `bounds`, is a link to the API.
- A fenced block `{api}` lists exported names: a table with a line of each, then all about each,
  from the docstrings as they are in the source. A name that is on no page ends a strict build.
"""

from functools import cache
from pathlib import Path
from shutil import copyfile

import griffe
from docutils import nodes
from docutils.statemachine import StringList
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
log = logging.getLogger(__name__)

_FENCE = "`" * 3
# Groups that are modules under another name.
_RENAMED = ("bandits", "populations")


def setup(app):
    """What Sphinx calls."""
    app.add_directive("api", Api)
    app.add_html_math_renderer("mathml", (_draw_inline, None), (_draw_block, None))
    app.add_config_value("contents", {}, "env")
    app.connect("source-read", _add_contents)
    app.connect("doctree-read", _refer)
    app.connect("env-check-consistency", _see_that_all_are_there)
    app.connect("build-finished", _front_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


@cache
def exported():
    """What every exported name stands for, and what else is in groups, by its name in `jaxent`."""
    package = griffe.load("jaxent", search_paths=[str(ROOT)])
    public = {n: m for n, m in package["_public"].members.items() if not n.startswith("_")}
    found = {name: _target(member) for name, member in public.items()}
    groups = {name: it for name, it in found.items() if it.is_module}
    alone = {n: it for n, it in found.items() if not it.is_module and n not in _RENAMED}
    for name, group in groups.items():
        own = {inner: _own(group, inner) for inner in group.members if not inner.startswith("_")}
        alone |= {f"{name}.{inner}": it for inner, it in own.items() if it and inner not in alone}
    return alone


def _target(member):
    return member.final_target if member.is_alias else member


def _own(group, name):
    """A function or type of a group: made there, passed on, or another name of one."""
    member = group.members[name]
    if member.is_alias:
        if f" {name} as {name}\n" not in group.source:
            return None
    elif member.is_attribute and str(member.value) in group.members:
        member = group.members[str(member.value)]
    target = _target(member)
    return target if target.is_function or target.is_class else None


class Api(SphinxDirective):
    """Exported names, one a line."""

    has_content = True

    def run(self):
        """A table, then an entry each."""
        names = [line.strip() for line in self.content if line.strip()]
        unknown = [name for name in names if name not in exported()]
        if unknown:
            raise self.error(f"jaxent exports none of {', '.join(unknown)}")
        lines = ["| name | |", "|---|---|"]
        lines += [f"| {{py:obj}}`{name} <jaxent.{name}>` | {_says(name)} |" for name in names]
        for name in names:
            lines += ["", *_entry(f"jaxent.{name}", exported()[name])]
        place, line = self.get_source_info()
        box = nodes.Element()
        self.state.nested_parse(StringList(lines, place), line, box)
        listed = getattr(self.env, "jaxent_listed", set())
        self.env.jaxent_listed = listed | set(names)
        return box.children


def _says(name):
    """The first line of its docstring."""
    docstring = exported()[name].docstring
    return docstring.value.splitlines()[0].replace("|", "\\|") if docstring else ""


def _entry(name, it, fence=6):
    """A directive of the Python domain, in Markdown, with the docstring inside."""
    kind = "class" if it.is_class else "attribute" if it.is_attribute else "function"
    if it.is_function and fence < 6:
        kind = "method"
    if "property" in it.labels:
        kind = "property"
    head = it.signature(name=name) if kind in ("function", "method") else name
    marks = "`" * fence
    lines = [f"{marks}{{py:{kind}}} {head}"]
    if "classmethod" in it.labels:
        lines.append(":classmethod:")
    lines += ["", *_sections(it)]
    if it.is_class:
        for inner, member in it.members.items():
            shown = not inner.startswith("_") and not member.is_alias and member.docstring
            if shown and (member.is_function or "property" in member.labels):
                lines += ["", *_entry(f"{name}.{inner}", member, fence - 1)]
    return [*lines, marks]


def _sections(it):
    """A docstring with its sections as lists."""
    if it.docstring is None:
        return []
    lines = []
    for section in it.docstring.parse("google", warnings=False, returns_named_value=False):
        kind, value = section.kind.value, section.value
        if kind == "text":
            lines += ["", value]
        elif kind == "admonition":
            lines += ["", f"**{section.title}**", "", value.contents]
        elif kind == "examples":
            lines += ["", "**Example**"]
            for form, text in value:
                code = form.value == "examples"
                lines += ["", *([f"{_FENCE}pycon", text, _FENCE] if code else [text])]
        elif kind in ("returns", "yields"):
            lines += ["", f"**{kind.capitalize()}**", "", *(one.description for one in value)]
        else:
            lines += ["", f"**{_title(kind)}**", ""]
            lines += [_item(one) for one in value]
    return "\n".join(lines).splitlines()


def _title(kind):
    return "Arguments" if kind == "parameters" else kind.capitalize()


def _item(one):
    """A line of a list: what is named, and what is said of it."""
    name = getattr(one, "name", None) or str(one.annotation)
    text = one.description.replace("\n", "\n  ")
    return f"- **`{name}`** {text}"


def _add_contents(app, name, source):
    """Put the contents on the first page, where nobody sees them but the sidebar."""
    if name == app.config.root_doc:
        for title, pages in app.config.contents.items():
            head = [f"{_FENCE}{{toctree}}", ":hidden:", ":glob:", f":caption: {title}", ""]
            source[0] += "\n".join(["", *head, *pages, _FENCE, ""])


def _refer(app, doctree):
    """Make a link of what is exported and stands in code."""
    taken = nodes.reference, addnodes.pending_xref, nodes.strong  # strong: an argument's name
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext()
        if name not in exported() or isinstance(literal.parent, taken):
            continue
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=f"jaxent.{name}", refexplicit=True
        )
        link["refdoc"] = app.env.docname
        literal.replace_self(link)
        link += literal


def _see_that_all_are_there(app, env):
    missing = sorted(set(exported()) - getattr(env, "jaxent_listed", set()))
    if missing:
        log.warning("docs/api: on no page: %s", ", ".join(missing))


def _front_page(app, error):
    """The README is what one sees first."""
    if error is None and app.builder.format == "html":
        copyfile(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def _draw_inline(self, node):
    self.body.append(_mathml(node.astext(), "inline", node))
    raise nodes.SkipNode


def _draw_block(self, node):
    self.body.append(_mathml(node.astext(), "block", node))
    raise nodes.SkipNode


def _mathml(formula, display, node):
    try:
        drawn = convert(formula, display=display)
    except Exception as error:
        log.warning("cannot draw %r (%r)", formula, error, location=node)
        return formula
    if "\\" in drawn:  # A command that the converter does not know is left as it is.
        log.warning("cannot draw all of %r", formula, location=node)
    return drawn
