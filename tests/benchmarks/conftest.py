import dataclasses

import pytest

from benchmarks import harness


@pytest.fixture
def quick():
  """Measures a subject at its small sizes; returns results and rows by case."""

  def measure(subject, cases=None, **options):
    settings = dataclasses.replace(
      subject.settings, rounds=2, seconds=0.0, pause=0.0
    )
    cases = cases or subject.cases(subject.quick)
    results = harness.run(subject, subject.quick, settings, cases, **options)
    groups = harness.rows(subject, subject.quick, results)
    return results, {r.case: r for group in groups.values() for r in group}

  return measure
