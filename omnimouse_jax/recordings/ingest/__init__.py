"""Readers of recordings in the formats that labs have, and the one function that brings them into a store."""

from omnimouse_jax.recordings.ingest.engine import Ingested, ingest, verify

__all__ = ["Ingested", "ingest", "verify"]
