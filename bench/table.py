"""Medians and paired ratios of interleaved rounds, as Markdown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Rounds:
    """What one kind of work took, by who did it. Ratios are against ``yardstick``, of the same round."""

    title: str
    yardstick: str
    unit: str = "seconds"
    goals: dict[str, str] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def note(self, name: str, value: float, *, size: int | None = None) -> None:
        """Take down one measurement."""
        self.values.setdefault(name, []).append(value)
        if size is not None:
            self.sizes[name] = size
        print(f"    {self.title}: {name}: {value:.2f} {self.unit}", flush=True)

    def lines(self) -> list[str]:
        """Return the table."""
        base = self.values[self.yardstick]
        lines = [f"| {self.title} | {self.unit} | ratio | goal | stored |", "|---|---|---|---|---|"]
        for name, values in self.values.items():
            ratio = statistics.median(value / one for value, one in zip(values, base, strict=True))
            spread = f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            stored = f"{self.sizes[name] / 1e6:.0f} MB" if name in self.sizes else ""
            lines.append(f"| {name} | {spread} | {ratio:.2f} | {self.goals.get(name, '')} | {stored} |")
        return [*lines, ""]
