"""`posezoo infer`: pictures, folders, videos and webcams in; files out; stopped runs go on; mistakes are sentences."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from inference_helpers import PHOTO

from posezoo.__main__ import main
from posezoo.people import People, load_people
from posezoo.pipeline import PosePipeline
from posezoo.sources import find_sources
from posezoo.testing import TINY, tiny_estimator
from posezoo.viz.video import VideoReader, VideoWriter

TIMES = [0.0, 0.04, 0.08, 0.2, 0.24, 0.28, 0.32]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    from posezoo.models import MeTRAbs
    from posezoo.zoo import save_model

    torch.manual_seed(0)
    return str(save_model(tiny_estimator(MeTRAbs), tmp_path_factory.mktemp("weights")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them damaged, and a video."""
    root = tmp_path / "in"
    root.mkdir()
    cv2.imwrite(str(root / "a.jpg"), PHOTO)
    cv2.imwrite(str(root / "a.png"), PHOTO[:50])
    (root / "empty.jpg").touch()
    write_video(root / "walk.mp4")
    return root


def write_video(path: Path) -> Path:
    with VideoWriter(path, 25) as writer:
        for number, time in enumerate(TIMES):
            writer.write(np.roll(PHOTO, 3 * number, 1), time)
    return path


@pytest.fixture
def infer(weights: str, tmp_path: Path) -> Any:
    def run(*words: Any, out: str = "out") -> int | None:
        options = ["--model", weights, "--detector", "none", "--device", "cpu", "--out", str(tmp_path / out)]
        return main(["infer", *(str(word) for word in words), *options])

    return run


def test_a_folder_of_everything(infer: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(folder, "--format", "json,npz,csv", "--html", "--skeleton", "coco17") == 1
    captured = capsys.readouterr()
    assert captured.out == f"Found 9 poses in 9 pictures; wrote them to {tmp_path / 'out'}.\n"
    assert "left out: " in captured.err
    assert "empty.jpg is not a readable image" in captured.err
    written = {path.name for path in (tmp_path / "out").iterdir()}
    stems = {"a_jpg", "a_png", "walk"}
    expected = {f"{stem}.{suffix}" for stem in stems for suffix in ("json", "npz", "csv", "html")}
    assert written == expected | {"a_jpg.png", "a_png.png", "walk.mp4"}
    people = People.load(tmp_path / "out" / "a_jpg.json")
    assert people.skeleton.name == "coco17"
    assert people.size == (120, 90)
    picture = cv2.imread(str(tmp_path / "out" / "a_jpg.png"))
    assert picture.shape[:2] == (540, 720 + 1080)


def test_a_video_keeps_its_times_and_follows_people(infer: Any, folder: Path, tmp_path: Path) -> None:
    assert infer(folder / "walk.mp4", "--format", "json,csv") == 0
    frames = load_people(tmp_path / "out" / "walk.json")
    assert [people.frame for people in frames] == list(range(7))
    np.testing.assert_allclose([people.time for people in frames], TIMES, atol=1e-3)
    assert {int(number) for people in frames for number in people.ids} == {1}
    with VideoReader(tmp_path / "out" / "walk.mp4") as drawn:
        shown = list(drawn.frames())
    np.testing.assert_allclose([frame.time for frame in shown], TIMES, atol=1e-3)
    assert shown[0].image.shape[0] > 540
    assert not list((tmp_path / "out").glob(".*")), "the record of a finished video is removed"
    rows = (tmp_path / "out" / "walk.csv").read_text().splitlines()
    assert rows[1 + 17].startswith("1,0.040000,0,1,pelvis,")

    assert infer(folder / "walk.mp4", "--every", 3, "--no-smooth", "--no-pictures", out="few") == 0
    few = load_people(tmp_path / "few" / "walk.json")
    assert [people.frame for people in few] == [0, 3, 6]
    assert {path.name for path in (tmp_path / "few").iterdir()} == {"walk.json"}


def test_frames_that_nobody_asked_for_are_not_made_into_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posezoo.viz import video

    with VideoReader(folder / "walk.mp4") as reader:
        all_frames = list(reader.frames())
    made: list[float] = []
    upright = video._upright
    monkeypatch.setattr(video, "_upright", lambda decoded: made.append(decoded.time) or upright(decoded))
    with VideoReader(folder / "walk.mp4") as reader:
        some = list(reader.frames(1, every=3))
    assert [(frame.number, frame.time) for frame in some] == [(n, all_frames[n].time) for n in (3, 6)]
    assert len(made) == 2
    for frame in some:
        np.testing.assert_array_equal(frame.image, all_frames[frame.number].image)


def test_a_stopped_video_goes_on_and_gives_the_same(
    infer: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    infer(folder / "walk.mp4", "--no-pictures", "--batch", 2, out="whole")
    seen: list[int] = []
    original = PosePipeline.__call__

    def stopped(self: Any, images: Any, *args: Any, **keywords: Any) -> Any:
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.extend([0] * len(images))
        return original(self, images, *args, **keywords)

    monkeypatch.setattr(PosePipeline, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        infer(folder / "walk.mp4", "--no-pictures", "--batch", 2, out="parts")
    record = tmp_path / "parts" / ".walk.part.jsonl"
    assert len(record.read_text().splitlines()) == 1 + 4
    with record.open("a") as file:
        file.write('{"frame": 4, "peop')  # a line that was cut short
    seen.append(0)
    capsys.readouterr()
    assert infer(folder / "walk.mp4", "--no-pictures", "--batch", 2, out="parts") == 0
    assert "Going on with " in capsys.readouterr().out
    assert len(seen) == 5 + 3
    whole, parts = (json.loads((tmp_path / name / "walk.json").read_text()) for name in ("whole", "parts"))
    assert whole == parts
    assert not record.exists()


def test_a_record_of_other_settings_is_not_used(infer: Any, folder: Path, tmp_path: Path) -> None:
    record = tmp_path / "out" / ".walk.part.jsonl"
    record.parent.mkdir()
    record.write_text('{"key": "another"}\n{"frame": 5, "people": []}\n')
    assert infer(folder / "walk.mp4", "--no-pictures") == 0
    assert len(load_people(tmp_path / "out" / "walk.json")) == 7


def test_a_record_of_other_weights_in_the_same_file_is_not_used(
    infer: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run is stopped, its weights are trained further and saved again, and the same command is typed."""
    from posezoo.models import MeTRAbs
    from posezoo.zoo import save_model

    weights, asked = tmp_path / "mine", list[int]()
    original = PosePipeline.__call__

    def stopped(self: Any, images: Any, *args: Any, **keywords: Any) -> Any:
        asked.append(len(images))
        if sum(asked) == 4:
            raise KeyboardInterrupt
        return original(self, images, *args, **keywords)

    def command() -> int | None:
        words = [str(folder / "walk.mp4"), "--model", str(weights), "--detector", "none", "--device", "cpu"]
        return main(["infer", *words, "--no-pictures", "--batch", "2", "--out", str(tmp_path / "out")])

    torch.manual_seed(0)
    save_model(tiny_estimator(MeTRAbs), weights)
    monkeypatch.setattr(PosePipeline, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        command()
    save_model(tiny_estimator(MeTRAbs), weights)
    asked.clear()
    asked.append(100)
    assert command() == 0
    assert "Going on" not in capsys.readouterr().out
    assert sum(asked) == 100 + 7, "all seven frames are looked at again"


def test_boxes_and_cameras_by_name(infer: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": [[10, 10, 50, 60], [60, 5, 40, 80]]}))
    turn, shift = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], [1, 2, 3]
    camera = {"K": [[150, 0, 60], [0, 150, 40], [0, 0, 1]], "rotation": turn, "translation": shift}
    (tmp_path / "cameras.json").write_text(json.dumps({"*": camera}))
    words = [folder / "a.jpg", folder / "a.png"]
    given = ["--boxes", tmp_path / "boxes.json", "--cameras", tmp_path / "cameras.json"]
    assert infer(*words, *given, "--no-pictures") == 0
    first, second = (People.load(tmp_path / "out" / name) for name in ("a_jpg.json", "a_png.json"))
    assert (len(first), len(second)) == (2, 0)
    assert first.calibrated
    assert first.world().shape == (2, 17, 3)


class FakeCamera:
    """Five frames, then Ctrl-C or the end."""

    left = 5
    interrupt = False

    def __init__(self, index: int) -> None:
        self.index = index

    def isOpened(self) -> bool:
        return self.index == 0

    def get(self, _: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, Any]:
        if self.left == 0 and self.interrupt:
            raise KeyboardInterrupt
        self.left -= 1
        return self.left >= 0, PHOTO

    def release(self) -> None:
        pass


@pytest.mark.parametrize("interrupt", [False, True])
def test_a_webcam_until_it_ends(infer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: bool) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    monkeypatch.setattr(FakeCamera, "interrupt", interrupt)
    assert infer("0") == 0
    frames = load_people(tmp_path / "out" / "webcam0.json")
    assert len(frames) == 5
    assert all(b.time > a.time for a, b in pairwise(frames))  # type: ignore[operator]
    with VideoReader(tmp_path / "out" / "webcam0.mp4") as drawn:
        assert len(list(drawn.frames())) == 5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gone"], "there is no file or folder gone: give pictures, videos, folders"),
        (["gone.mp4"], "there is no video at gone.mp4"),
        (["7"], "there is no webcam 7"),
        (["{in}", "--format", "xml"], "there is no format 'xml'"),
        (["{in}", "--skeleton", "coco"], "Unknown skeleton 'coco'"),
        (["{in}", "--every", "0"], "--every must be at least 1"),
        (["{in}", "--runtime", "tensorrt"], "unknown runtime 'tensorrt': choose from torch, openvino"),
        (["{in}", "--precision", "bf16"], "unknown precision 'bf16': did you mean bfloat16?"),
        (["{in}", "--fov", "200"], "none of the 4 sources could be read"),
        (["{in}/a.jpg", "--fov", "200"], "between 0 and 180 degrees, got 200"),
        (["{in}", "--fov", "50", "--cameras", "x.json"], "not both"),
        (["{in}", "--boxes", "x.json"], "--boxes is for pictures"),
        (["{in}/a.jpg", "--boxes", "gone.json"], "no file gone.json"),
        (["{in}/empty.jpg"], "empty.jpg is not a readable image"),
        (["{in}/noise.mp4"], "noise.mp4 is not a readable video"),
        (["{in}/zero.mp4"], "zero.mp4 is not a readable video"),
        (["{in}/sound.wav.mp4"], "has sound but no pictures"),
        (["{in}/a.jpg", "--up", "0", "0", "0"], "up is a direction"),
        (["{in}/a.jpg", "--foo"], "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_sentence(
    infer: Any, folder: Path, words: list[str], sentence: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "zero.mp4").touch()
    write_sound(folder / "sound.wav.mp4")
    if words[0] == "{in}":
        for name in ("noise.mp4", "zero.mp4", "sound.wav.mp4"):
            (folder / name).unlink()
    assert infer(*(word.replace("{in}", str(folder)) for word in words)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("posezoo: error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]


def write_sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def test_a_video_without_frames_and_one_that_breaks_off(
    infer: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import av

    with av.open(str(folder / "none.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
        container.mux(stream.encode(None))
    assert infer(folder / "none.avi") == 2
    assert "none.avi is a video without frames" in capsys.readouterr().err

    with av.open(str(folder / "torn.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 120, 90, "yuvj420p"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.roll(PHOTO, number, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = (folder / "torn.avi").read_bytes()
    (folder / "torn.avi").write_bytes(content[: len(content) * 2 // 3])
    assert infer(folder / "torn.avi", "--no-pictures") == 0
    assert 1 <= len(load_people(tmp_path / "out" / "torn.json")) < 8


def test_sources_have_names_of_their_own(folder: Path) -> None:
    sources = find_sources([str(folder), "0"])
    assert [(s.kind, s.name, s.stem) for s in sources] == [
        ("video", "walk.mp4", "walk"),
        ("picture", "a.jpg", "a_jpg"),
        ("picture", "a.png", "a_png"),
        ("picture", "empty.jpg", "empty"),
        ("webcam", "0", "webcam0"),
    ]
    twice = find_sources([str(folder / "a.jpg"), str(folder / "a.jpg")])
    assert len({source.stem for source in twice}) == 2
    assert [s.name for s in find_sources([str(folder / "*.mp4")])] == ["walk.mp4"]


def test_infer_imports_neither_lightning_nor_torchmetrics(weights: str, folder: Path, tmp_path: Path) -> None:
    """In a fresh process, with everything it can write."""
    heavy = ("pytorch_lightning", "lightning_fabric", "torchmetrics", "transformers", "wandb", "albumentations",
             "matplotlib", "jsonargparse")  # fmt: skip
    words = ["infer", str(folder / "a.jpg"), str(folder / "walk.mp4"), "--model", weights, "--detector", "none"]
    words += ["--out", str(tmp_path / "out"), "--html", "--device", "cpu"]
    printed = in_fresh_process(f"""
        import sys
        from posezoo.__main__ import main
        assert main({words!r}) == 0
        print("@", [name for name in {heavy!r} if name in sys.modules])
    """)
    assert printed.rpartition("@ ")[2].strip() == "[]"


def test_models_without_lightning_predict_the_same(tmp_path: Path) -> None:
    """Released weights of every method, and a checkpoint: with Lightning here, without it in a fresh process."""
    import posezoo.models as models
    from posezoo.testing import synthetic_batch
    from posezoo.zoo import save_model

    expected, paths = {}, {}
    for name in ("MeTRAbs", "HEMlets", "IntegralPose", "PartAware"):
        torch.manual_seed(1)
        model = tiny_estimator(getattr(models, name)).eval()
        paths[name] = str(save_model(model, tmp_path / name))
        batch = synthetic_batch(1, model.skeleton.name, model.image_size)
        with torch.no_grad():
            expected[name] = model.predict_step(batch, 0).joints3d.numpy()
    checkpoint = {
        "state_dict": models.MeTRAbs(**TINY).state_dict(),
        "hyper_parameters": TINY | {"_class_path": "posezoo.models.MeTRAbs", "optimizer": None},
    }
    torch.save(checkpoint, tmp_path / "a.ckpt")
    np.savez(tmp_path / "expected.npz", **expected)  # type: ignore[arg-type]
    done = in_fresh_process(f"""
        import sys, numpy as np, torch
        from posezoo.light import import_models_to_predict
        assert import_models_to_predict()
        from posezoo.zoo import load_model
        models = {{name: load_model(path) for name, path in {paths!r}.items()}}
        load_model({str(tmp_path / "a.ckpt")!r})
        assert "pytorch_lightning" not in sys.modules and "torchmetrics" not in sys.modules
        from posezoo.testing import synthetic_batch
        with np.load({str(tmp_path / "expected.npz")!r}) as expected, torch.no_grad():
            for name, model in models.items():
                batch = synthetic_batch(1, model.skeleton.name, model.image_size)
                found = model.predict_step(batch, 0).joints3d.numpy()
                np.testing.assert_allclose(found, expected[name], atol=0.05, err_msg=name)
        try:
            models["MeTRAbs"].total_steps()
        except Exception as error:
            print("@", error)
    """)
    assert "imported posezoo to predict: train in another one" in done


def in_fresh_process(code: str) -> str:
    """What a Python process of its own prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONSAFEPATH": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
