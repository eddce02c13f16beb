"""The graph of linked runs: read from MLflow (`reading`), asked by whatever name is at hand (`query`), and drawn.

    >>> from tracklayer.lineage import graph, reading, mermaid

`graph` has the values, `document` the JSON that scripts read, `tree`, `mermaid` and `dot` the pictures. Everything is
read from runs' tags and datasets as MLflow has them; nothing here writes.
"""
