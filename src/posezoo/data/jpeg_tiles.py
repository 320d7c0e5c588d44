"""JPEGs of which a part can be decoded: restart markers make every tile of them a piece that stands alone.

Such a file is an ordinary JPEG. With a restart marker after every few blocks, and whole numbers of these in a row, the
bytes of some rows and columns of tiles under a header with their size are an ordinary JPEG again, which any decoder
takes. So the crop of a prepared person costs the pixels that it sees, not those that other augmentations might see.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # px, side of what a JPEG with colours at half resolution codes together
_TILE = 4  # blocks side by side in a tile, at most
_FRAME, _RESTART, _SCAN = 0xC0, 0xDD, 0xDA  # markers: baseline frame, restart interval, begin of the pixels
_HALF_COLOURS = b"\x01\x22\x00\x02\x11\x01\x03\x11\x01"  # component, sampling and table of Y, Cb and Cr


def encode_tiled(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """A JPEG of RGB pixels in tiles, colours at half resolution."""
    blocks = -(-pixels.shape[1] // BLOCK)
    tile = max(width for width in range(1, _TILE + 1) if blocks % width == 0)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, tile]
    done, content = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done
    return bytes(content.tobytes())


@dataclass(frozen=True)
class TiledJpeg:
    """Where the tiles of a JPEG are.

    Attributes:
        content: The file.
        width, height: px.
        tile: Width of a tile, px; it is 16 px high.
        frame: Place of the height in the header; the width follows.
        starts: Place of the first byte of each tile, row by row, and behind the last.
    """

    content: bytes
    width: int
    height: int
    tile: int
    frame: int
    starts: NDArray[np.int64]

    def part(self, low: Sequence[float], high: Sequence[float]) -> tuple[bytes, tuple[int, int]]:
        """A JPEG of the tiles that a rectangle touches, and where its first pixel lies.

        Args:
            low: Corner (x, y) of the rectangle, px; what is outside the picture is cut off.
            high: The opposite corner.
        """
        columns, rows = -(-self.width // self.tile), -(-self.height // BLOCK)
        left, right = _range(low[0], high[0], self.tile, columns)
        top, bottom = _range(low[1], high[1], BLOCK, rows)
        content, starts = self.content, self.starts.tolist()
        header = bytearray(content[: starts[0]])
        size = min(bottom * BLOCK, self.height) - top * BLOCK, min(right * self.tile, self.width) - left * self.tile
        header[self.frame : self.frame + 4] = size[0].to_bytes(2, "big") + size[1].to_bytes(2, "big")
        pieces, number = [bytes(header)], 0
        for row in range(top, bottom):
            for place in range(row * columns + left, row * columns + right):
                if number:
                    pieces.append(_MARKERS[(number - 1) % 8])
                pieces.append(content[starts[place] : starts[place + 1] - 2])  # without the marker behind it
                number += 1
        return b"".join([*pieces, b"\xff\xd9"]), (left * self.tile, top * BLOCK)


_MARKERS = [bytes((0xFF, 0xD0 + number)) for number in range(8)]


def _range(low: float, high: float, side: int, count: int) -> tuple[int, int]:
    """First tile, and the one behind the last, that an interval touches; at least one."""
    first = min(max(int(low // side), 0), count - 1)
    return first, min(max(int(-(-high // side)), first + 1), count)


def find_tiles(content: bytes) -> TiledJpeg | None:
    """The tiles of a JPEG; None for one that is not of `encode_tiled`'s kind, or is damaged."""
    place, frame, interval = 2, 0, 0
    while content[place : place + 1] == b"\xff" and content[place + 1] != _SCAN:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == _FRAME:
            if content[place + 10 : place + 19] != _HALF_COLOURS:
                return None
            frame = place + 5
        elif marker == _RESTART:
            interval = int.from_bytes(content[place + 4 : place + 6], "big")
        place += 2 + length
        if place + 4 > len(content):
            return None
    if not (frame and interval):
        return None
    height, width = (int.from_bytes(content[frame + at : frame + at + 2], "big") for at in (0, 2))
    blocks = -(-width // BLOCK)
    if not blocks or blocks % interval:
        return None
    first = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    data = np.frombuffer(content, np.uint8)
    marked = np.flatnonzero(data[first:-1] == 0xFF) + first
    marked = marked[data[marked + 1] >= 0xD0]  # 0 there would be a byte of the pixels
    starts = np.concatenate([[first], marked + 2])
    if len(starts) != blocks // interval * -(-height // BLOCK) + 1 or content[-2:] != b"\xff\xd9":
        return None
    return TiledJpeg(content, width, height, interval * BLOCK, frame, starts)
