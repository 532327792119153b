"""What the environment and the hardware fix: on no surface; a variant has values of its own.

Use: `fixed.DEPTH`. Limits: a net of another depth, under whatever name, breaks the environment's rule.
"""

DEPTH = 12  # transformer blocks
VOCAB = 32_768  # of the prepared tokenizer, special tokens included
BOS = 32_759  # starts every document: the first special token
CONTEXT = 2048  # tokens of one request
TRAIN_SECONDS = 5_280.0  # of the 5,400; the loop stops here if its horizon is longer
RANKS = 8  # processes, one per GPU; fewer if fewer are visible
MICRO_ROWS = 32  # rows of CONTEXT per forward pass on one GPU
