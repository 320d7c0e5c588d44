"""Errors that are the user's to mend: one clear sentence that says what to type next, and no traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class PoseZooError(Exception):
    """A user's mistake; the command line prints the message alone and exits with status 2."""


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """Second half of a sentence about an unknown name: the nearest known names, or all of them.

    Names with a folder or a family in front (`metrabs/demo`) are also found by what follows it.
    """
    names = list(known)
    tails = {n.rpartition("/")[2].lower(): n for n in names} | {n.lower(): n for n in names}
    wanted = name.lower()
    near = [tails[n] for n in get_close_matches(wanted, tails, n=count, cutoff=0.6)]
    near += [n for n in names if wanted and wanted in n.lower()]
    if near:
        return f"did you mean {' or '.join(list(dict.fromkeys(near))[:count])}?"
    return f"choose from {', '.join(names)}." if names else "there are none yet."
