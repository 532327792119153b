"""A stand-in: what `prepare.py` reads from the fetched tokenizer."""

SPLIT_PATTERN = r"[a-z]+| [a-z]+|\s+|."
SPECIAL_TOKENS = [
    "<|bos|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|a|>",
    "<|b|>",
    "<|c|>",
    "<|d|>",
    "<|e|>",
]
