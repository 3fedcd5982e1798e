"""Show how a model's chat template renders a conversation: the token ids, and which of them are learned in training.

python examples/view_a_conversation.py my_model [conversations.jsonl]
"""

import sys

import hanlin

tokenizer = hanlin.Tokenizer.load(sys.argv[1])
template = hanlin.ChatTemplate.load(sys.argv[1], tokenizer)

if len(sys.argv) > 2:
    conversation = next(iter(hanlin.read_records(sys.argv[2])))
else:
    turns = (hanlin.Message("user", "你叫什么名字？"), hanlin.Message("assistant", "我叫小翰。"))
    conversation = hanlin.Conversation(turns, id="example")

for example in template.render_conversation(conversation):  # several if the template strips past reasoning
    for token_id, learned in zip(example.ids, example.loss_mask, strict=True):
        text = tokenizer.decode([token_id], skip_special=False)
        print(f"{token_id:>7}  {'learned' if learned else 'read':<7}  {text!r}")
    print(f"{sum(example.loss_mask)} of {len(example.ids)} tokens are learned")
print(f"an answer ends with one of {template.stop_ids}")
