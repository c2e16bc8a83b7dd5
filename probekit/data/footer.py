"""What the footer of a parquet file says of its columns' sizes.

Read here, since pyarrow ends the whole process over a footer whose statistics are damaged, where it is asked
for them; reading rows it raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
ROW_GROUPS, COLUMNS, META, NAME, UNPACKED, PACKED = 4, 1, 3, 3, 6, 7
"""Numbers of fields: of the file, a row group, a column, and three of a column's metadata."""


class Column(NamedTuple):
    """A column of one row group."""

    name: str
    """Of the top level."""
    packed: int
    """Bytes in the file."""
    unpacked: int


def columns_of(path: Path) -> Iterator[Column]:
    """Yield every column of every row group.

    Raises
    ------
    ValueError
        When the footer is damaged.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 8))
        size = int.from_bytes(file.read(4), "little")
        file.seek(max(0, end - 8 - size))
        footer = _Compact(file.read(size))
    try:
        for group in footer.struct()[ROW_GROUPS]:
            for column in group[COLUMNS]:
                meta = column[META]
                yield Column(meta[NAME][0].decode(), int(meta[PACKED]), int(meta[UNPACKED]))
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("its footer is damaged") from error


class _Compact:
    """Thrift's compact protocol: structs become dictionaries by field number."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self) -> dict[int, Any]:
        """Return the struct that begins here."""
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            found[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind)
        return found

    def _value(self, kind: int) -> Any:  # noqa: ANN401 - of any type
        if kind in (TRUE, FALSE, BYTE):  # one byte each where they stand in a list
            return self._byte()
        if kind == DOUBLE:
            return self._take(8)
        if kind == BINARY:
            return self._take(self._varint())
        if kind in (LIST, SET):
            head = self._byte()
            size = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15) for _ in range(size)]
        if kind == MAP:
            size = self._varint()
            kinds = self._byte() if size else 0
            return [(self._value(kinds >> 4), self._value(kinds & 15)) for _ in range(size)]
        if kind == STRUCT:
            return self.struct()
        if kind > STRUCT or not kind:
            raise ValueError(f"its footer has a field of type {kind}")
        return self._zigzag()

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 63:
                return value

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _take(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise IndexError
        return self.data[self.at - size : self.at]
