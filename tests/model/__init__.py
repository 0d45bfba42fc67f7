"""A model of claim, settle, rescue and evidence, searched through in worlds of a mail or two.

It knows nothing of mailroom's code and needs no database. A statement is one step; where a world lets statements
overlap, a statement first decides from its snapshot, and acts later on the rows that it then locks.

`rules` are the switches; `state` is what there is; `record` is what the log and the events say; `statements`, `sweeps`
and `people` are the functions of mailroom/sql; `steps` is whatever may happen next; `properties` is what must hold;
`search` visits every state; `worlds` lists what is searched. `python -m tests.model` does it at length.
"""
