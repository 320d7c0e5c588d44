"""`python -m benchmarks [name ...]`: run the named benchmarks, or all of them, one after the other."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    known = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"benchmarks: error: unknown benchmark '{unknown[0]}': choose from {', '.join(known)}.", file=sys.stderr)
        return 2
    sys.argv = sys.argv[:1]
    for name in names or known:
        print(f"== {name}", flush=True)
        runpy.run_path(str(known[name]), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
