"""Check a built site: a page for each public object, no scripts of other servers, the history.

python .ci/site.py SITE

The history of the project's speed is looked for wherever git has all commits that were measured.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numba_xent

RESULTS = Path(__file__).resolve().parents[1] / "asv_benchmarks" / "results"
LEAST = 20
"""As many commits have been measured at least."""

ELSEWHERE = re.compile(r'<(?:script|link)\b[^>]* (?:src|href)="(?:https?:)?//[^"]*"')
"""What a page would load from other servers."""


def measured() -> set[str]:
    """The commits that have results."""
    return {json.loads(file.read_text())["commit_hash"] for file in RESULTS.glob("*/*-*.json")}


def shown(history: Path) -> set[str]:
    """The commits that have a point in each graph."""
    hashes = json.loads((history / "index.json").read_text())["revision_to_hash"]
    graphs = [json.loads(graph.read_text()) for graph in history.glob("graphs/summary/*.json")]
    points = [{hashes[str(revision)] for revision, _ in graph} for graph in graphs]
    return set.intersection(*points) if points else set()


def here() -> set[str] | None:
    """The commits that git knows here, or None if it does not know all there are."""
    git = ["git", "-C", str(RESULTS.parent)]
    shallow = subprocess.run(
        [*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True, check=False
    )
    if shallow.returncode or shallow.stdout.strip() != "false":
        return None
    listed = [*git, "rev-list", "--first-parent", "HEAD"]
    return set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())


def public(module: ModuleType) -> Iterator[str]:
    """The names of all public objects, in a module and its public modules."""
    yield module.__name__
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            yield from public(value)
        else:
            yield f"{module.__name__}.{name}"


def main(site: str) -> int:
    """Print what is wrong; 1 if anything is."""
    history, known, all_measured = Path(site) / "history", here(), measured()
    wrong = [
        f"the reference lacks {name}"
        for name in public(numba_xent)
        if not (Path(site) / "reference" / "generated" / f"{name}.html").is_file()
    ]
    wrong += [
        f"{page.relative_to(site)} loads {found[0]}"
        for page in sorted(Path(site).rglob("*.html"))
        for found in ELSEWHERE.finditer(page.read_text("utf-8"))
    ]
    if known is None or not all_measured <= known:
        print("the site need not show the history: not all commits that were measured are here")
    elif not (history / "index.html").is_file():
        wrong.append("the site has no history, although the commits that were measured are here")
    else:
        drawn = shown(history)
        wrong += [f"the history lacks {commit}" for commit in sorted(all_measured - drawn)]
        if len(drawn) < LEAST:
            wrong.append(f"the history has {len(drawn)} commits of {LEAST}")
        performance = (Path(site) / "performance" / "index.html").read_text("utf-8")
        if 'href="../history/index.html"' not in performance:
            wrong.append("the performance page has no link to the history")
    print("\n".join(wrong) or "the site is complete, and loads nothing from other servers")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
