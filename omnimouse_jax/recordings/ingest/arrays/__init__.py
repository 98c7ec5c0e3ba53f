"""The arrays format: a folder of plain arrays and a small description."""

from omnimouse_jax.recordings.ingest.arrays.reader import discover, read, read_session, source_files

__all__ = ["discover", "read", "read_session", "source_files"]
