"""The same agent in PyTorch and gymnasium, in the manner of CleanRL's dqn_atari.py.

It differs from that script only where double DQN does: targets, loss, optimizer, and one bias
shared by all actions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import atari_gymnasium
import numpy as np
import pytorch
import torch
from atari_task import CHECK_PERIOD, STACK, Case, Settings, World
from pytorch import double_precision as double_precision
from torch import Tensor, nn
from torch.nn import functional


class Network(nn.Module):
    """The network of Mnih et al. (2015) with one bias for all actions, with a world's parameters.

    ``layout``: the memory order of images and of the kernels of convolutions.
    """

    def __init__(self, params: list[np.ndarray], layout: torch.memory_format) -> None:
        super().__init__()
        self.layout, strides = layout, iter((4, 2, 1))
        layers: list[nn.Module] = []
        for kernel in params[1:-2:2]:
            if kernel.ndim == 4:
                width, _, channels, features = kernel.shape
                layers += [nn.Conv2d(channels, features, width, stride=next(strides)), nn.ReLU()]
            else:
                layers += [nn.Flatten(), nn.Linear(*kernel.shape), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(*params[-2].shape, bias=False))
        self.shared_bias = nn.Parameter(torch.zeros(1))
        self.to(memory_format=layout)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the values of all actions; frames are integers from 0 to 255."""
        seen = (frames.float() / 255).to(self.shared_bias.dtype)
        return self.layers(seen.contiguous(memory_format=self.layout)) + self.shared_bias

    def weighted(self) -> list[nn.Conv2d | nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d | nn.Linear)]

    def load(self, params: list[np.ndarray]) -> None:
        """Copy flax's parameters, in place."""
        leaves, maps = [torch.from_numpy(leaf) for leaf in params], 0
        with torch.no_grad():
            for layer, kernel in zip(self.weighted(), [*leaves[1:-2:2], leaves[-2]], strict=True):
                layer.weight.copy_(to_torch(kernel, maps))
                maps = kernel.shape[-1] if kernel.ndim == 4 else 0
            for layer, bias in zip(self.weighted(), leaves[:-2:2], strict=False):
                layer.bias.copy_(bias)
            self.shared_bias.copy_(leaves[-1])

    def read(self) -> list[np.ndarray]:
        """Return the parameters in flax's order and shapes: the inverse of `load`."""
        found, maps = [], 0
        for layer in self.weighted():
            if layer.bias is not None:
                found.append(layer.bias)
            found.append(from_torch(layer.weight, maps))
            maps = layer.weight.shape[0] if layer.weight.ndim == 4 else 0
        return [leaf.detach().contiguous().numpy().copy() for leaf in [*found, self.shared_bias]]


def to_torch(kernel: Tensor, maps: int) -> Tensor:
    """Return flax's kernel in PyTorch's form; ``maps``: how many channels were flattened before."""
    if kernel.ndim == 4:
        return kernel.permute(3, 2, 0, 1)
    if maps:  # rows are (position, channel) in flax, (channel, position) here
        kernel = kernel.reshape(-1, maps, kernel.shape[1]).transpose(0, 1).reshape(kernel.shape)
    return kernel.T


def from_torch(weight: Tensor, maps: int) -> Tensor:
    """Return the inverse of `to_torch`."""
    if weight.ndim == 4:
        return weight.permute(2, 3, 1, 0)
    kernel = weight.T
    if maps:
        kernel = kernel.reshape(maps, -1, kernel.shape[1]).transpose(0, 1).reshape(kernel.shape)
    return kernel


class CentredRMSProp(torch.optim.Optimizer):
    """`torch.optim.RMSprop` with ``centered``, but ε inside the root: equally many operations."""

    def __init__(self, params: Iterable[Any], lr: float, decay: float, eps: float) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step."""
        for group in self.param_groups:
            decay = group["decay"]
            for param in group["params"]:
                moments, gradient = self.state[param], param.grad
                if not moments:
                    moments |= {name: torch.zeros_like(param) for name in ("mean", "square")}
                mean, square = moments["mean"], moments["square"]
                square.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
                mean.lerp_(gradient, 1 - decay)
                spread = square.addcmul(mean, mean, value=-1).add_(group["eps"]).sqrt_()
                param.addcdiv_(gradient, spread, value=-group["lr"])


class Learner:
    """Network, target network and optimizer, and one update on a minibatch.

    ``compiled``: loss, targets and backward pass go through `torch.compile`.
    """

    def __init__(
        self, case: Case, world: World, *, compiled: bool = False, channels_last: bool = False
    ) -> None:
        pytorch.use_all_cores()
        torch.manual_seed(0)
        random.seed(0)
        self.case, self.world = case, world
        self.settings = Settings(*world.settings.tolist())
        self.actions = world.params[-2].shape[1]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model, self.target = (Network(world.params, layout) for _ in range(2))
        settings = self.settings
        self.optimizer = CentredRMSProp(
            self.model.parameters(), settings.learning_rate, settings.decay,
            settings.optimizer_epsilon,
        )  # fmt: skip
        self.loss: Callable[..., Tensor] = self.plain_loss
        if compiled:
            self.loss = torch.compile(self.plain_loss, dynamic=False)
        self.reset()

    def reset(self) -> None:
        self.model.load(self.world.params)
        pytorch.forget(self.optimizer)
        self.copy_target()

    def copy_target(self) -> None:
        self.target.load_state_dict(self.model.state_dict())

    def plain_loss(
        self, seen: Tensor, action: Tensor, reward: Tensor, discount: Tensor, following: Tensor
    ) -> Tensor:
        with torch.no_grad():
            best = self.model(following).argmax(dim=1, keepdim=True)
            value = self.target(following).gather(1, best).squeeze(1)
            goal = reward + self.settings.discount * discount * value
        value = self.model(seen).gather(1, action.unsqueeze(1)).squeeze(1)
        return functional.huber_loss(value, goal, delta=self.settings.error_bound)

    def learn(self, *batch: Tensor) -> None:
        loss = self.loss(*batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        self.reset()
        for step, batch in enumerate(given, 1):
            self.learn(*as_tensors(batch))
            if step % CHECK_PERIOD == 0:
                self.copy_target()
        return self.model.read()


def as_tensors(batch: np.ndarray) -> tuple[Tensor, ...]:
    """Return observations, actions, rewards, discounts, and what followed."""
    seen, following = (np.ascontiguousarray(x) for x in (batch["frames"][:, :-1],
                                                         batch["frames"][:, 1:]))  # fmt: skip
    columns = (seen, batch["action"].astype(int), batch["reward"], batch["discount"], following)
    return tuple(torch.from_numpy(column) for column in columns)


class Updates(Learner):
    """The bare update: minibatches of noise are prepared, no agent acts, no target is copied."""

    def __init__(self, case: Case, world: World, **options: Any) -> None:
        super().__init__(case, world, **options)
        self.batches = []
        for _ in range(case.updates):
            shape = (case.batch_size, STACK, case.size, case.size)
            seen, following = torch.randint(256, (2, *shape), dtype=torch.uint8)
            action = torch.randint(self.actions, (case.batch_size,))
            reward = torch.randint(2, (case.batch_size,)).float()
            self.batches.append((seen, action, reward, torch.ones_like(reward), following))

    def block(self) -> int:
        for batch in self.batches:
            self.learn(*batch)
        return self.case.updates


class Ring:
    """A replay buffer of NumPy arrays that stores each stack once, as CleanRL's is set to.

    A stack is followed by the next one stored; where an episode ends, that one's value is ignored.
    """

    def __init__(self, capacity: int, stack: np.ndarray) -> None:
        self.stacks = np.zeros((capacity, *stack.shape), stack.dtype)
        self.actions = np.zeros(capacity, np.int64)
        self.rewards, self.discounts = (np.zeros(capacity, np.float32) for _ in range(2))
        self.capacity, self.added = capacity, 0

    def add(
        self, stack: np.ndarray, action: int, reward: float, discount: float, following: np.ndarray
    ) -> None:
        slot = self.added % self.capacity
        self.stacks[slot], self.stacks[(slot + 1) % self.capacity] = stack, following
        self.actions[slot], self.rewards[slot] = action, reward
        self.discounts[slot] = discount
        self.added += 1

    def sample(self, batch_size: int, draw: np.random.Generator) -> tuple[Tensor, ...]:
        """Return a minibatch, drawn with replacement."""
        # In a full ring the next slot is half overwritten.
        known = min(self.added, self.capacity - 1)
        chosen = (self.added - 1 - draw.integers(0, known, batch_size)) % self.capacity
        columns = (
            self.stacks[chosen], self.actions[chosen], self.rewards[chosen],
            self.discounts[chosen], self.stacks[(chosen + 1) % self.capacity],
        )  # fmt: skip
        return tuple(torch.from_numpy(column) for column in columns)


class Agent(Learner):
    """A whole agent: one loop in Python around gymnasium's environment.

    Each step acts ε-greedily, steps the environment and adds to the buffer; every fourth samples
    and learns.
    """

    def __init__(self, case: Case, world: World, **options: Any) -> None:
        super().__init__(case, world, **options)
        self.draw = np.random.default_rng(0)
        self.games = atari_gymnasium.make(case)
        self.seen, found = self.games.reset(seed=0)
        self.lives, self.over, self.updates = found["lives"], np.zeros(1, bool), 0
        self.ring = Ring(case.capacity, self.seen[0])
        for _ in range(case.filled):
            self.interact(self.draw.integers(0, self.actions, 1))

    def act(self) -> np.ndarray:
        if random.random() < self.settings.epsilon:
            return self.draw.integers(0, self.actions, 1)
        with torch.no_grad():
            return self.model(torch.from_numpy(self.seen)).argmax(dim=1).numpy()

    def interact(self, action: np.ndarray) -> None:
        following, reward, terminated, truncated, found = self.games.step(action)
        if not self.over[0]:  # this call began an episode
            # As in ours: losing a life ends the return, not the episode.
            goes_on = not (terminated[0] or found["lives"][0] < self.lives[0])
            self.ring.add(self.seen[0], action[0], reward[0], goes_on, following[0])
        self.seen, self.lives, self.over = following, found["lives"], terminated | truncated

    def block(self) -> int:
        settings = self.settings
        for _ in range(self.case.updates):
            for _ in range(int(settings.learn_period // settings.frame_skip)):
                self.interact(self.act())
            self.learn(*self.ring.sample(self.case.batch_size, self.draw))
            self.updates += 1
            if self.updates % int(settings.target_period // settings.learn_period) == 0:
                self.copy_target()
        return self.case.updates * int(settings.learn_period)
