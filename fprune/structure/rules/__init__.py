"""How labels pass through operators: one short function per class of operator, generic ones first."""

from fprune.structure.rules import contraction, norms, products, reduction, shape

__all__ = ["contraction", "norms", "products", "reduction", "shape"]
