"""What README says about released weights is what the catalogue says."""

import importlib.util
from pathlib import Path

import posezoo

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_weights_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("weights_table", ROOT / "docs" / "figures" / "weights_table.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script.updated(text) == text, "type: python docs/figures/weights_table.py"
    for name in posezoo.list_weights():
        assert f"`{name}`" in text
