"""The history of the project's speed, published by asv as a folder of the site.

What was measured is in ``asv_benchmarks/results``. To publish it, asv is needed, and the commits
that it belongs to: without them the site is built all the same, and says why it has no history.

Pages write what belongs to it in ``{only} asv`` (the benchmarks are there) or ``{only} history``
(and the history is published).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "asv_benchmarks"
SCRIPTS = Path(__file__).resolve().parents[1] / "_asv"
FOLDER = "history"

logger = logging.getLogger(__name__)


def obstacle() -> str | None:
    """Why the history cannot be published here, or None."""
    measured = {
        json.loads(file.read_text("utf-8"))["commit_hash"]
        for file in (BENCHMARKS / "results").glob("*/*-*.json")
    }
    if not measured:
        return "nothing has been measured"
    if find_spec("asv") is None:
        return "asv is not installed"
    commits = git("rev-list", "--first-parent", "HEAD")
    if commits is None:
        return "git, or its commits, are missing"
    if measured <= set(commits.split()):
        return None
    if git("rev-parse", "--is-shallow-repository") == "true":
        return "the clone is shallow"
    return "other commits than these have been measured"


def git(*arguments: str) -> str | None:
    """What git says, if it is there and does not fail."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def publish(app: Sphinx) -> None:
    """Let asv make its pages, before others are told that there are any."""
    if BENCHMARKS.is_dir():
        app.tags.add("asv")
    if app.builder.format != "html":
        return
    folder = Path(app.outdir) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    if why := obstacle():
        logger.info("no history of the speed in this site: %s", why)
        return
    command = [sys.executable, str(BENCHMARKS / "history.py"), "--publish-only", "--html"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        logger.warning("asv cannot publish the history:\n%s%s", done.stdout, done.stderr)
        return
    bring_scripts(folder)
    app.tags.add("history")


def bring_scripts(folder: Path) -> None:
    """Load what asv's page loads from other servers from the site itself."""

    def at_home(tag: re.Match[str]) -> str:
        for script in (SCRIPTS / tag["name"], SCRIPTS / tag["name"].replace(".min", "")):
            if script.is_file():
                shutil.copy(script, folder)
                return f'{tag["start"]}{script.name}"{tag["end"]}'
        logger.warning("%s lacks %s, which the pages of asv load", SCRIPTS, tag["name"])
        return tag[0]

    page = folder / "index.html"
    page.write_text(
        re.sub(
            r'(?P<start><(?:script|link)\b[^>]* (?:src|href)=")https://[^"]*/(?P<name>[^"/]+)"'
            r"[^>]*(?P<end>>)",
            at_home,
            page.read_text("utf-8"),
        ),
        "utf-8",
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Publish before pages are read."""
    app.connect("builder-inited", publish)
    return {"parallel_read_safe": True}
