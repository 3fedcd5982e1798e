"""Fine-tune a model on conversations with LoRA and merge the adapter.

python examples/fine_tune.py my_model my_chats.json [steps] [home]
"""

import sys
from pathlib import Path

import hanlin

model, chats = (str(Path(path).absolute()) for path in sys.argv[1:3])
steps = int(sys.argv[3]) if len(sys.argv) > 3 else 100
home = sys.argv[4] if len(sys.argv) > 4 else "."

recipe = hanlin.Recipe.from_dict(
    {
        "name": "fine_tune",
        "seed": 42,
        "stages": {
            "chats": {"kind": "conversations", "sources": [chats], "validation_fraction": 0},
            "tuned": {
                "kind": "sft",
                "model": model,
                "data": "chats",
                "steps": steps,
                "max_seq_length": 256,
                "batch_tokens": 1024,
                "lora": {"rank": 8},
            },
            "merged": {"kind": "merge", "adapter": "tuned"},
        },
    }
)
print(hanlin.plan(recipe, home))
result = hanlin.run(recipe, home, on_event=lambda event, step: print(f"{step.stage.name}: {event}"))
tuned = result.metrics["tuned"]
print(f"loss {tuned['loss']} after {tuned['steps']} steps")
print(f"merged model: {result.artifacts['merged']}")
