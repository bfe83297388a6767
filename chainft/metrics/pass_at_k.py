"""pass@k: how probably at least one of k answers stands the tests.

Estimated without bias from n >= k answers of which c passed, 1 - C(n - c, k) / C(n, k), and averaged over prompts:
M. Chen et al., "Evaluating Large Language Models Trained on Code", 2021, equation 1.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from chainft.metrics.base import ratio
from chainft.tasks._sandbox import OUTCOMES
from chainft.tasks.base import Chart, Metric, Scores, Series, Table

if TYPE_CHECKING:
    from chainft.tasks._code_tests import Samples, Wanted

_WORDS = {
    "passed": "all tests held",
    "failed": "a test did not hold",
    "error": "an exception, a syntax error, or an early end",
    "timeout": "it took too long",
    "memory": "it took too much memory",
}


class PassAtK(Metric):
    """Sums over prompts that have tests; the others are counted apart."""

    family: ClassVar[Literal["code"]] = "code"

    def __init__(self) -> None:
        self.tries: tuple[int, ...] = (1,)
        """The values of k."""
        self._sums: dict[int, float] = {}
        self._prompts = 0
        self._untested = 0
        self._outcomes: Counter[str] = Counter()

    def update(self, gold: Wanted, predicted: Samples) -> None:
        if predicted.outcomes is None:
            self._untested += 1
            return
        self._prompts += 1
        self._outcomes.update(predicted.outcomes)
        passed = predicted.outcomes.count("passed")
        for k in self.tries:
            self._sums[k] = self._sums.get(k, 0.0) + pass_at_k(len(predicted.outcomes), passed, k)

    def compute(self) -> Scores:
        values = {f"pass_at_{k}": ratio(self._sums.get(k, 0.0), self._prompts) for k in self.tries}
        total = self._outcomes.total()
        rows = tuple(
            (name, self._outcomes[name], ratio(self._outcomes[name], total), _WORDS[name]) for name in OUTCOMES
        )
        note = f"What became of {total} answers to {self._prompts} prompts; {self._untested} prompts without tests are left out."
        points = tuple((name, float(self._outcomes[name])) for name in OUTCOMES)
        return Scores(
            values,
            tables=(Table("outcomes of tests", ("outcome", "answers", "share", "meaning"), rows, note),)
            if total
            else (),
            charts=(Chart("Outcomes of tests", note, "outcome", (Series("answers", points),), "bar"),)
            if total
            else (),
            meanings={f"pass_at_{k}": f"probability that one of {k} answers stands all tests" for k in self.tries},
        )


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """The estimate for one prompt, `k <= num_samples`.

    >>> round(pass_at_k(5, 1, 1), 6), round(pass_at_k(5, 2, 3), 6), pass_at_k(5, 3, 3)
    (0.2, 0.9, 1.0)
    """
    if num_samples - num_passed < k:
        return 1.0
    return 1.0 - prod(1.0 - k / left for left in range(num_samples - num_passed + 1, num_samples + 1))


PLUGIN = PassAtK
