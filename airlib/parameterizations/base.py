"""Temporary until the branch that remakes parameterizations is merged."""

from airlib.parameterizations.stylegan2 import Parameterization

__all__ = ["Parameterization"]
