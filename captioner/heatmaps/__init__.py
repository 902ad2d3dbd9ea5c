"""Heat maps: attention weights to the pixels of the photo, then to pictures and data files."""

from captioner.heatmaps.animation import animation, save_gif
from captioner.heatmaps.export import export, read_maps
from captioner.heatmaps.project import project
from captioner.heatmaps.render import comparison_figure, figure, heads_figure
from captioner.heatmaps.stems import output_stems

__all__ = [
    "animation",
    "comparison_figure",
    "export",
    "figure",
    "heads_figure",
    "output_stems",
    "project",
    "read_maps",
    "save_gif",
]
