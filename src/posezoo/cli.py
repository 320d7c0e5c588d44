"""`posezoo fit | validate | test | predict`: LightningCLI with the rules that keep it honest.

- The hyperparameters (and data) of a checkpoint or of --weights become the defaults; an explicit flag still wins.
- `validate`, `test` and `predict` refuse to run without trained weights.
- `fit --weights` starts a new training from weights, by joint name where the skeleton is another one.
- What the model owns (skeleton, image_size, crop, box) is set under --model and reaches the data from there.
- A user's mistake is one sentence.
"""

import atexit
import errno
import importlib
import inspect
import itertools
import logging
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, Optional

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentError
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from posezoo import __version__
from posezoo.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    NonFiniteGuard,
    PoseImages,
    PoseMetrics,
    PredictionWriter,
    SaveRunConfig,
)
from posezoo.data.base import MODEL_OWNED, PoseDataModule
from posezoo.errors import PoseZooError, did_you_mean
from posezoo.heap import keep_freed_memory
from posezoo.models.base import PoseEstimator, estimator_class, read_checkpoint
from posezoo.plugins import load_installed_plugins
from posezoo.recipes_index import find_recipe
from posezoo.skeletons import get_skeleton
from posezoo.transfer import transfer
from posezoo.zoo import arguments_of, find_class, load_model, locate, read_config

NEED_WEIGHTS = ("validate", "test", "predict")
COMMANDS = ("fit", *NEED_WEIGHTS)

DISK_TROUBLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)

# Our own table replaces Lightning's; predictions are streamed to disk instead of kept.
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "validate": {"verbose": False},
    "test": {"verbose": False},
    "predict": {"return_predictions": False},
}

# Noise that a user can do nothing about.
SILENCED = (
    "The dirpath has changed",  # testing from another folder than the training's is the normal case
    ".*LeafSpec.*is deprecated",  # Lightning 2.6 with torch 2.15
    ".*skip_none parameter was deprecated",  # Lightning 2.6 with jsonargparse 4.49
    "Experiment logs directory .* exists and is not empty",  # _set_aside_metrics keeps what was there
    "Checkpoint directory .* exists and is not empty",
    ".*does not have many workers",  # how many is the recipe's decision
    "The number of training batches .* is smaller than the logging interval",
)


class PoseZooCLI(LightningCLI):
    """LightningCLI over every known estimator and DataModule."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links from model to data, and the number of threads."""
        for name in MODEL_OWNED:
            parser.link_arguments(f"model.init_args.{name}", f"data.init_args.{name}")
        parser.add_argument(
            "--threads",
            type=int,
            default=None,
            help="Intra-op threads of torch; 1 is often fastest for small networks.",
        )
        parser.add_argument(
            "--weights",
            type=Optional[str],  # noqa: UP045  (jsonargparse prints this one nicely)
            default=None,
            help="Trained weights: a name of `posezoo list weights`, hf-hub:ORGANISATION/NAME@REVISION, a folder or a "
            ".ckpt. Instead of --ckpt_path in validate, test and predict; the start of a new training in fit.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, after the checkpoint has provided the defaults."""
        for name, subparser in getattr(self, "_subcommand_parsers", {}).items():
            subparser.set_defaults({"weights_only": True} | METHOD_DEFAULTS.get(name, {}))
        command, checkpoint = args[0] if args else None, option(args, "--ckpt_path")
        weights = option(args, "--weights") or _weights_in_configs(args)
        if command in COMMANDS and checkpoint and Path(checkpoint).is_file():
            self._subcommand_parsers[command].set_defaults(defaults_from_checkpoint(Path(checkpoint), args))
        elif command in COMMANDS and weights:
            self._subcommand_parsers[command].set_defaults(defaults_from_weights(weights, args))
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Superseded: Lightning would let the checkpoint overrule what the user typed."""

    def before_instantiate_classes(self) -> None:
        """Refuse weights of another model; threads and heap have to be set before any work."""
        checkpoint, model = self._get(self.config, "ckpt_path"), self._get(self.config, "model")
        skeleton = (model.get("init_args") or {}).get("skeleton") if model else None
        if checkpoint and Path(checkpoint).is_file():
            check_weights(checkpoint, "--ckpt_path", *trained_as(Path(checkpoint)), model["class_path"], skeleton)
        elif weights := self._get(self.config, "weights"):
            remapped = self.subcommand == "fit"  # fit may change the skeleton
            wanted = None if remapped else skeleton
            check_weights(weights, "--weights", *trained_as(locate(weights)), model["class_path"], wanted)
        threads = self._get(self.config, "threads")
        if threads:
            torch.set_num_threads(threads)
        if self.subcommand == "fit" and not torch.cuda.is_available():
            keep_freed_memory()

    def instantiate_classes(self) -> None:
        """Also loads --weights into the model; a checkpoint given beside a saved configuration supersedes them."""
        super().instantiate_classes()
        weights = self._get(self.config, "weights")
        if not weights or self._get(self.config, "ckpt_path"):
            return
        source = load_model(weights)
        if self.subcommand == "fit":
            rank_zero_only(print)(transfer(source, self.model, weights).report(weights))
        else:
            load_weights(self.model, source, weights)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with our callbacks, each unless the user brought one of its kind."""
        given = self._get(self.config_init, "trainer").get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        ours = [c for c in default_callbacks() if not any(_replaces(g, c) for g in given)]
        if self._get(self.config_init, "trainer").get("enable_checkpointing") is False:
            _refuse_checkpoints(given)
            ours = [c for c in ours if not isinstance(c, Checkpoint)]
        plugins = self._get(self.config_init, "trainer").get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, AtomicCheckpointIO()]
        trainer = super().instantiate_trainer(callbacks=[*given, *ours], plugins=plugins, **kwargs)
        _set_aside_metrics(trainer)
        return trainer

    def after_fit(self) -> None:
        """Say where the result is and what to type next."""
        checkpoint = self.trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_path", "") or getattr(checkpoint, "last_model_path", "")
        if self.trainer.is_global_zero and best:
            print(f"Best checkpoint: {best}\nTo score it: posezoo test --ckpt_path '{best}'")


def _replaces(given: pl.Callback, ours: pl.Callback) -> bool:
    """Whether a callback of the user does what ours would; any ModelCheckpoint with a score to watch keeps the best."""
    if isinstance(ours, BestCheckpoint) and isinstance(given, ModelCheckpoint):
        return given.monitor is not None
    return isinstance(given, type(ours))


def _refuse_checkpoints(callbacks: list[pl.Callback]) -> None:
    name = next((type(callback).__name__ for callback in callbacks if isinstance(callback, Checkpoint)), None)
    if name:
        raise PoseZooError(
            f"--trainer.enable_checkpointing false and the callback {name} contradict each other: leave out one."
        )


@rank_zero_only  # type: ignore[untyped-decorator]
def _set_aside_metrics(trainer: pl.Trainer) -> None:
    """Rename the metrics.csv of an earlier run in the same folder, which the CSV logger would delete."""
    for logger in trainer.loggers:
        path = Path(getattr(logger, "log_dir", None) or "") / "metrics.csv"
        if isinstance(logger, CSVLogger) and path.is_file():
            number = next(n for n in itertools.count(1) if not path.with_name(f"metrics_{n}.csv").exists())
            path.rename(path.with_name(f"metrics_{number}.csv"))


def default_callbacks() -> list[pl.Callback]:
    """What every run gets: scores, checkpoints of the best and the last state, streamed predictions."""
    return [
        PoseMetrics(),
        PoseImages(),
        NonFiniteGuard(),
        BestCheckpoint(),
        LastCheckpoint(),
        PredictionWriter(),
    ]


def main(args: list[str] | None = None) -> PoseZooCLI:
    """Run one of fit, validate, test and predict.

    Args:
        args: The command and its options; those of the process when None.

    Raises:
        PoseZooError: A mistake of the user, as one sentence.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    _silence()
    load_plugins()
    arguments = resolve_last(resolve_recipes(arguments))
    check_arguments(arguments)
    try:
        return build(arguments, run=True)
    except SIGTERMException:  # Lightning would exit with status 0, as if the run were complete
        raise SystemExit(128 + signal.SIGTERM) from None


def _leave_processes() -> None:
    """End the process group before the interpreter does.

    Lightning does so for NCCL only. The threads of a Gloo group that is still there at the end now and then abort a
    process whose work is done, and torchrun then calls the whole job failed.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


atexit.register(_leave_processes)  # once a process, however often `main` is called in it


def _silence() -> None:
    """Leave out of the terminal what a user can do nothing about, and advertisements."""
    for message in SILENCED:
        warnings.filterwarnings("ignore", message=message)
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    if not any(isinstance(f, _Advertisements) for f in logger.filters):
        logger.addFilter(_Advertisements())


class _Advertisements(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("💡 Tip")


def build(arguments: list[str], run: bool) -> PoseZooCLI:
    """Parse, instantiate and (with `run`) execute; jsonargparse's complaints become one sentence.

    Raises:
        PoseZooError: The arguments do not fit.
    """
    quiet = {"exit_on_error": False, "version": __version__}
    try:
        return PoseZooCLI(
            PoseEstimator,
            PoseDataModule,
            save_config_callback=SaveRunConfig,
            trainer_defaults={"logger": default_logger()},
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            parser_kwargs=({command: dict(quiet) for command in COMMANDS} if run else {}) | quiet,
            args=arguments,
            run=run,
        )
    except (ArgumentError, TypeError, ValueError) as error:
        mistake = cause_of(error)
        if mistake is not None:
            raise mistake from None
        if isinstance(error, ArgumentError):
            raise PoseZooError(one_sentence(str(error))) from error
        raise
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        raise PoseZooError(
            f"{error.filename or 'A file of the run'} cannot be written or read ({error.strerror}): make room or mend "
            "its permissions, or let runs go elsewhere with --trainer.logger.init_args.save_dir FOLDER."
        ) from error


def cause_of(error: BaseException | None) -> PoseZooError | None:
    """The user's mistake that jsonargparse wrapped into a type error of its own, if that is what happened."""
    while error is not None:
        if isinstance(error, PoseZooError):
            return error
        error = error.__cause__ or error.__context__
    return None


def default_logger() -> dict[str, Any]:
    """CSV files under runs/version_N."""
    return {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": ""}}


def load_plugins() -> None:
    """Import every method and dataset, ours and those of installed plug-ins (entry-point group `posezoo.plugins`).

    Raises:
        PoseZooError: A plug-in cannot be imported; the message names its package.
    """
    import posezoo.data as data

    for name in data.__all__:
        getattr(data, name)
    load_installed_plugins()


def option(arguments: list[str], name: str) -> str | None:
    """Value of `--name value` or `--name=value`, the last one given."""
    found = None
    for position, word in enumerate(arguments):
        if word == name and position + 1 < len(arguments):
            found = arguments[position + 1]
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def resolve_recipes(arguments: list[str]) -> list[str]:
    """Replace recipe names behind -c and --config by their paths."""
    resolved = list(arguments)
    for position, word in enumerate(arguments):
        if word in ("-c", "--config") and position + 1 < len(arguments):
            resolved[position + 1] = str(find_recipe(arguments[position + 1]))
        elif word.startswith("--config="):
            resolved[position] = f"--config={find_recipe(word.partition('=')[2])}"
    return resolved


def resolve_last(arguments: list[str]) -> list[str]:
    """Replace `--ckpt_path last` by the newest last.ckpt below the folder that the logger writes to.

    Raises:
        PoseZooError: There is none.
    """
    if option(arguments, "--ckpt_path") != "last":
        return arguments
    folder = Path(_save_dir(arguments))
    found = sorted(folder.glob("**/checkpoints/last*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise PoseZooError(
            f"there is no checkpoints/last.ckpt below {folder}{'/' if folder.is_dir() else ', which does not exist'}: "
            "give the path itself after --ckpt_path, or leave it out to begin a new run."
        )
    rank_zero_only(print)(f"Going on from {found[-1]}.")
    resolved = list(arguments)
    for position, word in enumerate(arguments):
        if word == "--ckpt_path" and position + 1 < len(arguments):
            resolved[position + 1] = str(found[-1])
        elif word.startswith("--ckpt_path="):
            resolved[position] = f"--ckpt_path={found[-1]}"
    return resolved


def _save_dir(arguments: list[str]) -> str:
    """Where the logger writes to: the flag, else the last recipe that says so, else our default."""
    for name in ("--trainer.logger.init_args.save_dir", "--trainer.logger.save_dir"):
        value = option(arguments, name)
        if value is not None:
            return value
    for path in reversed(_configs(arguments)):
        trainer = _section(path, "trainer")
        logger = trainer.get("logger") if isinstance(trainer.get("logger"), dict) else {}
        value = (logger.get("init_args") or {}).get("save_dir") if logger else trainer.get("default_root_dir")
        if value is not None:
            return str(value)
    return str(default_logger()["init_args"]["save_dir"])


def _configs(arguments: list[str]) -> list[Path]:
    """Files behind -c and --config, in order."""
    pairs = itertools.pairwise([*arguments, ""])
    found = [
        following if word in ("-c", "--config") else word.partition("=")[2]
        for word, following in pairs
        if word in ("-c", "--config") or word.startswith("--config=")
    ]
    return [Path(path) for path in found if path]


def check_arguments(arguments: list[str]) -> None:
    """Refuse what would run, but not do what the user means.

    Raises:
        PoseZooError: See the module's docstring.
    """
    if any(word in ("-h", "--help") or word.startswith("--print_config") for word in arguments):
        return
    _check_classes(arguments)
    _check_model_owned(arguments)
    checkpoint, weights = option(arguments, "--ckpt_path"), option(arguments, "--weights")
    if checkpoint is not None and checkpoint != "null" and not Path(checkpoint).is_file():
        raise PoseZooError(f"there is no checkpoint at {checkpoint}: check the path after --ckpt_path.")
    if checkpoint not in (None, "null") and weights not in (None, "null"):
        raise PoseZooError(
            "--weights starts anew and --ckpt_path goes on with a run: give one of them."
            if arguments[0] == "fit"
            else "--weights and --ckpt_path both say what to load: give one of them."
        )
    trained = checkpoint or weights or _weights_in_configs(arguments)
    if arguments[0] in NEED_WEIGHTS and trained in (None, "null"):
        raise PoseZooError(
            f"`{arguments[0]}` without trained weights would score a random network: add --weights NAME (`posezoo list "
            "weights` has the names) or --ckpt_path PATH (fit prints the path of its best checkpoint)."
        )


def _check_classes(arguments: list[str]) -> None:
    known_data = {cls.__name__ for cls in _subclasses(PoseDataModule)}
    for flag, kind, known in (
        ("--model", "method", set(PoseEstimator.known_methods())),
        ("--data", "dataset", known_data),
    ):
        name = option(arguments, flag)
        if name and re.fullmatch(r"\w+", name) and name not in known:
            raise PoseZooError(f"unknown {kind} '{name}': {did_you_mean(name, sorted(known))}")


def _subclasses(cls: type) -> list[type]:
    children: list[type] = cls.__subclasses__()
    return [s for child in children for s in (child, *_subclasses(child))]


def _check_model_owned(arguments: list[str]) -> None:
    for word, following in itertools.pairwise([*arguments, ""]):
        match = re.match(rf"--data\.(?:(?:init_args|sources|dataset)\.)*({'|'.join(MODEL_OWNED)})(?:=|$)", word)
        name = match[1] if match else None
        if re.match(r"--data(\.init_args)?(\.sources|\.dataset)?\+?(=|$)", word):
            name = name or _model_owned_in(_parsed(word.partition("=")[2] or following))
        if name:
            raise PoseZooError(_owned(name))
    for path in _configs(arguments):
        name = _model_owned_in(_section(path, "data"))
        if name:
            raise PoseZooError(f"{path}: {_owned(name)}")


def _model_owned_in(value: Any) -> str | None:
    """What the model owns, but a description of a dataset (or of the datasets inside it) sets; the first such name."""
    if isinstance(value, list):
        return next((name for name in map(_model_owned_in, value) if name), None)
    if not isinstance(value, dict):
        return None
    init = value.get("init_args")
    owned = next((name for name in MODEL_OWNED if isinstance(init, dict) and name in init), None)
    return owned or _model_owned_in(list(value.values()))


def _parsed(text: str) -> Any:
    """The YAML or JSON behind an option; None where it is neither."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _owned(name: str) -> str:
    return f"the model owns '{name}': set --model.{name} instead of --data.{name}; it reaches the data from there."


def _weights_in_configs(arguments: list[str]) -> str | None:
    """The weights that the last recipe with such a line names: so that the saved configuration of a run re-runs.

    To score, only a configuration that a scoring command has saved counts: in that of a fine-tuning, `weights` are what
    it started from, and to score them by mistake would look like its result.
    """
    configs = [_content(path) for path in _configs(arguments)]
    if arguments and arguments[0] in NEED_WEIGHTS:
        own = {key for defaults in METHOD_DEFAULTS.values() for key in defaults}
        configs = [config for config in configs if own & set(config)]
    return next((str(config["weights"]) for config in reversed(configs) if config.get("weights")), None)


def _section(path: Path, name: str) -> dict[str, Any]:
    """A top-level section of a recipe."""
    section = _content(path).get(name)
    return section if isinstance(section, dict) else {}


def _content(path: Path) -> dict[str, Any]:
    """A recipe.

    Raises:
        PoseZooError: The file is missing or not YAML.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" (line {place.line + 1})" if place else ""
        raise PoseZooError(f"{path} is not valid YAML{where}: mend it or give another -c.") from error
    return content if isinstance(content, dict) else {}


def defaults_from_checkpoint(path: Path, arguments: list[str]) -> dict[str, Any]:
    """Parser defaults that make a checkpoint alone enough: its model, and its data unless the user names another.

    Raises:
        PoseZooError: The file is not a checkpoint of posezoo.
    """
    checkpoint = read_checkpoint(path)
    cls = estimator_class(checkpoint, path)
    hparams = dict(checkpoint.get("hyper_parameters", {}))
    hparams = {key: value for key, value in hparams.items() if not key.startswith("_")}
    return _defaults(class_path_of(cls), hparams, checkpoint.get("posezoo_data"), arguments)


def defaults_from_weights(weights: str, arguments: list[str]) -> dict[str, Any]:
    """The same for what `--weights` names.

    Raises:
        PoseZooError: There is no such thing, or it is damaged.
    """
    path = locate(weights)
    if path.is_file():
        return defaults_from_checkpoint(path, arguments)
    config = read_config(path)
    return _defaults(
        class_path_of(find_class(config["class_path"])), arguments_of(config), config.get("data"), arguments
    )


def class_path_of(cls: type) -> str:
    """Where a class is imported from."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _defaults(
    class_path: str, hparams: dict[str, Any], data: dict[str, Any] | None, arguments: list[str]
) -> dict[str, Any]:
    defaults: dict[str, Any] = {"model": {"class_path": class_path, "init_args": hparams}}
    if data and option(arguments, "--data") is None:
        init = {k: v for k, v in (data.get("init_args") or {}).items() if k not in MODEL_OWNED}
        defaults["data"] = {"class_path": data["class_path"], "init_args": init}
    return defaults


def trained_as(path: Path) -> tuple[type, str | None]:
    """(class, skeleton) of a checkpoint or of a folder of weights.

    Raises:
        PoseZooError: It is neither.
    """
    if path.is_dir():
        config = read_config(path)
        return find_class(config["class_path"]), config["init_args"].get("skeleton")
    checkpoint = read_checkpoint(path)
    return estimator_class(checkpoint, path), checkpoint.get("hyper_parameters", {}).get("skeleton")


def check_weights(
    name: str, flag: str, written: type, learnt: str | None, class_path: str, skeleton: str | None
) -> None:
    """Refuse weights of another method or skeleton: they may fit, but their joints would mean other ones.

    Args:
        name: What the user typed.
        flag: Behind which option.
        written: Class of the weights.
        learnt: Their skeleton.
        class_path: Class that is asked for.
        skeleton: Skeleton that is asked for; None accepts every one.

    Raises:
        PoseZooError: Naming the file and what it holds.
    """
    wanted = PoseEstimator.known_methods().get(class_path.rpartition(".")[2], written)
    if not (issubclass(written, wanted) or issubclass(wanted, written)):
        raise PoseZooError(
            f"{name} holds a {written.__name__}, not a {wanted.__name__}: leave out --model, or give another {flag}."
        )
    named = getattr(written, "predicts_joints", True)  # of RootNet, nothing depends on the skeleton
    if named and learnt and skeleton and get_skeleton(learnt).name != get_skeleton(skeleton).name:
        raise PoseZooError(
            f"{name} was trained on the skeleton {learnt}, not {skeleton}: leave out --model.skeleton, or give another "
            f"{flag}; `posezoo fit --weights` carries it over to another skeleton."
        )


def load_weights(model: PoseEstimator, source: PoseEstimator, name: str) -> None:
    """Put the weights of one estimator into another, which has to be the same network.

    Raises:
        PoseZooError: It is not.
    """
    try:
        model.load_state_dict(source.state_dict())
    except PoseZooError as error:
        raise PoseZooError(str(error).replace("another --ckpt_path", f"other weights than {name}")) from error


def one_sentence(message: str) -> str:
    """The part of a jsonargparse complaint that a user can act on; an unknown option gets its nearest neighbours."""
    nested = re.search(r"class_path '(?P<cls>[\w.]+)':\s+(?:-\s+)?Option '(?P<key>[\w.]+)' is not accepted", message)
    nested = nested or re.search(r"Option '(?P<key>[\w.]+)' is not accepted.*class_path='(?P<cls>[\w.]+)'", message)
    if nested:
        name = nested["cls"].rpartition(".")[2]
        return f"{name} has no argument '{nested['key']}': {did_you_mean(nested['key'], _parameters(nested['cls']))}"
    dotted = "Expected a dot import path string"
    source = re.search(rf"\.(\w+)':\s+Parser key \"(sources|dataset)\":\s+{dotted}: (\w+)", message)
    if source:
        datasets = sorted(cls.__name__ for cls in _subclasses(PoseDataModule))
        return f"unknown dataset '{source[3]}' in {source[2]} of {source[1]}: {did_you_mean(source[3], datasets)}"
    missing = re.search(r"class_path '[\w.]*?(\w+)':\s+the following arguments are required: ([\w, ]+)", message)
    if missing:
        return f"{missing[1]} needs {missing[2].strip()}: add it to its init_args."
    if re.search(r"[\w.]*\bsources(\[\d+\]|\.\d+)", message) or "--sources" in message:
        return (
            "options of one source cannot be given by its place: give folders as --data.roots.DATASET FOLDER (such as "
            "--data.roots.Human36M FOLDER), anything else in a copy of the recipe (posezoo recipes NAME > my.yaml)."
        )
    unknown = re.search(r"[Uu]nrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'", message)
    if unknown:
        name = unknown[1] or unknown[2]
        first, rest = f"--{name}".partition(".")[::2]
        options = _options()
        heads = list(dict.fromkeys(known.partition(".")[0] for known in options))
        known, wrong = (options, f"--{name}") if first in heads or not rest else (heads, first)
        return f"unknown option '--{name}': {did_you_mean(wrong, known)}"
    text = " ".join(dict.fromkeys(line.strip() for line in message.splitlines() if line.strip()))
    return text if len(text) < 600 else text[:600] + " ..."


def _parameters(class_path: str) -> list[str]:
    """Names of the constructor arguments of a class."""
    module, _, name = class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    hidden = MODEL_OWNED if issubclass(cls, PoseDataModule) else ()
    return [parameter for parameter in inspect.signature(cls).parameters if parameter not in hidden]


def _options() -> list[str]:
    """Options that every subcommand takes, without those of the chosen classes."""
    own = (
        "config",
        "print_config",
        "seed_everything",
        "threads",
        "ckpt_path",
        "weights",
        "weights_only",
        "model",
        "data",
    )
    return [f"--{name}" for name in own] + [f"--trainer.{name}" for name in inspect.signature(pl.Trainer).parameters]
