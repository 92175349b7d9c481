"""Figures of runs, each from plain arrays: images, curves, confusion, benchmarks, spreads.

Built on ``matplotlib.figure.Figure`` alone, never pyplot, so that no global state is touched and
no screen is needed. Names are shown as they are, never as mathematics; a character that no font
here can draw becomes ``□``. Computes no metric (see ``evaluation``) and reads no file.
"""

from tlcache.figures.benchmark import benchmark_figure as benchmark_figure
from tlcache.figures.calibration import calibration_figure as calibration_figure
from tlcache.figures.confusion import confusion_figure as confusion_figure
from tlcache.figures.curves import learning_curves as learning_curves
from tlcache.figures.feature_map import feature_map_figure as feature_map_figure
from tlcache.figures.few_shot import few_shot_figure as few_shot_figure
from tlcache.figures.folds import fold_spread as fold_spread
from tlcache.figures.heatmap import HeatMap as HeatMap
from tlcache.figures.heatmap import heat_maps as heat_maps
from tlcache.figures.images import image_grid as image_grid
from tlcache.figures.images import prediction_grid as prediction_grid
from tlcache.figures.neighbours import neighbours_figure as neighbours_figure
from tlcache.figures.pairs import PicturedPair as PicturedPair
from tlcache.figures.pairs import pair_grid as pair_grid
from tlcache.figures.png import save_png as save_png
from tlcache.figures.spread import accuracy_spread as accuracy_spread
