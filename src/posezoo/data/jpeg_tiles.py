"""JPEGs of which a part is decoded: of prepared ones the tiles that a crop sees, of others the rows down to its feet.

Restart markers make every tile of a prepared file a piece that stands alone. Such a file is an ordinary JPEG. With a
restart marker after every few blocks, and whole numbers of these in a row, the bytes of some rows and columns of tiles
under a header with their size are an ordinary JPEG again, which any decoder takes. So the crop of a prepared person
costs the pixels that it sees, not those that other augmentations might see.

Any other JPEG must be read from its first pixel on, but need not be read to its last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # px, side of what a JPEG with colours at half resolution codes together
_TILE = 4  # blocks side by side in a tile, at most
_FRAME, _RESTART = 0xC0, 0xDD  # markers: baseline frame, restart interval
_ROWS = 32  # px: the tallest row of blocks that a JPEG may have
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
        tiles = self.starts[:-1].reshape(rows, columns)[top:bottom, left:right]
        begins = tiles[:, 0] - 2  # with the marker before it
        begins[0] += 2
        ends = self.starts[1:].reshape(rows, columns)[top:bottom, right - 1] - 2
        first = int(self.starts[0])
        lines = (self.content[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True))
        part = bytearray(b"".join([self.content[:first], *lines, b"\xff\xd9"]))
        size = min(bottom * BLOCK, self.height) - top * BLOCK, min(right * self.tile, self.width) - left * self.tile
        part[self.frame : self.frame + 4] = size[0].to_bytes(2, "big") + size[1].to_bytes(2, "big")
        # Markers are counted from 0 to 7, over and over.
        moved = tiles + (first + np.cumsum(ends - begins) - ends)[:, None]
        np.frombuffer(part, np.uint8)[moved.ravel()[1:] - 1] = 0xD0 + np.arange(tiles.size - 1) % 8
        return bytes(part), (left * self.tile, top * BLOCK)


def _range(low: float, high: float, side: int, count: int) -> tuple[int, int]:
    """First tile, and the one behind the last, that an interval touches; at least one."""
    first = min(max(int(low // side), 0), count - 1)
    return first, min(max(int(-(-high // side)), first + 1), count)


def find_tiles(content: bytes) -> TiledJpeg | None:
    """The tiles of a JPEG; None for one that is not of `encode_tiled`'s kind, or is damaged."""
    found, scan = segments(content)
    frame, interval = 0, 0
    for marker, place in found:
        if marker == _FRAME:
            if content[place + 8 : place + 17] != _HALF_COLOURS:
                return None
            frame = place + 3
        elif marker == _RESTART:
            interval = int.from_bytes(content[place + 2 : place + 4], "big")
    if not (frame and interval):
        return None
    height, width = (int.from_bytes(content[frame + at : frame + at + 2], "big") for at in (0, 2))
    blocks = -(-width // BLOCK)
    if not blocks or blocks % interval:
        return None
    first = scan + 2 + int.from_bytes(content[scan + 2 : scan + 4], "big")
    data = np.frombuffer(content, np.uint8)
    marked = np.flatnonzero(data[first:-1] == 0xFF) + first
    marked = marked[data[marked + 1] >= 0xD0]  # 0 there would be a byte of the pixels
    starts = np.concatenate([[first], marked + 2])
    if len(starts) != blocks // interval * -(-height // BLOCK) + 1 or content[-2:] != b"\xff\xd9":
        return None
    return TiledJpeg(content, width, height, interval * BLOCK, frame, starts)


def top_part(content: bytes, rows: int) -> bytes | None:
    """A JPEG that ends, by its header, below its first `rows` rows of pixels; the bytes of the others are still in it.

    None where that spares nothing, and of JPEGs that are not coded in one go from top to bottom.
    """
    found, scan = segments(content)
    places = dict(found)
    frame = places.get(_FRAME)
    colours = content[scan + 4 : scan + 5]
    if frame is None or _RESTART in places or colours != content[frame + 7 : frame + 8]:
        return None
    kept = max(-(-rows // _ROWS), 1) * _ROWS
    if kept >= int.from_bytes(content[frame + 3 : frame + 5], "big"):
        return None
    return b"".join([content[: frame + 3], kept.to_bytes(2, "big"), memoryview(content)[frame + 5 :]])


def segments(content: bytes) -> tuple[list[tuple[int, int]], int]:
    """(marker, place of its length) of the segments of a JPEG's header, and the place where its pixels begin."""
    found, place = [], 2
    while content[place : place + 1] == b"\xff" and content[place : place + 2] != b"\xff\xda":
        marker = content[place + 1 : place + 2]
        if marker == b"\xff":  # padding
            place += 1
            continue
        found.append((marker[0] if marker else 0, place + 2))
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return found, place
