"""From the trained network to the scores that are handed in.

Use: `answer(net, tokens)` on every request. Limits: position i may use positions up to i of its own row
only, and answers must not depend on other rows or on earlier requests; the judge checks both. The
prediction budget is the only limit on work.
"""

from __future__ import annotations

from torch import Tensor, nn

TEMPERATURE = 1.0  # of the handed-in distribution


def answer(net: nn.Module, tokens: Tensor) -> Tensor:
    """(n, length) byte values -> (n, length, 256) scores."""
    return net(tokens) / TEMPERATURE
