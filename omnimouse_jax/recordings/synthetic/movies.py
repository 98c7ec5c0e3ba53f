"""Natural-like stimuli: a camera that moves over a world of occluding leaves, with objects that move on their own.

The world is a dead-leaves image (Lee, Mumford and Huang 2001): opaque ellipses with a power law of sizes, on and under
a 1/f texture. Its amplitude spectrum falls about as 1/f in space because of the edges, and, because a moving camera
turns spatial frequency into temporal frequency (Dong and Atick 1995) and shots are cut, about as 1/f in time.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from omnimouse_jax.recordings.synthetic.spec import ColonySpec

_LEAVES_PER_PIXEL = 0.025
_LEAF_RADII = (1.5, 40.0)  # pixels of a 64-pixel wide screen's canvas; scaled with the screen


def dead_leaves(rng: np.random.Generator, size: int, scale: float) -> Float[np.ndarray, "size size"]:
    """A torus of `size` x `size` pixels with zero mean and unit standard deviation. `scale` multiplies leaf radii."""
    world = _texture(rng, size)
    shade = _texture(rng, size)
    n = int(_LEAVES_PER_PIXEL * size * size / scale)
    smallest, largest = _LEAF_RADII[0] * max(scale, 0.6), min(_LEAF_RADII[1] * scale, size / 3)
    # p(r) ~ r^-3 between the two radii, by inversion
    radius = (smallest**-2 - rng.random(n) * (smallest**-2 - largest**-2)) ** -0.5
    aspect, angle = rng.uniform(0.4, 1.0, n), rng.uniform(0, np.pi, n)
    centre, grey = rng.uniform(0, size, (n, 2)), rng.normal(0, 1.0, n)
    slope = rng.normal(0, 0.25, (n, 2)) / radius[:, None]
    for k in range(n):
        reach = int(np.ceil(radius[k]))
        rows = np.arange(int(centre[k, 0]) - reach, int(centre[k, 0]) + reach + 1)
        columns = np.arange(int(centre[k, 1]) - reach, int(centre[k, 1]) + reach + 1)
        dy, dx = (rows - centre[k, 0])[:, None], (columns - centre[k, 1])[None, :]
        along, across = np.cos(angle[k]) * dx + np.sin(angle[k]) * dy, np.cos(angle[k]) * dy - np.sin(angle[k]) * dx
        inside = along**2 + (across / aspect[k]) ** 2 <= radius[k] ** 2
        at = (rows % size)[:, None], (columns % size)[None, :]
        world[at] = np.where(inside, grey[k] + slope[k, 0] * dy + slope[k, 1] * dx + 0.5 * shade[at], world[at])
    world = ndimage.gaussian_filter(world, 0.4, mode="wrap")
    return (world - world.mean()) / world.std()


def clip(rng: np.random.Generator, spec: ColonySpec, n_frames: int) -> UInt8[np.ndarray, "frames height width"]:
    """A film of `n_frames` cut into shots of 2 to 5 s: camera translation, zoom and rotation, and up to two objects."""
    world = dead_leaves(rng, _canvas(spec), spec.screen[1] / 64)
    frames = np.empty((n_frames, *spec.screen), np.float64)
    first = 0
    while first < n_frames:
        last = min(n_frames, first + int(rng.uniform(2.0, 5.0) * spec.frame_rate))
        if n_frames - last < spec.frame_rate:
            last = n_frames
        frames[first:last] = _shot(rng, spec, world, last - first)
        first = last
    return _to_grey(frames, spec)


def images(rng: np.random.Generator, spec: ColonySpec, n: int) -> UInt8[np.ndarray, "images height width"]:
    """`n` static images, ten from each world."""
    frames = np.empty((n, *spec.screen), np.float64)
    for k in range(n):
        if k % 10 == 0:
            world = dead_leaves(rng, _canvas(spec), spec.screen[1] / 64)
        frames[k] = _shot(rng, spec, world, 1)[0]
    return _to_grey(frames, spec)


def _texture(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Gaussian noise with amplitude 1/f, unit standard deviation."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    f = np.hypot(fy, fx)
    f[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) / f, (size, size))
    return field / field.std()


def _canvas(spec: ColonySpec) -> int:
    return int(3.5 * max(spec.screen))


def _shot(rng: np.random.Generator, spec: ColonySpec, world: np.ndarray, n: int) -> Float[np.ndarray, "n height width"]:
    """One shot, in units of contrast around the mean level."""
    height, width = spec.screen
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    t = np.arange(n) / spec.frame_rate
    view = _path(rng, spec, t)
    zoom = np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.12) * t)
    turn = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.15) * t
    place = rng.uniform(0, len(world), 2)

    def look(offset: np.ndarray) -> np.ndarray:
        c, s = (zoom * np.cos(turn))[:, None, None], (zoom * np.sin(turn))[:, None, None]
        at = np.stack([c * y + s * x + offset[:, 0, None, None], c * x - s * y + offset[:, 1, None, None]])
        return ndimage.map_coordinates(world, at, order=1, mode="grid-wrap")

    out = look(place + view)
    for _ in range(rng.integers(0, 3)):
        # an object: a soft-edged ellipse with its own piece of texture, moving on its own
        own = _path(rng, spec, t) + rng.uniform(-0.3, 0.3, 2) * (height, width)
        radius, aspect, angle = rng.uniform(0.15, 0.4) * height, rng.uniform(0.5, 1.0), rng.uniform(0, np.pi)
        dy, dx = y - own[:, 0, None, None], x - own[:, 1, None, None]
        along, across = np.cos(angle) * dx + np.sin(angle) * dy, (np.cos(angle) * dy - np.sin(angle) * dx) / aspect
        mask = np.clip(radius - np.hypot(along, across) + 0.5, 0.0, 1.0)
        texture = look(rng.uniform(0, len(world), 2) - own) + rng.normal(0, 0.8)
        out = out + mask * (texture - out)
    return rng.uniform(0.6, 1.2) * out + rng.normal(0, 0.2)


def _path(rng: np.random.Generator, spec: ColonySpec, t: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Positions in pixels: constant velocity plus a smooth wander. Speeds are log-normal, directions uniform."""
    speed = spec.speed / spec.degrees_per_pixel * np.exp(rng.normal(0, 0.8))
    angle = rng.uniform(0, 2 * np.pi)
    path = t[:, None] * speed * np.array([np.sin(angle), np.cos(angle)])
    for frequency in (0.2, 0.5, 1.1):
        phase, size = rng.uniform(0, 2 * np.pi, 2), rng.normal(0, 0.15 * speed / frequency / (2 * np.pi), 2)
        path = path + size * np.sin(2 * np.pi * frequency * t[:, None] + phase)
    return path


def _to_grey(frames: np.ndarray, spec: ColonySpec) -> np.ndarray:
    return np.clip(np.rint(spec.grey + spec.contrast * frames), 0, 255).astype(np.uint8)
