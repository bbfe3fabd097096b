"""Every Python block of every page is a test, which ``sphinx-build -b doctest`` runs.

Blocks with prompts are doctests; others must run. A page's blocks run one after the other, with
``np`` and ``xent`` imported. The pages of the tutorial are what their code has printed already;
blocks of the class ``needs-gpu`` cannot run where the site is built.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

PYTHON = {"python", "pycon", "python3", "py"}
ALREADY_RUN = "tutorial/"
NEEDS_GPU = "needs-gpu"


def mark(app: Sphinx, doctree: nodes.document) -> None:
    """Mark the Python blocks of a page for the doctest builder."""
    if app.env.docname.startswith(ALREADY_RUN):
        return
    for block in doctree.findall(nodes.literal_block):
        if NEEDS_GPU in block["classes"]:
            continue
        if block.get("language") in PYTHON and "testnodetype" not in block:
            prompts = block.astext().lstrip().startswith(">>>")
            block["testnodetype"] = "doctest" if prompts else "testcode"
            block["groups"] = ["default"]
            if prompts:
                block["language"] = "pycon"


def setup(app: Sphinx) -> dict[str, Any]:
    """Mark blocks as pages are read."""
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": True}
