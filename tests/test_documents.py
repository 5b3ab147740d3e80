"""Documents are rendered from records: they must be up to date, and hold no figure of their own."""

from pathlib import Path

import pytest

from benchmarks import results_table, table

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize(("module", "name"), [(results_table, "results"), (table, "benchmarks")])
def test_documents_are_what_the_records_say(module, name):
    if not list((DOCS / name).glob("*.json")):
        pytest.skip(f"docs/{name}/ holds no record yet")
    assert (DOCS / f"{name}.md").read_text() == module.render(DOCS / name)
