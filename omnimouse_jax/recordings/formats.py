"""Which formats of recordings can be read. Light: the command line shows it before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

#: Format -> module below `recordings.ingest`, and what its SOURCE is.
FORMATS: Mapping[str, tuple[str, str]] = {
    "arrays": ("arrays", "folders with recording.json and .npy/.npz files: what a lab without a pipeline has"),
    "nwb": ("nwb", "two-photon NWB 2 files, or folders of them as on DANDI (docs/nwb.md; needs the extra nwb)"),
    "sensorium2022": ("sensorium.images", "SENSORIUM 2022 (images): static*.zip as downloaded, or their folders"),
    "sensorium2023": ("sensorium.videos", "SENSORIUM 2023 (videos): dynamic*.zip as downloaded, or their folders"),
    "experanto": ("experanto", "folders with responses/, screen/, eye_tracker/, treadmill/"),
}
