r"""A sphere as six square faces, covered by three closed strips of four faces each.

Faces are L, F, R, B, U, D. With u to the right and v down in [-1, 1], a pixel of a face looks in the
direction F (u, -v, 1), R (1, -v, -u), B (-u, -v, -1), L (-1, -v, u), U (u, 1, v), D (u, -1, -v). Three
rings of faces close around an axis each: L F R B, U F D B and U R D L. Every face lies in two of them, so

$$s = s_{LFRB} + s_{UFDB} + s_{URDL} - \sum_{faces} s_{face},$$

where the score of a ring is a collage of its own. The faces keep the kinks of perspective at their
edges. Orientation follows the pictures: the first two strips show F upright.

Paper: DiffCollage, arXiv:2303.17076.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.collage.counting import COUNTINGS, Region
from redrift.collage.graph import Graph
from redrift.collage.layouts import ring

FACES = "LFRBUD"


def cubemap(
    piece: Sequence[int], *, overlap: int | None = None, counting: str = "kikuchi"
) -> Graph:
    """Lay square pieces on the six faces of a cube: data (C, 6, n, n).

    Args:
        piece: (C, n, n); the faces have the pieces' size. A ring of four faces is covered by
            windows that overlap, so that half of them lie across an edge of the cube.
        overlap: sites shared by neighbours along a ring; None is n / 2. n - overlap must divide
            4 n.
        counting: "kikuchi" or "bethe" within the rings, and one less for the faces; or another
            scheme over all windows.

    Raises:
        ValueError: if the piece is not square, or the windows do not close the ring.

    Example:
        >>> cubemap((3, 32, 32)).shape
        (3, 6, 32, 32)
    """
    choose("counting", counting, COUNTINGS)
    sizes = tuple(whole("piece", n) for n in piece)
    if len(sizes) != 3 or sizes[1] != sizes[2]:
        raise ValueError(f"the piece of a cubemap is (C, n, n), got {sizes}.")
    channels, n = sizes[0], sizes[1]
    overlap = n // 2 if overlap is None else overlap
    if not 0 <= overlap < n or (4 * n) % (n - overlap):
        valid = [o for o in range(n) if (4 * n) % (n - o) == 0]
        nearest = min(valid, key=lambda o: abs(o - overlap))
        raise ValueError(
            f"overlap={overlap}: windows of {n} that share {overlap} do not close a ring of {4 * n} sites; "
            f"the nearest overlap that does is {nearest}."
        )
    bethe = counting in ("kikuchi", "bethe")
    windows: list[Region] = []
    others: list[Region] = []
    for strip, axis in zip(strips(n), (-1, -2, -1), strict=True):
        around = ring(
            sizes,
            4 * n // (n - overlap),
            overlap,
            axis=axis,
            counting=counting if bethe else "average",
        )
        sites = strip.reshape(-1)
        base = len(windows)
        for region in around.regions:
            moved = dataclasses.replace(
                region,
                index=sites[region.index],
                weight=region.weight if bethe else 1.0,
                owners=tuple(base + i for i in region.owners),
                window=None if region.window is None else base + region.window,
            )
            (others if region.window is None else windows).append(moved)
    canvas = (6, n, n)
    if not bethe:
        return Graph.build(channels, canvas, windows, counting=counting, name="cubemap")
    faces = torch.arange(6 * n * n).reshape(6, n, n)
    for face in faces:
        held = _covering(face, windows)
        others.append(Region(face.reshape(-1).clone(), (n, n), -1.0, held))
    return Graph(channels, canvas, tuple(windows), (*windows, *others), counting, "cubemap")


def _covering(face: Tensor, windows: list[Region]) -> tuple[int, ...]:
    """Return the windows that hold most of a face: half of it or more."""
    low, high = int(face.min()), int(face.max())
    inside = [int(((w.index >= low) & (w.index <= high)).sum()) for w in windows]
    return tuple(i for i, sites in enumerate(inside) if 2 * sites >= face.numel())


def strips(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sites of the three rings: (n, 4n) L F R B, (4n, n) U F D B, (n, 4n) U R D L."""
    left, front, right, back, up, down = torch.arange(6 * n * n).reshape(6, n, n)
    turn = torch.rot90
    return (
        torch.cat((left, front, right, back), 1),
        torch.cat((up, front, down, turn(back, 2)), 0),
        torch.cat((up, turn(right, 1), turn(down, 2), turn(left, -1)), 1),
    )


def directions(n: int) -> Tensor:
    """Return where the pixels of the faces look, (6, n, n, 3), float64, not normalised."""
    line = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1
    v, u = torch.meshgrid(line, line, indexing="ij")
    one = torch.ones_like(u)
    faces = [
        (-one, -v, u),
        (u, -v, one),
        (one, -v, -u),
        (-u, -v, -one),
        (u, one, v),
        (u, -one, -v),
    ]
    return torch.stack([torch.stack(face, -1) for face in faces])


def to_equirectangular(x: Tensor, height: int | None = None) -> Tensor:
    """Unroll cubemaps for display: longitude to the right, F in the middle, latitude down.

    Args:
        x: (B, C, 6, n, n).
        height: rows of the result; None is 2 n.

    Returns:
        (B, C, height, 2 * height), bilinear within each face.

    Raises:
        ValueError: if x is no cubemap.

    Example:
        >>> to_equirectangular(torch.zeros(1, 3, 6, 8, 8)).shape
        torch.Size([1, 3, 16, 32])
    """
    if x.ndim != 5 or x.shape[2] != 6 or x.shape[3] != x.shape[4]:
        raise ValueError(f"a cubemap is (B, C, 6, n, n), got {tuple(x.shape)}.")
    n = x.shape[-1]
    rows = 2 * n if height is None else whole("height", height)
    latitude = (0.5 - (torch.arange(rows, dtype=torch.float64) + 0.5) / rows) * math.pi
    longitude = ((torch.arange(2 * rows, dtype=torch.float64) + 0.5) / rows - 1) * math.pi
    a, b = torch.meshgrid(latitude, longitude, indexing="ij")
    right, up, front = a.cos() * b.sin(), a.sin(), a.cos() * b.cos()
    size = torch.stack((right.abs(), up.abs(), front.abs()))
    most = size.argmax(0)
    depth = size.amax(0)
    # the face a direction meets, and where on it: the formulas of the module, inverted
    choices = {
        "L": ((most == 0) & (right < 0), front, -up),
        "F": ((most == 2) & (front > 0), right, -up),
        "R": ((most == 0) & (right > 0), -front, -up),
        "B": ((most == 2) & (front < 0), -right, -up),
        "U": ((most == 1) & (up > 0), right, front),
        "D": ((most == 1) & (up < 0), right, -front),
    }
    out = x.new_zeros(*x.shape[:2], rows, 2 * rows)
    for i, name in enumerate(FACES):
        mask, u, v = choices[name]
        at = torch.stack((u / depth, v / depth), -1)[mask].to(x)
        flow = at.reshape(1, 1, -1, 2).expand(len(x), -1, -1, -1)
        seen = F.grid_sample(
            x[:, :, i], flow, mode="bilinear", padding_mode="border", align_corners=False
        )
        out[:, :, mask.to(x.device)] = seen[:, :, 0]
    return out
