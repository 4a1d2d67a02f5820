"""A confusion matrix as HTML: a table with shaded cells, or, of many classes, shades alone and the largest entries."""

from collections.abc import Sequence
from html import escape

import numpy as np

MANY = 25  # classes, from which on numbers and names of all of them are no longer readable
NAMED = 20  # confusions of many classes that are named
CONFUSION_STYLE = """
.confusion td,.confusion th{border:1px solid #fff;padding:.1rem .4rem;text-align:right}.confusion .c{min-width:1.2rem}
.confusion .t{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;padding:.4rem .1rem}
.shades td{width:7px;height:7px;padding:0;border:0}.shades{border:1px solid #d1d9e0}
"""


def confusion_table(confusion: np.ndarray, names: Sequence[str]) -> str:
    """Rows are the true class, columns the predicted; a cell is as dark as its share of the row.

    Args:
        confusion: counts (K, K).
        names: of the classes; they are escaped.

    >>> "<td" in confusion_table(np.eye(2, dtype=int), ["a", "b"])
    True
    """
    return _shades(confusion, names) if len(names) > MANY else _numbers(confusion, names)


def _numbers(confusion, names):
    kind = "t" if max(map(len, names)) > 3 else "c"
    head = "".join(f'<th class="{kind}">{escape(name)}</th>' for name in names)
    rows = "".join(
        f"<tr><th>{escape(names[i])}</th>"
        + "".join(
            f'<td class="c"{_shade(count, confusion[i].sum(), i == j)}>{count or ""}</td>'
            for j, count in enumerate(row)
        )
        + "</tr>"
        for i, row in enumerate(confusion)
    )
    return f'<table class="confusion"><tr><th></th>{head}</tr>{rows}</table>'


def _shades(confusion, names):
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td{_shade(count, confusion[i].sum(), i == j)} title="{_words(count, names[i], names[j])}">'
            if count
            else "<td>"
            for j, count in enumerate(row)
        )
        for i, row in enumerate(confusion)
    )
    named = "".join(
        f'<tr><td>{escape(names[i])}</td><td>{escape(names[j])}</td><td class="n">{count}</td></tr>'
        for i, j, count in frequent_confusions(confusion, NAMED)
    )
    return (
        f'<table class="shades">{rows}</table><p>The most frequent confusions:</p>'
        f"<table><tr><th>true class</th><th>taken for</th><th>images</th></tr>{named}</table>"
    )


def frequent_confusions(confusion: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """True class, predicted class and number of samples of the largest entries beside the diagonal, at most so many.

    >>> frequent_confusions(np.array([[5, 1], [3, 9]]), 9)
    [(1, 0, 3), (0, 1, 1)]
    """
    apart = np.where(np.eye(len(confusion), dtype=bool), 0, confusion)
    places = (np.unravel_index(k, apart.shape) for k in np.argsort(-apart, axis=None, kind="stable")[:most])
    return [(int(i), int(j), int(apart[i, j])) for i, j in places if apart[i, j]]


def _words(count, true, predicted):
    return f"{count} of {escape(true)}" + ("" if true == predicted else f" taken for {escape(predicted)}")


def _shade(count, total, right):
    """A style: green for what is right, red for what is not; the square root shows few of many."""
    if not count:
        return ""
    colour = "26,127,55" if right else "207,34,46"
    return f' style="background:rgba({colour},{0.1 + 0.6 * (count / total) ** 0.5:.2f})"'
