"""Models for other programs: the formats, their trials, their preprocessing.

An export is tried against the model before it is kept. Features for other programs are
``features``'. Read ``export`` first.
"""
