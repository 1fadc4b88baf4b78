"""What lives and dies together in a model, and removing it without changing what the model computes."""

from fprune.structure.attention import PrunedMultiheadAttention as PrunedMultiheadAttention
from fprune.structure.bisimulate import Divergence as Divergence
from fprune.structure.bisimulate import bisimulate as bisimulate
from fprune.structure.compact import Compacted as Compacted
from fprune.structure.compact import Surgery as Surgery
from fprune.structure.compact import compact as compact
from fprune.structure.decide import masked_units as masked_units
from fprune.structure.families import Family as Family
from fprune.structure.families import Slice as Slice
from fprune.structure.flow import Barrier as Barrier
from fprune.structure.flow import rule as rule
from fprune.structure.ghost import GhostGroupNorm as GhostGroupNorm
from fprune.structure.ghost import GhostLayerNorm as GhostLayerNorm
from fprune.structure.ghost import GhostRMSNorm as GhostRMSNorm
from fprune.structure.repeat import repeated as repeated
from fprune.structure.trace import Structure as Structure
from fprune.structure.trace import trace as trace
from fprune.structure.verify import verify as verify
