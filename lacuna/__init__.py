"""Lacuna by its own name: `import lacuna` offers the same as `import core`.

import lacuna

run = lacuna.train("modality=image", "data.root=photos", steps=100)
"""

from typing import TYPE_CHECKING, Any

import core

if TYPE_CHECKING:
    from core import Run as Run
    from core import evaluate as evaluate
    from core import load_encoder as load_encoder
    from core import open_run as open_run
    from core import train as train

__all__ = core.__all__  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    return getattr(core, name)
