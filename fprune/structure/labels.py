"""Keep-labels: a union-find over boolean "keep" variables, with conjunctions.

Every index of a tensor dimension carries a *row* of labels `(l1, .., lk)`; the slice is kept if and only if all of them
are kept. Label 0 is FROZEN: always kept, the identity of the conjunction. Equalities between rows are solved as they
come:

    a == b           union
    a == 0           freeze
    a == b & c       a is defined as the product of b and c (a row of a query projection is head & position in the head)
    a & b == c & d   column by column when the columns induce the same partition of the rows, else collapse

Every step is sufficient for equality, so the result is always sound and at worst coarser than it could be.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

_FACTORS = 4  # labels a product may have; a wider one collapses
_ROUNDS = 60  # unification converges in a handful of rounds; more means a defect, and collapsing is sound


def frozen(n: int) -> Ints:
    """Rows of a dimension that nothing may remove, shape `(n, 1)`."""
    return np.zeros((n, 1), np.int64)


def concatenated(rows: Sequence[Ints]) -> Ints:
    """Rows of dimensions laid end to end, padded to one width."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows])


def touched(marked: Bools, rows: Ints) -> Bools:
    """Which rows have a marked label: `marked[label]`."""
    return np.asarray(marked[rows].any(1))


class Labels:
    """The label store of one trace: mutable while the rules run, read once they are done."""

    def __init__(self) -> None:
        """An empty store: only FROZEN exists."""
        # growing replaces the arrays, so they sit in a dictionary rather than in attributes
        self._table: dict[str, Any] = {
            "parent": np.zeros(1024, np.int64),
            "product": np.zeros((1024, _FACTORS), np.int64),
            "is_product": np.zeros(1024, np.bool_),
            "marked": np.zeros(1024, np.bool_),
            "count": 1,
            "products": 0,
            "collapsed": 0,
        }

    @property
    def count(self) -> int:
        """Labels made so far, FROZEN included."""
        return self._table["count"]

    @property
    def collapsed(self) -> int:
        """How often an equation was solved coarsely."""
        return self._table["collapsed"]

    def fresh(self, n: int) -> Ints:
        """`n` new labels as rows `(n, 1)`; a dimension of size 1 is frozen: removing it would empty the tensor."""
        if n <= 1:
            return frozen(n)
        table, start = self._table, self.count
        size = len(table["parent"])
        if start + n > size:
            grown = max(2 * size, start + n)
            for name in ("parent", "product", "is_product", "marked"):
                old = table[name]
                table[name] = np.concatenate([old, np.zeros((grown - size, *old.shape[1:]), old.dtype)])
        ids = np.arange(start, start + n)
        table["parent"][ids] = ids
        table["count"] = start + n
        return ids[:, None]

    def find(self, labels: Ints) -> Ints:
        """The representative of each label, any shape."""
        parent: Ints = self._table["parent"]
        roots = parent[labels]
        while True:
            above = parent[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def mark(self, *rows: Ints) -> None:
        """Mark labels, and from now on every base label that they are identified with or become a product of."""
        for row in rows:
            self._table["marked"][self.find(row)] = True

    def marked(self, labels: Ints) -> Bools:
        """Which base labels are marked."""
        return self._table["marked"][labels]

    def union(self, a: Ints, b: Ints) -> None:
        """Identify labels pairwise; the smaller name survives, so FROZEN wins."""
        a, b = self.find(a.ravel()), self.find(b.ravel())
        differ = a != b
        if not differ.any():
            return
        a, b = a[differ], b[differ]
        low, high = np.minimum(a, b), np.maximum(a, b)
        parent, marked = self._table["parent"], self._table["marked"]
        if len(np.unique(high)) == len(high) and not np.isin(high, low).any():
            parent[high] = low
            marked[low[marked[high]]] = True
            return
        for x, y in zip(high.tolist(), low.tolist(), strict=True):
            x, y = self._root(x), self._root(y)
            if x != y:
                parent[max(x, y)] = min(x, y)
                marked[min(x, y)] |= marked[max(x, y)]

    def _root(self, label: int) -> int:
        parent: Ints = self._table["parent"]
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = int(parent[label])
        return label

    def freeze(self, *rows: Ints) -> None:
        """Keep every label of these rows for good."""
        for row in rows:
            labels = self.resolve(row)
            labels = labels[labels != 0]
            if len(labels):
                self.union(labels, np.zeros_like(labels))

    def live(self, rows: Ints) -> bool:
        """Whether anything in these rows can still be removed."""
        return bool(self.resolve(rows).any())

    def resolve(self, rows: Ints) -> Ints:
        """Rows in base labels: representatives, products expanded, duplicates and empty columns dropped."""
        rows = self.find(rows)
        is_product: Bools = self._table["is_product"]
        if self._table["products"]:
            while is_product[rows].any():
                rows = self.find(np.concatenate([self._expanded(rows[:, c]) for c in range(rows.shape[1])], 1))
        if rows.shape[1] > 1:
            for c in range(1, rows.shape[1]):
                repeated = (rows[:, :c] == rows[:, c : c + 1]).any(1)
                rows[repeated, c] = 0
            used = (rows != 0).any(0)
            rows = rows[:, used] if used.any() else rows[:, :1]
        return rows

    def _expanded(self, column: Ints) -> Ints:
        is_product = self._table["is_product"][column]
        if not is_product.any():
            return column[:, None]
        out = np.zeros((len(column), _FACTORS), np.int64)
        out[~is_product, 0] = column[~is_product]
        out[is_product] = self._table["product"][column[is_product]]
        return out

    def unify(self, a: Ints, b: Ints) -> None:
        """Make two dimensions live and die together: `a[i] == b[i]` for every index i."""
        rest: tuple[Ints, Ints] | None = (a, b)
        for _ in range(_ROUNDS):
            rest = self._difference(a, b)
            if rest is None:
                return
            self._step(*rest)
        self._collapse(*rest)

    def _difference(self, a: Ints, b: Ints) -> tuple[Ints, Ints] | None:
        """The rows on which two dimensions differ, common labels struck out."""
        a, b = self.resolve(a), self.resolve(b)
        if a.shape == b.shape and np.array_equal(a, b):
            return None
        if a.shape[1] == 1 and b.shape[1] == 1:
            differ = a[:, 0] != b[:, 0]
            return a[differ], b[differ]
        in_b = (a[:, :, None] == b[:, None, :]).any(2)
        in_a = (b[:, :, None] == a[:, None, :]).any(2)
        a, b = np.where(in_b, 0, a), np.where(in_a, 0, b)
        differ = (a != 0).any(1) | (b != 0).any(1)
        return (a[differ], b[differ]) if differ.any() else None

    def _step(self, a: Ints, b: Ints) -> None:
        """Solve the simplest equations among the rows; the caller resolves again and comes back for the rest."""
        in_a, in_b = (a != 0).sum(1), (b != 0).sum(1)
        if (empty := (in_a == 0) | (in_b == 0)).any():
            self.freeze(a[empty], b[empty])
        elif (single := (in_a == 1) & (in_b == 1)).any():
            self.union(_packed(a[single], 1), _packed(b[single], 1))
        elif (product := np.minimum(in_a, in_b) == 1).any():
            self._define(a[product], b[product], in_a[product], in_b[product])
        else:
            alike = (in_a == in_a[0]) & (in_b == in_b[0])
            self._pair(_packed(a[alike], int(in_a[0])), _packed(b[alike], int(in_b[0])))

    def _define(self, a: Ints, b: Ints, in_a: Ints, in_b: Ints) -> None:
        """One label equals several: define it as their product."""
        wide = np.maximum(in_a, in_b)
        k = int(wide.min())
        take = wide == k
        a, b, one = a[take], b[take], in_a[take] == 1
        if k > _FACTORS:
            self._collapse(a, b)
            return
        pad = ((0, 0), (0, k))
        label = np.where(one, _packed(a, 1)[:, 0], _packed(b, 1)[:, 0])
        terms = np.where(one[:, None], _packed(np.pad(b, pad), k), _packed(np.pad(a, pad), k))
        if np.isin(label, terms).any():
            self._collapse(a, b)
            return
        names, first, inverse = np.unique(label, return_index=True, return_inverse=True)
        clash = (terms != terms[first][inverse]).any(1)
        if clash.any():  # the same label equals two products: identify those first
            self.union(terms[clash], terms[first][inverse][clash])
            return
        self._table["is_product"][names] = True
        self._table["product"][names] = 0
        self._table["product"][names, :k] = terms[first]
        self._table["products"] += len(names)
        self._table["marked"][terms[first][self._table["marked"][names]]] = True

    def _pair(self, a: Ints, b: Ints) -> None:
        """Several labels equal several: identify two columns that partition the rows alike."""
        patterns = [_partition(b[:, j]) for j in range(b.shape[1])]
        for i in range(a.shape[1]):
            pattern = _partition(a[:, i])
            for j, other in enumerate(patterns):
                if np.array_equal(pattern, other):
                    self.union(a[:, i], b[:, j])
                    return
        self._collapse(a, b)

    def _collapse(self, a: Ints, b: Ints) -> None:
        """The coarse way out: everything in a row becomes one label."""
        self._table["collapsed"] += 1
        rows = np.concatenate([a, b], 1)
        used = rows != 0
        self.union(np.broadcast_to(_packed(rows, 1), rows.shape)[used], rows[used])

    def merge(self, dims: Sequence[Ints]) -> Ints:
        """Rows of the dimension that flattens several, outermost first."""
        dims = [self.resolve(rows) for rows in dims]
        sizes = [len(rows) for rows in dims]
        columns: list[Ints] = []
        for d, rows in enumerate(dims):
            if rows.any():
                shape = [-1 if e == d else 1 for e in range(len(dims))]
                columns += [np.broadcast_to(column.reshape(shape), sizes).reshape(-1) for column in rows.T]
        return np.stack(columns, 1) if columns else frozen(int(np.prod(sizes)))

    def split(self, rows: Ints, sizes: Sequence[int]) -> list[Ints]:
        """Factor a dimension into `sizes`, outermost first; introduces products where a label varies along several."""
        for _ in range(_ROUNDS):
            rows = self.resolve(rows)
            out: list[list[Ints]] = [[] for _ in sizes]
            if self._split_columns(rows, sizes, out):
                return [np.stack(columns, 1) if columns else frozen(n) for columns, n in zip(out, sizes, strict=True)]
        self.freeze(rows)
        return [frozen(n) for n in sizes]

    def _split_columns(self, rows: Ints, sizes: Sequence[int], out: list[list[Ints]]) -> bool:
        """Assign each column to the factor it varies along; False when an equation had to be added first."""
        for c in range(rows.shape[1]):
            grid = rows[:, c].reshape(sizes)
            if not grid.any():
                continue
            axes = [d for d, n in enumerate(sizes) if n > 1 and (grid != grid.take([0], d)).any()]
            if not axes:  # one label for the whole dimension: removing it would empty the tensor
                self.freeze(rows[:, c : c + 1])
                return False
            if len(axes) > 1:
                factors = [self.fresh(n) if d in axes else frozen(n) for d, n in enumerate(sizes)]
                self.unify(rows[:, c : c + 1], self.merge(factors))
                return False
            at = tuple(slice(None) if d == axes[0] else 0 for d in range(len(sizes)))
            out[axes[0]].append(grid[at])
        return True


def _packed(rows: Ints, k: int) -> Ints:
    """The non-zero entries of each row, left-justified into k columns."""
    order = np.argsort(rows == 0, axis=1, kind="stable")
    return np.take_along_axis(rows, order, 1)[:, :k]


def _partition(column: Ints) -> Ints:
    """A name for each class of equal entries, by first appearance."""
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
