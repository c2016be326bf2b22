"""Claims: intervals, verdicts on planted numbers, sentences, and power."""

import numpy as np
import pytest
from scipy import stats

from papers import claims, spreads


def interval(first, second, *, paired=False, confidence=0.95):
  first, second = (np.asarray(x, float) for x in (first, second))
  spread = spreads.Spread.of(first, second, paired)
  return spread.interval(confidence, exact=False)


def test_interval_against_hand_computation():
  # Welch by hand: means 3 and 7/3, variances 1 / 3 and 4/3 / 3, 3 and 3 values;
  # standard error 0.8819, freedom 3.923, t quantile 2.7973.
  low, high = interval([2.0, 3.0, 4.0], [1.0, 3.0, 3.0])
  assert low == pytest.approx(2 / 3 - 2.467, abs=2e-3)
  assert high == pytest.approx(2 / 3 + 2.467, abs=2e-3)
  # Pairs by hand: differences 1, 0, 1; error 1/3; t quantile 4.3027.
  low, high = interval([2.0, 3.0, 4.0], [1.0, 3.0, 3.0], paired=True)
  assert low == pytest.approx(2 / 3 - 4.3027 / 3, abs=1e-4)
  assert high == pytest.approx(2 / 3 + 4.3027 / 3, abs=1e-4)


def test_interval_covers_the_truth_as_often_as_it_says():
  rng = np.random.default_rng(11)
  draws, hits = 2000, 0
  for _ in range(draws):
    low, high = interval(
      rng.normal(1.0, 1.0, 4), rng.normal(0.0, 3.0, 5), confidence=0.9
    )
    hits += low < 1.0 < high
  # Four standard errors of a binomial; Welch's freedom is approximate.
  assert abs(hits / draws - 0.9) < 4 * np.sqrt(0.09 / draws) + 0.01


def verdict(claim, *, exact=False, **table):
  return claim.judge(table, exact=exact).verdict


@pytest.mark.parametrize(
  ('better', 'worse', 'options', 'expected'),
  [
    ([0.9, 0.91, 0.92], [0.5, 0.51, 0.52], {}, 'holds'),
    ([0.5, 0.51, 0.52], [0.9, 0.91, 0.92], {}, 'fails'),
    ([0.5, 0.9, 0.7], [0.6, 0.8, 0.5], {}, 'inconclusive'),
    ([0.9, 0.91, 0.92], [0.5, 0.51, 0.52], {'margin': 0.6}, 'fails'),
    ([0.5, 0.51, 0.52], [0.6, 0.61, 0.62], {'margin': -0.2}, 'holds'),
    ([0.9, 0.91, 0.92], [0.5], {}, 'holds'),
    ([0.9], [0.5], {}, 'inconclusive'),
    ([0.9], [0.5], {'paired': True}, 'inconclusive'),
    ([0.9, 0.9], [0.5, 0.5], {}, 'holds'),
    ([0.5, 0.5], [0.5, 0.5], {}, 'inconclusive'),
  ],
)
def test_verdict_in_both_directions(better, worse, options, expected):
  table = {'a': better, 'b': worse}
  assert verdict(claims.above('a', 'b', **options), **table) == expected
  table = {'a': [-x for x in better], 'b': [-x for x in worse]}
  assert verdict(claims.below('a', 'b', **options), **table) == expected


def test_pairs_find_what_noise_between_seeds_hides():
  noise = np.random.default_rng(3).normal(0, 1, 6)
  table = {'a': noise + 0.1 + 0.01 * noise**2, 'b': noise}
  assert verdict(claims.above('a', 'b'), **table) == 'inconclusive'
  assert verdict(claims.above('a', 'b', paired=True), **table) == 'holds'


@pytest.mark.parametrize('paired', [True, False])
def test_bootstrap_against_scipy(paired):
  rng = np.random.default_rng(5)
  table = {'a': rng.exponential(2.0, 60), 'b': rng.exponential(1.0, 60)}
  claim = claims.above('a', 'b', paired=paired, resampled=True)
  found = claim.judge(table)
  low, high = claim._interval(table, claim._spread(table), exact=False)
  means = lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis)
  expected = stats.bootstrap(
    (table['a'], table['b']),
    means,
    paired=paired,
    method='percentile',
    rng=np.random.default_rng(1),
  ).confidence_interval
  np.testing.assert_allclose((low, high), expected, atol=0.03)
  assert 'by bootstrap' in found.sentence
  assert found == claim.judge(table)
  # Of few values it would be far too sure.
  for few, expected in (
    (1, 'inconclusive'),
    (9, 'inconclusive'),
    (10, 'holds'),
  ):
    one = {'a': 2.0 + 0.1 * np.arange(few), 'b': [1.0]}
    unpaired = claims.above('a', 'b', resampled=True)
    assert verdict(unpaired, **one) == expected


def test_logarithms_compare_ratios():
  table = {'a': [1.0, 10.0, 100.0], 'b': [1.3, 12.9, 130.1]}
  claim = claims.below('a', 'b', log=True, paired=True, margin=np.log(1.25))
  found = claim.judge(table)
  assert found.verdict == 'holds'
  assert found.sentence.startswith('a over b: 0.77')
  assert 'must be below 0.8: holds' in found.sentence


@pytest.mark.parametrize(
  ('first', 'second', 'expected'),
  [
    ([0.50, 0.51, 0.52], [0.50, 0.51, 0.53], 'holds'),
    ([0.50, 0.51, 0.52], [0.80, 0.81, 0.82], 'fails'),
    ([0.80, 0.81, 0.82], [0.50, 0.51, 0.52], 'fails'),
    ([0.2, 0.5, 0.8], [0.3, 0.5, 0.7], 'inconclusive'),
  ],
)
def test_agreement_is_two_one_sided_tests(first, second, expected):
  claim = claims.close('a', to='b', within=0.1)
  assert verdict(claim, a=first, b=second) == expected
  assert claim.confidence == 0.9


def test_what_is_not_random_is_compared_as_it_is():
  claim = claims.above('a', than=1.0)
  assert verdict(claim, a=[2.0]) == 'inconclusive'
  assert verdict(claim, exact=True, a=[2.0]) == 'holds'
  assert verdict(claim, exact=True, a=[1.0]) == 'fails'
  assert claim.judge({'a': [2.0]}, exact=True).sentence == (
    'a: 2, must be above 1: holds'
  )


def test_growth_and_exponents():
  table = {f'x{i}': [2.0**i * f for f in (1.0, 1.01, 0.99)] for i in range(4)}
  rising = [f'x{i}' for i in range(4)]
  assert verdict(claims.grows(rising), **table) == 'holds'
  assert verdict(claims.grows(rising, falls=True), **table) == 'fails'
  lines = {2**i: f'x{i}' for i in range(4)}
  assert verdict(claims.slope(lines, within=(0.9, 1.1)), **table) == 'holds'
  exact = {f'x{i}': [2.0**i * 3] for i in range(4)}
  claim = claims.slope(lines, within=(0.9, 1.1))
  assert claim.judge(exact, exact=True).sentence == (
    'exponent from x0 to x3: 1, must be above 0.9 and below 1.1: holds'
  )
  noisy = {f'x{i}': [1.0, 4.0**i] for i in range(4)}
  assert verdict(claims.slope(lines, within=(0.9, 1.1)), **noisy) == (
    'inconclusive'
  )
  steep = {f'x{i}': [4.0**i, 4.01**i] for i in range(4)}
  assert verdict(claims.slope(lines, within=(0.9, 1.1)), **steep) == 'fails'


def test_a_claim_holds_if_all_its_parts_do():
  holds, fails = (claims.Check(str(x), lambda t, x=x: x) for x in (True, False))
  unclear = claims.above('a', 'b')
  table = {'a': [1.0, 2.0], 'b': [1.0, 2.0]}
  for parts, expected in (
    ((holds, holds), 'holds'),
    ((holds, unclear), 'inconclusive'),
    ((unclear, fails, holds), 'fails'),
  ):
    assert verdict(claims.All(parts), **table) == expected
  assert claims.All((holds, fails)).judge({}).sentence == (
    'True: holds; False: fails'
  )
  short = claims.All((holds, fails), 'both')
  assert short.judge({}).sentence == 'both: fails; False: fails'
  with pytest.raises(ValueError, match='needs a part'):
    claims.All(())


def test_derived_quantities():
  ratio = claims.computed('a / b', np.divide, 'a', 'b')
  found = claims.below(ratio, than=0.2).judge({'a': [1, 2], 'b': [10, 20.2]})
  assert found.verdict == 'holds'
  assert found.sentence.startswith('a / b: 0.0995 [')


def test_bad_numbers_are_refused():
  claim = claims.above('a', 'b')
  for table, message in (
    ({'a': [1.0, float('nan')], 'b': [1.0]}, 'finite'),
    ({'a': [], 'b': [1.0]}, 'values must be sequences'),
    ({'a': [1.0]}, r"no 'b' in the table, only \['a'\]"),
  ):
    with pytest.raises(ValueError, match=message):
      claim.judge(table)
  with pytest.raises(ValueError, match=r'first.size=3 second.size=2'):
    claims.above('a', 'b', paired=True).judge({'a': [1, 2, 3], 'b': [1, 2]})
  with pytest.raises(ValueError, match='least must be below most'):
    claims.above('a', 'b', margin=float('nan'))
  with pytest.raises(ValueError, match='a slope needs two positions'):
    claims.slope({1: 'a'}, within=(0, 1))
  with pytest.raises(ValueError, match='within=0'):
    claims.close('a', 'b', within=0)
  with pytest.raises(claims.MissingLabelError, match="no 'b' for: text"):
    claims.Check('text', lambda table: table['b'][0] > 0).judge({})
  with pytest.raises(claims.MissingLabelError, match="no 'b' for: twice b"):
    claims.above(claims.computed('twice b', lambda b: 2 * b, 'b'), 1.0).judge(
      {}
    )


def test_a_number_without_error_pairs_with_every_seed():
  table = {'a': [1.0, 2.0, 3.5], 'b': [0.5]}
  alone, pairs = (
    claims.above('a', 'b', paired=paired).judge(table)
    for paired in (False, True)
  )
  assert pairs.sentence.replace(' paired', '') == alone.sentence


@pytest.mark.parametrize('mean', [0.0, 0.5])
def test_the_power_of_agreement_is_that_of_both_tests(mean):
  rng = np.random.default_rng(4)
  values = rng.normal(size=12)
  values = mean + 2.5 * (values - values.mean()) / values.std(ddof=1)
  claim = claims.close('a', 0.0, within=1.0)
  needed = claim.seeds_needed({'a': values})
  draws = rng.normal(mean, 2.5, size=(4000, needed))
  half = stats.t.ppf(0.95, needed - 1) * draws.std(axis=1, ddof=1)
  found, half = draws.mean(axis=1), half / needed**0.5
  decided = (found - half > -1) & (found + half < 1)
  assert decided.mean() == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize('paired', [False, True])
def test_the_seeds_that_are_needed_decide(paired):
  """By simulation: power 80 % at that number, much less at half of it."""
  gap, spread, rng = 0.5, 1.0, np.random.default_rng(7)
  pilot = rng.standard_normal(8)
  pilot = (pilot - pilot.mean()) / pilot.std(ddof=1) * spread
  other = -pilot if not paired else np.zeros(8)
  table = {'a': pilot + gap, 'b': other}
  claim = claims.above('a', 'b', paired=paired)
  needed = claim.seeds_needed(table)
  deviation = spread * (1 if paired else np.sqrt(2))

  def power(seeds):
    hits = 0
    for _ in range(400):
      a = rng.normal(gap, spread, seeds)
      b = np.zeros(seeds) if paired else rng.normal(0, spread, seeds)
      hits += claim.judge({'a': a, 'b': b}).verdict == 'holds'
    return hits / 400

  # (1.96 + 0.84)^2 (deviation / gap)^2, a little more for Student's t.
  assert 0.95 < needed / (7.85 * (deviation / gap) ** 2) < 1.15
  assert abs(power(needed) - 0.8) < 0.08
  assert power(needed // 2) < 0.65


def test_seeds_are_not_asked_for_what_they_do_not_decide():
  decided = {'a': [1.0, 1.01], 'b': [0.0, 0.01]}
  assert claims.above('a', 'b').seeds_needed(decided) is None
  assert claims.above('a', 'b').seeds_needed({'a': [1.0], 'b': [0.0]}) is None
  check = claims.Check('text', lambda table: True)
  assert check.seeds_needed({}) is None
  open_ = {'a': [0.0, 1.0, 2.0], 'b': [0.0, 0.5, 1.0]}
  claim = claims.above('a', 'b')
  assert claims.All((check, claim)).seeds_needed(open_) == (
    claim.seeds_needed(open_)
  )
  fails = claims.Check('text', lambda table: False)
  assert claims.All((fails, claim)).seeds_needed(open_) is None
