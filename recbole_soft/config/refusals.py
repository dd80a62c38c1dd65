"""Failures of RecBole and torch that a setting has caused, as messages.

RecBole takes most of its settings without a check and fails somewhere inside when a value makes no sense; memory runs
out where a setting is too large. A failure in our own code is a bug and is left as it is. Knows no setting by name
but those that decide how much memory is needed.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole_soft.config.yaml_files import PACKAGE_DIR
from recbole_soft.errors import ModelError, SettingError
from recbole_soft.registry import recbole_dir

logger = logging.getLogger("recbole_soft")
_FAILURES = (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RuntimeError, ImportError)
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
_MEMORY_SETTINGS = ("micro_batch_size", "train_batch_size", "generation_batch_size", "num_beams", "embed_batch_tokens",
                    "eval_batch_size", "cutoff_len")


@contextmanager
def settings_that_fail(config) -> Iterator[None]:
    """Within the block, what RecBole makes of a setting it cannot use, and memory that runs out, are UserErrors.

    Args:
        config: a SoftConfig; its `unchecked` names the settings of the user that only RecBole knows.
    """
    try:
        yield
    except MemoryError as error:
        raise _no_memory(config, error) from error
    except _FAILURES as error:
        if any(words in str(error).lower() for words in _MEMORY_WORDS):
            raise _no_memory(config, error) from error
        if not config.unchecked or not _happened_in_recbole(error):
            raise
        logger.debug("RecBole failed", exc_info=error)
        given = ", ".join(f"{key}={config[key]}" for key in config.unchecked)
        raise SettingError(
            f"RecBole cannot use the settings: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
            where=given, remedy="correct or remove what does not fit; "
            "https://recbole.io/docs/user_guide/config_settings.html explains them, --state=DEBUG shows the place"
        ) from error


def _happened_in_recbole(error: BaseException) -> bool:
    """Whether of all frames of RecBole and of this package the innermost is RecBole's."""
    ours, theirs = str(PACKAGE_DIR), str(recbole_dir())
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    inner = next((name for name in reversed(frames) if Path(name).is_relative_to(ours) or
                  Path(name).is_relative_to(theirs)), ours)
    return Path(inner).is_relative_to(theirs)


def _no_memory(config, error: BaseException) -> ModelError:
    settings = ", ".join(f"{key}={config[key]}" for key in _MEMORY_SETTINGS if config[key] is not None)
    return ModelError(f"memory ran out: {next(iter(str(error).splitlines()), 'MemoryError')}", where=settings,
                      remedy="lower one of these, take a smaller model, or --quantization=4bit on a GPU")
