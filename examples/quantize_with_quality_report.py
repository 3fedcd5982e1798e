"""Write a model as GGUF files and measure each against the model on conversations that no training reads.

python examples/quantize_with_quality_report.py my_model my_chats.json [home]
"""

import sys
from pathlib import Path

import hanlin

model, chats = (str(Path(path).absolute()) for path in sys.argv[1:3])
home = sys.argv[3] if len(sys.argv) > 3 else "."

recipe = hanlin.Recipe.from_dict(
    {
        "name": "quantize",
        "stages": {
            "held_out": {"kind": "conversations", "sources": [chats], "validation_fraction": 0.5},
            "gguf": {
                "kind": "gguf",
                "model": model,
                "types": ["Q8_0", "Q5_0"],
                "quality_report": {"held_out": "held_out", "window": 128, "tokens": 2048, "prompts": 4},
            },
        },
    }
)
result = hanlin.run(recipe, home)
for name, measured in result.metrics["gguf"].items():
    if isinstance(measured, dict):
        print(name, {figure: value for figure, value in measured.items() if isinstance(value, int | float)})
print(f"files and quality report: {result.artifacts['gguf']}")
