"""From the trained network to the scores that are handed in: context, mixing, adaptation within a row.

Use: `answer(net, tokens)` on every request. Limits: position i may use positions up to i of its own row
only; answers must not depend on other rows or earlier requests; the prediction budget limits the work.
"""

from __future__ import annotations

from torch import Tensor, nn

TEMPERATURE = 1.0  # of the handed-in distribution


def answer(net: nn.Module, tokens: Tensor) -> Tensor:
    """(n, length) tokens -> (n, length, vocabulary) scores."""
    return net(tokens).float() / TEMPERATURE
