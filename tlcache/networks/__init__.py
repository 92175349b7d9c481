"""Whole networks on images: finetuned end to end, or a trunk and a head that score images.

The augmented loop, its checkpoints, and logits of images that are in no cache. Heads on cached
features are ``heads``'. Read ``network`` first, then ``finetune``.
"""
