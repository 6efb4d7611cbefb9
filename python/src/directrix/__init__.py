from . import _directrix
