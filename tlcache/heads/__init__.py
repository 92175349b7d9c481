"""Linear heads, and how they are trained on arrays of features.

Takes (N, D) features and (N,) labels and knows no store, no image and no trunk. Judging heads is
``evaluation``'s, choosing among them ``studies``'. Read ``model`` first, then ``train``.
"""
