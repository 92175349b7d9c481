"""Figures of runs, each from plain arrays: images, curves, confusion, benchmarks, spreads.

Built on ``matplotlib.figure.Figure`` alone, never pyplot, so that no global state is touched and
no screen is needed. Names are shown as they are, never as mathematics; a character that no font
here can draw becomes ``□``. Computes no metric and reads no file. Read ``style`` first.
"""
