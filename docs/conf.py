"""How the documentation is built: ``sphinx-build -W -n docs FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numba_xent

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "_ext"))

project = "numba_xent"
author = "The numba_xent developers"
project_copyright = author
version = release = numba_xent.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",  # formulas without a third party's server
    "executed",
    "history",
    "measured",
    "pictures",
]
exclude_patterns = ["_asv", "_build", "lessons"]
templates_path = ["_templates"]
nitpicky = True

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_typehints = "none"  # the docstrings say more
numpydoc_show_class_members = False
# Not every object needs an extended summary (ES01) or relatives (SA01).
numpydoc_validation_checks = {"all", "ES01", "SA01"}

copybutton_exclude = ".linenos, .gp, .go"
doctest_global_setup = "import numpy as np\nimport numba_xent as xent"

sphinx_gallery_conf = {
    "examples_dirs": "lessons",
    "gallery_dirs": "tutorial",
    "filename_pattern": ".*",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "capture_repr": (),
    "write_computation_times": False,
    "show_signature": False,
    "image_scrapers": ("pictures.scrape",),
    "reset_modules": ("pictures.reset",),
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "numba_xent"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {"index": [], "performance/index": []}
html_theme_options = {
    "logo": {"text": "numba_xent"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

# Addresses outside cannot be relied on to answer whoever builds this; there are few, and all are
# permanent (DOIs and licences). Links within the site are checked by nitpicky mode and linkchecker.
linkcheck_ignore = [r"https?://.*"]
