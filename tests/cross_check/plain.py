"""An agent, its problem, its probe and its curvature once more: plain numpy, gradients by hand.

Written from the text of Lyle et al. (2023) and not from the package, of which it imports nothing.
Where the paper is silent it makes the choices that the book declares: Adam at 1e-3 with the
constants of A.1, minibatches of 32, a discount of .99, an ε of .1, 1,000 random transitions before
the first update, LeCun's normal initialisation, and images of mean 0 and variance 1.

It is as short as it can be, and slow.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

Params = list[np.ndarray]
"""Kernel and bias of each layer, from the inputs up."""

STATES = 10

DEVIATION = 0.8796256610342398
"""Of a normal that is truncated at two standard deviations."""


def fresh(rng: np.random.Generator, sizes: tuple[int, ...]) -> Params:
    """Return a network of these layers: kernels of variance 1 / inputs, biases of zero."""
    params: Params = []
    for inputs, outputs in itertools.pairwise(sizes):
        kernel = rng.standard_normal((inputs, outputs))
        while (far := np.abs(kernel) > 2).any():  # truncated at two deviations
            kernel[far] = rng.standard_normal(int(far.sum()))
        params += [kernel / DEVIATION / np.sqrt(inputs), np.zeros(outputs)]
    return params


def layers(params: Params, x: np.ndarray) -> list[np.ndarray]:
    """Return the inputs, the activations of the hidden ReLU layers, and the predictions."""
    found = [x]
    for k in range(0, len(params), 2):
        value = found[-1] @ params[k] + params[k + 1]
        found.append(value if k == len(params) - 2 else np.maximum(value, 0))
    return found


def gradient(params: Params, x: np.ndarray, error: np.ndarray) -> Params:
    """Return a loss's gradient by backpropagation of its derivative by the predictions."""
    found = layers(params, x)
    gradients: Params = []
    for k in range(len(params) - 2, -1, -2):
        below = found[k // 2]
        gradients[:0] = [below.T @ error, error.sum(axis=0)]
        error = (error @ params[k].T) * (below > 0)
    return gradients


@dataclass
class Adam:
    """Eq. (6), with the constants of A.1."""

    rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-9
    steps: int = 0
    m: Params = field(default_factory=list)
    v: Params = field(default_factory=list)

    def step(self, params: Params, gradients: Params) -> Params:
        """Return the parameters after one step."""
        self.steps += 1
        self.m = self.m or [np.zeros_like(leaf) for leaf in params]
        self.v = self.v or [np.zeros_like(leaf) for leaf in params]
        self.m = [self.b1 * m + (1 - self.b1) * g for m, g in zip(self.m, gradients, strict=True)]
        self.v = [
            self.b2 * v + (1 - self.b2) * g * g for v, g in zip(self.v, gradients, strict=True)
        ]
        first, second = 1 - self.b1**self.steps, 1 - self.b2**self.steps
        return [
            leaf - self.rate * (m / first) / (np.sqrt(v / second) + self.eps)
            for leaf, m, v in zip(params, self.m, self.v, strict=True)
        ]


@dataclass
class Agent:
    """A DQN agent in the true-label MDP (§3.2, §5.1): the state is the digit that it sees."""

    images: np.ndarray  # (images, pixels)
    labels: np.ndarray
    rng: np.random.Generator
    width: int = 64
    discount: float = 0.99
    period: int = 1_000  # steps between two copies to the target network
    batch: int = 32
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        self.params = fresh(self.rng, (self.images.shape[1], self.width, self.width, STATES))
        self.target, self.adam, self.steps = self.params, Adam(), 0
        self.by_digit = [np.flatnonzero(self.labels == digit) for digit in range(STATES)]
        self.seen = self.draw()
        self.memory = [np.empty(0, int)] * 4
        for _ in range(1_000):
            self.act(epsilon=1.0)

    def draw(self) -> int:
        """Return an image of a random state: whatever the action, any state may follow."""
        return int(self.rng.choice(self.by_digit[self.rng.integers(STATES)]))

    def act(self, epsilon: float) -> None:
        """Take an action, and remember image, action, reward and what followed."""
        action = int(self.rng.integers(STATES))
        if self.rng.random() >= epsilon:
            action = int(layers(self.params, self.images[[self.seen]])[-1].argmax())
        reward, following = int(action == self.labels[self.seen]), self.draw()
        memory = zip(self.memory, (self.seen, action, reward, following), strict=True)
        self.memory = [np.append(part, value)[-10_000:] for part, value in memory]
        self.seen = following

    def learn(self, steps: int) -> None:
        """Act and learn in turn."""
        for _ in range(steps):
            self.act(self.epsilon)
            chosen = self.rng.integers(len(self.memory[0]), size=self.batch)
            seen, action, reward, following = (part[chosen] for part in self.memory)
            value = layers(self.target, self.images[following])[-1].max(axis=1)
            goal, rows = reward + self.discount * value, np.arange(self.batch)

            values = layers(self.params, self.images[seen])[-1]
            error = np.zeros_like(values)
            error[rows, action] = 2 * (values[rows, action] - goal) / self.batch
            slope = gradient(self.params, self.images[seen], error)
            self.params = self.adam.step(self.params, slope)
            self.steps += 1
            if self.steps % self.period == 0:
                self.target = self.params

    def accuracy(self) -> float:
        """Return the share of images for which the greedy action is right."""
        return float((layers(self.params, self.images)[-1].argmax(axis=1) == self.labels).mean())


def targets(images: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return sin(10⁵ f(x; ω₀)) of a network with random parameters (§3.1), in float64."""
    omega = fresh(rng, (images.shape[1], width, width, STATES))
    return np.sin(1e5 * layers(omega, images)[-1])


def probe(
    params: Params, images: np.ndarray, goals: np.ndarray, rng: np.random.Generator, batch: int = 32
) -> float:
    """Return the loss after 2,000 steps from a copy of the parameters (Eq. 4, §3.1)."""
    goals = goals + layers(params, images)[-1].mean()
    adam = Adam()
    for _ in range(2_000):
        chosen = rng.integers(len(images), size=batch)
        x, goal = images[chosen], goals[chosen]
        error = 2 * (layers(params, x)[-1] - goal) / goal.size
        params = adam.step(params, gradient(params, x, error))
    return float(((layers(params, images)[-1] - goals) ** 2).mean())


def dead_units(params: Params, images: np.ndarray) -> float:
    """Return the share of hidden units that no image activates."""
    hidden = layers(params, images)[1:-1]
    return float(np.mean([(layer <= 0).all(axis=0) for layer in hidden]))


STEP = 1e-6
"""Of the differences in `sharpness`: a longer one leads over the kinks of ReLUs, whose jumps a
difference takes for curvature."""


def sharpness(params: Params, x: np.ndarray, rng: np.random.Generator, products: int = 60) -> float:
    """Return the largest eigenvalue of the proxy loss's Hessian (§4.2), by power iteration.

    The loss is the mean of (f(θ, x) - ⊥(f(θ, x) + η))², with η from a standard normal. A product
    with the Hessian is a central difference of gradients.
    """
    aim = layers(params, x)[-1] + rng.standard_normal((len(x), STATES))

    def slope(at: Params) -> np.ndarray:
        found = gradient(at, x, 2 * (layers(at, x)[-1] - aim) / aim.size)
        return np.concatenate([leaf.ravel() for leaf in found])

    def moved(direction: np.ndarray, far: float) -> Params:
        parts = np.split(direction, np.cumsum([leaf.size for leaf in params])[:-1])
        return [
            leaf + far * part.reshape(leaf.shape) for leaf, part in zip(params, parts, strict=True)
        ]

    direction = rng.standard_normal(sum(leaf.size for leaf in params))
    for _ in range(products):
        direction /= np.linalg.norm(direction)
        product = (slope(moved(direction, STEP)) - slope(moved(direction, -STEP))) / (2 * STEP)
        value = float(direction @ product)
        direction = product
    return value
