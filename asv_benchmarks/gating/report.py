"""The table of what changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gating.verdict import Row, Verdict

TITLES = ("", "benchmark", "base", "head", "ratio", "interval")
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_BYTES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def quantity(value: float, unit: str) -> str:
    """A number with its unit, in four digits."""
    if math.isnan(value):
        return "-"
    scales: Sequence[tuple[float, str]] = {"seconds": _SECONDS, "bytes": _BYTES}.get(unit, ())
    for scale, name in scales:
        if abs(value) >= scale or (scale, name) == scales[-1]:
            return f"{value / scale:.4g} {name}"
    return f"{value:.4g} {unit}"


def _cells(row: Row) -> tuple[str, ...]:
    base, head = quantity(row.base, row.unit), quantity(row.head, row.unit)
    if math.isnan(row.ratio):
        return (row.verdict.value, row.label, base, head, "-", row.note)
    between = "" if row.lower == row.upper else f"{row.lower:.3f} to {row.upper:.3f}"
    return (row.verdict.value, row.label, base, head, f"{row.ratio:.3f}", between)


def table(rows: Sequence[Row]) -> str:
    """Set rows below their titles, the refused ones first."""
    ordered = sorted(rows, key=lambda row: (not row.verdict.is_refused, row.verdict.value))
    cells = [TITLES, *(_cells(row) for row in ordered)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(TITLES))]
    lines = []
    for line in cells:
        texts = [
            cell.ljust(width) if i in (0, 1, len(TITLES) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(texts).rstrip())
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """Say in one line how it ended."""
    refused = [row for row in rows if row.verdict.is_refused]
    changed = [row for row in rows if row.verdict is not Verdict.SAME]
    same = len(rows) - len(changed)
    if not refused:
        return f"passed: {same} the same, {len(changed)} changed, nothing slower or worse"
    return f"refused: {len(refused)} of {len(rows)} slower or worse"
