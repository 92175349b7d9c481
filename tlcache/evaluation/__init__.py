"""The one evaluation that every mode shares: logits and labels to numbers with their intervals.

Takes arrays, reads no file, draws nothing and trains nothing; computing the logits is
``networks``' or a head's. Read ``metrics`` first; ``roles`` says what a split was to a model.
"""
