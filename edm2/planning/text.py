"""A plan as text."""

from collections.abc import Callable, Sequence

from edm2.planning.plan import Plan, Row, total

Rows = Sequence[Row]


def plan_text(plan: Plan) -> str:
    """A table with totals, and notes below it. Trainings that differ only in their seed are one row."""
    size = plan.size
    about = (
        f"{size.train} training and {size.held_out} held-out images of {size.classes} classes at "
        f"{size.resolution}x{size.resolution}, latents {'x'.join(map(str, size.latent_shape))}"
    )
    return "\n".join([about, "", _table(plan), "", *_notes(plan)])


def _table(plan: Plan) -> str:
    groups: dict[str, list[Row]] = {}
    for row in plan.rows:
        groups.setdefault(row.group, []).append(row)
    several = any(len(rows) > 1 for rows in groups.values())
    columns: dict[str, Callable[[Rows], str]] = {
        "stage": lambda rows: rows[0].group if several else rows[0].stage
    }
    if several:
        columns["trainings"] = lambda rows: str(len(rows)) if rows[0].training else ""
    columns |= {
        "images": lambda rows: str(total(rows, "images") or ""),
        "operations": lambda rows: number_with_prefix(total(rows, "flops")),
        "GiB a GPU": _memory,
        "disk": lambda rows: size_text(total(rows, "disk_bytes")),
    }
    if plan.total("gpu_hours") is not None:
        columns["GPU hours"] = lambda rows: number(total(rows, "gpu_hours"))
        columns["hours"] = lambda rows: number(total(rows, "hours"))
    if plan.total("seconds") is not None:
        columns["seconds"] = lambda rows: number(total(rows, "seconds"))
    if any(row.past_seconds is not None for row in plan.rows):
        columns["past seconds"] = lambda rows: number(total(rows, "past_seconds"))
    lines = [[cell(rows) for cell in columns.values()] for rows in groups.values()]
    # images are of different kinds, and the stages run one after the other
    hidden = {"stage": "total", "trainings": "", "images": "", "GiB a GPU": ""}
    totals = [hidden[name] if name in hidden else cell(plan.rows) for name, cell in columns.items()]
    return aligned([list(columns), *lines, totals])


def _notes(plan: Plan) -> list[str]:
    scratch = max(row.scratch_bytes for row in plan.rows)
    notes = [f"Checkpoints take {size_text(scratch)} more while a training runs."]
    if not plan.size.measured:
        notes.append("Sizes of image files are those of ImageNet, not of these images.")
    if plan.total("gpu_hours") is None and plan.total("seconds") is None:
        notes.append("State --gpu or --tflops for hours, or --measure for seconds on this machine.")
    return notes + [f"warning: {warning}" for warning in plan.warnings]


def _memory(rows: Rows) -> str:
    peak = max(row.memory_bytes or 0 for row in rows)
    return f"{peak / 2**30:.2f}" if peak else ""


def number(value: float | None) -> str:
    """Three digits; empty if it is not known."""
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def number_with_prefix(value: float | None) -> str:
    """A number of operations, like 2.1 E; empty if it is 0."""
    if not value:
        return ""
    for prefix, unit in (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= unit:
            return f"{value / unit:.3g} {prefix}"
    return f"{value:.3g}"


def size_text(value: float | None) -> str:
    """An amount of disk, like 390 GB; empty if it is 0."""
    if not value:
        return ""
    for prefix, unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= unit:
            return f"{value / unit:.3g} {prefix}"
    return f"{value / 1e3:.3g} kB"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A text table: names left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
