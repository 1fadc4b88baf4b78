"""How labels pass through operators: one short function per class of operator, generic ones first."""

from fprune.structure.rules import (
    contraction,
    indexing,
    norms,
    products,
    recurrent,
    reduction,
    repetition,
    shape,
    writes,
)

__all__ = ["contraction", "indexing", "norms", "products", "recurrent", "reduction", "repetition", "shape", "writes"]
