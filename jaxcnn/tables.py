"""Tables as text."""

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Container[int]) -> list[str]:
    """A line for each row, all of one length: the columns of these numbers to the left, the others to the right.

    >>> aligned([("layer", "units"), ("relu1", "84")], left={0})
    ['layer  units', 'relu1     84']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
