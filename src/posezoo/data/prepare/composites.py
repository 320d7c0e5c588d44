"""`posezoo prepare muco3dhp` from the release of MPI-INF-3DHP: composites, which `MuCo3DHP` reads in place of 3DMPPE's.

    posezoo prepare muco3dhp --raw 3DHP --root OUT --set images=100000 --set people=4

Frames and masks that are in videos only are taken out of them first: those that the composites use, and no others.
"""

import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.data.green_screen import GreenScreen, Screens
from posezoo.data.mpi_inf_3dhp import MPIINF3DHP
from posezoo.data.muco_composition import FOLDER, make_composites, plan_composites
from posezoo.data.prepare.build import claim, writing
from posezoo.data.prepare.layout import VERSION, arguments_of
from posezoo.data.prepare.video import FRAMES, Track, untracked, with_masks
from posezoo.errors import PoseZooError, did_you_mean

# Options of MPIINF3DHP that say which frames are used.
FRAME_OPTIONS = ("labels", "train_subjects", "cameras", "frame_step", "min_motion", "whole_body")


@dataclass(frozen=True)
class Composition:
    """What composites are made like.

    Attributes:
        images: How many.
        people: In each.
        apart: Least distance between two pelvises, mm.
        seed: Another one makes other images.
        backgrounds, textures: Folders of pictures for other backgrounds and clothes; null leaves what was filmed.
    """

    images: int = 10_000
    people: int = 4
    apart: float = 400.0
    seed: int = 0
    backgrounds: str | None = None
    textures: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("people", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise PoseZooError(f"--set {name} is a whole number, at least {least}, got {value!r}.")
        if not isinstance(self.apart, int | float) or not self.apart >= 0:
            raise PoseZooError(f"--set apart is a distance in mm, at least 0, got {self.apart!r}.")

    def screens(self) -> Screens | None:
        """Where other backgrounds and clothes come from."""
        if self.backgrounds is None and self.textures is None:
            return None
        return Screens(GreenScreen(self.backgrounds, self.textures), self.seed)


def compose_release(
    raw: Path, out: Path, options: dict[str, Any], workers: int = 0, track: Track = untracked
) -> list[str]:
    """Make composites of the training frames of the release; work of an earlier run is kept.

    Args:
        raw: Folder of the release of MPI-INF-3DHP.
        out: Folder to write.
        options: Those of `Composition`, and `FRAME_OPTIONS`. Labels are of true size unless these say otherwise, so
            that distances between people are true, too.
        workers: Processes.
        track: Wraps videos and images, for a progress bar.

    Returns:
        A report, lines of text.

    Raises:
        PoseZooError: An option is unknown, frames or masks are missing, or `out` cannot be written.
    """
    own = [field.name for field in fields(Composition)]
    for name in options:
        if name not in (*own, *FRAME_OPTIONS):
            raise PoseZooError(f"--set: composites have no {name}; {did_you_mean(name, [*own, *FRAME_OPTIONS])}")
    wanted = Composition(**{name: value for name, value in options.items() if name in own})
    data = MPIINF3DHP(str(raw), **{"labels": "annot3"} | {n: v for n, v in options.items() if n in FRAME_OPTIONS})
    data.from_videos, screens = True, wanted.screens()
    people = data.people("train")
    plan = (wanted.images, wanted.people, wanted.apart, wanted.seed)
    groups = plan_composites(people, *plan)
    used = np.unique(np.concatenate(groups))
    with writing(out):
        about = {"version": VERSION, "dataset": "composites", "settings": asdict(wanted)}
        claim(out, about | {"arguments": arguments_of(data), "raw": str(raw.resolve())})
    people = with_masks(people, used.tolist(), out, workers, track)
    made = make_composites(people, out, *plan, groups=groups, screens=screens, workers=workers, track=track)
    with writing(out):
        (out / "skipped.txt").write_text("".join(f"{why}\n" for why in made.skipped), "utf-8")
        shutil.rmtree(out / FRAMES, ignore_errors=True)
    lines = [
        people.report(),
        f"{made.images} images of {wanted.people} people in {out / FOLDER}, of {len(used)} frames",
        f"kept from an earlier run: {made.kept}",
    ]
    if made.skipped:
        lines.append(f"skipped: {len(made.skipped)} images, such as: {made.skipped[0]}")
    return lines
