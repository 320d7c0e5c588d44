"""The papers' relative claims, tried on SyntheticPeople: `python -m benchmarks.claims --list`."""
