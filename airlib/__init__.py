"""airlib: zero-shot generative model adaptation, reproduced in notebooks.

Start with `notebooks/00_start_here.ipynb`, or on the command line with `airlib reproduce`.
Importing the package is cheap: PyTorch is imported by the modules that compute, never from here.
"""

__version__ = "0.1.0"
