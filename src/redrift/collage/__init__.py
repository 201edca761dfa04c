"""Collages: content of any shape from a model of pieces (L4).

A `Graph` lays pieces on a canvas; `graph.denoiser(piece)` is a `Denoiser` of the canvas.
"""

from redrift.collage.counting import COUNTINGS, Region
from redrift.collage.cubemap import cubemap, to_equirectangular
from redrift.collage.denoiser import Collage
from redrift.collage.graph import Graph
from redrift.collage.layouts import chain, grid, ring, torus, tree, windows
from redrift.collage.outpainting import outpaint
from redrift.collage.seams import seam_ratio

__all__ = [
    "COUNTINGS",
    "Collage",
    "Graph",
    "Region",
    "chain",
    "cubemap",
    "grid",
    "outpaint",
    "ring",
    "seam_ratio",
    "to_equirectangular",
    "torus",
    "tree",
    "windows",
]
