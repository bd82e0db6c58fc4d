"""The site: `uv run --extra docs sphinx-build -c docs . results/site`, without network.

The source folder is the repository, so that the files that people read there are the pages: links
between them work in both places and nothing is written twice. Notebooks show the outputs that they
are kept with. What is beyond Sphinx is in `site_parts.py`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import jaxent  # noqa: E402

project = "jaxent"
author = "The jaxent authors"
copyright = author
version = release = jaxent.__version__

root_doc = "README"
include_patterns = [
    "*.md",
    "docs/**",
    "experiments/README.md",
    "benchmarks/README.md",
    "notebooks/*",
]
exclude_patterns = ["docs/**/.*", "**/.ipynb_checkpoints"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_parts",
]

# What is on the left: a heading, and its pages.
contents = {
    "How to": [
        "Overview <docs/how-to/index>",
        "docs/how-to/own-model",
        "docs/how-to/environment-as-model",
        "docs/how-to/rollouts",
        "docs/how-to/own-bandit",
        "docs/how-to/populations",
        "docs/how-to/policies",
        "docs/how-to/measures",
        "docs/how-to/gradients",
        "docs/how-to/penalise",
        "docs/how-to/how-wrong",
        "docs/how-to/control",
        "docs/how-to/continuous",
        "docs/how-to/merging",
        "docs/how-to/audit",
        "docs/how-to/own-log",
        "docs/audit",
        "docs/gallery",
        "docs/how-to/precision",
        "docs/how-to/gpu",
        "docs/how-to/many-devices",
        "docs/how-to/sweeps",
        "docs/how-to/first-call",
    ],
    "Theory": [
        "Overview <docs/theory/index>",
        "docs/theory/theorem-*",
        "docs/theory/lemmas",
        "docs/theory/proposition-*",
        "docs/theory/*",
        "docs/errata",
    ],
    "Notebooks": ["Overview <notebooks/README>", "notebooks/*"],
    "API": [
        "Overview <docs/api/index>",
        "docs/api/models",
        "docs/api/policies",
        "docs/api/chains",
        "docs/api/entanglement",
        "docs/api/error",
        "docs/api/bounds",
        "docs/api/populations",
        "docs/api/logs",
        "docs/api/environments",
        "docs/api/sweeps",
    ],
    "Measured": ["docs/atlas", "docs/real-data", "experiments/README", "benchmarks/README"],
    "About": ["docs/architecture", "CONTRIBUTING", "docs/cite", "CHANGELOG"],
}

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
nb_execution_mode = "off"
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_title = f"jaxent {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_theme_options = {
    "navbar_persistent": [],  # one search is enough, the one on the left
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
