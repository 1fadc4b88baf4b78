"""How labels pass through operators: one short function per class of operator, generic ones first."""

from fprune.structure.rules import (
    contraction,
    distances,
    indexing,
    norms,
    products,
    recurrent,
    reduction,
    repetition,
    shape,
    windows,
    writes,
)

__all__ = [
    "contraction",
    "distances",
    "indexing",
    "norms",
    "products",
    "recurrent",
    "reduction",
    "repetition",
    "shape",
    "windows",
    "writes",
]
