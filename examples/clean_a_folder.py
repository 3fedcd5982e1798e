"""Clean a folder of text: read, clean and deduplicate it, and say what was dropped and why.

python examples/clean_a_folder.py my_texts [home]
"""

import sys
from pathlib import Path

import hanlin

source = Path(sys.argv[1])
home = sys.argv[2] if len(sys.argv) > 2 else "."

recipe = hanlin.Recipe.from_dict(
    {
        "name": "clean",
        "stages": {"texts": {"kind": "corpus", "sources": [str(source.absolute())], "validation_fraction": 0}},
    }
)
result = hanlin.run(recipe, home)

metrics = result.metrics["texts"]
print(f"{metrics['rows_in']} documents read, {metrics['rows_kept']} kept; dropped: {metrics['dropped']}")
for document in hanlin.read_records(result.artifacts["texts"]):
    print(document.id, document.text[:40])
print(f"cleaned text: {result.artifacts['texts']}")
