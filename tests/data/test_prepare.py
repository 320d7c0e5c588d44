"""Prepared data: the same batches but for a little loss of pixels, work that goes on, and mistakes in one sentence."""

import errno
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from bad_input_helpers import image_path, truncate, write_h36m
from tests_cli_helpers import last_error_of

from posezoo.__main__ import main
from posezoo.data import COCO, MPIINF3DHP, Human36M, OrdinalDepth
from posezoo.data.base import CropDataset, PoseDataModule
from posezoo.data.crop import Augmentation
from posezoo.data.images import ImageFile, read_image
from posezoo.data.prepare import build, video
from posezoo.data.prepare.build import SPLITS, file_name, prepare
from posezoo.data.prepare.layout import INDEX, Settings
from posezoo.errors import PoseZooError

SIZE = 32
ARGUMENTS = ("--image-size", str(SIZE), "--workers", "0", "--set", "box_scale=1.0")


def smooth(root: Path, count: int) -> None:
    """Images with something to see in place of noise, with which no loss is small."""
    rng = np.random.default_rng(2)
    for number in range(count):
        coarse = rng.integers(0, 256, (9, 9, 3), np.uint8)
        pixels = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(image_path(root, number)), pixels, [cv2.IMWRITE_JPEG_QUALITY, 98])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = write_h36m(tmp_path / "raw", 5)
    smooth(root, 5)
    return root


def command(raw: Path, root: Path, *more: str, name: str = "human36m") -> list[str]:
    return ["prepare", name, "--raw", str(raw), "--root", str(root), *ARGUMENTS, *more]


def module(root: Path, **keywords: Any) -> Human36M:
    return Human36M(str(root), **{"num_workers": 0, "batch_size": 2, "image_size": SIZE, "box_scale": 1.0, **keywords})


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(10 * torch.log10(255**2 / ((one.double() - other.double()) ** 2).mean()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------------------- the same batches


@pytest.mark.parametrize("kind", ["look_at", "image_plane"])
def test_training_sees_the_same_crops(kind: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(raw, tmp_path / "out")) == 0
    assert "train: 5 people" in capsys.readouterr().out
    augmentation = Augmentation(occlusion=0, colour=False)
    before, after = (module(root, crop=kind, augmentation=augmentation) for root in (raw, tmp_path / "out"))
    decibels = []
    for index in range(5):
        for draw in range(6):
            one, other = (data.crops("train")[index, draw] for data in (before, after))
            decibels.append(psnr(one.pop("image"), other.pop("image")))
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)  # no joint moves by anything
    assert min(decibels) > 30
    assert np.median(decibels) > 34


def test_everything_that_is_said_of_the_samples_is_kept(raw: Path, tmp_path: Path) -> None:
    assert main(command(raw, tmp_path / "out")) == 0
    before, after = module(raw), module(tmp_path / "out")
    assert after.people("val") is after.people("test")
    for split in SPLITS:
        one, other = before.people(split), after.people(split)
        assert before.protocol(split) == after.protocol(split)
        assert before.annotation(split) == after.annotation(split)
        meta, original = other.meta(3), one.meta(3)
        assert meta.pop("original") == original.pop("path")
        assert Path(meta.pop("path")).is_file()
        assert meta == original
        assert one.groups()[1] == other.groups()[1]  # type: ignore[index]
        np.testing.assert_array_equal(one.groups()[0], other.groups()[0])  # type: ignore[index]
        for name, value in vars(one.records()).items():
            if value is not None:
                np.testing.assert_array_equal(getattr(other.records(), name), value)
    after.setup("fit")
    pose, known = after.mean_pose(), before.mean_pose()
    assert torch.equal(pose, known)  # type: ignore[arg-type]
    assert "Prepared data" in after.people("train").report()
    with pytest.raises(PoseZooError, match="holds the prepared splits train, val, test, not 'predict'"):
        after.people("predict")


def test_the_part_that_is_kept_is_where_crops_reach_and_no_more(tmp_path: Path) -> None:
    root = write_h36m(tmp_path / "raw", 1, lambda arrays: arrays.update(scale=np.full(1, 0.05)))  # a box of 10 px
    assert main(command(root, tmp_path / "out")) == 0
    people = module(tmp_path / "out").people("train")
    sample = people.read(0)
    assert isinstance(sample.image, ImageFile)
    assert sample.size == (64, 64)
    width = sample.image.decode().shape[1] * sample.image.step[0]
    assert 10 * 1.9 <= width <= 10 * 1.9 + 12  # 20 degrees, zoom 0.75, shift 0.1, and a rim
    crops = CropDataset(people, module(tmp_path / "out").spec, Augmentation(occlusion=0, colour=False))
    assert all(bool(crops[0, draw]["image"].float().mean((0, 1)).gt(0).all()) for draw in range(20))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("kind", "folder", "split", "least"),
    [
        (Human36M, "h36m", "test", 43),
        (MPIINF3DHP, "mpi_inf_3dhp", "test", 40),
        (COCO, "coco", "val", 31),
        (OrdinalDepth, "format_mimics/lsp_mpii_ordinal/mpii_upis1h", "train", 38),
    ],
)
def test_real_images_keep_their_crops(
    kind: type[PoseDataModule], folder: str, split: str, least: float, shared: Path, tmp_path: Path
) -> None:
    """Of every crop, also of people who are smaller than the crop, whose JPEG artefacts are enlarged with them."""
    before = kind(str(shared / "data" / folder), num_workers=0)
    report = prepare(before, tmp_path / "out", Settings())
    assert min(report.decibels) > least
    for skeleton in ("h36m17", "hemlets18", "mpii16"):  # annotated depth order is on the model's parts
        before = kind(str(shared / "data" / folder), num_workers=0, skeleton=skeleton, crop="image_plane")
        after = kind(str(tmp_path / "out"), num_workers=0, skeleton=skeleton, crop="image_plane")
        for index in range(len(before.people(split))):
            one, other = before.crops(split).labels(index), after.crops(split).labels(index)
            sizes = before.people(split).read(index).size, after.people(split).read(index).size
            assert sizes[0] == sizes[1]
            assert all(torch.equal(one[key], other[key]) for key in one)
        assert before.protocol(split) == after.protocol(split)


# ------------------------------------------------------------------------------------------------ going on


def test_an_interrupted_run_goes_on(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(command(raw, tmp_path / "whole")) == 0
    encode, left = build.encode_tiled, iter(range(3))

    def interrupted(*args: Any, **keywords: Any) -> bytes:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return encode(*args, **keywords)

    monkeypatch.setattr(build, "encode_tiled", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(command(raw, tmp_path / "out"))
    monkeypatch.undo()
    assert not (tmp_path / "out" / INDEX).exists()
    written = list((tmp_path / "out").rglob("*.jpg"))
    assert len(written) == 3
    truncate(written[0])  # as a machine that lost power may leave it
    report = prepare(module(raw), tmp_path / "out", Settings(image_size=SIZE))
    assert report.kept == 2
    assert {k: v for k, v in contents(tmp_path / "out").items() if k.endswith("jpg")} == {
        k: v for k, v in contents(tmp_path / "whole").items() if k.endswith("jpg")
    }
    assert not [name for name in contents(tmp_path / "out") if "tmp" in name]


def test_processes_make_the_same_files(raw: Path, tmp_path: Path) -> None:
    alone = prepare(module(raw), tmp_path / "a", Settings(image_size=SIZE))
    helped = prepare(module(raw), tmp_path / "b", Settings(image_size=SIZE), workers=1)
    assert alone == helped
    assert {k: v for k, v in contents(tmp_path / "a").items() if k.endswith("jpg")} == {
        k: v for k, v in contents(tmp_path / "b").items() if k.endswith("jpg")
    }


def test_what_cannot_be_read_is_skipped_and_listed(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(image_path(raw, 1))
    image_path(raw, 3).unlink()
    assert main(command(raw, tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "train: 3 people" in said
    assert "skipped in train: 1, such as: No image at" in said
    lines = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert len(lines) == 4  # of both sets
    assert str(image_path(raw, 1)) in lines[0]
    people = module(tmp_path / "out").people("train")
    assert [people.meta(row)["frame"] for row in range(len(people))] == [1, 3, 5]
    assert people.frame.tolist() == [1, 3, 5]  # type: ignore[attr-defined]
    assert "2 could not be prepared" in people.report()


# ------------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_one_sentence_and_nothing_is_lost(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = tmp_path / "out", contents(raw)
    assert "there is no dataset 'human37m' to prepare: did you mean Human36M" in last_error_of(
        capsys, command(raw, out, name="human37m")
    )
    assert "There is no folder" in last_error_of(capsys, command(tmp_path / "gone", out))
    assert "needs --raw FOLDER" in last_error_of(capsys, ["prepare", "human36m", "--root", str(out)])
    said = last_error_of(capsys, command(tmp_path, tmp_path / "other"))
    assert "is no folder of Human3.6M" in said
    assert "set --raw" in said  # and not the option of a training
    assert "holds other files" in last_error_of(capsys, command(raw, raw))
    assert "box_scal" in last_error_of(capsys, command(raw, out, "--set", "box_scal=1"))
    assert "--set takes NAME=VALUE" in last_error_of(capsys, command(raw, out, "--set", "1"))
    assert "--quality between 1 and 100" in last_error_of(capsys, command(raw, out, "--quality", "0"))
    assert "--data.augmentation.zoom must be" in last_error_of(capsys, command(raw, out, "--zoom", "2", "1"))
    occupied = tmp_path / "occupied"
    occupied.write_text("mine")
    assert "cannot be written" in last_error_of(capsys, command(raw, occupied))
    assert occupied.read_text() == "mine"
    assert contents(raw) == before


def test_a_full_disk_is_said_and_can_be_gone_on_from(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = build.write_whole, []

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(build, "write_whole", full)
    assert "is full: make room and type the same command again" in last_error_of(capsys, command(raw, tmp_path / "out"))
    monkeypatch.undo()
    assert main(command(raw, tmp_path / "out")) == 0


def test_another_preparation_is_never_mixed_in(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(command(raw, out)) == 0
    assert main(command(raw, out)) == 0  # the same again is fine
    before = contents(out)
    assert "holds another preparation (its settings is" in last_error_of(capsys, command(raw, out, "--quality", "80"))
    assert "holds another preparation (its arguments is" in last_error_of(
        capsys, command(raw, out, "--set", "box_scale=1.5")
    )
    assert "is prepared already" in last_error_of(capsys, command(out, tmp_path / "twice"))
    assert contents(out) == before


def test_a_model_that_needs_more_than_was_prepared_is_refused(raw: Path, tmp_path: Path) -> None:
    assert main(command(raw, tmp_path / "out")) == 0

    def refused(sentence: str, **keywords: Any) -> None:
        with pytest.raises(PoseZooError, match=sentence):
            module(tmp_path / "out", **keywords).people("train")

    refused("the model's crops have 64 px: prepare it again with --image-size 64", image_size=64)
    refused("the model's box is 'pelvis_2000mm': prepare it again with --box pelvis_2000mm", box="pelvis_2000mm")
    refused("rolls farther: prepare it again with --roll 30", augmentation=Augmentation(roll=30))
    refused("rolls farther: prepare it again with --roll 180", augmentation=Augmentation(full_roll=0.1))
    refused("zooms farther out: prepare it again with --zoom 0.5", augmentation=Augmentation(zoom=(0.5, 1)))
    refused("shifts farther: prepare it again with --shift 0.2", augmentation=Augmentation(shift=0.2))
    refused("prepared with box_scale=1.0, but --data.box_scale is 2", box_scale=2.0)
    with pytest.raises(PoseZooError, match="holds prepared Human36M: type --data Human36M"):
        COCO(str(tmp_path / "out"), image_size=SIZE).people("val")


@pytest.mark.parametrize("content", [b"", b"PK", b"text"])
def test_a_damaged_index_is_named(content: bytes, raw: Path, tmp_path: Path) -> None:
    assert main(command(raw, tmp_path / "out")) == 0
    (tmp_path / "out" / INDEX).write_bytes(content)
    with pytest.raises(PoseZooError, match=r"prepared\.npz cannot be read .* prepare it again"):
        module(tmp_path / "out").people("train")


def test_an_index_without_its_images(raw: Path, tmp_path: Path) -> None:
    assert main(command(raw, tmp_path / "out")) == 0
    (tmp_path / "out" / file_name("train", 2)).unlink()
    with pytest.raises(PoseZooError, match=r"No image at .*0000002\.jpg"):
        list(module(tmp_path / "out", batch_size=5, on_bad_image="raise").train_dataloader())
    (tmp_path / "out" / "people").rename(tmp_path / "moved")
    with pytest.raises(PoseZooError, match="copy all of the prepared folder"):
        module(tmp_path / "out").setup("fit")


# --------------------------------------------------------------------------------------------------- videos


def write_video(path: Path, count: int, size: tuple[int, int] = (64, 48)) -> Path:
    """Frames whose grey level is 10 times their number."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=50)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            pixels = np.full((size[1], size[0], 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_frames_of_a_video_are_the_ones_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 12)
    wanted = {number: tmp_path / "frames" / f"{number}.jpg" for number in (0, 5, 11, 30)}
    video.extract(path, wanted)
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == ["0.jpg", "11.jpg", "5.jpg"]
    for number in (0, 5, 11):
        pixels = read_image(wanted[number])
        assert pixels.shape == (48, 64, 3)
        assert abs(pixels.mean() - 10 * number) < 3
    monkeypatch.setattr(video, "decode", lambda path: pytest.fail("nothing is wanted"))
    video.extract(path, {})


def test_videos_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PoseZooError, match=r"No video at .*gone\.mp4: unpack"):
        video.extract(tmp_path / "gone.mp4", {0: tmp_path / "0.jpg"})
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video")
    with pytest.raises(PoseZooError, match=r"damaged\.mp4 is damaged"):
        video.extract(damaged, {0: tmp_path / "0.jpg"})


@pytest.mark.shared_data
def test_official_videos_become_prepared_people(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    raw = tmp_path / "raw"
    shutil.copytree(shared / "data" / "format_mimics" / "h36m_official", raw)
    shutil.copy(shared / "data" / "h36m" / "Release-v1.2" / "metadata.xml", raw / "metadata.xml")
    for serial in ("54138969", "55011271"):
        write_video(raw / "S9" / "Videos" / f"Posing 1.{serial}.mp4", 22, (1000, 1002))
    out = tmp_path / "out"
    arguments = ["prepare", "human36m", "--raw", str(raw), "--root", str(out), "--workers", "0"]
    assert main([*arguments, "--set", "eval_every=20"]) == 0, capsys.readouterr().err
    assert "no train:" in capsys.readouterr().out
    data = Human36M(str(out), num_workers=0, eval_every=20)
    crops = data.crops("test")
    greys = {
        (data.meta(row)["camera"], data.meta(row)["frame"]): crops[row]["image"].float() for row in range(len(crops))
    }
    assert len(greys) == 4
    for (_, frame), image in greys.items():
        assert abs(float(image[:, 128, 128].mean()) - 10 * (frame - 1)) < 4
    assert not (out / "frames").exists()
    assert json.loads((out / "preparation.json").read_text())["dataset"] == "Human36M"
