"""Weights: saved, fetched and loaded again bit for bit, and every way to get it wrong is one sentence."""

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from safetensors.torch import save_file
from torch import nn

import posezoo
from posezoo import fetch, zoo
from posezoo.__main__ import main
from posezoo.errors import PoseZooError
from posezoo.models import MeTRAbs
from posezoo.release import (
    BUNDLE_LIMIT,
    Facts,
    check_golden,
    entry_of,
    entry_toml,
    measurements,
    register,
    release,
    write_golden,
)
from posezoo.testing import synthetic_batch
from posezoo.zoo import CONFIG_FILE, WEIGHTS_FILE, Measurement, Weights, catalogue, list_weights, load_model, save_model


class Tiny(LightningModule):
    """Two layers that share one tensor, a buffer, and the hyperparameters that estimators have."""

    def __init__(
        self,
        width: int = 4,
        skeleton: str = "h36m17",
        backbone_weights: str | None = None,
        optimizer: Any = None,
        sizes: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if backbone_weights is not None:
            raise RuntimeError("loading must not fetch the backbone's weights")
        self.first = nn.Linear(width, width)
        self.tied = nn.Linear(width, width)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(width)


class NotAModel:
    pass


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    model = Tiny(width=6, sizes=[1, 2])
    model.norm.running_mean.uniform_()
    return model


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    return save_model(tiny, tmp_path / "weights" / "tiny")


def entry(folder: Path, source: str | None = None, name: str = "tiny_w6.v1") -> Weights:
    checksum = hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
    scores = Measurement("nothing, n=0", "none", {"MPJPE (mm)": 1.0})
    size = (folder / "model.safetensors").stat().st_size
    return Weights(
        name=name,
        architecture="Tiny",
        parameters=1,
        source=source or str(folder),
        sha256=checksum,
        size=size,
        skeleton="h36m17",
        preprocessing="none",
        recipe="-",
        data="nothing",
        licence="CC0-1.0",
        command="none",
        metrics=(scores,),
    )


def use(monkeypatch: pytest.MonkeyPatch, *entries: Weights) -> None:
    """Let these be the catalogue."""
    known = {one.name: one for one in entries}
    monkeypatch.setattr(zoo, "catalogue", lambda: known)
    for module in ("describe", "download"):
        monkeypatch.setattr(f"posezoo.commands.{module}.catalogue", lambda: known)


def error_of(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    capsys.readouterr()
    assert main(args) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("posezoo: error: ")
    return message


def test_weights_come_back_bit_for_bit_in_evaluation_mode(tiny: Tiny, folder: Path) -> None:
    loaded = posezoo.load_model(folder)

    assert type(loaded) is Tiny
    assert not loaded.training
    assert loaded.hparams["width"] == 6
    assert loaded.hparams["sizes"] == [1, 2]
    assert loaded.tied.weight is loaded.first.weight
    expected = tiny.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_what_only_training_needs_is_not_saved(tmp_path: Path, tiny: Tiny) -> None:
    tiny.hparams["backbone_weights"] = "imagenet"
    tiny.hparams["optimizer"] = {"class_path": "torch.optim.AdamW"}
    tiny.hparams["_class_path"] = "somewhere.Else"

    folder = save_model(tiny, tmp_path / "new")

    document = json.loads((folder / "model.json").read_text())
    assert document["class_path"] == f"{Tiny.__module__}.Tiny"
    assert document["init_args"] == {"width": 6, "skeleton": "h36m17", "sizes": [1, 2]}
    assert load_model(folder).hparams["backbone_weights"] is None


def test_a_folder_written_by_hand_needs_no_checksum(tmp_path: Path) -> None:
    model = Tiny()
    state = {k: v for k, v in model.state_dict().items() if k != "tied.weight"}
    save_file(state, tmp_path / "model.safetensors")
    document = {"class_path": f"{Tiny.__module__}.Tiny", "init_args": {}}
    (tmp_path / "model.json").write_text(json.dumps(document))
    assert torch.equal(load_model(tmp_path).first.weight, model.first.weight)


def test_saving_again_replaces_the_pair_and_keeps_other_files(folder: Path) -> None:
    (folder / "README.md").write_text("card")
    torch.manual_seed(1)
    other = Tiny(width=3)

    save_model(other, folder)

    assert torch.equal(load_model(folder).first.weight, other.first.weight)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    assert all(p.stat().st_mode & 0o044 for p in folder.iterdir()), "others may read it"


def test_a_write_that_fails_leaves_the_old_pair(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_model(folder).first.weight

    def broken(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr("safetensors.torch.save_model", broken)
    with pytest.raises(PoseZooError, match=r"disk full.*make room"):
        save_model(Tiny(width=3), folder)

    assert torch.equal(load_model(folder).first.weight, before)
    assert len(list(folder.iterdir())) == 2


def test_hyperparameters_that_are_not_plain_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = Tiny()
    model.hparams["sizes"] = torch.zeros(2)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_model(model, tmp_path / "new")
    assert not list((tmp_path / "new").glob("*"))


def test_a_pair_that_does_not_belong_together_is_noticed(folder: Path) -> None:
    save_file({"a": torch.zeros(1000)}, folder / "model.safetensors")
    with pytest.raises(PoseZooError, match=r"does not belong to its model\.json"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"class_path": "posezoo.nothing.Here"},
            "need the class posezoo.nothing.Here, which this posezoo lacks",
        ),
        ({"class_path": "Here"}, "neither of posezoo nor of an installed plug-in"),
        ({"class_path": "antigravity.Here"}, "neither of posezoo nor of an installed plug-in"),
        ({"init_args": {"breadth": 5}}, "has arguments that Tiny does not take"),
        ({"init_args": None}, "is damaged or not of posezoo"),
        ({"class_path": f"{__name__}.NotAModel"}, "which is not a model"),
        ({"init_args": {"width": 5}}, "does not fit"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(folder: Path, change: dict[str, Any], sentence: str) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(PoseZooError, match=sentence) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_folder_without_one_of_the_two_says_which(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(PoseZooError, match=f"has no {file}"):
        load_model(folder)


def test_a_checkpoint_of_a_run_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16)
    loaded = load_model(save_checkpoint(model, tmp_path / "last.ckpt"))

    assert isinstance(loaded, MeTRAbs)
    assert not loaded.training
    assert loaded.hparams["stride"] == 16
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_release_folder_predicts_what_the_model_did(tmp_path: Path) -> None:
    model = MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16).eval()
    batch = synthetic_batch()
    loaded = load_model(save_model(model, tmp_path / "release"))

    assert torch.equal(loaded.predict_step(batch, 0).joints3d, model.predict_step(batch, 0).joints3d)


def save_checkpoint(model: LightningModule, path: Path) -> Path:
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", barebones=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    text, weights = tmp_path / "text.ckpt", tmp_path / "state.pt"
    text.write_text("hello")
    torch.save({"weight": torch.zeros(1)}, weights)
    for path in (text, weights):
        with pytest.raises(PoseZooError, match=r"cannot be read|not a Lightning checkpoint") as error:
            load_model(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["nowhere.ckpt", "no/such/folder", Path("runs") / "x"])
def test_a_missing_file_is_one_sentence(path: str | Path) -> None:
    with pytest.raises(PoseZooError, match=f"no file or folder '{path}'"):
        load_model(path)


def test_an_unknown_name_names_the_nearest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, entry(folder, name="metrabs_r18.synthetic_v1"))
    with pytest.raises(PoseZooError, match=r"unknown weights 'metrabs_r18': did you mean metrabs_r18.synthetic_v1\?"):
        load_model("metrabs_r18")
    use(monkeypatch)
    with pytest.raises(PoseZooError, match="there are none yet"):
        load_model("metrabs_r18")


def test_weights_are_listed_by_pattern(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, *(entry(folder, name=name) for name in ("metrabs_b.x", "hemlets_a.x", "metrabs_a.x")))
    assert posezoo.list_weights() == ["hemlets_a.x", "metrabs_a.x", "metrabs_b.x"]
    assert list_weights("metrabs*") == ["metrabs_a.x", "metrabs_b.x"]
    assert list_weights("Metrabs*") == []


def test_a_catalogue_name_is_loaded_and_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = entry(folder)
    use(monkeypatch, known)
    assert load_model("tiny_w6.v1").hparams["width"] == 6

    (folder / "model.json").write_text((folder / "model.json").read_text() + "\n")
    with pytest.raises(PoseZooError, match="not what the catalogue describes"):
        load_model("tiny_w6.v1")


def test_half_files_and_files_instead_of_folders(folder: Path, tmp_path: Path) -> None:
    assert load_model(folder / "model.safetensors").hparams["width"] == 6
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:100])
    with pytest.raises(PoseZooError, match=rf"is a half file \(100 of {len(whole)} bytes\)"):
        load_model(folder)
    (folder / "model.json").write_text('{"class_path": ')
    with pytest.raises(PoseZooError, match=r"model.json is damaged"):
        load_model(folder)


def test_a_malicious_pickle_never_runs(tmp_path: Path, folder: Path) -> None:
    canary = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch '{canary}'",)

    for name in ("evil.ckpt", "evil.pt", "model.safetensors"):
        for content in (Evil(), {"state_dict": Evil(), "posezoo_class": "posezoo.models.MeTRAbs"}):
            path = (folder if name == "model.safetensors" else tmp_path) / name
            path.write_bytes(pickle.dumps(content))
            with pytest.raises(PoseZooError):
                load_model(path)
            torch.save(content, path)
            with pytest.raises(PoseZooError):
                load_model(path)
    assert not canary.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PoseZooError, match="mend its permissions"):
        save_model(tiny, tmp_path / "locked" / "new")


def test_a_file_in_the_way_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PoseZooError, match="choose another folder"):
        save_model(tiny, tmp_path / "file" / "new")


# ----------------------------------------------------------------------------------------------- half precision


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16).eval()
    full, half = save_model(model, tmp_path / "full"), save_model(model, tmp_path / "half", dtype="float16")

    assert (half / WEIGHTS_FILE).stat().st_size < 0.6 * (full / WEIGHTS_FILE).stat().st_size
    loaded = load_model(half)
    for name, tensor in loaded.state_dict().items():
        expected = model.state_dict()[name]
        assert tensor.dtype == expected.dtype
        rounded = expected.half().float() if tensor.ndim >= 2 else expected
        assert torch.equal(tensor, rounded), name
    assert next(model.parameters()).dtype == torch.float32, "the model itself stays as it is"


def test_tied_layers_stay_tied_in_half_precision(tiny: Tiny, tmp_path: Path) -> None:
    loaded: Any = load_model(save_model(tiny, tmp_path / "half", dtype="float16"))
    assert loaded.tied.weight is loaded.first.weight
    assert torch.equal(loaded.norm.running_mean, tiny.norm.running_mean)


def test_values_beyond_half_precision_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    tiny.first.weight.data[0, 0] = 1e6
    with pytest.raises(PoseZooError, match=r"first.weight has values beyond float16"):
        save_model(tiny, tmp_path / "half", dtype="float16")
    with pytest.raises(PoseZooError, match="float32 or float16, not 'int8'"):
        save_model(tiny, tmp_path / "half", dtype="int8")  # type: ignore[arg-type]
    assert not (tmp_path / "half").exists()


def test_folders_and_caches_of_one_machine_are_not_saved(tiny: Tiny, tmp_path: Path) -> None:
    inner = {"class_path": "B", "init_args": {"root": "/here", "cache": True, "preset": "full"}}
    data = {"class_path": "A", "init_args": {"num_workers": 4, "sources": [inner], "batch_size": 2}}
    document = json.loads((save_model(tiny, tmp_path / "x", data=data) / "model.json").read_text())
    kept = [{"class_path": "B", "init_args": {"preset": "full"}}]
    assert document["data"] == {"class_path": "A", "init_args": {"sources": kept, "batch_size": 2}}


# ------------------------------------------------------------------------------------------------------- network


class Server:
    """A web server for a folder, with HTTP ranges; `cut` answers end after so many bytes, the first `cuts` times."""

    def __init__(self, root: Path) -> None:
        self.root, self.requests = root, list[tuple[str, str | None]]()
        self.cut, self.cuts, self.ranges = 0, 0, True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def do_HEAD(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, request: Any) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        path = self.root / request.path.lstrip("/").replace("org/name/resolve/abc123/", "")
        if not path.is_file():
            request.send_error(404)
            return
        data = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-").split("-")[0]) if wanted and self.ranges else 0
        if start >= len(data):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        request.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        request.send_header("X-Repo-Commit", "abc123")
        request.end_headers()
        if request.command == "HEAD":
            return
        body = data[start:]
        if self.cuts > 0 and path.name == WEIGHTS_FILE:
            self.cuts -= 1
            body = body[: self.cut]
        request.wfile.write(body)


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("POSEZOO_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("POSEZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    server = Server(folder)
    use(monkeypatch, entry(folder, server.url))
    yield server
    server.http.shutdown()


def cached(tmp_path: Path) -> Path:
    return tmp_path / "home" / "weights" / "tiny_w6.v1"


def test_weights_are_fetched_once(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_model("tiny_w6.v1").hparams["width"] == 6
    assert "Fetching tiny_w6.v1" in capsys.readouterr().err
    assert [path for path, _ in server.requests] == ["/model.json", "/model.safetensors"]
    load_model("tiny_w6.v1")
    assert len(server.requests) == 2
    assert capsys.readouterr().err == ""
    assert sorted(p.name for p in cached(tmp_path).iterdir() if p.name != ".lock") == [CONFIG_FILE, WEIGHTS_FILE]


def test_an_interrupted_download_goes_on_where_it_stopped(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cut, server.cuts = 100, fetch.ATTEMPTS
    assert "type the same again to go on" in error_of(capsys, ["download", "tiny_w6.v1"])
    part = cached(tmp_path) / f".{WEIGHTS_FILE}.part"
    assert part.stat().st_size == 100 * fetch.ATTEMPTS
    server.requests.clear()
    assert main(["download", "tiny_w6.v1"]) == 0
    assert server.requests == [("/model.safetensors", f"bytes={100 * fetch.ATTEMPTS}-")]
    assert not part.exists()
    assert load_model("tiny_w6.v1").hparams["width"] == 6


def test_a_connection_that_ends_once_is_taken_up_again(server: Server) -> None:
    server.cut, server.cuts = 100, 1
    load_model("tiny_w6.v1")
    assert server.requests[-1] == ("/model.safetensors", "bytes=100-")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("size", [50, 100_000])
def test_the_beginning_of_another_file_is_thrown_away(ranges: bool, size: int, server: Server, tmp_path: Path) -> None:
    server.ranges = ranges
    cached(tmp_path).mkdir(parents=True)
    (cached(tmp_path) / f".{WEIGHTS_FILE}.part").write_bytes(b"x" * size)
    assert load_model("tiny_w6.v1").hparams["width"] == 6


def test_files_with_a_wrong_hash_are_refused_and_not_kept(server: Server, folder: Path, tmp_path: Path) -> None:
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(good[:-1] + b"?")
        with pytest.raises(PoseZooError, match="is not the file that the catalogue describes"):
            load_model("tiny_w6.v1")
        assert not (cached(tmp_path) / name).exists()
        assert not list(cached(tmp_path).glob("*.part"))
        (folder / name).write_bytes(good)
        (cached(tmp_path) / CONFIG_FILE).unlink(missing_ok=True)
    assert load_model("tiny_w6.v1").hparams["width"] == 6


def test_a_damaged_cache_is_named_and_download_repairs_it(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_model("tiny_w6.v1")
    file = cached(tmp_path) / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:77])
    with pytest.raises(PoseZooError, match="is a half file"):
        load_model("tiny_w6.v1")
    assert main(["download", "tiny_w6.v1", "--to", str(tmp_path / "usb")]) == 0
    assert str(tmp_path / "usb" / "tiny_w6.v1") in capsys.readouterr().out
    assert load_model(tmp_path / "usb" / "tiny_w6.v1").hparams["width"] == 6


def test_a_missing_file_and_a_missing_server(server: Server, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / WEIGHTS_FILE).rename(folder / "gone")
    assert "404" in error_of(capsys, ["download", "tiny_w6.v1"])
    server.http.shutdown()
    server.http.server_close()
    assert "cannot fetch" in error_of(capsys, ["download", "tiny_w6.v1"])


@pytest.mark.parametrize("switch", ["POSEZOO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_mode_asks_nobody(
    switch: str, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(switch, "1")
    assert f"{switch} is set: unset it, or type `posezoo download" in error_of(capsys, ["download", "tiny_w6.v1"])
    assert f"and {switch} is set" in error_of(capsys, ["download", "hf-hub:org/name@abc123"])
    assert server.requests == []
    monkeypatch.setenv(switch, "0")
    load_model("tiny_w6.v1")
    monkeypatch.setenv(switch, "1")
    assert load_model("tiny_w6.v1").hparams["width"] == 6


def test_hub_ids_with_a_revision(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load_model("hf-hub:org/name@abc123").hparams["width"] == 6
    assert all("/org/name/resolve/abc123/" in path for path, _ in server.requests)
    use(monkeypatch, entry(folder, "hf-hub:org/name@abc123"))
    assert load_model("tiny_w6.v1").hparams["width"] == 6
    message = error_of(capsys, ["download", "hf-hub:org/other@abc123"])
    assert "check organisation, name and revision" in message
    for wrong in ("hf-hub:name", "hf-hub:a/b/c", "hf-hub:/x"):
        assert "hf-hub:ORGANISATION/NAME@REVISION" in error_of(capsys, ["download", wrong])


# ------------------------------------------------------------------------------------------- list and describe


def test_describe_and_list(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    use(monkeypatch, entry(folder), entry(folder, "https://example.org/x", "tiny_w9.v1"))
    assert main(["describe", "tiny_w6.v1"]) == 0
    text = capsys.readouterr().out
    assert "licence: CC0-1.0" in text
    assert "MPJPE (mm) 1" in text
    assert f"on this machine: {folder}" in text
    assert main(["describe", "tiny_w9.v1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["on this machine"] == "not yet: type `posezoo download tiny_w9.v1`"
    assert main(["describe", str(folder)]) == 0
    assert "class: " in capsys.readouterr().out
    assert main(["describe", str(save_checkpoint(MeTRAbs(backbone="resnet10_w8"), tmp_path / "x.ckpt"))]) == 0
    assert 'backbone="resnet10_w8"' in capsys.readouterr().out
    assert "did you mean tiny_w9.v1" in error_of(capsys, ["describe", "tiny_w9"])

    assert main(["list", "weights", "*w9*"]) == 0
    out = capsys.readouterr().out
    assert "tiny_w9.v1  Tiny; h36m17; CC0-1.0; 0.0 MiB, to download; MPJPE (mm) 1 on nothing, n=0" in out
    assert "tiny_w6" not in out
    assert main(["list", "--licence", "cc0-1.0"]) == 0
    assert "tiny_w6.v1" in capsys.readouterr().out
    assert main(["list", "--licence", "MIT"]) == 0
    assert "none" in capsys.readouterr().out
    assert "--licence chooses among weights" in error_of(capsys, ["list", "methods", "--licence", "MIT"])


def test_descriptions_need_no_torch(folder: Path) -> None:
    code = (
        "import sys; from posezoo.__main__ import main; "
        f"main(['describe', {str(folder)!r}]); main(['list', 'weights']); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False"


# ------------------------------------------------------------------------------------------------------- release

FACTS = Facts(
    name="metrabs_w8.noise_v1",
    licence="Apache-2.0",
    data="nothing at all",
    command="posezoo fit",
    note='A "small" variant.',
    limits="Everywhere.",
)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    checkpoint = save_checkpoint(MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16), tmp_path / "last.ckpt")
    release(checkpoint, tmp_path / "release", FACTS)
    return tmp_path / "release"


def test_a_release_is_complete_and_proves_itself(released: Path, tmp_path: Path) -> None:
    names = ["README.md", "golden.safetensors", "model.json", "model.safetensors"]
    assert sorted(path.name for path in released.iterdir()) == names
    assert max(check_golden(released)) < 1e-3
    card = (released / "README.md").read_text()
    assert card.startswith("# metrabs_w8.noise_v1\n")
    for word in ("Apache-2.0", "nothing at all", "`posezoo fit`", "Everywhere.", "Not measured yet.", "0 steps"):
        assert word in card
    assert "$" not in card

    other = load_model(released)
    with torch.no_grad():
        other.network.head.bias += 0.5 * torch.arange(len(other.network.head.bias))
    with pytest.raises(PoseZooError, match="does not compute its golden outputs here"):
        check_golden(released, other)
    (released / "golden.safetensors").write_bytes(b"")
    with pytest.raises(PoseZooError, match="is a half file"):
        check_golden(released)


def test_scores_are_added_without_touching_the_weights(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {
        "protocol": "SyntheticPeople test",
        "samples": 3,
        "root_depth_source": "reconstruction",
        "metrics": {"mpjpe": 123.456, "mrpe": None},
        "mean_pose": {"mpjpe": 200.0},
    }
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text(json.dumps({"test": result}))
    before = (released / WEIGHTS_FILE).read_bytes()
    command = ["release", str(released), f"--metrics={run / 'metrics.json'}", f"--catalogue={tmp_path / 'zoo.toml'}"]
    assert "add --measured-with" in error_of(capsys, command)
    (run / "environment.json").write_text(json.dumps({"command": "posezoo test --weights x"}))
    assert main(command) == 0

    assert (released / WEIGHTS_FILE).read_bytes() == before
    check_golden(released)
    card = (released / "README.md").read_text()
    assert "SyntheticPeople test, n=3" in card
    assert "| MPJPE (mm) | 123.5 | 200.0 |" in card
    assert "Measured with `posezoo test --weights x`." in card
    (known,) = tomllib.loads((tmp_path / "zoo.toml").read_text())["weights"]
    assert known["metrics"][0]["values"] == {"MPJPE (mm)": 123.456}
    assert known["source"] == "weights/metrabs_w8.noise_v1"
    assert known["sha256"] == hashlib.sha256((released / CONFIG_FILE).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "holds no scores"),
        ("{}", "holds no scores"),
        ('{"test": 1}', "is not a metrics.json of posezoo"),
        ("{", "is not a metrics.json of posezoo"),
    ],
)
def test_other_files_are_no_scores(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(PoseZooError, match=sentence):
        measurements(tmp_path / "x.json", "none")
    with pytest.raises(PoseZooError, match="cannot read"):
        measurements(tmp_path / "y.json", "none")


def test_the_catalogue_keeps_what_else_is_in_it(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "zoo.toml"
    file.write_text('# Catalogue.\n#\n# [[weights]]\n# name = "example"\n')
    first, second = entry(folder, name="a_b.v1"), entry(folder, name="a_b.v2")
    for one in (first, second, first):
        register(one, file)
    entries = tomllib.loads(file.read_text())["weights"]
    assert [row["name"] for row in entries] == ["a_b.v2", "a_b.v1"]
    assert zoo._entry(entries[1]) == first
    assert file.read_text().startswith("# Catalogue.\n#\n# [[weights]]")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["nowhere.ckpt", "--out=o"], "there is no checkpoint or folder at nowhere.ckpt"),
        (["{ckpt}"], "add --out FOLDER"),
        (["{ckpt}", "--out=o"], "a release says its name: add --name"),
        (["{ckpt}", "--out=o", "--name=Big", "--licence=x", "--data=x", "--command=x"], "are method_backbone.data_v1"),
    ],
)
def test_mistakes_with_a_release(
    args: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = save_checkpoint(MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16), tmp_path / "last.ckpt")
    assert expected in error_of(capsys, ["release", *(word.format(ckpt=checkpoint) for word in args)])
    assert not (tmp_path / "o").exists()


def test_a_folder_without_golden_outputs_says_so(tmp_path: Path) -> None:
    out = save_model(MeTRAbs(backbone="resnet10_w8", image_size=64, stride=16), tmp_path / "plain")
    with pytest.raises(PoseZooError, match="was not made by `posezoo release`"):
        check_golden(out)
    write_golden(out)
    check_golden(out)


# ------------------------------------------------------------------------------------------------- the catalogue


@pytest.mark.parametrize("name", list(catalogue()))
def test_released_weights_are_complete_and_compute_their_golden_outputs(name: str) -> None:
    weights = catalogue()[name]
    for value in (weights.licence, weights.data, weights.command, weights.recipe, weights.note):
        assert value
    assert weights.metrics
    if "://" in weights.source or weights.source.startswith("hf-hub:"):
        assert not weights.source.startswith("hf-hub:") or "@" in weights.source
        return
    folder = Path(zoo.__file__).parent / weights.source
    assert weights.source == f"weights/{name}"
    assert entry_of(folder, weights.source) == weights
    assert sum(file.stat().st_size for file in folder.iterdir()) <= BUNDLE_LIMIT
    assert name in (folder / "README.md").read_text()
    model = load_model(name)
    assert not model.training
    check_golden(folder, model)


def test_the_commented_example_of_the_catalogue_is_an_entry() -> None:
    lines = (Path(zoo.__file__).parent / "zoo.toml").read_text().splitlines()
    start = lines.index("# [[weights]]")
    example = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[start : start + 20])
    found = zoo._entry(tomllib.loads(example.partition('\n[[weights]]\nname = "h')[0])["weights"][0])
    assert found.licence == "Apache-2.0"
    assert found.metrics[0].values == {"MPJPE (mm)": 0.0}
    assert tomllib.loads(entry_toml(found))["weights"][0]["name"] == found.name
