"""How constants pass through operators, one short function per class: importing this package registers them."""

from fprune.structure.transfers import arithmetic as arithmetic
from fprune.structure.transfers import contraction as contraction
from fprune.structure.transfers import norms as norms
from fprune.structure.transfers import products as products
from fprune.structure.transfers import reduction as reduction
from fprune.structure.transfers import shape as shape
