"""Named colonies, overrides by field name, and what making a colony will cost."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.synthetic.spec import ColonySpec

_TINY = ColonySpec(
    n_animals=3,
    neurons=(10, 16),
    train_minutes=1 / 3,
    clip_seconds=5.0,
    validation_clips=1,
    test_clips=2,
    test_repeats=3,
    train_images=6,
    long_blank_seconds=3.0,
)

PRESETS: dict[str, ColonySpec] = {
    # seconds of work
    "tiny": _TINY,
    # as small, with every kind of missing data once and other rates
    "mixed": dataclasses.replace(
        _TINY,
        n_animals=6,
        neurons=(10, 40),
        scan_rates=(8.0, 11.0, 6.3),
        eye_rates=(20.0, 15.5),
        treadmill_rates=(100.0, 49.0),
        complete_first=2,
        missing_eye_tracker=0.25,
        missing_screen=0.25,
        missing_gaze=0.25,
        unresampled=0.25,
    ),
    # coarse, mostly simple receptive fields near each other: learnt within a demonstration's minutes; so little of each
    # mouse that a model of three mice overfits, and others must help
    "demo": ColonySpec(
        n_animals=16,
        train_minutes=0.75,
        complete_first=4,
        complex_fraction=0.3,
        spatial_frequency=0.02,
        temporal_frequency=1.5,
        rf_spread=12.0,
        window_spread=5.0,
    ),
    # dozens of sessions
    "colony": ColonySpec(
        n_animals=24,
        sessions_per_animal=2,
        neurons=(100, 300),
        screen=(36, 64),
        train_minutes=10.0,
        validation_clips=6,
        validation_repeats=2,
        test_clips=6,
        test_repeats=6,
        train_images=200,
        test_images=10,
        n_latents=8,
        scan_rates=(8.0, 8.0, 11.0, 6.3),
        complete_first=8,
        long_blank_seconds=20.0,
        missing_eye_tracker=0.05,
    ),
    # the size of the published corpus
    "field": ColonySpec(
        n_animals=73,
        sessions_per_animal=4,
        neurons=(4500, 9400),
        screen=(36, 64),
        train_minutes=60.0,
        validation_clips=12,
        validation_repeats=4,
        test_clips=6,
        test_repeats=10,
        train_images=2000,
        test_images=50,
        image_repeats=10,
        n_latents=16,
        latent_seconds=(0.3, 20.0),
        scan_rates=(8.0, 8.0, 8.0, 11.0, 6.3, 7.0),
        complete_first=8,
        long_blank_seconds=59.0,
        missing_eye_tracker=0.02,
    ),
}


def resolve(preset: str, overrides: Mapping[str, Any] | None = None) -> ColonySpec:
    """A preset with some fields replaced. Values may be text ("24", "(10, 20)"), as a command line gives them.

    Raises UserError for an unknown preset or field (naming the nearest valid one) and for a value of another type.
    """
    if preset not in PRESETS:
        raise UserError(f"synthesize: preset {preset!r} does not exist", way_out=f"choose one of {', '.join(PRESETS)}")
    spec = PRESETS[preset]
    changed: dict[str, Any] = {}
    for field, value in (overrides or {}).items():
        if not hasattr(spec, field) or field not in spec.__dataclass_fields__:
            near = difflib.get_close_matches(field, list(spec.__dataclass_fields__), n=1, cutoff=0.0)[0]
            raise UserError(f"synthesize: no field {field!r} in a colony spec", way_out=f"did you mean {near!r}?")
        changed[field] = _cast(field, value, getattr(spec, field))
    return dataclasses.replace(spec, **changed)


def _cast(field: str, value: Any, like: Any) -> Any:
    def fail() -> UserError:
        return UserError(
            f"synthesize: {field}={value!r} is not of the right type", way_out=f"give something like {like!r}"
        )

    if isinstance(value, str) and not isinstance(like, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise fail() from None
    if isinstance(like, tuple):
        given = tuple(value) if isinstance(value, tuple | list) else (value,)
        if len(given) != len(like) and not field.endswith("_rates"):
            raise fail()
        return tuple(_cast(field, v, like[0]) for v in given)
    if isinstance(like, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(like):
        raise fail()
    return value


def estimate(spec: ColonySpec) -> dict[str, float]:
    """What the colony will be: sessions, neurons, hours, bytes (uncompressed), seconds (one process on two cores).

    The seconds are a fit to sessions of several sizes made on a two-core machine; take them to within a factor of two.
    """
    video = spec.train_clips + spec.validation_clips * spec.validation_repeats + spec.test_clips * spec.test_repeats
    images = spec.train_images + spec.test_images * spec.image_repeats
    blank = sum(spec.blank_seconds) / 2
    shown = video * (spec.clip_seconds + blank) + images * (spec.image_seconds + blank) + spec.long_blank_seconds + 4
    clips = spec.train_clips + spec.validation_clips + spec.test_clips
    pool = clips * spec.clip_seconds * spec.frame_rate + spec.train_images + spec.test_images
    neurons = sum(spec.neurons) / 2
    pixels = spec.screen[0] * spec.screen[1]
    samples, ticks = shown * spec.response_rate, shown * spec.frame_rate
    seconds = _COST["session"] + _COST["clip"] * clips + _COST["pool pixel"] * pool * pixels
    seconds += _COST["pool pixel neuron"] * pool * pixels * neurons + _COST["tick neuron"] * ticks * neurons
    n = spec.n_sessions
    return {
        "sessions": float(n),
        "neurons": n * neurons,
        "hours": n * shown / 3600,
        "bytes": n * (samples * neurons * 4 + pool * pixels + shown * (20 * 4 + 100) * 4),
        "seconds": n * seconds,
    }


#: Seconds, measured (see `estimate`).
_COST = {"session": 0.1, "clip": 0.015, "pool pixel": 1.3e-7, "pool pixel neuron": 8e-11, "tick neuron": 3.5e-7}
