"""The operator's side of piflash: cluster file in, verified microSD cards out."""

__version__ = "0.1.0"
