"""A stand-in: one optimizer whose groups say how they are treated."""

import torch


class Mixed(torch.optim.Optimizer):
    """Signed momentum for matrices, plain Adam-like steps for the rest; averages nothing over ranks."""

    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.01, "kind": "adamw", "momentum": 0.9, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                moved = self.state[parameter].setdefault("moved", torch.zeros_like(parameter))
                moved.lerp_(parameter.grad, 1 - group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"] / 100)
                parameter.add_(moved.sign(), alpha=-group["lr"] / 20)
