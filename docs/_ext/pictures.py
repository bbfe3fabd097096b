"""Pictures drawn by code when the site is built, for light and for dark pages.

The directive ``{picture} name`` shows what ``draw()`` of ``pictures/<name>.py`` returns, a
Matplotlib figure; its content is the caption. The figures of the tutorial are saved the same way.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any, ClassVar

import inks
import matplotlib as mpl
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

mpl.use("agg")

FOLDER = "pictures"
DRAWN = "_pictures"


def draw(script: Path) -> Any:
    """The figure that a script draws."""
    with mpl.rc_context(inks.STYLE):
        return runpy.run_path(str(script))["draw"]()


class Picture(SphinxDirective):
    """Two images, of which pages show one."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Draw, and return a figure node."""
        name = self.arguments[0]
        source = Path(self.env.srcdir)
        script = source / FOLDER / f"{name}.py"
        self.env.note_dependency(str(script))
        if "alt" not in self.options:
            raise self.error("a picture needs :alt:, for those who do not see it")
        with mpl.rc_context(inks.STYLE):
            paths = inks.save(draw(script), source / DRAWN / name)
        figure = nodes.figure(classes=["picture"])
        for path, only in zip(paths, ("only-light", "only-dark"), strict=True):
            uri = f"/{path.relative_to(source).as_posix()}"
            _, absolute = self.env.relfn2path(uri, self.env.docname)
            self.env.note_dependency(absolute)
            figure += nodes.image(uri=uri, alt=self.options["alt"], classes=[only])
        if self.content:
            caption = nodes.caption()
            inline, messages = self.state.inline_text(" ".join(self.content), self.lineno)
            caption += inline
            caption += messages
            figure += caption
        return [figure]


# ---- the tutorial ---------------------------------------------------------------------------


def reset(_configuration: dict[str, Any], _file: str) -> None:
    """Give the next lesson our style."""
    mpl.rcdefaults()
    mpl.rcParams.update(inks.STYLE)


def scrape(_block: Any, variables: dict[str, Any], configuration: dict[str, Any]) -> str:
    """Save the figures of a lesson's block, and return what shows them."""
    from matplotlib import pyplot  # noqa: PLC0415 - after the backend is chosen

    shown = []
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        png = Path(next(variables["image_path_iterator"]))
        figure.savefig(png, dpi=120, facecolor=inks.PAPER)  # for the overview of lessons
        paths = inks.save(figure, png.with_suffix(""))
        for path, only in zip(paths, ("only-light", "only-dark"), strict=True):
            place = path.relative_to(configuration["src_dir"]).as_posix()
            alt = figure.get_label() or "A picture drawn by the code above"
            shown.append(f".. image:: /{place}\n   :alt: {alt}\n   :class: picture {only}\n")
    pyplot.close("all")
    return "\n" + "\n".join(shown) + "\n" if shown else ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True}
