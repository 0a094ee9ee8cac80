"""How an explanation is shown: a tree for people, rows for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from entitlement_sidecar.cli.output import print_records, printable, record_of

if TYPE_CHECKING:
    from entitlement_sidecar.domain.explain import Step

COLUMNS = ("rule", "about", "outcome", "applied", "decisive")


def print_explanation(title: str, steps: Sequence[Step], output: str) -> None:
    """Prints every step in order. In a tree `✓` contributed, `·` did not, and `◀` marks what decided."""
    if output == "table":
        _print_tree(title, steps)
    else:
        print_records([{**record_of(step), "about": _about(step)} for step in steps], COLUMNS, output)


def _print_tree(title: str, steps: Sequence[Step]) -> None:
    from rich.console import Console  # noqa: PLC0415 - programs that read JSON do not pay for trees
    from rich.text import Text  # noqa: PLC0415
    from rich.tree import Tree  # noqa: PLC0415

    tree = Tree(Text(printable(title)), guide_style="dim")
    group, branch = "", tree
    for step in steps:
        if step.rule != group:
            group, branch = step.rule, tree.add(Text(step.rule))
        branch.add(Text(printable(_line(step))))
    # Where no terminal sets the width, nothing is folded.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 1000, highlight=False)
    with console.capture() as captured:
        console.print(tree)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _line(step: Step) -> str:
    about = f"{_about(step)}: " if step.provenance else ""
    return f"{'✓' if step.applied else '·'} {about}{step.outcome}{'  ◀' if step.decisive else ''}"


def _about(step: Step) -> str:
    return step.provenance.id if step.provenance else ""
