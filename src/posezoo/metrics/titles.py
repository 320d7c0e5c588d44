"""What the scores of `val/...`, `test/...` and metrics.json are called, and their units."""

# name -> (title, unit, needs the absolute pose)
METRICS: dict[str, tuple[str, str, bool]] = {
    "mpjpe": ("MPJPE", "mm", False),
    "pa_mpjpe": ("PA-MPJPE", "mm", False),
    "n_mpjpe": ("N-MPJPE", "mm", False),
    "pck": ("PCK@150", "%", False),
    "auc": ("AUC 0-150", "%", False),
    "abs_mpjpe": ("absolute MPJPE", "mm", True),
    "mrpe": ("root error (MRPE)", "mm", True),
}
