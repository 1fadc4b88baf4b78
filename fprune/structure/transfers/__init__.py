"""How constants pass through operators, by kind of operator: importing this package registers them."""

from fprune.structure.transfers import arithmetic as arithmetic
from fprune.structure.transfers import contraction as contraction
from fprune.structure.transfers import indexing as indexing
from fprune.structure.transfers import norms as norms
from fprune.structure.transfers import products as products
from fprune.structure.transfers import recurrent as recurrent
from fprune.structure.transfers import reduction as reduction
from fprune.structure.transfers import shape as shape
from fprune.structure.transfers import windows as windows
from fprune.structure.transfers import writes as writes
