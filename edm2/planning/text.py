"""A plan as text."""

from collections.abc import Callable, Sequence

from edm2.planning.intervals import Option, PastEffects, best_buy
from edm2.planning.plan import Plan, Row, total

Rows = Sequence[Row]
Columns = dict[str, Callable[[Rows], str]]  # by their heads


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
        if _costs(row):
            groups.setdefault(row.group, []).append(row)
    several = any(len(rows) > 1 for rows in groups.values())
    columns: Columns = {"stage": lambda rows: rows[0].group if several else rows[0].stage}
    if several:
        columns["trainings"] = lambda rows: str(len(rows)) if rows[0].training else ""
    cost = _columns(plan.rows)
    first = {name: cost.pop(name) for name in ("images", "operations")}
    columns |= {**first, "GiB a GPU": _memory, **cost}
    lines = [[cell(rows) for cell in columns.values()] for rows in groups.values()]
    # images are of different kinds, and the stages run one after the other
    hidden = {"stage": "total", "trainings": "", "images": "", "GiB a GPU": ""}
    totals = [hidden[name] if name in hidden else cell(plan.rows) for name, cell in columns.items()]
    return aligned([list(columns), *lines, totals])


def _costs(row: Row) -> bool:
    known = (row.images, row.flops, row.disk_bytes, row.seconds, row.past_seconds)
    return any(value for value in known)


def _columns(rows: Rows) -> Columns:
    """What is known of the cost of rows; each makes the cell of a sum."""
    columns: Columns = {
        "images": lambda rows: str(total(rows, "images") or ""),
        "operations": lambda rows: number_with_prefix(total(rows, "flops")),
        "disk": lambda rows: size_text(total(rows, "disk_bytes")),
    }
    if total(rows, "gpu_hours") is not None:
        columns["GPU hours"] = lambda rows: number(total(rows, "gpu_hours"))
        columns["hours"] = lambda rows: number(total(rows, "hours"))
    if total(rows, "seconds") is not None:
        columns["seconds"] = lambda rows: number(total(rows, "seconds"))
    if any(row.past_seconds is not None for row in rows):
        columns["past seconds"] = lambda rows: number(total(rows, "past_seconds"))
    return columns


def intervals_text(plan: Plan, past: PastEffects, options: Sequence[Option]) -> str:
    """What more trainings and samples buy: a column per option, with what it costs and half-widths."""
    if not options:
        return f"Widths of intervals are not known: {past.unknown}"
    about = (
        f"Half the width of the 95 % interval of {past.metric}, as expected from past runs, beside what is "
        "added to the cost:"
    )
    rows = [
        ["", *(option.name for option in options)],
        ["seeds", *(str(option.seeds) for option in options)],
        ["seed blocks", *(str(option.seed_blocks) for option in options)],
        ["samples", *(str(option.samples) for option in options)],
    ]
    for name, cell in _columns(plan.rows).items():
        cells = [cell(option.rows) if option.rows else "" for option in options]
        rows.append([name, *(text and f"+{text}" for text in cells)])
    for name in past.effects:
        rows.append([name, *(_width(option, name) for option in options)])
    notes = [f"? is not known: {past.unknown}"] if past.unknown else []
    best = best_buy(options)
    if best is not None:
        notes.append(f"Most narrowing for its cost: {best.name}.")
    return "\n".join([about, "", aligned(rows), "", *notes]).rstrip()


def _width(option: Option, name: str) -> str:
    if option.seeds == 1:
        return "none"  # a single training has no interval
    return number(option.half_widths[name]) or "?"


def _notes(plan: Plan) -> list[str]:
    scratch = max(row.scratch_bytes for row in plan.rows)
    notes = [f"Checkpoints take {size_text(scratch)} more while a training runs."]
    free = dict.fromkeys(row.stage.partition("@")[0] for row in plan.rows if not _costs(row))
    if free:
        notes.append(f"Not in the table, as nothing is counted: {', '.join(free)}.")
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
