"""A workbench for the sparse directions inside a language model.

Models run in Rust under TransformerLens's names, SAEs under SAELens's; an index says what every direction fires on, and analyses say what
it does. Results are numpy arrays and tables that polars, pandas and pyarrow read.

>>> import directrix as dx
>>> model = dx.Model.from_pretrained("tinystories-2l")
>>> sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
>>> _, cache = model.run_with_cache("Once upon a time", return_type=None, names_filter=sae.cfg.hook_name)
>>> sae.encode(cache[sae.cfg.hook_name]).shape
(1, 5, 2048)
"""

from . import ray as ray
from ._arrays import split as split
from ._directrix import (
    CircuitsError as CircuitsError,
    CorpusError as CorpusError,
    DirectrixError as DirectrixError,
    IndexingError as IndexingError,
    Intervention as Intervention,
    LabError as LabError,
    ModelError as ModelError,
    Prompts as Prompts,
    SaeError as SaeError,
    SparseActivations as SparseActivations,
    StudyError as StudyError,
    __version__ as __version__,
)
from ._names import get_act_name as get_act_name
from .analyses import *
from .browse import Browser as Browser
from .cache import ActivationCache as ActivationCache
from .figure import (
    Figure as Figure,
    bars as bars,
    heatmap as heatmap,
    histogram as histogram,
    line as line,
    scatter as scatter,
)
from .index import Index as Index, merge as merge
from .model import HookPoint as HookPoint, Model as Model
from .opened import Opened as Opened, open as open
from .progress import show_progress as show_progress
from .sae import Sae as Sae
from .shaded import ShadedText as ShadedText, ShadedTexts as ShadedTexts
from .study import Report as Report, Study as Study
from .table import Table as Table
from .tokenizer import Tokenizer as Tokenizer

show_progress()
