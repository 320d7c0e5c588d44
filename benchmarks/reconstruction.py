"""Absolute reconstruction: batched least squares with MeTRAbs' ridge beside the closed form."""

import torch
from torch import Tensor

from benchmarks import formulas
from benchmarks.cases import OURS, REFERENCE, Bench, Case, Target, register
from posezoo.lifting import reconstruct_absolute

FOCAL, METRE = 1500.0, 1000.0
DISTANCES = (2, 5, 20, 100)


def people(batch: int, metres: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, root-relative poses and intrinsics of people who stand off the optical axis, in float64.

    So far off that MeTRAbs' ridge moves them by a little over 90 mm at 20 m: the case that the target speaks of.
    """
    g = torch.Generator().manual_seed(0)
    rel = 300 * torch.randn(batch, 17, 3, generator=g, dtype=torch.float64)
    rel -= rel[:, :1].clone()
    root = torch.tensor([0.0410 * metres, 0.0137 * metres, metres], dtype=torch.float64) * METRE
    intrinsics = torch.tensor([[FOCAL, 0, 960], [0, FOCAL, 540], [0, 0, 1]], dtype=torch.float64).expand(batch, 3, 3)
    image = (rel + root) @ intrinsics.mT
    return image[..., :2] / image[..., 2:], rel, intrinsics.contiguous()


def ours(pixels: Tensor, rel: Tensor, intrinsics: Tensor, inside: Tensor) -> Tensor:
    return reconstruct_absolute(pixels, rel, intrinsics, inside)


def make(quick: bool, metres: float = 5, batch: int = 64, train: bool = False) -> Bench:
    exact_inputs = people(batch // 8 if quick else batch, metres)
    inputs = [part.float() for part in exact_inputs]
    inside = torch.ones(inputs[0].shape[:2], dtype=torch.bool)
    formula = {REFERENCE: formulas.reconstruct, OURS: ours}

    def call(name: str) -> Tensor:
        if not train:
            return torch.no_grad()(formula[name])(*inputs, inside)
        rel = inputs[1].detach().requires_grad_()
        return torch.autograd.grad(formula[name](inputs[0], rel, inputs[2], inside).square().mean(), rel)[0]

    def errors() -> dict[str, float]:
        """Median distance from the exact solution for the same (float32) inputs."""
        exact = formulas.reconstruct(*(part.double() for part in inputs), inside, ridge=0)
        found = {name: formula[name](*inputs, inside).double() for name in formula}
        return {name: float((pose - exact).norm(dim=-1).median()) for name, pose in found.items()}

    # The reference's ridge grows with the distance: 0.1 m at 20 m, metres at 100 m.
    tolerance = {REFERENCE: 2 * metres**2, OURS: 2e-4 * metres**2}
    return Bench({name: lambda name=name: call(name) for name in formula}, errors, tolerance, items=len(inputs[0]))


register(
    Case("reconstruction/batch-64", make, {"batch": 64}, (Target("speed", 2.0),), "mm"),
    Case("reconstruction/batch-64-train", make, {"batch": 64, "train": True}, (), "mm"),
    Case("reconstruction/batch-1024", make, {"batch": 1024}, (), "mm"),
    *(
        Case(
            f"reconstruction/at-{metres}-m",
            make,
            {"batch": 1024, "metres": metres},
            (Target("error", 0.01),) if metres == 20 else (),
            "mm",
            timed=False,
        )
        for metres in DISTANCES
    ),
)
