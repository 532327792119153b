"""Proposers that talk to a language model: session, tools, prompt, clients, costs."""
