"""What a page of the report says, for tests."""

import re


def page_text(page: str) -> str:
    """The HTML of a page without scripts and without the links to its glossary."""
    page = re.sub("<script.*?</script>", "", page, flags=re.DOTALL)
    return re.sub('<a class="term"[^>]*>(.*?)</a>', r"\1", page)
