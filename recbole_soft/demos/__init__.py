"""Demonstrations for prompts: which earlier windows show the language model how to answer."""
