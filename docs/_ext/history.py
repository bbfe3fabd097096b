"""The history of the project's speed, made by asv, becomes a folder of the site if it is there.

Pages write what belongs to it in ``{only} asv`` (the benchmarks are there) or ``{only} history``
(and asv has published them).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

BENCHMARKS = Path(__file__).resolve().parents[2] / "asv_benchmarks"
PUBLISHED = BENCHMARKS / ".asv" / "html"
FOLDER = "history"


def find(app: Sphinx) -> None:
    """Tell the pages what there is."""
    if BENCHMARKS.is_dir():
        app.tags.add("asv")
    if (PUBLISHED / "index.html").is_file():
        app.tags.add("history")


def copy(app: Sphinx, exception: Exception | None) -> None:
    """Copy what asv has published beside the pages."""
    if exception is None and app.builder.format == "html" and app.tags.has("history"):
        shutil.copytree(PUBLISHED, Path(app.outdir) / FOLDER, dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Look before pages are read, copy after they are written."""
    app.connect("builder-inited", find)
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True}
