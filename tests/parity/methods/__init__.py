"""A page for each method: what its recorded tensors are in our terms. Pages are discovered; each lists `METHODS`."""

import pkgutil
from importlib import import_module

PAGES = [import_module(f"{__name__}.{page.name}") for page in pkgutil.iter_modules(__path__)]
METHODS = {method.folder: method for page in PAGES for method in page.METHODS}
