"""The small world that the quickstart learns: a closed domain, written for it, that a Llama of a few million
parameters can really learn on a CPU in minutes.

`facts` defines what a fact is; `assistant`, `numbers`, `calendar`, `words`, `town` and `visitors` hold the facts by
topic; `split` splits the questions into training, development and validation; `prose`, `dirt` and `chats` turn facts
into texts, dirty texts and conversations; `world` is the stage.
"""
