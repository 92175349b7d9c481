"""What there is to learn from: folders and their splits, image files, transforms, example data.

From a path to the pixels a network is fed, and which image has which label in which split. Makes
no feature and knows no cache. Read ``folders`` first; ``images`` and ``transforms`` are the pixels.
"""
