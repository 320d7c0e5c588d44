"""Absolute reconstruction: exactly right on exact input, and against the authors' TensorFlow code."""

import warnings
from typing import Any

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from torch import Tensor, nn

from posezoo import lifting
from posezoo.lifting import Perspective, inside_window, reconstruct_absolute

WELL_POSED = [0, 1, 3, 4, 5]  # sample 2 of the golden file has no joint inside the crop


def camera(focal: float, cx: float, cy: float) -> Tensor:
    return torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=torch.float64)


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    pixels = points @ intrinsics.mT
    return pixels[..., :2] / pixels[..., 2:]


def scene(pose: Tensor, root: tuple[float, float, float], k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(pixels, relative pose, intrinsics, truth) as a batch of one; the pose sits in a corner of the metric box."""
    truth = (pose + torch.tensor(root, dtype=torch.float64))[None]
    return project(truth, k[None]), (pose + 1100)[None], k[None], truth


@pytest.fixture
def upright(pose: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return scene(pose, (250, -120, 4000), camera(500, 96.75, 131.75))


@pytest.fixture
def truncated(pose: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A person whose lower half is below the crop: the 2D head cannot leave [16, 240]."""
    pixels, *rest = scene(pose, (0, 500, 3000), camera(900, 128, 128))
    return pixels.clamp(16, 240), *rest  # type: ignore[return-value]


# ---------------------------------------------------------------- against the authors' code


@pytest.mark.shared_data
@pytest.mark.parametrize(("mix", "name"), [(0.0, "None"), (0.5, "0.5"), (1.0, "1.0")])
@pytest.mark.parametrize(("perspective", "key"), [("full", "full_one_by_one"), ("weak", "weak")])
def test_equals_the_authors_code(golden: Any, mix: float, name: str, perspective: Perspective, key: str) -> None:
    data = golden("camera")
    pixels, rel, k = (torch.from_numpy(data[f"rec.{n}"]) for n in ("coords2d", "coords3d_rel", "intrinsics"))
    inside = inside_window(pixels, 24, 232)
    assert torch.equal(inside, torch.from_numpy(data["rec.exp.in_fov.metrabs_tf"]))

    found = reconstruct_absolute(pixels, rel, k, inside, mix, perspective, ridge=1e-2)

    expected = torch.from_numpy(data[f"rec.exp.abs_mix{name}_{key}.metrabs_tf"])
    torch.testing.assert_close(found[WELL_POSED], expected[WELL_POSED], atol=0.05, rtol=0)


# ---------------------------------------------------------------- exact input


def test_full_perspective_recovers_an_exact_pose(upright: tuple[Tensor, ...]) -> None:
    *arguments, truth = upright
    for mix in (0.0, 0.5, 1.0):
        assert (reconstruct_absolute(*arguments, mix=mix, ridge=0.0) - truth).abs().max() < 1e-9
        assert (reconstruct_absolute(*arguments, mix=mix) - truth).abs().max() < 1e-3
    single = [tensor.float() for tensor in arguments]
    assert (reconstruct_absolute(*single, ridge=0.0) - truth).abs().max() < 2e-3


def test_the_official_ridge_biases_a_centred_person_by_a_millimetre(upright: tuple[Tensor, ...]) -> None:
    *arguments, truth = upright
    error = (reconstruct_absolute(*arguments, ridge=1e-2) - truth).abs().max()
    assert error == pytest.approx(1.0415, abs=0.002)


def test_the_official_ridge_biases_a_person_off_the_axis_by_centimetres(pose: Tensor) -> None:
    k = camera(1100, 128, 128)
    *arguments, truth = scene(pose, (0.2 * 9000, 0.2 * 9000, 9000), k)
    assert (reconstruct_absolute(*arguments, ridge=1e-2) - truth).abs().max() > 80
    assert (reconstruct_absolute(*arguments) - truth).abs().max() < 0.02


def test_weak_perspective_is_biased(upright: tuple[Tensor, ...]) -> None:
    *arguments, truth = upright
    found = reconstruct_absolute(*arguments, mix=1.0, perspective="weak")
    assert found[0, 0, 2] - truth[0, 0, 2] == pytest.approx(30.45, abs=0.01)


def test_joints_outside_the_window_do_not_spoil_the_answer(truncated: tuple[Tensor, ...]) -> None:
    pixels, rel, k, truth = truncated
    inside = inside_window(pixels, 24, 232)
    assert inside.sum() == 8

    masked = reconstruct_absolute(pixels, rel, k, inside, ridge=0.0)
    assert (masked - truth).abs().max() < 1e-3

    unmasked = reconstruct_absolute(pixels, rel, k, mix=1.0, ridge=0.0)
    assert (unmasked - truth)[0, 0, 2] == pytest.approx(1350.706, abs=0.01)


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_outside_joints_are_never_taken_from_their_pixels(truncated: tuple[Tensor, ...], mix: float) -> None:
    pixels, rel, k, truth = truncated
    inside = inside_window(pixels, 24, 232)
    found = reconstruct_absolute(pixels, rel, k, inside, mix)
    torch.testing.assert_close(found[~inside], truth[~inside], atol=0.05, rtol=0)


def test_mix_is_the_share_of_the_moved_pose(upright: tuple[Tensor, ...]) -> None:
    pixels, rel, k, _ = upright
    pixels = pixels + torch.tensor([3.0, -2.0])  # now the two answers differ
    pixels[:, 0] += 5
    moved, back = (reconstruct_absolute(pixels, rel, k, mix=mix) for mix in (1.0, 0.0))
    torch.testing.assert_close(project(back, k), pixels)  # back-projected joints lie on their pixels
    assert (moved - moved[:, :1] - (rel - rel[:, :1])).abs().max() < 1e-9  # the moved pose keeps its shape
    assert (moved - back).abs().max() > 10
    torch.testing.assert_close(reconstruct_absolute(pixels, rel, k, mix=0.3), 0.3 * moved + 0.7 * back)

    batch = [tensor.expand(2, *tensor.shape[1:]) for tensor in (pixels, rel, k)]
    each = reconstruct_absolute(*batch, mix=torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(each, torch.cat([moved, back]))


def test_default_is_half_of_each(upright: tuple[Tensor, ...]) -> None:
    *arguments, _ = upright
    assert torch.equal(reconstruct_absolute(*arguments), reconstruct_absolute(*arguments, mix=0.5))


def test_intrinsics_may_have_skew_and_unequal_focal_lengths(pose: Tensor) -> None:
    k = camera(500, 96.75, 131.75)
    k[0, 1], k[1, 1] = 30, 620
    *arguments, truth = scene(pose, (250, -120, 4000), k)
    assert (reconstruct_absolute(*arguments, ridge=0.0) - truth).abs().max() < 1e-9


# ---------------------------------------------------------------- window


@pytest.mark.parametrize(("u", "inside"), [(24, True), (23.99, False), (232, True), (232.01, False)])
def test_both_ends_belong_to_the_window(u: float, inside: bool) -> None:
    assert inside_window(torch.tensor([[u, 128.0], [128.0, u]]), 24, 232).tolist() == [inside, inside]


# ---------------------------------------------------------------- batches and masks


@pytest.mark.parametrize("perspective", ["full", "weak"])
def test_a_sample_does_not_depend_on_its_batch(pose: Tensor, perspective: Perspective) -> None:
    k = camera(900, 128, 128)
    roots = [(0.0, 0.0, 3000.0), (2000.0, -900.0, 30_000.0), (-100.0, 0.0, 700.0)]
    scenes = [scene(pose, root, k) for root in roots]
    pixels, rel, ks, _ = (torch.cat(parts) for parts in zip(*scenes, strict=True))
    pixels = pixels + torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    inside = inside_window(pixels, 24, 232)
    inside[2] = False

    together = reconstruct_absolute(pixels, rel, ks, inside, perspective=perspective)
    for i in range(3):
        one = slice(i, i + 1)
        alone = reconstruct_absolute(pixels[one], rel[one], ks[one], inside[one], perspective=perspective)
        torch.testing.assert_close(together[one], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("perspective", ["full", "weak"])
def test_with_fewer_than_two_inside_all_joints_are_used(upright: tuple[Tensor, ...], perspective: Perspective) -> None:
    *arguments, _ = upright
    everything = reconstruct_absolute(*arguments, mix=1.0, perspective=perspective)
    inside = torch.zeros(1, 17, dtype=torch.bool)
    none = reconstruct_absolute(*arguments, inside, perspective=perspective)
    torch.testing.assert_close(none, everything)
    inside[0, 4] = True
    one = reconstruct_absolute(*arguments, inside, mix=1.0, perspective=perspective)
    torch.testing.assert_close(one, everything)


@pytest.mark.parametrize("perspective", ["full", "weak"])
@pytest.mark.parametrize("count", range(4))
def test_no_mask_raises_or_gives_nan(upright: tuple[Tensor, ...], perspective: Perspective, count: int) -> None:
    pixels, rel, k, _ = upright
    inside = torch.zeros(1, 17, dtype=torch.bool)
    inside[0, :count] = True
    for coords in (pixels, torch.full_like(pixels, 128.0), pixels * 1e4):
        coords = coords.float().requires_grad_()
        found = reconstruct_absolute(coords, rel.float(), k.float(), inside, perspective=perspective)
        assert found.isfinite().all()
        (gradient,) = torch.autograd.grad(found.sum(), coords)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("perspective", ["full", "weak"])
def test_nan_stays_in_its_sample(upright: tuple[Tensor, ...], perspective: Perspective) -> None:
    pixels, rel, k = (tensor.repeat(2, 1, 1) for tensor in upright[:3])
    clean = reconstruct_absolute(pixels, rel, k, perspective=perspective)
    pixels[0, 3] = torch.nan
    found = reconstruct_absolute(pixels, rel, k, perspective=perspective)
    assert found[0].isnan().all()
    assert torch.equal(found[1], clean[1])


def test_an_empty_batch_is_empty() -> None:
    empty = reconstruct_absolute(torch.zeros(0, 17, 2), torch.zeros(0, 17, 3), torch.zeros(0, 3, 3))
    assert empty.shape == (0, 17, 3)


def test_an_unknown_perspective_is_named(upright: tuple[Tensor, ...]) -> None:
    *arguments, _ = upright
    with pytest.raises(ValueError, match="'strong': choose 'full' or 'weak'"):
        reconstruct_absolute(*arguments, perspective="strong")  # type: ignore[arg-type]


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("depth", [1000.0, 5000.0, 20_000.0, 50_000.0])
@pytest.mark.parametrize("sideways", [0.0, 0.08])
def test_float32_is_exact_to_micrometres_up_to_50_m(pose: Tensor, depth: float, sideways: float) -> None:
    # A crop of 256 px follows the person, so the focal length grows with the distance.
    k = camera(depth / 10, 128, 128)
    *arguments, truth = scene(pose, (sideways * depth, sideways * depth, depth), k)
    single = [tensor.float() for tensor in arguments]
    exact = reconstruct_absolute(*[tensor.double() for tensor in single], ridge=0.0)
    found = reconstruct_absolute(*single, ridge=0.0)
    assert found.dtype == torch.float32
    # Rounding the pixels to float32 costs more than the solver itself.
    assert (found - exact).abs().max() < depth * 4e-7
    assert (found - truth).abs().max() < depth * 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(upright: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    arguments = [tensor.float() for tensor in upright[:3]]
    for perspective in ("full", "weak"):
        plain = reconstruct_absolute(*arguments, perspective=perspective)
        with torch.autocast("cpu", dtype=dtype):
            cast = reconstruct_absolute(*arguments, perspective=perspective)
        assert torch.equal(plain, cast)


def test_half_precision_input_is_computed_in_float32(upright: tuple[Tensor, ...]) -> None:
    pixels, rel, k, _ = upright
    found = reconstruct_absolute(pixels.bfloat16(), rel.bfloat16(), k.float())
    expected = reconstruct_absolute(pixels.bfloat16().float(), rel.bfloat16().float(), k.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("perspective", ["full", "weak"])
def test_gradients(truncated: tuple[Tensor, ...], perspective: Perspective) -> None:
    pixels, rel, k, _ = truncated
    inside = inside_window(pixels, 24, 232)

    def metres(coords2d: Tensor, coords3d: Tensor) -> Tensor:
        return reconstruct_absolute(coords2d, coords3d * 1000, k, inside, 0.3, perspective) / 1000

    joints = slice(0, 5)
    pixels, rel, inside = pixels[:, joints], rel[:, joints] / 1000, inside[:, 6:11]
    assert torch.autograd.gradcheck(metres, (pixels.clone().requires_grad_(), rel.clone().requires_grad_()))


# ---------------------------------------------------------------- export


class _Reconstruction(nn.Module):
    def forward(self, coords2d: Tensor, coords3d: Tensor, intrinsics: Tensor) -> Tensor:
        return reconstruct_absolute(coords2d, coords3d, intrinsics, inside_window(coords2d, 24, 232))


def _pairs(pose: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    k = camera(500, 96.75, 131.75)
    roots = [(250.0, -120.0, 4000.0), (0.0, 0.0, 2500.0), (900.0, 300.0, 3000.0)]
    scenes = [scene(pose, root, k)[:3] for root in roots]
    batch = [torch.cat(parts).float() for parts in zip(*scenes, strict=True)]
    return [tensor[:2] for tensor in batch], batch


def test_exports_with_a_dynamic_batch(pose: Tensor) -> None:
    example, batch = _pairs(pose)
    dynamic = ({0: torch.export.Dim("batch")},) * 3
    program = torch.export.export(_Reconstruction(), tuple(example), dynamic_shapes=dynamic)
    torch.testing.assert_close(program.module()(*batch), _Reconstruction()(*batch), atol=1e-3, rtol=0)


def test_runs_in_onnx_runtime(pose: Tensor, tmp_path: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    example, batch = _pairs(pose)
    path = tmp_path / "reconstruction.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Reconstruction(),
            tuple(example),
            path,
            input_names=["coords2d", "coords3d", "intrinsics"],
            dynamic_shapes=({0: torch.export.Dim("batch")},) * 3,
            dynamo=True,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path)
    names = [node.name for node in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, [tensor.numpy() for tensor in batch], strict=True)))
    torch.testing.assert_close(torch.from_numpy(found), _Reconstruction()(*batch), atol=5e-3, rtol=0)


def test_shapes_are_as_annotated(upright: tuple[Tensor, ...]) -> None:
    *arguments, _ = upright
    jaxtyped(typechecker=beartype)(lifting.reconstruct_absolute)(*arguments, torch.ones(1, 17, dtype=torch.bool))
    jaxtyped(typechecker=beartype)(lifting.inside_window)(arguments[0], 24.0, 232.0)
