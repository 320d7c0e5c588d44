"""Arguments of tiny runs, shared by the command line tests."""

from pathlib import Path

import pytest

from posezoo.__main__ import main


def tiny(val_length: int = 4, devices: int = 1) -> list[str]:
    """A ten-layer network on 64 px people; the trainer's part comes last (four words)."""
    return [
        "--model=MeTRAbs",
        "--model.backbone=resnet10_w8",
        "--model.image_size=64",
        "--model.stride=16",
        "--data=SyntheticPeople",
        "--data.preset=easy",
        "--data.frame_size=64",
        "--data.train_length=8",
        f"--data.val_length={val_length}",
        "--data.test_length=6",
        "--data.batch_size=4",
        "--data.num_workers=0",
        "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu",
        f"--trainer.devices={devices}",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]


def log_to(folder: Path, name: str) -> list[str]:
    """Let a run write to folder/name."""
    logger = "--trainer.logger.init_args"
    return [f"{logger}.save_dir={folder}", f"{logger}.name=", f"{logger}.version={name}"]


def error_of(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """Run a mistake: exit status 2 and one sentence on stderr, nothing else."""
    capsys.readouterr()
    assert main(args) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("posezoo: error: ")
    assert "\n" not in message
    return message


def last_error_of(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """The same for a command that reports its progress first."""
    capsys.readouterr()
    assert main(args) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("posezoo: error: ")]) == 1
    return lines[-1]
