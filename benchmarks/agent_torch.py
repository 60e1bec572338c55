"""The same agents and probes in PyTorch, as its users would write them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch
import torch
from agent_task import CHECK_PERIOD, Case, Settings, World
from pytorch import double_precision as double_precision
from torch import Tensor
from torch.nn import functional

STATES = 10
BATCHES = 16
"""Minibatches that bare updates cycle through: few enough to stay in a cache."""


class Learner:
    """Network, target network and Adam, and one update on a minibatch.

    ``compiled``: loss, target and backward pass go through `torch.compile`.
    """

    def __init__(
        self,
        case: Case,
        world: World,
        *,
        fused: bool | None = None,
        compiled: bool = False,
        channels_last: bool = False,
    ) -> None:
        pytorch.use_all_cores()
        torch.manual_seed(0)
        random.seed(0)
        self.case, self.world = case, world
        self.settings = Settings(*world.settings.tolist())
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.images = self.laid_out(pytorch.inputs(case.network, world.images))
        self.model, self.target = (
            pytorch.network(world.params).to(memory_format=self.layout) for _ in range(2)
        )
        self.optimizer = pytorch.adam(self.model, world.adam, fused)
        self.loss: Callable[..., Tensor] = self.plain_loss
        if compiled:
            self.loss = torch.compile(self.plain_loss, dynamic=False)
        self.reset()

    def laid_out(self, images: Tensor) -> Tensor:
        """Return images in the memory format of the network."""
        return images.contiguous(memory_format=self.layout) if images.ndim == 4 else images

    def reset(self) -> None:
        pytorch.load(self.model, self.world.params)
        pytorch.forget(self.optimizer)
        self.copy_target()

    def copy_target(self) -> None:
        self.target.load_state_dict(self.model.state_dict())

    def plain_loss(
        self, observation: Tensor, action: Tensor, reward: Tensor, following: Tensor
    ) -> Tensor:
        with torch.no_grad():
            best = self.target(following).max(dim=1).values
            goal = reward + self.settings.discount * best
        value = self.model(observation).gather(1, action.unsqueeze(1)).squeeze(1)
        return functional.mse_loss(value, goal)

    def learn(self, observation: Tensor, action: Tensor, reward: Tensor, following: Tensor) -> None:
        loss = self.loss(observation, action, reward, following)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        self.reset()
        for step, batch in enumerate(given, 1):
            observation, action, following = map(torch.from_numpy, batch[[0, 1, 3]].astype(int))
            reward = torch.from_numpy(batch[2].astype(self.world.images.dtype))
            seen, led = (self.laid_out(self.images[k]) for k in (observation, following))
            self.learn(seen, action, reward, led)
            if step % CHECK_PERIOD == 0:
                self.copy_target()
        return pytorch.read(self.model)


class Updates(Learner):
    """The bare update: minibatches are prepared, no agent acts, no target is copied."""

    def __init__(self, case: Case, world: World, **options: Any) -> None:
        super().__init__(case, world, **options)
        self.batches, self.steps = [], 0
        for _ in range(BATCHES):
            seen, led = torch.randint(len(self.images), (2, case.batch_size))
            action, paid = torch.randint(STATES, (2, case.batch_size))
            pixels = (self.laid_out(self.images[k]) for k in (seen, led))
            observation, following = pixels
            reward = (paid == 0).to(observation.dtype)
            self.batches.append((observation, action, reward, following))

    def block(self) -> int:
        for _ in range(self.case.block):
            self.learn(*self.batches[self.steps % BATCHES])
            self.steps += 1
        return self.case.block


class Environment:
    """The true-label problem in NumPy, as in `gymnasium_api`, without checks."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, draw: np.random.Generator) -> None:
        self.images, self.draw = images, draw
        self.members = [np.flatnonzero(labels == state) for state in range(STATES)]

    def reset(self) -> np.ndarray:
        self.state = int(self.draw.integers(STATES))
        members = self.members[self.state]
        return self.images[members[self.draw.integers(len(members))]]

    def step(self, action: int) -> tuple[np.ndarray, float]:
        """Return the next observation, and the reward for the action in the old state."""
        reward = float(action == self.state)
        return self.reset(), reward


class Ring:
    """A replay buffer of NumPy arrays."""

    def __init__(self, capacity: int, observation: np.ndarray) -> None:
        self.observations, self.following = (
            np.zeros((capacity, *observation.shape), observation.dtype) for _ in range(2)
        )
        self.actions = np.zeros(capacity, np.int64)
        self.rewards = np.zeros(capacity, observation.dtype)
        self.capacity, self.added = capacity, 0

    def add(
        self, observation: np.ndarray, action: int, reward: float, following: np.ndarray
    ) -> None:
        slot = self.added % self.capacity
        self.observations[slot], self.following[slot] = observation, following
        self.actions[slot], self.rewards[slot] = action, reward
        self.added += 1

    def sample(self, batch_size: int, draw: np.random.Generator) -> tuple[Tensor, ...]:
        """Return a minibatch, drawn with replacement."""
        chosen = draw.integers(0, min(self.added, self.capacity), batch_size)
        columns = (self.observations, self.actions, self.rewards, self.following)
        return tuple(torch.from_numpy(column[chosen]) for column in columns)


class Agent(Learner):
    """A whole agent, in the manner of CleanRL's dqn.py: one loop in Python.

    Each step acts ε-greedily, steps the environment, adds to the buffer, samples, and learns; the
    target network is copied every 1,000 steps.
    """

    def reset(self) -> None:
        """Restart, with random transitions in the buffer."""
        super().reset()
        self.draw = np.random.default_rng(0)
        # The experiments' buffer is filled before the first step too.
        self.environment = Environment(self.images.numpy(), self.world.labels, self.draw)
        self.seen, self.steps = self.environment.reset(), 0
        self.ring = Ring(int(self.settings.capacity), self.seen)
        for _ in range(int(self.settings.warmup)):
            self.interact(int(self.draw.integers(STATES)))

    def act(self) -> int:
        if random.random() < self.settings.epsilon:
            return int(self.draw.integers(STATES))
        with torch.no_grad():
            values = self.model(torch.from_numpy(self.seen).unsqueeze(0))
        return int(values.argmax())

    def interact(self, action: int) -> None:
        following, reward = self.environment.step(action)
        self.ring.add(self.seen, action, reward, following)
        self.seen = following

    def block(self) -> int:
        for _ in range(self.case.block):
            self.interact(self.act())
            self.learn(*self.ring.sample(self.case.batch_size, self.draw))
            self.steps += 1
            if self.steps % int(self.settings.target_period) == 0:
                self.copy_target()
        return self.case.block


class Fits:
    """A probe: one fit after another, each from the world's parameters with a fresh Adam."""

    def __init__(
        self, case: Case, world: World, *, fused: bool | None = None, compiled: bool = False
    ) -> None:
        pytorch.use_all_cores()
        torch.manual_seed(0)
        self.case, self.world = case, world
        self.inputs = pytorch.inputs(case.network, world.images)
        self.targets = torch.from_numpy(world.targets)
        self.model = pytorch.network(world.params)
        self.optimizer = pytorch.adam(self.model, world.adam, fused)
        self.loss: Callable[..., Tensor] = self.plain_loss
        if compiled:
            self.loss = torch.compile(self.plain_loss, dynamic=False)

    def reset(self) -> None:
        pytorch.load(self.model, self.world.params)
        pytorch.forget(self.optimizer)

    def plain_loss(self, batch: Tensor, goal: Tensor) -> Tensor:
        return functional.mse_loss(self.model(self.inputs[batch]), goal[batch])

    def fit(self, target: Tensor, steps: int, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the loss over all inputs at the end, and the loss of each minibatch."""
        self.reset()
        with torch.no_grad():
            goal = target + self.model(self.inputs).mean()
        trace = []
        for step in range(steps):
            if given is None:
                batch = torch.randint(len(self.inputs), (self.case.batch_size,))
            else:
                batch = given[step]
            loss = self.loss(batch, goal)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            trace.append(loss.detach())
        with torch.no_grad():
            final = functional.mse_loss(self.model(self.inputs), goal)
        return final, torch.stack(trace)

    def block(self) -> int:
        for target in self.targets:
            self.fit(target, self.case.steps)
        return self.case.targets * self.case.steps

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Return final losses, learning curves and their noise, of every target."""
        batches = torch.from_numpy(given.astype(int))
        fits = [
            self.fit(target, given.shape[1], b)
            for target, b in zip(self.targets, batches, strict=True)
        ]
        final, trace = (torch.stack(part) for part in zip(*fits, strict=True))
        # The curve of a check is one window long.
        curve, noise = trace.mean(dim=1, keepdim=True), trace.std(dim=1, correction=0, keepdim=True)
        return [part.numpy() for part in (final, curve, noise)]
