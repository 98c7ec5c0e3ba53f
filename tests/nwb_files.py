"""Small NWB files in the manner of published ones, written with pynwb itself."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np

RATE = 30.0
T0 = 7.25
N = 2400  # 80 s


def empty(name: str = "m1") -> Any:
    from pynwb import NWBFile
    from pynwb.file import Subject

    return NWBFile(
        identifier=f"id-{name}",
        session_id="501-StimA",
        session_description="made for a test",
        session_start_time=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        subject=Subject(subject_id=name, species="Mus musculus", sex="M", age="P90D"),
    )


def write(nwb: Any, path: Path) -> Path:
    from pynwb import NWBHDF5IO

    path.parent.mkdir(parents=True, exist_ok=True)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


def module(nwb: Any, name: str) -> Any:
    return nwb.processing[name] if name in nwb.processing else nwb.create_processing_module(name, name)


def plane(nwb: Any, n_rois: int, suffix: str = "", *, image_masks: bool = False, **columns: Any) -> Any:
    """A PlaneSegmentation with `n_rois` masks whose centre is (10 + k, 20 + 2 k) pixels."""
    from pynwb.ophys import ImageSegmentation, OpticalChannel

    device = nwb.devices.get("Microscope") or nwb.create_device("Microscope")
    imaging = nwb.create_imaging_plane(
        name=f"ImagingPlane{suffix}",
        optical_channel=OpticalChannel(name="green", description="green", emission_lambda=500.0),
        description="a plane",
        device=device,
        excitation_lambda=920.0,
        indicator="GCaMP6f",
        location="VISp",
        grid_spacing=[2.0, 3.0],
        grid_spacing_unit="micrometers",
        origin_coords=[100.0, 200.0, 250.0],
        origin_coords_unit="micrometers",
    )
    ophys = module(nwb, "ophys")
    if "ImageSegmentation" not in ophys.data_interfaces:
        ophys.add(ImageSegmentation(name="ImageSegmentation"))
    table = ophys["ImageSegmentation"].create_plane_segmentation(
        name=f"PlaneSegmentation{suffix}", description="rois", imaging_plane=imaging
    )
    for k in range(n_rois):
        if image_masks:
            mask = np.zeros((60, 90), np.float32)
            mask[9 + k : 12 + k, 20 + 2 * k] = 0.5
            table.add_roi(id=1000 + k, image_mask=mask)
        else:
            table.add_roi(id=1000 + k, pixel_mask=[(9 + k, 20 + 2 * k, 1.0), (11 + k, 20 + 2 * k, 1.0)])
    for name, values in columns.items():
        table.add_column(name=name, description=name, data=list(values))
    return table


def traces(table: Any, name: str, data: np.ndarray, n_rois: int | None = None, **time: Any) -> Any:
    from pynwb.ophys import RoiResponseSeries

    n = len(table.id) if n_rois is None else n_rois
    region = table.create_roi_table_region(region=list(range(n)), description="rois")
    return RoiResponseSeries(name=name, data=data, rois=region, unit="a.u.", **time)


def responses(nwb: Any, data: np.ndarray, container: str = "DfOverF", name: str = "DfOverF", **time: Any) -> Any:
    """The smallest ophys module: one plane, one series."""
    from pynwb.ophys import DfOverF, Fluorescence

    table = plane(nwb, data.shape[1])
    holder = {"DfOverF": DfOverF, "Fluorescence": Fluorescence}.get(container, Fluorescence)(name=container)
    module(nwb, "ophys").add(holder)
    holder.add_roi_response_series(traces(table, name, data, **(time or {"rate": RATE, "starting_time": T0})))
    return table


def index_series(name: str, index: Any, times: Any, template: Any) -> Any:
    """An IndexSeries; into an ImageSeries as older files have it, which pynwb still reads but no longer makes."""
    from pynwb.base import Images
    from pynwb.image import GrayscaleImage, IndexSeries

    index = np.asarray(index).astype(np.uint32)
    if isinstance(template, Images):
        return IndexSeries(name=name, data=index, indexed_images=template, unit="N/A", timestamps=np.asarray(times))
    common = {"name": name, "data": index, "unit": "N/A", "timestamps": np.asarray(times)}
    try:
        return IndexSeries(indexed_timeseries=template, **common)
    except ValueError:  # newer than 3
        stand_in = Images(name="none", images=[GrayscaleImage(name="a", data=np.zeros((2, 2), np.uint8))])
    series = IndexSeries(indexed_images=stand_in, **common)
    series.fields["indexed_images"] = None
    series.fields["indexed_timeseries"] = template
    return series


def table(name: str, rows: list[dict[str, Any]]) -> Any:
    from pynwb.epoch import TimeIntervals

    out = TimeIntervals(name=name, description=name)
    for column in rows[0]:
        if column not in ("start_time", "stop_time"):
            out.add_column(name=column, description=column)
    for row in rows:
        out.add_interval(**row)
    return out


def allen(path: Path) -> dict[str, np.ndarray]:
    """Allen Visual Coding as converted for DANDI: traces of one plane, gratings, a movie three times, scenes, behaviour.

    Times of the screen: gratings 10..22 s (one blank sweep), movie 25..34 s, scenes 40..45 s, spontaneous 50..60 s.
    """
    from pynwb import TimeSeries
    from pynwb.base import Images
    from pynwb.behavior import BehavioralTimeSeries, CompassDirection, EyeTracking, PupilTracking, SpatialSeries
    from pynwb.image import Image, ImageSeries
    from pynwb.ophys import DfOverF, Fluorescence

    rng = np.random.default_rng([3])
    nwb = empty("222426")
    rois = plane(nwb, 6, global_roi_id=range(500, 506))
    times = T0 + np.arange(N) / RATE
    kept = {name: rng.normal(size=(N, 6)).astype(np.float32) for name in ("dff", "events", "corrected", "neuropil")}
    kept["events"] = np.abs(kept["events"])
    corrected = traces(rois, "Corrected", kept["corrected"], timestamps=times)
    linked = {"timestamps": corrected}
    ophys = module(nwb, "ophys")
    ophys.add(
        Fluorescence(
            name="Fluorescence",
            roi_response_series=[traces(rois, "Neuropil", kept["neuropil"], **linked), corrected],
        )
    )
    ophys.add(
        DfOverF(
            name="DfOverF",
            roi_response_series=[
                traces(rois, "DfOverF", kept["dff"], **linked),
                traces(rois, "DfOverFEvents", kept["events"], **linked),
            ],
        )
    )
    gratings = [
        {
            "start_time": 10.0 + 3 * k,
            "stop_time": 12.0 + 3 * k,
            "orientation_in_degrees": np.nan if k == 2 else 90.0 * (k % 2),
            "spatial_frequency_in_cycles_per_degree": 0.04,
            "temporal_frequency_in_hz": np.nan if k == 2 else 2.0,
            "is_blank_sweep": k == 2,
        }
        for k in range(4)
    ]
    nwb.add_stimulus(table("drifting_gratings", gratings))
    kept["movie"] = rng.integers(0, 256, (90, 12, 20)).astype(np.uint8)
    movie = ImageSeries(name="natural_movie_one", data=kept["movie"], unit="n.a.", starting_time=np.nan, rate=np.nan)
    nwb.add_stimulus_template(movie)
    shown = 25.0 + np.arange(270) / 30
    nwb.add_stimulus(index_series("natural_movie_one_stimulus", np.arange(270) % 90, shown, movie))
    kept["scenes"] = rng.integers(0, 256, (12, 12, 20)).astype(np.uint8)
    scenes = Images(
        name="natural_scenes_template",
        images=[Image(name=f"NaturalScene{k}", data=kept["scenes"][k]) for k in range(12)],
    )
    nwb.add_stimulus_template(scenes)
    kept["order"] = np.array([2, 10, 11, -1, 3, 2, 0, 7, 9, 10, 5, 6, 8, 4, 1, 2, 10, 0, 3, 5])
    nwb.add_stimulus(index_series("natural_scenes_stimulus", kept["order"], 40 + 0.25 * np.arange(20), scenes))
    nwb.add_stimulus(table("spontaneous_stimulus", [{"start_time": 50.0, "stop_time": 60.0}]))
    behavior = module(nwb, "behavior")
    kept["running"] = rng.normal(size=2300)
    running = TimeSeries(name="running_speed", data=kept["running"], timestamps=times[:2300], unit="cm/s")
    behavior.add(BehavioralTimeSeries(time_series=running))
    kept["gaze"] = rng.normal(size=(N, 2))
    kept["gaze"][100:130] = np.nan
    gaze = SpatialSeries(name="pupil_location", data=kept["gaze"], timestamps=times, unit="m", reference_frame="x")
    behavior.add(EyeTracking(spatial_series=[gaze]))
    angle = SpatialSeries(
        name="pupil_location_spherical", data=kept["gaze"] * 9, timestamps=times, unit="degrees", reference_frame="x"
    )
    behavior.add(CompassDirection(spatial_series=[angle]))
    kept["pupil"] = rng.normal(size=N)
    behavior.add(
        PupilTracking(time_series=[TimeSeries(name="pupil_size", data=kept["pupil"], timestamps=times, unit="px")])
    )
    write(nwb, path)
    return kept


def microns(path: Path) -> dict[str, Any]:
    """MICrONS: one series per field on slightly later clocks, one colour movie of everything, tables of named clips."""
    from pynwb import TimeSeries
    from pynwb.behavior import EyeTracking, PupilTracking, SpatialSeries
    from pynwb.image import ImageSeries
    from pynwb.ophys import Fluorescence

    rng = np.random.default_rng([4])
    nwb = empty("17797")
    times = 3.0 + np.arange(400) / 6.3
    fields = [rng.gamma(1, 1, (400, n)) for n in (3, 4)]
    holder = Fluorescence(name="Fluorescence")
    for f, data in enumerate(fields, start=1):
        kind = ["soma"] * data.shape[1]
        kind[1] = "artifact"
        rois = plane(nwb, data.shape[1], str(f), image_masks=True, mask_type=kind)
        late = 0.04 * (f - 1)
        holder.add_roi_response_series(traces(rois, f"RoiResponseSeries{f}", data, timestamps=times + late))
    module(nwb, "ophys").add(holder)
    clips = {name: rng.integers(0, 256, (120, 9, 16, 3)).astype(np.uint8) for name in ("aaa", "bbb", "ccc")}
    order = ["aaa", "bbb", "aaa", "ccc"]
    grey = np.full((60, 9, 16, 3), 128, np.uint8)
    parts = [grey]
    for name in order:
        noise = rng.integers(-2, 3, clips[name].shape)  # what a codec does to the second presentation
        parts += [np.clip(clips[name].astype(int) + noise, 0, 255).astype(np.uint8), grey]
    video = np.concatenate(parts)
    stamps = 5.0 + np.arange(len(video)) / 60
    nwb.add_acquisition(
        ImageSeries(name="stimulus_17797_4_7", description="The visual stimulus", data=video, unit="n.a.",
                    timestamps=stamps)
    )  # fmt: skip
    rows = [
        {
            "start_time": float(stamps[60 + 180 * k]),
            "stop_time": float(stamps[60 + 180 * k + 120]),
            "condition_hash": name,
            "stimulus_type": "stimulus.Clip",
        }
        for k, name in enumerate(order)
    ]
    nwb.add_time_intervals(table("Clip", rows[:3]))
    nwb.add_time_intervals(table("Monet2", rows[3:]))
    eye_times = np.arange(1300) / 20.0
    radius = rng.normal(size=1300)
    minor = TimeSeries(name="pupil_minor_radius", data=radius / 2, timestamps=eye_times, unit="px")
    major = TimeSeries(name="pupil_major_radius", data=radius, timestamps=minor, unit="px")
    nwb.add_acquisition(PupilTracking(time_series=[minor, major]))
    position = rng.normal(size=(1300, 2))
    nwb.add_acquisition(
        EyeTracking(SpatialSeries(name="eye_position", data=position, timestamps=minor, unit="px", reference_frame="?"))
    )
    wheel = rng.normal(size=6000)
    nwb.add_acquisition(
        TimeSeries(name="treadmill_velocity", data=wheel, timestamps=np.arange(6000) / 100, unit="m/s", conversion=0.01)
    )
    write(nwb, path)
    return {"fields": fields, "video": video, "stamps": stamps, "radius": radius, "position": position,
            "wheel": wheel, "times": times, "rows": rows}  # fmt: skip
