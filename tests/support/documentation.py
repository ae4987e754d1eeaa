"""Where the documentation stands."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
README = ROOT / "README.rst"
PAGES = sorted(DOCS.rglob("*.rst"))
TEXTS = [README, *PAGES]


def relative(path):
    return str(path.relative_to(ROOT))
