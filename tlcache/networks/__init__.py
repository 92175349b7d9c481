"""Whole networks on images: finetuned end to end, or a trunk and a head that score images.

The augmented loop, its checkpoints, and what any model says of images or of their cached features.
Heads are trained in ``heads``. Read ``scoring`` first, then ``network`` and ``finetune``.
"""
