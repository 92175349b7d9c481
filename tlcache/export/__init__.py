"""Models and features for other programs: the formats, their trials, their preprocessing.

An export is tried against the model before it is kept. Read ``export`` first.
"""
