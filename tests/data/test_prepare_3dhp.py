"""MPI-INF-3DHP out of its videos: small images to train from, and composites of several people."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_cli_helpers import last_error_of
from three_dhp_helpers import film, write_picture, write_train

from posezoo.__main__ import main
from posezoo.data import MPIINF3DHP, MuCo3DHP, muco_composition
from posezoo.data.images import read_image
from posezoo.data.prepare import composites
from posezoo.data.prepare.video import FRAMES, with_frames
from posezoo.errors import PoseZooError

PLACES = ((-600, 3000), (0, 4000), (600, 3600), (-200, 2900))
EVERY = ("--set", "frame_step=1", "--set", "min_motion=0")
FRAME_OPTIONS: dict[str, Any] = {"frame_step": 1, "min_motion": 0}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The release with extracted frames and masks."""
    root = tmp_path / "images"
    write_train(root, "S1", "Seq1", cameras=(0, 2), places=PLACES, masks=True)
    write_train(root, "S2", "Seq1", places=((100, 2500), (-300, 3300)), masks=True)
    return root


@pytest.fixture
def videos(images: Path, tmp_path: Path) -> Path:
    """The same as videos."""
    pytest.importorskip("av")
    root = tmp_path / "videos"
    shutil.copytree(images, root)
    for subject in ("S1", "S2"):
        film(root / subject / "Seq1")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------- small images


def small(raw: Path, out: Path, *more: str) -> list[str]:
    settings = ("--image-size", "48", "--workers", "0", *EVERY)
    return ["prepare", "mpi_inf_3dhp", "--raw", str(raw), "--root", str(out), *settings, *more]


def crops(root: Path) -> Any:
    return MPIINF3DHP(str(root), num_workers=0, image_size=48, skeleton="muco21", **FRAME_OPTIONS).crops("train")


def test_videos_give_the_crops_of_extracted_frames(images: Path, videos: Path, tmp_path: Path) -> None:
    before = contents(videos)
    assert main(small(images, tmp_path / "a")) == 0
    assert main(small(videos, tmp_path / "b")) == 0
    one, other = crops(tmp_path / "a"), crops(tmp_path / "b")
    assert len(one) == len(other) == 10
    for index in range(10):
        first, second = one[index], other[index]
        assert all(first[key].equal(second[key]) for key in first.keys() - {"image"})
        assert (first["image"].float() - second["image"].float()).abs().mean() < 6
    assert contents(videos) == before
    assert not (tmp_path / "b" / FRAMES).exists()


def test_frames_are_numbered_as_the_labels_are(images: Path, videos: Path, tmp_path: Path) -> None:
    data = MPIINF3DHP(str(videos), train_subjects=["S1"], cameras=[2], **FRAME_OPTIONS)
    data.from_videos = True
    people: Any = with_frames(data.people("train"), videos, tmp_path / "out")
    names = [bytes(name).decode() for name in people.image]
    assert names == [f"S1/Seq1/imageSequence/img_2_{number:06d}.jpg" for number in (1, 2, 3, 4)]
    taken = [read_image(people.path(row)).astype(float) for row in range(4)]
    known = [read_image(images / name).astype(float) for name in names]
    apart = np.array([[np.abs(one - other).mean() for other in known] for one in taken])
    assert apart.argmin(1).tolist() == [0, 1, 2, 3]
    assert apart.diagonal().max() < 3


def test_frames_that_are_extracted_already_are_not_taken_from_the_video(images: Path, videos: Path) -> None:
    name = "S1/Seq1/imageSequence/img_0_000002.jpg"
    write_picture(videos / name, np.full((64, 64, 3), 255, np.uint8))
    data = MPIINF3DHP(str(videos), train_subjects=["S1"], **FRAME_OPTIONS)
    assert len(data.people("train")) == 1
    data = MPIINF3DHP(str(videos), train_subjects=["S1"], **FRAME_OPTIONS)
    data.from_videos = True
    people = data.people("train")
    assert len(people) == 8
    assert people.filmed.tolist() == [True, False, *[True] * 6]  # type: ignore[attr-defined]


def test_labels_beyond_the_end_of_a_video_are_skipped(
    videos: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in sorted((images / "S2/Seq1").glob("*/img_*_000002.jpg")):
        image.unlink()
    shutil.rmtree(videos / "S2")
    shutil.copytree(images / "S2", videos / "S2")
    film(videos / "S2" / "Seq1")
    assert main(small(videos, tmp_path / "out")) == 0
    assert "skipped in train: 1, such as: No image at" in capsys.readouterr().out
    assert len(crops(tmp_path / "out")) == 9


def test_videos_cannot_be_trained_from_and_damaged_ones_are_named(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PoseZooError, match="take them out with `posezoo prepare mpi_inf_3dhp --raw"):
        MPIINF3DHP(str(videos), **FRAME_OPTIONS).people("train")
    video = videos / "S1/Seq1/imageSequence/video_2.avi"
    video.write_bytes(video.read_bytes()[:300])
    said = last_error_of(capsys, small(videos, tmp_path / "out"))
    assert "video_2.avi" in said
    assert "download its archive again" in said


# --------------------------------------------------------------------------------------------------- composites


def command(raw: Path, out: Path, *options: str) -> list[str]:
    settings = ("images=3", "people=2", "frame_step=1", "min_motion=0", *options)
    chosen = itertools.chain.from_iterable(("--set", option) for option in settings)
    return ["prepare", "muco3dhp", "--raw", str(raw), "--root", str(out), "--workers", "0", *chosen]


def test_a_command_composes_what_muco_reads(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(muco_composition, "plan_composites")  # it is asked once, before
    out, raw = tmp_path / "muco", contents(images)
    assert main(command(images, out)) == 0
    assert "3 images of 2 people" in capsys.readouterr().out
    people = MuCo3DHP(str(out), skeleton="muco21").people("train")
    assert len(people) == 6
    made = contents(out)
    assert main(command(images, out)) == 0  # the same again: nothing is made
    assert "kept from an earlier run: 3" in capsys.readouterr().out
    assert contents(out) == made
    assert main(command(images, tmp_path / "other", "seed=1")) == 0
    assert contents(tmp_path / "other")["composites/000000.jpg"] != made["composites/000000.jpg"]
    assert contents(images) == raw
    small_images = ["--image-size", "32", "--workers", "0"]
    assert main(["prepare", "muco3dhp", "--raw", str(out), "--root", str(tmp_path / "small"), *small_images]) == 0
    assert "Prepared data" in MuCo3DHP(str(tmp_path / "small"), image_size=32).people("train").report()


def test_composites_come_from_videos_too(images: Path, videos: Path, tmp_path: Path) -> None:
    assert main(command(images, tmp_path / "a")) == 0
    assert main(command(videos, tmp_path / "b")) == 0
    assert not (tmp_path / "b" / FRAMES).exists()
    tables = [json.loads((tmp_path / name / "MuCo-3DHP.json").read_text()) for name in "ab"]
    for one, other in zip(*(table["annotations"] for table in tables), strict=True):
        assert abs(one.pop("visible_share") - other.pop("visible_share")) < 0.05  # the masks are compressed
        assert one == other
    one, other = (MuCo3DHP(str(tmp_path / name)).people("train") for name in "ab")
    for index in range(len(one)):
        apart = np.asarray(one.read(index).image).astype(float) - np.asarray(other.read(index).image)
        assert np.abs(apart).mean() < 8


def test_only_the_frames_that_are_used_are_taken_out(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    make = composites.make_composites

    def look(people: Any, out: Path, *args: Any, **keywords: Any) -> Any:
        found.extend(str(path.relative_to(out / FRAMES)) for path in (out / FRAMES).rglob("*.jpg"))
        return make(people, out, *args, **keywords)

    monkeypatch.setattr(composites, "make_composites", look)
    assert main(command(videos, tmp_path / "out", "images=1")) == 0
    table = json.loads((tmp_path / "out" / "MuCo-3DHP.json").read_text())
    sources = [row["source"] for row in table["annotations"]]
    kinds = ("imageSequence", "FGmasks", "ChairMasks")
    assert sorted(found) == sorted(s.replace("imageSequence", kind) for s in sources for kind in kinds)


def test_a_damaged_frame_costs_its_images_only(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(images, tmp_path / "whole", "images=8")) == 0
    table = json.loads((tmp_path / "whole" / "MuCo-3DHP.json").read_text())
    broken = table["annotations"][0]["source"]
    lost = {row["image_id"] for row in table["annotations"] if row["source"] == broken}
    assert len(lost) < 8
    (images / broken).write_bytes(b"no image")
    capsys.readouterr()
    assert main(command(images, tmp_path / "out", "images=8")) == 0
    assert f"skipped: {len(lost)} images, such as: {images / broken}" in capsys.readouterr().out
    kept = json.loads((tmp_path / "out" / "MuCo-3DHP.json").read_text())
    assert {row["id"] for row in kept["images"]} == set(range(8)) - lost
    assert len((tmp_path / "out" / "skipped.txt").read_text().splitlines()) == len(lost)
    assert len(MuCo3DHP(str(tmp_path / "out")).people("train")) == 2 * (8 - len(lost))


def test_mistakes_in_composing_are_one_sentence(
    images: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "composites have no imges; did you mean images" in last_error_of(capsys, command(images, out, "imges=3"))
    nobody = last_error_of(capsys, command(images, out, "people=0"))
    assert "--set people is a whole number, at least 1, got 0" in nobody
    assert "--set apart is a distance" in last_error_of(capsys, command(images, out, "apart=far"))
    assert "No 9 frames of one camera" in last_error_of(capsys, command(images, out, "people=9"))
    assert "has no subject 'S9'" in last_error_of(capsys, command(images, out, "train_subjects=[S9]"))
    assert "backgrounds" in last_error_of(capsys, command(images, out, f"backgrounds={tmp_path / 'gone'}"))
    assert not out.exists()
    (videos / "S1/Seq1/FGmasks/video_0.avi").unlink()
    shutil.rmtree(videos / "S2")
    said = last_error_of(capsys, command(videos, out, "cameras=[0]"))
    assert "No video at" in said
    assert "FGmasks" in said
    assert main(command(images, tmp_path / "mine")) == 0
    assert "holds another preparation" in last_error_of(capsys, command(images, tmp_path / "mine", "images=4"))
