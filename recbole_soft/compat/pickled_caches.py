"""Keeps RecBole from unpickling data sets and loaders that lie beside the results.

Symptom: silent. `create_dataset` and `data_preparation` unpickle `DATASET-....pth` whenever such a file lies in
    `checkpoint_dir` (or where `dataset_save_path` and `dataloaders_save_path` point), whether or not anybody asked for
    it. A pickle runs the code that it was made with: a folder of results from elsewhere is enough.
Where: recbole 1.2.1 data/utils.py:59 and :118; with `allow_pickle`, model/general_recommender/ldiffrec.py:232.
Upstream: none looked for.
Guard: always needed, unless TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD says that all files are trusted.
Can go when: RecBole keeps its caches in a format without code.

The caches save time and decide nothing: a file that is found is named in a warning, and the data is prepared anew.
"""

from __future__ import annotations

import logging
import os
from functools import partial

from recbole_soft.compat.module_view import ModuleView
from recbole_soft.compat.plain_checkpoint import all_files_are_trusted

logger = logging.getLogger("recbole_soft")


def is_needed() -> bool:
    """Every known RecBole reads them; only the user can say that all files are trusted."""
    return not all_files_are_trusted()


def apply() -> None:
    """Make RecBole's data preparation overlook pickles."""
    import numpy as np
    from recbole.data import utils
    from recbole.model.general_recommender import ldiffrec

    utils.os = ModuleView(os, path=ModuleView(os.path, exists=_overlooked))
    ldiffrec.np = ModuleView(np, load=partial(_load_without_pickle, np.load))


def _overlooked(path: str) -> bool:
    """RecBole asks whether a cache exists: to it, none ever does."""
    if os.path.exists(path):
        logger.warning("%s is not read, because a pickle can run code; the data is prepared anew", path)
    return False


def _load_without_pickle(load, file, **options):
    return load(file, **{**options, "allow_pickle": False})
