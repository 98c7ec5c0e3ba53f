"""Pictures of an NWB file: templates and movies as grey levels of the wanted size, read when sliced."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from jaxtyping import UInt8

from omnimouse_jax.recordings.ingest.nwb.file import Dataset, Session
from omnimouse_jax.recordings.lazy import blocks
from omnimouse_jax.recordings.statistics import frame_hashes
from omnimouse_jax.recordings.stimuli import resize_area

#: Share of red, green and blue in grey (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114])
#: Frames looked at to learn whether grey levels are 0..255 or 0..1.
PROBES = 64


class Pictures:
    """Frames (n, height, width), uint8 grey levels, of a stack or of single images, brought to `size` by area.

    Colour becomes luma; floats that stay within 0..1 are taken for shares of white.
    """

    def __init__(self, session: Session, name: str, stacks: list[Dataset], single: bool, size: tuple[int, int]):
        self._session, self.name, self._stacks, self._single = session, name, stacks, single
        self.shape = (len(stacks) if single else stacks[0].shape[0], *size)
        self.dtype = np.dtype(np.uint8)
        for stack in stacks:
            plain = stack.shape if single else stack.shape[1:]
            if len(plain) not in (2, 3) or (len(plain) == 3 and plain[2] not in (1, 3, 4)) or 0 in plain:
                raise session.error(f"stimulus {name}: frames of shape {plain}", "give (height, width) or colour")
        self._white = self._find_white()
        self._hashes: list[bytes] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> UInt8[np.ndarray, "n height width"]:
        lo, hi, _ = rows.indices(self.shape[0])
        out = np.empty((max(0, hi - lo), *self.shape[1:]), np.uint8)
        step = 1 if self._single else 64  # frames resized at a time, so that large movies stay small in memory
        for at in range(lo, hi, step):
            raw = self._raw(at, min(hi, at + step)).astype(np.float64) * self._white
            shown = resize_area(raw, (self.shape[1], self.shape[2]))
            out[at - lo : at - lo + len(raw)] = np.clip(np.rint(shown), 0, 255)
        return out

    def hashes(self) -> list[bytes]:
        """8 bytes for what each frame shows, computed once (all frames are read for it)."""
        if self._hashes is None:
            self._hashes = self.range_hashes(0, len(self))
        return self._hashes

    def range_hashes(self, first: int, last: int) -> list[bytes]:
        """The same for the frames [first, last) only."""
        out: list[bytes] = []
        for lo, hi in blocks(last - first, self.shape[1] * self.shape[2]):
            out += frame_hashes(self[first + lo : first + hi])
        return out

    def _raw(self, lo: int, hi: int) -> np.ndarray:
        if self._single:
            raw = self._stacks[lo][0 : self._stacks[lo].shape[0]][None]
        else:
            raw = self._stacks[0][lo:hi]
        if raw.ndim == 4:
            raw = raw[..., 0] if raw.shape[-1] == 1 else raw[..., :3].astype(np.float64) @ LUMA
        return np.nan_to_num(raw) if raw.dtype.kind == "f" else raw

    def _find_white(self) -> float:
        """What stored levels are multiplied with to become 0..255."""
        if len(self) == 0:
            raise self._session.error(f"stimulus {self.name}: no frames", "give the template's images")
        chosen = np.unique(np.linspace(0, len(self) - 1, min(PROBES, len(self))).astype(int))
        probes = [self._raw(int(k), int(k) + 1) for k in chosen]
        top, bottom = max(float(p.max()) for p in probes), min(float(p.min()) for p in probes)
        if top > 255 or bottom < 0:
            raise self._session.error(
                f"stimulus {self.name}: grey levels {bottom:g}..{top:g}", "store levels of 0..255, or of 0..1 as floats"
            )
        if self._stacks[0].dtype.kind == "f" and top <= 1:
            self._session.note(f"{self.name}: levels of 0..1 taken for shares of white")
            return 255.0
        return 1.0


def pictures_of(session: Session, template: Any, size: tuple[int, int]) -> Pictures:
    """The frames of an ImageSeries or of a set of Images, in the order in which an index counts them.

    Images without a stated order are counted by the number at the end of their names, because HDF5 lists names by
    letters (scene10 before scene2).
    """
    name = str(template.name)
    images = getattr(template, "images", None)
    if images is not None:
        if template.order_of_images is not None:
            ordered = list(template.order_of_images[:])
        else:
            ordered = [images[k] for k in sorted(images, key=_natural)]
            session.note(f"{name}: no stated order, counted by the numbers in the images' names")
        stacks = [session.dataset(image.data) for image in ordered if hasattr(image.data, "name")]
        return Pictures(session, name, stacks, True, size)
    data = template.data
    if not hasattr(data, "name") or len(data.shape) < 3 or data.shape[0] == 0:
        files = getattr(template, "external_file", None)
        where = f" (kept in {', '.join(str(f) for f in files[:2])})" if files is not None and len(files) else ""
        raise session.error(
            f"stimulus {name}: its frames are not in the file{where}", "leave it out with stimuli=NAME,NAME"
        )
    return Pictures(session, name, [session.dataset(data)], False, size)


def image_names(template: Any) -> dict[str, int]:
    """Position of each image by its name, for a set of Images."""
    if getattr(template, "images", None) is None:
        return {}
    if template.order_of_images is not None:
        return {str(image.name): k for k, image in enumerate(template.order_of_images[:])}
    return {name: k for k, name in enumerate(sorted(template.images, key=_natural))}


def _natural(name: str) -> list[Any]:
    return [(0, int(t), "") if t.isdigit() else (1, 0, t) for t in re.split(r"(\d+)", name)]
