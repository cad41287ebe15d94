"""How results are shown: figures, widgets, files for slides."""
