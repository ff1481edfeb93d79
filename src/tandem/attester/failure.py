"""The one error of the attester, with the code and hint that Tandem's errors have on a host."""

from __future__ import annotations


class AttesterError(Exception):
    """Evidence was not collected: this says what is wrong and what to do."""

    def __init__(self, code: str, problem: str, *, hint: str) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem} [{self.code}]"

    def as_record(self) -> dict[str, dict[str, str]]:
        """Give the answer that stands in place of the evidence."""
        return {"error": {"code": self.code, "problem": self.problem, "hint": self.hint}}
