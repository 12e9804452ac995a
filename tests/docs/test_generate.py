"""docs/settings.md is what the generator makes of today's schema."""

import runpy
from pathlib import Path

from act_ray import settings

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_settings_is_that_of_the_schema() -> None:
    generated = runpy.run_path(str(DOCS / "generate.py"))["page"]()
    assert (DOCS / "settings.md").read_text() == generated, "the schema has changed: run `make docs`"
    assert all(f"| `{name}` |" in generated for name in settings.field_names())


def test_every_setting_says_what_it_is() -> None:
    assert not [name for name, field in settings.fields() if not field.description]
