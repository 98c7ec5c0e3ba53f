"""The nwb format: two-photon sessions in NWB 2 files."""

from omnimouse_jax.recordings.ingest.nwb.reader import discover, read_session, source_files

__all__ = ["discover", "read_session", "source_files"]
