"""What the environment fixes: on no surface.

Use: `fixed.DEPTH` blocks, `fixed.CONTEXT` bytes. Limits: changing either here is not an edit that any
role can make; a net of another depth under other names breaks the environment's rule.
"""

DEPTH = 2  # blocks of attention and feed-forward, as the full size fixes twelve
CONTEXT = 128  # bytes of one request
