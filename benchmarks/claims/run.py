"""Training and scoring, each of which is made once: a run that is stopped goes on where it was."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch.utils.data import default_collate

import posezoo
from benchmarks.claims.budget import Plan
from benchmarks.claims.design import Claim, Contender, TestSet, Training
from benchmarks.claims.people import ClaimPeople
from benchmarks.core import cpu_seconds
from posezoo import cli
from posezoo.cameras import apply_homography
from posezoo.data.base import MODEL_OWNED
from posezoo.data.synthetic.streams import GENERATOR_VERSION
from posezoo.disk import replaced
from posezoo.metrics.functional import absolute_errors, procrustes_errors, root_relative_errors
from posezoo.models.base import PoseEstimator, load_estimator
from posezoo.recipes_index import find_recipe
from posezoo.structures import Batch, to_device

MEAN_POSE = "mean pose"
PEOPLE = "benchmarks.claims.people.ClaimPeople"
EVAL_BATCH = 64
Scores = dict[str, NDArray[Any]]


@dataclass
class Run:
    """A claim at a budget, in a folder of its own: another plan, recipe or version is another folder.

    Attributes:
        claim: What is tried.
        plan: How long.
        out: Folder of all claims.
        workers: Loader processes of a training.
    """

    claim: Claim
    plan: Plan
    out: Path
    workers: int = 1
    _batches: dict[str, list[Batch]] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """Where everything of it goes."""
        names = {name for t in self.claim.trainings for name in (t.recipe, *t.overlays)}
        recipes = [find_recipe(name).read_text(encoding="utf-8") for name in sorted(names)]
        facts = [posezoo.__version__, GENERATOR_VERSION, repr(self.plan), repr(self.claim), recipes]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
        return self.out / self.claim.name / f"{self.plan.budget}-{digest}"

    @property
    def cache(self) -> Path:
        """Rendered training people, shared by all claims."""
        return self.out / "cache"

    @property
    def frame(self) -> int:
        """Side of the rendered frames, px; the demo recipes' unless the plan has another."""
        return int(self.plan.data.get("frame_size", 96))

    @property
    def device(self) -> str:
        """Where contenders are scored."""
        return "cuda" if self.plan.trainer.get("accelerator") == "gpu" else "cpu"

    def trained(self, training: Training, seed: int) -> Path:
        """Checkpoint of a training, made or finished now if it is not there.

        Args:
            training: What to train.
            seed: Of the initialisation, the order of the people and their augmentation; the people stay the same.
        """
        folder = self.run_folder(training, seed)
        checkpoint, marker = folder / "run" / "checkpoints" / "last.ckpt", folder / "trained.json"
        if marker.is_file():
            return checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        recipe = folder / "recipe.yaml"
        _write(recipe, yaml.safe_dump(self.recipe(training, seed), sort_keys=False))
        logger = "--trainer.logger.init_args"
        arguments = [
            "fit",
            f"--config={recipe}",
            f"{logger}.save_dir={folder}",
            f"{logger}.name=",
            f"{logger}.version=run",
        ]
        if checkpoint.is_file():
            arguments.append(f"--ckpt_path={checkpoint}")
        cpu, wall = cpu_seconds(), time.monotonic()
        trainer = cli.main(arguments).trainer
        if not trainer.state.finished:
            raise RuntimeError(f"the training in {folder} did not come to its end")
        spent = {"cpu_seconds": cpu_seconds() - cpu, "seconds": time.monotonic() - wall, "steps": trainer.global_step}
        _write(marker, json.dumps(spent | {"resumed": len(arguments) > 5}))
        return checkpoint

    def run_folder(self, training: Training, seed: int) -> Path:
        """Folder of a training."""
        return self.folder / "trainings" / (training.name if training.searches else f"{training.name}-seed{seed}")

    def recipe(self, training: Training, seed: int) -> dict[str, Any]:
        """The complete recipe of a training: it runs again with `posezoo fit -c`."""
        content = _load_recipe(training.recipe)
        for overlay in training.overlays:
            content["model"]["init_args"] |= _load_recipe(overlay)["model"]["init_args"]
        plan, model = self.plan, content["model"]["init_args"]
        model |= dict(plan.model) | dict(plan.recipes.get(training.recipe, {}))
        model |= {key: self._filled(value, seed) for key, value in training.model.items()}
        model |= {key: round(share * plan.steps) for key, share in training.shares.items()}
        content |= {"seed_everything": seed, "data": self._data(content["data"], training, seed)}
        trainer = content["trainer"] | plan.trainer | {"enable_progress_bar": False, "limit_val_batches": 0}
        for name in ("val_check_interval", "check_val_every_n_epoch"):  # nothing is selected by a score
            trainer.pop(name, None)
        if training.searches:
            trainer["max_epochs"] = plan.search_epochs
        else:
            trainer["max_steps"] = plan.steps
            model["lr_scheduler"]["init_args"]["total_steps"] = plan.steps
        trainer["num_sanity_val_steps"] = 0
        content["trainer"] = trainer
        return content

    def _data(self, data: dict[str, Any], training: Training, seed: int) -> dict[str, Any]:
        inner = data["init_args"].get("dataset", data)["init_args"]  # SearchSplit holds its dataset
        length = self.plan.search_people if training.searches else self.plan.train_length
        changed = {**inner, **self.plan.data, "root": str(self.cache), "seed": seed, "train_length": length}
        changed["num_workers"] = self.workers
        changed["augmentation"] = {**inner["augmentation"], **training.data.get("augmentation", {})}
        changed |= {key: value for key, value in training.data.items() if key != "augmentation"}
        people = {"class_path": PEOPLE, "init_args": changed}
        if "dataset" not in data["init_args"]:
            return people
        return {"class_path": data["class_path"], "init_args": {**data["init_args"], "dataset": people}}

    def _filled(self, value: Any, seed: int) -> Any:
        """A value with the seed and the search's run folder in it."""
        if not isinstance(value, str) or "{" not in value:
            return value
        found = next((self.run_folder(t, 0) / "run" for t in self.claim.trainings if t.searches), "")
        return yaml.safe_load(value.format(seed=seed, search=found))

    # ------------------------------------------------------------------------------------------------- scoring

    def scores(self, contender: Contender, test: TestSet, seed: int) -> Scores:
        """Errors of every person and joint, mm: `mpjpe`, `pa_mpjpe`, `abs_mpjpe`, `depth`, and who is `outside`."""
        path = self.folder / "scores" / f"{_slug(contender.name)}.{_slug(test.name)}.seed{seed}.npz"
        if not path.is_file():
            checkpoint = self.trained(self.claim.training(contender.training), seed)
            estimator = load_estimator(checkpoint, **contender.settings).eval()
            _save(path, _scored(estimator, self._held(estimator, test), self.frame, self.device))
        with np.load(path) as file:
            return dict(file)

    def mean_pose(self, test: TestSet) -> Scores:
        """The same for somebody who always answers with the mean pose of the training people."""
        path = self.folder / "scores" / f"{_slug(MEAN_POSE)}.{_slug(test.name)}.npz"
        if not path.is_file():
            training = self.claim.training(self._first(test).training)
            estimator = load_estimator(self.trained(training, 0))
            data = self.data(estimator, self.recipe(training, 0)["data"]["init_args"])
            data.prepare_data()
            pose = data.mean_pose()
            if pose is None:
                raise RuntimeError("the training people have no mean pose: none is labelled in 3D")
            _save(path, _constant(pose, estimator, self._held(estimator, test), self.frame))
        with np.load(path) as file:
            return dict(file)

    def _first(self, test: TestSet) -> Contender:
        """The contender whose training the mean pose of a test set is taken from."""
        return next(contender for contender, scored in self.claim.scored() if scored is test)

    def data(self, estimator: PoseEstimator, arguments: Mapping[str, Any]) -> ClaimPeople:
        """A DataModule for an estimator."""
        owned = {name: getattr(estimator, name) for name in MODEL_OWNED if name != "skeleton"}
        return ClaimPeople(**{**arguments, "augmentation": None}, **owned, skeleton=estimator.skeleton.name)

    def _held(self, estimator: PoseEstimator, test: TestSet) -> list[Batch]:
        """The batches of a test set, rendered once per kind of crop."""
        owned = [str(getattr(estimator, name)) for name in MODEL_OWNED]
        key = " ".join([test.name, *owned])
        if key not in self._batches:
            shared = {
                "preset": "easy",
                "frame_size": self.frame,
                "test_length": self.plan.test_length,
                "num_workers": 0,
            }
            crops = self.data(estimator, shared | dict(test.data)).crops("test")
            rows = [crops[index] for index in range(len(crops))]
            starts = range(0, len(rows), EVAL_BATCH)
            self._batches[key] = [default_collate(rows[start : start + EVAL_BATCH]) for start in starts]
        return self._batches[key]


def _scored(estimator: PoseEstimator, batches: list[Batch], frame: int, device: str) -> Scores:
    estimator.to(device)
    parts = []
    for batch in batches:
        with torch.no_grad():
            prediction = estimator.estimate(to_device(batch, torch.device(device))).detached()
        parts.append(_errors(prediction.joints3d_rel, prediction.joints3d, batch, estimator.root, frame))
    return _joined(parts) | {"joints": np.array(estimator.skeleton.joints)}


def _constant(pose: torch.Tensor, estimator: PoseEstimator, batches: list[Batch], frame: int) -> Scores:
    parts = []
    for batch in batches:
        relative = pose.expand_as(batch["joints3d"])
        nowhere = torch.full_like(relative, torch.nan)  # it does not say where the root is
        parts.append(_errors(relative, nowhere, batch, estimator.root, frame))
    return _joined(parts) | {"joints": np.array(estimator.skeleton.joints)}


def _errors(relative: torch.Tensor, absolute: torch.Tensor, batch: Batch, root: int, frame: int) -> Scores:
    truth, valid = batch["joints3d"], batch["valid3d"]
    depth = (relative - relative[:, [root]] - truth + truth[:, [root]])[..., 2].abs()
    source = apply_homography(batch["crop_to_image"], batch["joints2d"])
    found = {
        "mpjpe": root_relative_errors(relative, truth, valid, root).value,
        "pa_mpjpe": procrustes_errors(relative, truth, valid).value,
        "abs_mpjpe": absolute_errors(absolute, truth, valid).value,
        "depth": depth,
    }
    numbers = {key: value.where(valid, torch.nan).float().numpy() for key, value in found.items()}
    beyond = ((source < -0.5) | (source > frame - 0.5)).any(-1)
    return numbers | {"outside": beyond.numpy(), "index": batch["index"].numpy()}


def _joined(parts: list[Scores]) -> Scores:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _load_recipe(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))
    return content


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-").lower()


def _write(path: Path, text: str) -> None:
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _save(path: Path, scores: Scores) -> None:
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **scores)


def spent(run: Run) -> dict[str, float]:
    """CPU-seconds of every finished training."""
    markers = sorted(run.folder.glob("trainings/*/trained.json"))
    return {path.parent.name: json.loads(path.read_text())["cpu_seconds"] for path in markers}


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """A plan for JSON."""
    return asdict(plan)
