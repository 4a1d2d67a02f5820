"""One file per family of layers: formula, forward, backward, rule and spec stand together."""
