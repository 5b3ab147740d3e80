"""torch_geometric, imported where it is needed and without the warnings that its import makes."""

import warnings
from types import ModuleType

from core.errors import UserError


def geometric() -> ModuleType:
    """The package. Raises UserError where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torch_geometric.data
            import torch_geometric.nn
        except ImportError as error:
            raise UserError(f"This needs torch_geometric: pip install torch-geometric ({error}).") from error
    return torch_geometric
