"""Pages that need nothing else: the skeleton, its style, and the elements that reports are made of; text is escaped."""

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1f2328;background:#fff}
table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #d1d9e0}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1rem}dt{color:#59636e}dd{margin:0}svg{margin:0 1rem 1rem 0}
"""


def document(title: str, body: str, style: str = "") -> str:
    """A page: the title, which is its heading, and `body`, which is HTML.

    >>> document("a < b", "<p>yes</p>").endswith("<h1>a &lt; b</h1><p>yes</p></html>\\n")
    True
    """
    title = escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}{style}</style>'
        f"<h1>{title}</h1>{body}</html>\n"
    )


def fact_list(facts: Mapping[str, Any]) -> str:
    """Names and their values.

    >>> fact_list({"epochs": 3})
    '<dl><dt>epochs</dt><dd>3</dd></dl>'
    """
    shown = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{shown}</dl>"


def picture(png: bytes, words: str, kind: str = "") -> str:
    """A PNG inside of the page, what it shows for those who do not see it, and its class in the style.

    >>> picture(b"png", "3 > 2")
    '<img class="" alt="3 &gt; 2" src="data:image/png;base64,cG5n">'
    """
    return f'<img class="{kind}" alt="{escape(words)}" src="data:image/png;base64,{b64encode(png).decode()}">'
