"""What two or more stages must agree on. In reading order:

the data       files (read whole, written whole), fields (what one may hold), trees,
               records (every other file as a type), journal (unfinished work),
               tables, chats, dataset_files, cards (sets that come and go), pictures
the texts      prompts, prm_format (the one spelling of solutions and markers), words
the answers    extraction (where a text states its answer), answers/ (whether two
               are the same), judge (rules first, then an LLM)
the engines    servers (whom to ask, and when to give up), policy (rollouts),
               prm_model (the network), prm (step scores), packing (common
               beginnings once), cpu, vllm_plugin
the numbers    selection (ways to choose a candidate), statistics
every script   cli (bad input, faults, exit codes), work (many problems at once)
"""

__version__ = "0.2.0"
