"""Who is who over the frames of a video, and smoother poses.

People of a frame are matched to the tracks so far in 3D (how far the joints are apart once both poses are seen at a
common distance, because distance is what one camera knows least) and in 2D (how far they are apart in the picture, in
units of the person's size). The pairs of least total cost are taken (the assignment problem, solved exactly); pairs
too far apart begin a new track. A track that nobody continues waits for a second, then its number is never used again.

Smoothing is the One-Euro filter (Casiez, Roussel, Vogel: 1 Euro Filter, CHI 2012), which follows fast motion and calms
slow motion: one filter for the middle of the body, one for the joints about it. It looks at the past only, so it works
on live video too, and lags behind by its time constant.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from posezoo.people import People, project_joints

Floats = NDArray[np.float64]

REACH_3D, SPEED_3D = 500.0, 3000.0  # mm, and mm/s: how far a body can have moved between frames
REACH_2D, SPEED_2D = 0.6, 4.0  # the same in the picture, in sizes of the person
PATIENCE = 1.0  # s that a track waits for its person
_UNMATCHED = 1e6  # cost of a pair that must not be


@dataclass(frozen=True)
class OneEuro:
    """Settings of a One-Euro filter.

    Attributes:
        min_cutoff: Hz; lower calms a person who stands still, and lags more.
        beta: Hz per mm/s; higher follows fast motion more closely.
        speed_cutoff: Hz, of the filter on the speed.
    """

    min_cutoff: float
    beta: float
    speed_cutoff: float = 1.0


BODY, MIDDLE = OneEuro(1.5, 0.004), OneEuro(0.7, 0.004)  # the middle is as uncertain as its distance


class OneEuroFilter:
    """One-Euro filter of points [N, 3] in mm: the speed is that of the point, not of each axis.

    Args:
        settings: Of the filter.
    """

    def __init__(self, settings: OneEuro) -> None:
        self.settings = settings
        self._time = 0.0
        self._value: Floats | None = None
        self._speed: Floats | None = None

    def __call__(self, points: Floats, time: float) -> Floats:
        """The points [N, 3], filtered, at `time` in s, which must not go back; NaN passes through."""
        if self._value is None or self._speed is None:
            self._time, self._value, self._speed = time, points.copy(), np.zeros_like(points)
            return points
        step = max(time - self._time, 1e-6)
        known = np.where(np.isfinite(self._value), self._value, points)
        now = np.where(np.isfinite(points), points, known)
        speed = (now - known) / step
        self._speed = self._speed + _share(self.settings.speed_cutoff, step) * (speed - self._speed)
        cutoff = self.settings.min_cutoff + self.settings.beta * np.linalg.norm(self._speed, axis=-1, keepdims=True)
        self._value, self._time = known + _share(cutoff, step) * (now - known), time
        return np.where(np.isfinite(points), self._value, np.nan)


def _share(cutoff: float | Floats, step: float) -> float | Floats:
    """Weight of the new value in exponential smoothing with a cutoff in Hz, `step` s after the last one."""
    turn = 2 * np.pi * cutoff * step
    return turn / (turn + 1)


@dataclass
class _Track:
    number: int
    joints3d: Floats
    joints2d: Floats
    time: float
    body: OneEuroFilter = field(default_factory=lambda: OneEuroFilter(BODY))
    middle: OneEuroFilter = field(default_factory=lambda: OneEuroFilter(MIDDLE))

    def smooth(self, joints3d: Floats, time: float) -> Floats:
        middle = np.nanmean(joints3d, axis=0, keepdims=True)
        return self.body(joints3d - middle, time) + self.middle(middle, time)


class Tracker:
    """Gives the people of consecutive frames their identities, and smooths their poses.

    Args:
        smooth: Filter the poses; identities alone when False.
        patience: How long a track waits for its person to be found again, s.
    """

    def __init__(self, smooth: bool = True, patience: float = PATIENCE) -> None:
        self.smooth, self.patience = smooth, patience
        self._tracks: list[_Track] = []
        self._count = 0

    def update(self, people: People) -> People:
        """The same people with `ids`, and with filtered joints (pixels are their projections).

        Args:
            people: Of the next frame; `time` must be known and not go back.

        Raises:
            ValueError: It has no time.
        """
        if people.time is None:
            raise ValueError("tracking needs the time of each frame: set people.time, in seconds.")
        time = people.time
        self._tracks = [track for track in self._tracks if time - track.time <= self.patience]
        pairs = dict(assign(self._costs(people, time)))
        joints3d, ids = people.joints3d.copy(), np.zeros(len(people), np.int64)
        for row in range(len(people)):
            track = self._tracks[pairs[row]] if row in pairs else self._begin()
            ids[row] = track.number
            track.joints3d, track.joints2d = people.joints3d[row].astype(float), people.joints2d[row].astype(float)
            track.time = time
            if self.smooth and np.isfinite(track.joints3d).any():
                joints3d[row] = track.smooth(track.joints3d, time)
        if not self.smooth:
            return replace(people, ids=ids)
        return replace(people, ids=ids, joints3d=joints3d, joints2d=project_joints(joints3d, people.camera))

    def _begin(self) -> _Track:
        self._count += 1
        self._tracks.append(_Track(self._count, np.zeros((0, 3)), np.zeros((0, 2)), 0.0))
        return self._tracks[-1]

    def _costs(self, people: People, time: float) -> Floats:
        """[people, tracks], in 0..2; `_UNMATCHED` beyond reach."""
        costs = np.full((len(people), len(self._tracks)), _UNMATCHED)
        for row in range(len(people)):
            for column, track in enumerate(self._tracks):
                gap = time - track.time
                solid = distance_3d(people.joints3d[row], track.joints3d) / (REACH_3D + SPEED_3D * gap)
                flat = distance_2d(people.joints2d[row], track.joints2d) / (REACH_2D + SPEED_2D * gap)
                if solid < 1 and flat < 1:
                    costs[row, column] = solid + flat
        return costs


def distance_3d(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Mean distance of joints, mm, once both poses lie at a common distance; infinite for poses behind the camera."""
    depths = _mean(first[:, 2]), _mean(second[:, 2])
    if not min(depths) > 0:
        return np.inf
    common = np.sqrt(depths[0] * depths[1])
    return _mean(np.linalg.norm(first * (common / depths[0]) - second * (common / depths[1]), axis=-1))


def distance_2d(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Mean distance of joints in the picture, in units of the larger person's extent."""
    extent = max(_extent(first), _extent(second), 1.0)
    distance = _mean(np.linalg.norm(first - second, axis=-1))
    return distance / extent if np.isfinite(distance) else np.inf


def _mean(values: NDArray[np.floating]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _extent(points: NDArray[np.floating]) -> float:
    known = points[np.isfinite(points).all(-1)]
    return float(np.ptp(known, axis=0).max()) if len(known) else 0.0


def assign(costs: Floats, limit: float = _UNMATCHED) -> list[tuple[int, int]]:
    """(row, column) pairs of least total cost, each row and column at most once; pairs that cost `limit` are left out.

    The Hungarian method with potentials, O(n^3).
    """
    turned = costs.shape[0] > costs.shape[1]
    matrix = costs.T if turned else costs
    rows, columns = matrix.shape
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, int)  # row (from 1) of each column; column 0 stands for the row to be placed
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        least, came_from = np.full(columns + 1, np.inf), np.zeros(columns + 1, int)
        done = np.zeros(columns + 1, bool)
        while owner[column]:
            done[column] = True
            placed = owner[column]
            reduced = matrix[placed - 1] - row_price[placed] - column_price[1:]
            better = ~done[1:] & (reduced < least[1:])
            least[1:][better], came_from[1:][better] = reduced[better], column
            following = int(np.where(done, np.inf, least)[1:].argmin()) + 1
            step = least[following]
            row_price[owner[done]] += step
            column_price[done] -= step
            least[~done] -= step
            column = following
        while column:
            owner[column], column = owner[came_from[column]], int(came_from[column])
    pairs = [(int(owner[c]) - 1, c - 1) for c in range(1, columns + 1) if owner[c]]
    pairs = [(c, r) for r, c in pairs] if turned else pairs
    return sorted((r, c) for r, c in pairs if costs[r, c] < limit)
