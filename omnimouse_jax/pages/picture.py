"""Grey pictures inside a page, as PNG."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from jaxtyping import UInt8


def png(grey: UInt8[np.ndarray, "H W_"]) -> bytes:
    """An 8-bit grey picture (PNG specification, 1.2: IHDR, IDAT with filter 0, IEND)."""
    height, width = grey.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), grey], 1).tobytes()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def data_url(grey: UInt8[np.ndarray, "H W_"]) -> str:
    """What `src` of an image takes: the policy of our pages allows no other source."""
    return "data:image/png;base64," + base64.b64encode(png(grey)).decode()
