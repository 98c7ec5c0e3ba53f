"""A study in a bucket: machines that share no disk with this one mount it, and this one copies what it needs to know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from launch import status
from launch.engine import Study
from launch.points import SCORES, branches
from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically
from omnimouse_jax.scaling.plan import FILE

#: What is copied of a run, and of each of its branches: all that a ledger and a table of cells are made of.
SMALL = (status.FILE, "run.json", SCORES)


class Bucket(NamedTuple):
    """gs://NAME/PATH or s3://NAME/PATH."""

    url: str
    scheme: str
    name: str
    path: str

    @classmethod
    def of(cls, url: str, what: str, schemes: tuple[str, ...] = ("gs", "s3")) -> Bucket:
        """UserError where `url` is no bucket."""
        parts = urlsplit(url)
        if parts.scheme not in schemes or not parts.netloc:
            forms = " or ".join(f"{scheme}://BUCKET/PATH" for scheme in schemes)
            raise UserError(f"{what} is {url!r}: machines in the cloud cannot see it", way_out=f"give {forms}")
        return cls(url.rstrip("/"), parts.scheme, parts.netloc, parts.path.strip("/"))

    @property
    def root(self) -> str:
        """The bucket itself."""
        return f"{self.scheme}://{self.name}"

    def mounted(self, at: str) -> str:
        """Its path where the bucket is mounted at `at`."""
        return f"{at}/{self.path}".rstrip("/")


def push_plan(study: Study, url: str) -> None:
    """Puts the plan where workers look for it."""
    from omnimouse_jax.recordings.kvstore import Place

    Place(url).write(FILE, (study.folder / FILE).read_bytes())


def pull(study: Study, url: str, run_ids: list[str]) -> None:
    """Copies the small files of cells' runs and branches from a bucket, where they are there."""
    from omnimouse_jax.recordings.kvstore import Place

    place = Place(url)
    for run_id in run_ids:
        cell = study.plan.cell(run_id)
        run = study.run_folder(run_id)
        for folder in (run, *branches(run, cell).values()):
            for name in SMALL:
                _copy(place.read(f"{folder.relative_to(study.folder).as_posix()}/{name}"), folder / name)


def _copy(content: bytes | None, path: Path) -> None:
    if content is None or (path.exists() and path.read_bytes() == content):
        return
    if path.name == status.FILE and path.exists():  # what was written down here may be newer
        try:
            if str(json.loads(content).get("updated", "")) < str(json.loads(path.read_bytes()).get("updated", "")):
                return
        except ValueError:
            return
    write_atomically(path, content)
