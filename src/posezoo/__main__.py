"""Entry point of the `posezoo` command: answers what needs no torch, hands everything else on.

LightningCLI alone takes five seconds to import, so it is touched only by fit, validate, test and predict.
"""

import argparse
import os
import sys
from importlib import import_module
from typing import Any, NoReturn

from posezoo import __version__
from posezoo.commands import COMMANDS
from posezoo.errors import PoseZooError, did_you_mean

LIGHTNING = {
    "fit": "train a model",
    "validate": "score a checkpoint on the validation split",
    "test": "score a checkpoint on the test split",
    "predict": "write a checkpoint's poses for a dataset or a folder",
}


class _Parser(argparse.ArgumentParser):
    """Argument errors as one sentence, like every other mistake of a user."""

    def parse_args(self, *args: Any, **keywords: Any) -> Any:
        """As argparse, but a mistyped option is answered with the one that was meant."""
        found, left = self.parse_known_args(*args, **keywords)
        if left:
            near = did_you_mean(left[0].partition("=")[0], self._option_string_actions)
            guess = f" ({near.removesuffix('?')})" if near.startswith("did you mean") else ""
            self.error(f"unrecognized arguments: {' '.join(left)}{guess}")
        return found

    def error(self, message: str) -> NoReturn:
        raise PoseZooError(f"{message}; type `{self.prog} --help` for what it takes.")


def main(argv: list[str] | None = None) -> int | None:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; those of the process when None.

    Returns:
        The exit status; 2 for a user's mistake, which is printed as one sentence.
        Set POSEZOO_TRACEBACK=1 to see where it was raised.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(args)
        sys.stdout.flush()  # here, where a reader who has left can be handled
        return status
    except PoseZooError as error:
        if os.environ.get("POSEZOO_TRACEBACK") == "1":
            raise
        print(f"posezoo: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `posezoo list | head`; Python's own flush at exit must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(args: list[str]) -> int | None:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    name, rest = args[0], args[1:]
    if name in ("--version", "-V"):
        print(f"posezoo {__version__}")
        return 0
    if name in LIGHTNING:
        from posezoo import cli

        cli.main(args)
        return 0
    if name in COMMANDS:
        return _run_command(name, rest)
    if name.startswith("-"):
        raise PoseZooError(f"the command comes before options such as '{name}': type `posezoo --help`.")
    raise PoseZooError(f"unknown command '{name}': {did_you_mean(name, [*LIGHTNING, *COMMANDS])}")


def _run_command(name: str, args: list[str]) -> int:
    module_name, summary = COMMANDS[name]
    module = import_module(module_name)
    parser = _Parser(prog=f"posezoo {name}", description=module.__doc__ or summary, allow_abbrev=False)
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(args)))


def _help() -> str:
    commands = LIGHTNING | {name: summary for name, (_, summary) in COMMANDS.items()}
    lines = [f"  {name:<12}{summary}" for name, summary in commands.items()]
    return "\n".join(
        [
            f"posezoo {__version__}: 3D human pose from one camera",
            "",
            "usage: posezoo COMMAND ...",
            "",
            *lines,
            "",
            "posezoo COMMAND --help says what a command takes; posezoo --version prints the version.",
            "Try: posezoo fit -c metrabs/demo_synthetic",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
