"""Full-integer conversion of TensorFlow models for the Edge TPU, one process per job, driven over JSON lines."""

__version__ = "1"
