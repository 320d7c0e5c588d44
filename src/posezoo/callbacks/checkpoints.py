"""When and how checkpoints are written: the best one, one to resume from, and neither ever half."""

import os
import shlex
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from lightning_fabric.utilities.cloud_io import _is_local_file_protocol
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from posezoo.callbacks.pose_metrics import run_folder
from posezoo.errors import PoseZooError

_ASK_EVERY = 10  # steps between two questions to the other ranks whether one of them was asked to stop


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it into place, so that a target is never half a file.

    Lightning 2.6 writes to the system's temporary folder and moves the file from there: on another file system that
    is a copy over the previous checkpoint, which a kill or a full disk leaves damaged. Remote paths go its way.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write, flush to the disk, rename.

        Raises:
            PoseZooError: No space or no permission; what was at `path` before is untouched.
        """
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        part = target.with_name(f".{target.name}.part")  # one name: the rest of a killed save is overwritten
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except (OSError, RuntimeError) as error:  # torch's zip writer hides the OSError behind a RuntimeError
            part.unlink(missing_ok=True)
            cause = _os_error(error)
            if cause is None:
                raise
            raise PoseZooError(
                f"cannot write the checkpoint {target} ({cause.strerror}): make room or choose another folder, then "
                "resume with `--ckpt_path last`; the checkpoint that was there before is whole."
            ) from error


def _os_error(error: BaseException | None) -> OSError | None:
    """The operating system's complaint in a chain of exceptions."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best validation score, also across a resume into another run folder.

    Args:
        monitor: What is compared.
        mode: "min" or "max" is best.
        save_top_k: How many are kept.
        dirpath: Where; `checkpoints` in the run folder when null.
    """

    def __init__(
        self, monitor: str = "val/mpjpe", mode: str = "min", save_top_k: int = 1, dirpath: str | None = None
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=f"best-step{{step}}-{monitor.rpartition('/')[2]}{{{monitor}:.1f}}",
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,  # right after the validation, where resuming is exact
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the scores of the run that is resumed; Lightning forgets them when the folder has changed."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, from which `--ckpt_path last` goes on exactly: same batches, same losses.

    Written every `every_n_steps` steps, after every validation, at the end of training, on Ctrl-C and on SIGTERM;
    always between two steps, never in the middle of one.

    Args:
        every_n_steps: Optimiser steps between two periodic saves; 0 for none.
        dirpath: Where; `checkpoints` in the run folder when null.
    """

    def __init__(self, every_n_steps: int = 500, dirpath: str | None = None) -> None:
        if every_n_steps < 0:
            raise PoseZooError(f"every_n_steps of LastCheckpoint must be 0 (never) or more, got {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self.folder = Path(dirpath).expanduser() if dirpath else None
        self.path = Path()
        self._saved = 0  # step of the newest save
        self._stop = 0  # the signal that asked for the end
        self._previous: dict[int, Any] = {}  # handlers of other people

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Find the folder; a collective call."""
        self.path = (self.folder or run_folder(trainer) / "checkpoints") / "last.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """From here on, the first Ctrl-C and SIGTERM wait for the end of the step.

        Lightning's handler of SIGTERM talks to the other ranks from within the signal, wherever they are just now, so
        ours takes its place; except where SLURM requeues, which is Lightning's business.
        """
        self._saved, self._stop = trainer.global_step, 0
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_signal)
        environment = trainer._accelerator_connector.cluster_environment
        if not getattr(environment, "auto_requeue", False):
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Save when it is time to; a validation that is about to run comes first."""
        if trainer.fast_dev_run or trainer.fit_loop._should_accumulate():
            return
        stop = self._agreed(trainer)
        if trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
            return
        if stop or self._is_due(trainer):
            self._save(trainer)
        self._end(stop)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Save together with the score."""
        if trainer.sanity_checking or trainer.fast_dev_run or trainer.state.fn != "fit":
            return
        self._save(trainer)
        self._end(self._agreed(trainer))

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Save the result of a run that ended between two saves."""
        if not trainer.fast_dev_run:
            self._save(trainer)
        self._restore_handlers()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Say how to go on. SIGTERM stops between two steps, so that its state is worth saving."""
        self._restore_handlers()
        if trainer.state.fn != "fit" or trainer.fast_dev_run or trainer.sanity_checking:
            return
        if isinstance(exception, SIGTERMException):
            self._save(trainer)
        if isinstance(exception, SIGTERMException | KeyboardInterrupt) and trainer.is_global_zero:
            print(self._how_to_resume(trainer), flush=True)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where the run is, Lightning's loops know."""
        return {}

    def _is_due(self, trainer: pl.Trainer) -> bool:
        step, every = trainer.global_step, self.every_n_steps
        if trainer.fit_loop.epoch_loop.max_steps == step:
            return True
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if last_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return True
        return bool(every) and step // every > self._saved // every  # a batch may make several optimiser steps

    def _save(self, trainer: pl.Trainer) -> None:
        if self._saved != trainer.global_step:
            for logger in trainer.loggers:
                logger.save()  # the CSV logger keeps up to 100 rows in memory, which a kill would lose
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved = trainer.global_step

    def _on_signal(self, number: int, _frame: Any) -> None:
        if self._stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._stop = number
        if os.environ.get("LOCAL_RANK", "0") == "0":
            again = "; press it again to stop at once" if number == signal.SIGINT else ""
            print(f"\n{signal.Signals(number).name}: saving after this step{again}.", flush=True)

    def _agreed(self, trainer: pl.Trainer) -> int:
        """The signal that any rank has got, or 0. Ranks ask each other at the same steps, but not at every one."""
        if trainer.world_size == 1:
            return self._stop
        if trainer.training and trainer.global_step % _ASK_EVERY:
            return 0
        mine = torch.tensor(float(self._stop), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(mine, reduce_op="max"))

    @staticmethod
    def _end(stop: int) -> None:
        if stop == signal.SIGINT:
            raise KeyboardInterrupt
        if stop:
            raise SIGTERMException

    def _restore_handlers(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _how_to_resume(self, trainer: pl.Trainer) -> str:
        if not self.path.is_file():
            return f"Stopped at step {trainer.global_step}, before the first checkpoint."
        config = self.path.parent.parent / "config.yaml"
        recipe = f"-c {shlex.quote(str(config))}" if config.is_file() else "..."
        return (
            f"Stopped at step {trainer.global_step}; {self.path} holds step {self._saved}.\n"
            f"To go on: posezoo fit {recipe} --ckpt_path {shlex.quote(str(self.path))}"
        )
