"""The small world that the quickstart learns: a closed domain, written for it, that a Llama of a few million
parameters can truly learn on a CPU in minutes.

`facts` says what a fact is; `assistant`, `numbers`, `calendar`, `words` and `town` hold the facts of the topics;
`split` divides the questions; `prose`, `dirt` and `chats` write them as people keep their data; `world` is the stage.
"""
