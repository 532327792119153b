"""Edits of a recipe: applying them, the surface they may touch, the normal form of a program."""
