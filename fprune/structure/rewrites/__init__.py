"""How arguments that carry sizes change, one short function an operator: importing this package registers them."""

from fprune.structure.rewrites import attention as attention
from fprune.structure.rewrites import contraction as contraction
from fprune.structure.rewrites import norms as norms
from fprune.structure.rewrites import recurrent as recurrent
from fprune.structure.rewrites import repetition as repetition
from fprune.structure.rewrites import shape as shape
from fprune.structure.rewrites import writes as writes
