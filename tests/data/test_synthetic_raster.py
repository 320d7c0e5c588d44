"""The rasteriser against a dense float64 ray caster that shares no formula with it."""

import numpy as np
import pytest

from posezoo.data.synthetic.raster import (
    CAP_A,
    CAP_B,
    NO_SOLID,
    SIDE,
    Solids,
    Surface,
    box_corners,
    concatenate,
    draw_quad,
    quadrics,
    rasterise,
    visible_faces,
)
from posezoo.data.synthetic.scene import PRESETS, compose

SIZE = 96


def cast_rays(solids: Solids, intrinsics: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth [S,S] and frontmost solid [S,S], one ray per pixel centre, one solid after the other."""
    v, u = np.mgrid[0:size, 0:size]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics).T  # z = 1: the parameter is the depth
    depth, ids = np.full((size, size), np.inf), np.full((size, size), NO_SOLID)
    for i in range(len(solids)):
        origin = solids.to_local[i] @ -solids.centre[i]
        direction = rays @ solids.to_local[i].T
        a, b, length = solids.radius_a[i], solids.radius_b[i], solids.length[i]
        hits = []
        if solids.shape[i] & CAP_A:
            hits.append(hit_sphere(origin, direction, a))
        if solids.shape[i] & CAP_B:
            hits.append(hit_sphere(origin - (0, length, 0), direction, b))
        if solids.shape[i] & SIDE:
            hits.append(hit_cone(origin, direction, a, b, length))
        nearest = np.min(hits, 0)
        ids[nearest < depth] = i
        depth = np.minimum(depth, nearest)
    return depth, ids


def hit_sphere(origin: np.ndarray, direction: np.ndarray, radius: float) -> np.ndarray:
    """Project the centre onto the ray, then step back by half the chord."""
    speed = np.linalg.norm(direction, axis=-1)
    unit = direction / speed[..., None]
    along = -(unit @ origin)
    miss = np.linalg.norm(origin + along[..., None] * unit, axis=-1)
    with np.errstate(invalid="ignore"):
        return np.where(miss <= radius, (along - np.sqrt(radius**2 - miss**2)) / speed, np.inf)


def hit_cone(origin: np.ndarray, direction: np.ndarray, radius_a: float, radius_b: float, length: float) -> np.ndarray:
    """The lateral surface rho(y) = start + y * growth between the tangent circles; the ray's entry only."""
    sine = (radius_a - radius_b) / length
    cosine = np.sqrt(1 - sine**2)
    start, growth = radius_a / cosine, -sine / cosine
    dx, dy, dz = np.moveaxis(direction, -1, 0)
    ox, oy, oz = origin
    rim = start + growth * oy
    two = dx * dx + dz * dz - (growth * dy) ** 2
    one = ox * dx + oz * dz - rim * growth * dy
    zero = ox * ox + oz * oz - rim**2
    with np.errstate(invalid="ignore", divide="ignore"):
        depth = (-one - np.sqrt(one**2 - two * zero)) / two
    y = oy + depth * dy
    on_side = (y > sine * radius_a) & (y < length + sine * radius_b) & (depth > 0)
    return np.where(on_side, depth, np.inf)


@pytest.mark.parametrize("index", [0, 1, 4, 7])
def test_rasteriser_matches_ray_caster(index: int) -> None:
    composition = compose(index, "test", PRESETS["multi"])
    intrinsics = composition.camera.intrinsics(SIZE)
    depth = np.full((SIZE, SIZE), np.inf, np.float32)
    ids = np.full((SIZE, SIZE), NO_SOLID, np.int16)
    first = 0
    for table, solids in zip(composition.tables, composition.solids, strict=True):
        rasterise(table, intrinsics, depth, ids, first)
        first += len(solids)

    true_depth, true_ids = cast_rays(concatenate(composition.solids), intrinsics, SIZE)

    assert (true_ids != NO_SOLID).mean() > 0.02
    assert (ids == true_ids).mean() >= 0.999
    both = np.isfinite(depth) & np.isfinite(true_depth) & (ids == true_ids)
    error = np.abs(depth[both] - true_depth[both])
    # At a grazing silhouette the depth itself is ill-conditioned (its slope is infinite).
    assert np.quantile(error, 0.99) < 0.02
    assert np.median(error) < 0.002


def test_surface_box_is_exact() -> None:
    composition = compose(3, "test", PRESETS["easy"])
    size = 512
    intrinsics = composition.camera.intrinsics(size)
    depth = np.full((size, size), np.inf, np.float32)
    ids = np.full((size, size), NO_SOLID, np.int16)
    rasterise(composition.tables[0], intrinsics, depth, ids)
    rows, columns = np.nonzero(np.isfinite(depth))
    box = composition.tables[0].surface_box() * intrinsics[0, 0] + np.tile(intrinsics[:2, 2], 2)

    assert np.abs(box - [columns.min(), rows.min(), columns.max(), rows.max()]).max() < 1.5


def test_box_faces_meet_without_gaps() -> None:
    size = 200
    image = np.zeros((size, size, 3), np.uint8)
    depth = np.full((size, size), np.inf, np.float32)
    ids = np.full((size, size), NO_SOLID, np.int16)
    intrinsics = np.array([[200.0, 0, 99.3], [0, 200, 101.1], [0, 0, 1]])
    angle = 0.5
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    corners = box_corners(np.array([50.0, 300, 2000]), np.array([400.0, 300, 300]), rotation)
    surface = Surface(np.full(3, 0.5), np.zeros((8, 8), np.float32), 0.0)
    faces = visible_faces(corners, rotation)
    for number, (quad, _) in enumerate(faces):
        draw_quad(image, depth, ids, quad, intrinsics, surface, number)

    assert len(faces) >= 2
    hit = ids != NO_SOLID
    for row in hit[hit.any(1)]:  # convex: every row is one run without holes
        filled = np.flatnonzero(row)
        assert filled[-1] - filled[0] + 1 == len(filled)
    projected = corners @ intrinsics.T
    projected = projected[:, :2] / projected[:, 2:]
    columns = np.flatnonzero(hit.any(0))
    assert abs(columns.min() - projected[:, 0].min()) <= 1
    assert abs(columns.max() - projected[:, 0].max()) <= 1
    nearest = depth[hit].min()
    assert nearest == pytest.approx(corners[:, 2].min(), rel=0.02)


def test_quadrics_behind_the_camera_are_dropped() -> None:
    composition = compose(0, "test", PRESETS["easy"])
    behind = composition.solids[0].moved(np.eye(3), np.array([0.0, 0, -20_000]))

    assert not quadrics(behind).hit.any()
