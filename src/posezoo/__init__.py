"""posezoo: 3D human pose from one camera, as trainable Lightning modules."""

__version__ = "0.1.0"
