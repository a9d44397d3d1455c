"""What an averaged checkpoint is: its time and average, from its name or as given beside it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edm2.ema.karras_ema import profile_length, profile_time
from edm2.ema.profile import sigma_rel_to_gamma
from edm2.ema.snapshot import Snapshot
from edm2.params import UserError

WHOLE, NUMBER = r"\d{1,18}", r"\d{0,18}\.?\d{1,18}(?:[eE][+-]?\d{1,2})?"  # finite ones
FIELDS = {
    "nimg": WHOLE,
    "kimg": NUMBER,
    "step": WHOLE,
    "index": WHOLE,
    "length": NUMBER,
    "decay": NUMBER,
    "halflife": NUMBER,
}
TIMES, AVERAGES = ("nimg", "kimg", "step"), ("length", "decay", "halflife")
POST_HOC_EMA = "{index}.{step}.pt"  # of ema-pytorch's `PostHocEMA`
MAX_START = 1e-3  # largest weight of the initial parameters in an average without a ramp-up


class NamePattern:
    """A pattern of paths, like `ckpt-{nimg}-{length}.pt` or `checkpoint-{step}/ema.safetensors`.

    `*` is any text within a name. Without a slash it is compared with the name of a file alone, with
    n slashes with the last n + 1 parts of its path.
    """

    def __init__(self, text: str) -> None:
        """
        Raises:
            UserError: an unknown field, one that occurs twice, or no time.
        """
        self.text, self.parts = text, text.count("/") + 1
        fields = re.findall(r"\{(.*?)\}", text)
        unknown = [name for name in fields if name not in FIELDS]
        if unknown or len(set(fields)) < len(fields):
            raise UserError(
                f"pattern {text!r}: field {{{(unknown or fields)[0]}}}: expected each once, of "
                f"{', '.join(FIELDS)}."
            )
        for kinds in (TIMES, AVERAGES):
            if len(set(kinds) & set(fields)) > 1:
                raise UserError(f"pattern {text!r}: expected only one of {', '.join(kinds)}.")
        literals = re.split(r"\{.*?\}", text)
        groups = [f"(?P<{name}>{FIELDS[name]})" for name in fields] + [""]
        escaped = [re.escape(literal).replace(r"\*", "[^/]*") for literal in literals]
        self.regex = re.compile("".join(map("".join, zip(escaped, groups, strict=True))))

    def match(self, path: Path) -> dict[str, float] | None:
        """The fields of a path; None if it has another form."""
        match = self.regex.fullmatch("/".join(path.parts[-self.parts :]))
        return {name: float(text) for name, text in match.groupdict().items()} if match else None


@dataclass(frozen=True)
class Averages:
    """What names do not have; values of several averages are in the order of their {index}.

    Attributes:
        nimg: time of a single checkpoint.
        lengths: EMA lengths.
        decays: weight of the old average in each update of a traditional EMA.
        rampup: upper limit of a traditional EMA's half-life, relative to the training time so far.
        batch: images in a step; 1 counts time in steps.
        update_every: steps from one update of the average to the next; None: each.
        post_hoc_ema: whether the averages are those of ema-pytorch's `PostHocEMA`.
    """

    nimg: int | None = None
    lengths: Sequence[float] = ()
    decays: Sequence[float] = ()
    rampup: float | None = None
    batch: int = 1
    update_every: int | None = None
    post_hoc_ema: bool = False


def identify(path: Path, fields: Mapping[str, float], averages: Averages) -> Snapshot:
    """The snapshot that a file is.

    Args:
        fields: of its name.

    Raises:
        UserError: it has no time or no average, or several, or an impossible one.
    """
    if averages.post_hoc_ema:
        return _post_hoc_ema(path, fields, averages)
    nimg = _time(path, fields, averages)
    choices = {
        "length": fields.get("length", _of_index(path, averages.lengths, fields)),
        "decay": fields.get("decay", _of_index(path, averages.decays, fields)),
        "halflife": fields.get("halflife"),
    }
    chosen = {kind: value for kind, value in choices.items() if value is not None}
    if len(chosen) != 1:
        raise UserError(
            f"{path}: {'several averages' if chosen else 'no average'}: expected one EMA length "
            "({length} in --pattern, or --lengths), decay ({decay}, --decays) or half-life ({halflife})."
        )
    ((kind, value),) = chosen.items()
    if kind == "length":
        _refuse(path, averages, "rampup", "update_every")
        return _power(path, nimg, value)
    if kind == "halflife":
        _refuse(path, averages, "update_every")
        return _traditional(path, nimg, value, averages)
    if not 0 < value < 1:
        raise UserError(f"{path}: decay {value:g}: expected between 0 and 1, like 0.9999.")
    images = averages.batch * (averages.update_every or 1)
    return _traditional(path, nimg, -images * math.log(2) / math.log(value), averages)


def _post_hoc_ema(path: Path, fields: Mapping[str, float], averages: Averages) -> Snapshot:
    _refuse(path, averages, "nimg", "decays", "rampup")
    length = _of_index(path, averages.lengths, fields)
    if averages.update_every is None or length is None:
        raise UserError(
            f"{path}: a checkpoint of ema-pytorch's PostHocEMA, which does not have its EMA length: "
            "expected --lengths (its sigma_rels; or --gammas) and --update-every (its update_every)."
        )
    try:
        length = profile_length(length, averages.update_every)
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from None
    step = int(fields["step"])  # 0: stored by hand, before any training
    time = profile_time(step, averages.update_every) if step else 0
    return _power(path, round(time * averages.batch), length)


def _time(path: Path, fields: Mapping[str, float], averages: Averages) -> int:
    times = {
        "nimg": fields.get("nimg", averages.nimg),
        "kimg": round(fields["kimg"] * 1000, 6) if "kimg" in fields else None,
        "step": fields["step"] * averages.batch if "step" in fields else None,
    }
    given = [value for value in times.values() if value is not None]
    if len(given) != 1 or given[0] != round(given[0]):
        raise UserError(
            f"{path}: expected one time, a whole number of images: {{nimg}}, {{kimg}} or {{step}} in "
            "--pattern, or --nimg for a single file."
        )
    return round(given[0])


def _of_index(path: Path, values: Sequence[float], fields: Mapping[str, float]) -> float | None:
    """The value of an average: that of its index, or the only one; None if there are none."""
    if len(values) > 1:
        index = fields.get("index")
        if index is None or index >= len(values):
            found = "no {index} in --pattern" if index is None else f"index {index:g}"
            raise UserError(
                f"{path}: {found}, expected one below {len(values)}, the number of averages given."
            )
        return values[int(index)]
    return values[0] if values else None


def _refuse(path: Path, averages: Averages, *names: str) -> None:
    """Raises UserError if something is given that has no effect."""
    for name in names:
        if getattr(averages, name) not in (None, ()):
            raise UserError(
                f"{path}: --{name.replace('_', '-')}: no effect on an average of this kind. Leave it out."
            )


def _power(path: Path, nimg: int, length: float) -> Snapshot:
    try:
        sigma_rel_to_gamma(length)
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from None
    return Snapshot.power(nimg, length)


def _traditional(path: Path, nimg: int, halflife: float, averages: Averages) -> Snapshot:
    """A traditional average; without a ramp-up, one in which the initial parameters have no share."""
    rampup = averages.rampup
    if not halflife > 0 or not (rampup is None or 0 < rampup <= 1):
        raise UserError(
            f"{path}: half-life {halflife:g}, ramp-up {rampup}: expected a half-life above 0, and a ramp-up "
            "(--rampup) above 0 and at most 1."
        )
    if rampup is None:
        start = 0.5 ** (nimg / halflife)
        if nimg and start > MAX_START:
            raise UserError(
                f"{path}: an average of half-life {halflife:g} at time {nimg} has a share of {start:.2g} "
                f"in the initial parameters, expected at most {MAX_START:g}. Leave it out; or give "
                "--rampup, if the half-life was limited to a part of the training so far."
            )
        rampup = 1.0
    snapshot = Snapshot.traditional(nimg, halflife, rampup)
    return replace(snapshot, file=f"ema-halflife-{halflife!r}-{nimg:012d}.safetensors")
