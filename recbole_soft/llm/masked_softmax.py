"""MSL: at every response position, a softmax over the tokens that some catalogue title goes on with.

Wang et al. 2025, "MSL: Not All Tokens Are What You Need for Tuning LLM as a Recommender", with its adaptive
temperature tau. With V_t the tokens that continue the response so far towards a title, and T the positions that leave a
choice (more than one token in V_t):

    L = - tau / |T| * sum over t in T of log( exp(z_t[y_t] / tau) / sum over v in V_t of exp(z_t[v] / tau) )

A response that is no catalogue title leaves the catalogue at some token: that token and all after it are scored over
the whole vocabulary at temperature 1, and count as positions with a choice.

V_t is kept as flat pairs (position, token), never as a mask over the vocabulary: a title has one or two positions
with thousands of allowed tokens and many with a handful. Knows nothing of models and prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_soft.llm.trie import NOWHERE, ROOT, TokenTrie
from recbole_soft.parallel.group import gather

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 1.5, 5.0
FIRST_TEMPERATURE = 1.5
SMOOTHING = 0.05
"""Constants of the published code: range, start, and weight of a step in the moving average."""


def allowed_logsumexp(logits: Tensor, segments: Tensor, count: int) -> Tensor:
    """log of the sum of exponentials within each segment.

    Args:
        logits: [M] logits of all allowed tokens of all positions.
        segments: [M] long, the position each belongs to; every one of `count` positions has at least one.

    Returns:
        [count], differentiable.
    """
    highest = torch.full((count,), -torch.inf, dtype=logits.dtype, device=logits.device)
    highest = highest.scatter_reduce(0, segments, logits.detach(), reduce="amax")
    total = torch.zeros_like(highest).index_add(0, segments, (logits - highest[segments]).exp())
    return highest + total.log()


def adaptive_temperature(gap: float, variance: float, choices: int, eta: float) -> float:
    """The temperature at which the true token gets about the share eta of the softmax (MSL, "ATS").

    tau = (gap + sqrt(max(gap^2 - 2 C variance, 0))) / (2 C),   C = ln(choices * eta),   then within [1.5, 5]

    Args:
        gap: mean logit of the true tokens minus mean logit of the allowed tokens, at the first position with a choice.
        variance: of the allowed tokens' logits there.
        choices: how many tokens are allowed there; `choices * eta` must be above 1.
        eta: in (0, 1].
    """
    ease = math.log(choices * eta)
    wanted = (gap + math.sqrt(max(gap * gap - 2 * ease * variance, 0.0))) / (2 * ease)
    return min(max(wanted, LOWEST_TEMPERATURE), HIGHEST_TEMPERATURE)


class MaskedSoftmax:
    """Negative log-likelihoods within a catalogue, and their temperature.

    The temperature is the same within an optimiser step; what the step's logits say moves it for the next one. So
    losses and gradients do not depend on how a step is cut into micro-batches.

    Args:
        trie: response tokens of all titles, end-of-text included, on the CPU.
        temperature: a fixed one, or None to adapt it.
        eta: see `adaptive_temperature`.

    Attributes:
        temperature: of the current step.
    """

    def __init__(self, trie: TokenTrie, temperature: float | None = None, eta: float = 0.25):
        self._trie, self._eta = trie, eta
        self._branch = _first_branch(trie)
        self.choices = int(trie.child_count[self._branch])
        # Fewer than 1/eta first tokens: even equal logits give the true one more than its share.
        self._is_adaptive = temperature is None and self.choices * eta > 1
        self.temperature = FIRST_TEMPERATURE if temperature is None else temperature
        self._seen: list[Tensor] = []

    def states(self, responses: Sequence[Sequence[int]]) -> Tensor:
        """[T] long, where in the catalogue each token of the responses is predicted, one response after the other.

        `NOWHERE` once a response has left the catalogue.
        """
        lengths = torch.tensor([len(response) for response in responses], dtype=torch.long)
        width = int(lengths.max()) if len(responses) else 0
        tokens = torch.full((len(responses), width), NOWHERE, dtype=torch.long)
        is_token = torch.arange(width) < lengths[:, None]
        tokens[is_token] = torch.tensor([token for response in responses for token in response], dtype=torch.long)
        states, nodes = torch.empty_like(tokens), torch.full((len(responses),), ROOT)
        for place in range(width):
            states[:, place] = nodes
            nodes = self._trie.step(nodes, tokens[:, place])
        return states[is_token]

    def count(self, responses: Sequence[Sequence[int]]) -> tuple[int, int]:
        """Positions of the responses that leave a choice, and how many of them are scored over the whole vocabulary."""
        tokens = torch.tensor([token for response in responses for token in response], dtype=torch.long)
        is_outside, is_choice = self._kinds(self.states(responses), tokens)
        return int((is_outside | is_choice).sum()), int(is_outside.sum())

    def nll(
        self, logits: Tensor, predictors: Tensor, tokens: Tensor, states: Tensor, uses: Tensor | None = None
    ) -> Tensor:
        """[E] negative log-likelihood of every prediction, times the temperature within the catalogue.

        Args:
            logits: [P, V] at least float32.
            predictors: [E] row of `logits` that each prediction is made from.
            tokens, states: [E] the predicted token, and where in the catalogue it is predicted.
            uses: [E] how many responses share the prediction; None for one each.

        All but `logits` on the CPU.
        """
        is_outside, is_choice = self._kinds(states, tokens)
        nll = torch.zeros(len(tokens), dtype=logits.dtype, device=logits.device)
        for which, score in ((is_outside, self._over_vocabulary), (is_choice, self._within_catalogue)):
            if which.any():
                where = which.nonzero().squeeze(1)
                nll = nll.index_copy(0, where.to(logits.device), score(logits, predictors[where], tokens[where],
                                                                      states[where]))
        if self._is_adaptive and logits.requires_grad:
            self._observe(logits.detach(), predictors, tokens, states, uses)
        return nll

    def end_step(self) -> None:
        """Moves the temperature by what was seen since the last call; a fixed one stays."""
        if not self._is_adaptive:
            return
        seen = [values for of_process in gather([values.tolist() for values in self._seen]) for values in of_process]
        self._seen.clear()
        if not seen:
            return
        # Exact sums do not depend on which process saw what.
        count, true, allowed, squares = map(math.fsum, zip(*seen, strict=True))
        gap, variance = (true - allowed) / count, squares / count - (allowed / count) ** 2
        wanted = adaptive_temperature(gap, variance, self.choices, self._eta)
        self.temperature += SMOOTHING * (wanted - self.temperature)

    def _kinds(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each prediction leads out of (or is made outside of) the catalogue; whether it is a choice inside."""
        is_outside = self._trie.step(states, tokens) == NOWHERE
        return is_outside, ~is_outside & (self._trie.child_count[states.clamp(min=ROOT)] > 1)

    def _over_vocabulary(self, logits: Tensor, predictors: Tensor, tokens: Tensor, _states: Tensor) -> Tensor:
        rows, row_of = predictors.unique(return_inverse=True)
        rows, row_of, tokens = rows.to(logits.device), row_of.to(logits.device), tokens.to(logits.device)
        picked = logits[rows]
        return picked.logsumexp(dim=1)[row_of] - picked[row_of, tokens]

    def _within_catalogue(self, logits: Tensor, predictors: Tensor, tokens: Tensor, states: Tensor) -> Tensor:
        rows, row_of = predictors.unique(return_inverse=True)
        states_of_rows = torch.empty_like(rows).index_copy_(0, row_of, states)
        segments, allowed = self._allowed(states_of_rows)
        flat_rows = rows[segments].to(logits.device)
        scaled = logits[flat_rows, allowed.to(logits.device)] / self.temperature
        total = allowed_logsumexp(scaled, segments.to(logits.device), len(rows))
        picked = logits[predictors.to(logits.device), tokens.to(logits.device)]
        return self.temperature * total[row_of.to(logits.device)] - picked

    def _allowed(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """For states [S], all (place in `states`, allowed token) as two [M]."""
        counts = self._trie.child_count[states]
        segments = torch.repeat_interleave(torch.arange(len(states)), counts)
        offsets = torch.arange(len(segments)) - (counts.cumsum(0) - counts)[segments]
        return segments, self._trie.token[self._trie.first_child[states][segments] + offsets]

    def _observe(
        self, logits: Tensor, predictors: Tensor, tokens: Tensor, states: Tensor, uses: Tensor | None
    ) -> None:
        """Notes [count, sums of true and mean allowed logits, of mean squares] at the first position with a choice."""
        here = ((states == self._branch) & (self._trie.step(states, tokens) != NOWHERE)).nonzero().squeeze(1)
        if not len(here):
            return
        times = torch.ones(len(here)) if uses is None else uses[here]
        times, rows = times.to(logits.device, torch.float64), predictors[here].to(logits.device)
        _, allowed = self._allowed(torch.tensor([self._branch]))
        choices = logits[rows][:, allowed.to(logits.device)].double()
        true = logits[rows, tokens[here].to(logits.device)].double()
        noted = (torch.ones_like(true), true, choices.mean(1), choices.square().mean(1))
        self._seen.append(torch.stack([(times * values).sum() for values in noted]))


def _first_branch(trie: TokenTrie) -> int:
    """The first node on every title's way that has more than one child (a leaf if there is one title)."""
    node = ROOT
    while int(trie.child_count[node]) == 1:
        node = int(trie.first_child[node])
    return node
