"""A regime: what of a window is shown and what is asked, as a value and as one line of text.

    responses[:1024, 30:60] + video + behavior -> responses[-3072:, 30:60]

Left of the arrow is what the model sees, right of it what it must tell. Neurons come first in the brackets, samples
second, both as in numpy: `[:1024]` are the first 1,024 neurons of the (shuffled) block, `[-3072:]` the last 3,072,
`30:60` the samples 30 to 59. A neuron count below 1 is a share of the block: `[:0.5]` is half of it. Times may be
written in seconds: `1s:2s`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.grid import Grid

Count = int | float | None
EXAMPLE = "responses[:1024, 30:60] + video + behavior -> responses[-3072:, 30:60]"
_BOTH_OR_NONE = "show neurons and samples, or neither"


@dataclass(frozen=True)
class Regime:
    """Thirteen fields by their released names (OmniMouse, arXiv 2604.18827), a name, and a weight for drawing.

    None stands for a missing field and means "all that there is": all neurons, from the first sample (a target: from
    the first sample that may be asked), up to the end of the window; a missing `full_population_prefix_len` is 0 and a
    missing `prefix_start_idx` is the start of the response context. Samples and frames count on the grid that the
    regime is resolved against. A neuron count is an int, or a float in (0, 1): a share of the block's neurons, rounded
    down (at least one) for visible ones and up for targets, so that the shares 0.5 and 0.5 always make a whole.
    Everything is clipped to what exists.

    Raises UserError for fields that contradict each other.
    """

    n_visible_neurons: Count = None  # the first ones of the block
    prefix_start_idx: int | None = None  # visible responses: first sample
    prefix_len: int | None = None
    full_population_prefix_len: int | None = None  # the first part of the prefix, visible for ALL neurons
    response_context_start_idx: int | None = None  # latents exist where their window starts in the response context
    max_response_context_samples: int | None = None
    max_n_reconstructed_neurons: Count = None  # the last ones of the block
    suffix_start_idx: int | None = None  # responses asked for: first sample
    suffix_len: int | None = None
    n_visible_frames_start_idx: int | None = None
    n_visible_frames: int | None = None
    behavior_encoded: bool = True  # behaviour is input
    behavior_reconstructed: bool = False  # behaviour is asked for
    name: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        for field in COUNT_FIELDS + SAMPLE_FIELDS:
            value = getattr(self, field)
            if value is None:
                continue
            if isinstance(value, float) and not 0 < value < 1:
                self.fail(
                    f"{field} {value:g} is neither a whole number nor a share", "write 0.5 for half of the neurons"
                )
            if value < 0:
                self.fail(f"{field} {value} is negative", "count neurons, samples and frames from 0")
        if not self.weight > 0:
            self.fail(f"weight {self.weight:g} is not positive", "leave the regime out instead")
        if self.behavior_encoded and self.behavior_reconstructed:
            self.fail(
                "behavior is both input (behavior_encoded) and target (behavior_reconstructed)",
                "keep it on one side of the arrow",
            )
        if self.prefix_len == 0 and self.n_visible_neurons != 0:
            self.fail("prefix_len is 0 but n_visible_neurons is not", _BOTH_OR_NONE)
        if self.n_visible_neurons == 0 and self.prefix_len:
            self.fail(f"n_visible_neurons is 0 but prefix_len is {self.prefix_len}", _BOTH_OR_NONE)
        full, length = self.full_population_prefix_len or 0, self.prefix_len
        if length is not None and full > length:
            self.fail(f"full_population_prefix_len {full} exceeds prefix_len {length}", "it is the prefix's first part")
        self._check_context()

    def _check_context(self) -> None:
        """Responses can only be shown where latents may take them up."""
        first, length = self.response_context_start_idx or 0, self.max_response_context_samples
        start = first if self.prefix_start_idx is None else self.prefix_start_idx
        end = start + (self.prefix_len or 0)
        if self.n_visible_neurons == 0:
            return
        if start < first or (length is not None and end > first + length):
            last = "" if length is None else first + length
            shown = "" if self.prefix_len is None else end
            self.fail(
                f"prefix {start}:{shown} (prefix_start_idx, prefix_len) leaves the response context {first}:{last} "
                "(response_context_start_idx, max_response_context_samples)",
                f"widen latents[{first}:{last}] or leave it out",
            )

    def fail(self, what: str, way_out: str) -> NoReturn:
        """Raise a UserError that names this regime."""
        raise UserError(f"regime {self.name!r}: {what}" if self.name else f"regime: {what}", way_out=way_out)

    def __str__(self) -> str:
        return expression(self)


COUNT_FIELDS = ("n_visible_neurons", "max_n_reconstructed_neurons")
SAMPLE_FIELDS = (
    "prefix_start_idx",
    "prefix_len",
    "full_population_prefix_len",
    "response_context_start_idx",
    "max_response_context_samples",
    "suffix_start_idx",
    "suffix_len",
    "n_visible_frames_start_idx",
    "n_visible_frames",
)


def expression(regime: Regime, grid: Grid | None = None) -> str:
    """The one-line form. `parse` makes of it a regime with the same layout on every grid, for any number of neurons.

    `grid` only matters for a target with a length but no start (it starts where the grid lets it).
    """
    r = regime
    shown: list[str] = []
    origin = r.response_context_start_idx or 0
    start = origin if r.prefix_start_idx is None else r.prefix_start_idx
    full = 0 if r.n_visible_neurons is None else r.full_population_prefix_len or 0
    if r.n_visible_neurons != 0:
        if full:
            shown.append(_term("responses", ":", f"{start}:{start + full}"))
            rest = None if r.prefix_len is None else r.prefix_len - full
            shown.append(_term("responses", f":{_number(r.n_visible_neurons)}", _slice(start + full, rest)))
        else:
            whole = r.prefix_start_idx is None and r.prefix_len is None
            samples = ":" if whole else _slice(start, r.prefix_len)
            shown.append(_term("responses", f":{_number(r.n_visible_neurons)}", samples))
    if r.n_visible_frames != 0:
        shown.append(_term("video", _slice(r.n_visible_frames_start_idx or 0, r.n_visible_frames)))
    if r.behavior_encoded:
        shown.append("behavior")
    if r.max_response_context_samples != (0 if r.n_visible_neurons == 0 else None) or origin:
        shown.append(_term("latents", _slice(origin, r.max_response_context_samples)))
    asked: list[str] = []
    if r.max_n_reconstructed_neurons != 0 and r.suffix_len != 0:
        neurons = ":" if r.max_n_reconstructed_neurons is None else f"-{_number(r.max_n_reconstructed_neurons)}:"
        if r.suffix_start_idx is None and r.suffix_len is None:
            samples = ":"
        else:
            first = (grid or Grid()).skip_samples if r.suffix_start_idx is None else r.suffix_start_idx
            samples = _slice(first, r.suffix_len, keep_zero=True)
        asked.append(_term("responses", neurons, samples))
    if r.behavior_reconstructed:
        asked.append("behavior")
    return f"{' + '.join(shown) or 'nothing'} -> {' + '.join(asked) or 'nothing'}"


def _number(count: Count) -> str:
    return "" if count is None else np.format_float_positional(count, trim="-")


def _slice(start: int, length: int | None, keep_zero: bool = False) -> str:
    if length is not None:
        return f"{start}:{start + length}"
    return f"{start}:" if start or keep_zero else ":"


def _term(word: str, *slices: str) -> str:
    while slices and slices[-1] == ":":
        slices = slices[:-1]
    return f"{word}[{', '.join(slices)}]" if slices else word


def parse(text: str, grid: Grid | None = None, name: str = "", weight: float = 1.0) -> Regime:
    """The regime that a line such as "responses[:, 0:25] + video[0:60] -> responses[:, 30:60]" describes.

    Shown: `responses[:n, a:b]` (`[:, a:c] + responses[:n, c:b]`: all neurons at first, then only n), `video[a:b]`,
    `behavior`, `latents[a:b]` (which windows have latents of their own; by default all of them, none where no responses
    are shown). Asked: `responses[-n:, a:b]`, `behavior`. What stands in no brackets is shown or asked whole; what is
    not named is hidden. `grid` (default: the released one) is needed for times in seconds, samples counted from the end
    and open starts.

    Raises UserError that points at the part that is wrong.
    """
    return _Parser(text, grid or Grid(), name, weight).regime()


class _Parser:
    def __init__(self, text: str, grid: Grid, name: str, weight: float):
        self.text, self.grid, self.name, self.weight = text, grid, name, weight

    def regime(self) -> Regime:
        sides = self.text.split("->")
        if len(sides) != 2:
            self.fail(
                self.text, f"needs exactly one '->' between what is shown and what is asked, has {len(sides) - 1}"
            )
        shown = self.side(sides[0], 0, ("responses", "video", "behavior", "latents"))
        asked = self.side(sides[1], len(sides[0]) + 2, ("responses", "behavior"))
        fields: dict[str, Any] = self.shown_responses([t for t in shown if t[0] == "responses"])
        for word, part, at, slices in shown:
            if word == "video":
                first, length = self.stretch(self.only(part, at, slices), at, self.grid.n_frames, self.grid.video_rate)
                fields |= {"n_visible_frames_start_idx": first, "n_visible_frames": length}
            if word == "latents":
                first, length = self.samples(self.only(part, at, slices), at)
                fields |= {"response_context_start_idx": first, "max_response_context_samples": length}
        fields.setdefault("n_visible_frames", 0)
        if fields["n_visible_neurons"] == 0:
            fields.setdefault("max_response_context_samples", 0)
        fields["behavior_encoded"] = any(t[0] == "behavior" for t in shown)
        fields["behavior_reconstructed"] = any(t[0] == "behavior" for t in asked)
        fields |= self.asked_responses([t for t in asked if t[0] == "responses"])
        return Regime(**fields, name=self.name or " ".join(self.text.split()), weight=self.weight)

    def side(self, side: str, at: int, words: tuple[str, ...]) -> list[tuple[str, str, int, list[str]]]:
        """(word, the term as written, its position, its slices) of every term of one side of the arrow."""
        found: list[tuple[str, str, int, list[str]]] = []
        if side.strip() == "nothing":
            return found
        for part in side.split("+"):
            match = re.fullmatch(r"\s*([A-Za-z_]*)\s*(?:\[([^\[\]]*)\])?\s*", part)
            word = "" if match is None else match[1].lower().replace("behaviour", "behavior")
            if match is None or word not in words:
                near = difflib.get_close_matches(word or part.strip(), words, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(words)}"
                self.fail(part, hint if match else f"cannot be read; {hint}", at)
            slices = [] if match[2] is None else match[2].split(",")
            if word == "behavior" and slices:
                self.fail(part, "behavior is shown or asked for the whole window and takes no brackets", at)
            allowed = 2 if word == "responses" and words[-1] == "latents" else 1
            if sum(f[0] == word for f in found) == allowed:
                self.fail(part, f"{word} stands here more than {'twice' if allowed == 2 else 'once'}", at)
            found.append((word, part.strip(), at, slices))
            at += len(part) + 1
        return found

    def shown_responses(self, terms: list[tuple[str, str, int, list[str]]]) -> dict[str, Any]:
        if not terms:
            return {"n_visible_neurons": 0, "prefix_start_idx": 0, "prefix_len": 0}
        read = []
        for _, part, at, slices in terms:
            neurons, samples = self.neurons_and_samples(part, at, slices)
            first, last = self.bounds(neurons, at)
            if first:
                self.fail(neurons, "visible neurons are the first ones of the block: write [:n]", at)
            read.append((self.count(last, at), *self.samples(samples, at)))
        count, start, length = read[0]
        if len(read) == 1:
            return {"n_visible_neurons": count, "prefix_start_idx": start, "prefix_len": length}
        count_2, start_2, length_2 = read[1]
        _, part, at, _ = terms[1]
        if count is not None or count_2 is None or length is None or start_2 != (start or 0) + length:
            self.fail(
                part,
                "of two stretches of responses the first shows all neurons and the second, from where the first ends, "
                "some of them, as in responses[:, 0:15] + responses[:256, 15:60]",
                at,
            )
        return {
            "n_visible_neurons": count_2,
            "prefix_start_idx": start,
            "prefix_len": None if length_2 is None else length + length_2,
            "full_population_prefix_len": length,
        }

    def asked_responses(self, terms: list[tuple[str, str, int, list[str]]]) -> dict[str, Any]:
        if not terms:
            return {"max_n_reconstructed_neurons": 0, "suffix_start_idx": 0, "suffix_len": 0}
        _, part, at, slices = terms[0]
        neurons, samples = self.neurons_and_samples(part, at, slices)
        first, last = self.bounds(neurons, at)
        if last or (first and not first.startswith("-")):
            self.fail(neurons, "neurons that are asked for are the last ones of the block: write [-n:]", at)
        start, length = self.samples(samples, at)
        if start is None and length is not None:
            start, length = self.grid.skip_samples, length - self.grid.skip_samples
            if length <= 0:
                self.fail(samples, f"samples before {start} cannot be asked for", at)
        count = self.count(first[1:], at)
        return {"max_n_reconstructed_neurons": count, "suffix_start_idx": start, "suffix_len": length}

    def neurons_and_samples(self, part: str, at: int, slices: list[str]) -> tuple[str, str]:
        if len(slices) > 2:
            self.fail(part, "responses take neurons and samples, as in responses[:1024, 30:60]", at)
        neurons, samples = (*slices, ":", ":")[:2]
        return neurons, samples

    def only(self, part: str, at: int, slices: list[str]) -> str:
        if len(slices) > 1:
            self.fail(part, "takes one slice, as in video[30:60]", at)
        return slices[0] if slices else ":"

    def samples(self, text: str, at: int) -> tuple[int | None, int | None]:
        return self.stretch(text, at, self.grid.n_samples, self.grid.response_rate)

    def stretch(self, text: str, at: int, n: int, rate: int) -> tuple[int | None, int | None]:
        """(start, length) of a slice of n samples; None where the slice is open."""
        ends: list[int | None] = []
        for end in self.bounds(text, at):
            if not end:
                ends.append(None)
                continue
            if end.endswith("s"):
                value = round(float(end[:-1]) * rate)
            elif end.lstrip("-").isdigit():
                value = int(end)
            else:
                self.fail(end, "write whole samples, as in 30:60, or seconds, as in 1s:2s", at)
            ends.append(max(0, value + n) if end.startswith("-") else value)
        start, stop = ends
        if stop is None:
            return start, None
        if stop < (start or 0):
            self.fail(text, "ends before it starts", at)
        return start, stop - (start or 0)

    def bounds(self, text: str, at: int) -> tuple[str, str]:
        number = r"(-?(?:\d+\.?\d*|\.\d+)s?)?"
        match = re.fullmatch(rf"\s*{number}\s*:\s*{number}\s*", text)
        if match is None:
            self.fail(text, "is not a slice: write start:stop, :stop, start: or :", at)
        return match[1] or "", match[2] or ""

    def count(self, text: str, at: int) -> Count:
        if not text:
            return None
        if text.isdigit():
            return int(text)
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not 0 < share < 1:
            self.fail(text, "is not a number of neurons: write a whole number, or a share between 0 and 1", at)
        return share

    def fail(self, part: str, what: str, at: int = 0) -> NoReturn:
        shown = part.strip() or " "
        where = max(0, self.text.find(shown, at)) + 1
        raise UserError(
            f"regime {self.text.strip()!r}: at character {where}, {shown!r}: {what}", way_out=f"a valid one: {EXAMPLE}"
        )
