import itertools

import pytest


def world(script, families=600, clusters=5, copies=2):
  """Families of clusters of near copies, with chains of hits."""
  family_of, hits = {}, []
  for f in range(families):
    names = [f'F{f}C{c}P{p}' for c in range(clusters) for p in range(copies)]
    family_of.update(dict.fromkeys(names, names[0]))
    for one, other in itertools.pairwise(names):
      same = one.split('P')[0] == other.split('P')[0]
      hits.append(script.Hit(one, other, 0.9 if same else 0.3, 0.8))
  return family_of, hits


def test_components_join_chains_and_leave_the_rest(script):
  found = script.components('abcdef', [('b', 'a'), ('c', 'b'), ('f', 'e')])
  assert found == {'a': 'a', 'b': 'a', 'c': 'a', 'd': 'd', 'e': 'e', 'f': 'e'}


def test_grouping_needs_coverage_and_identity(script):
  hits = [
    script.Hit('a', 'b', 0.3, 0.6),
    script.Hit('c', 'd', 0.9, 0.4),
    script.Hit('e', 'f', 0.5, 0.5),
  ]
  families = script.group('abcdef', hits, 0.0)
  assert families['a'] == families['b']
  assert families['c'] != families['d']
  clusters = script.group('abcdef', hits, 0.5)
  assert clusters['a'] != clusters['b']
  assert clusters['e'] == clusters['f']


def test_splits_keep_clusters_and_families_whole(script):
  family_of, hits = world(script)
  splits = script.split(family_of, hits)
  place = {name: key for key, names in splits.items() for name in names}
  assert len(place) == len(family_of)  # Nothing lost, nothing twice.
  assert all(len(splits[key]) >= 450 for key in ('valid', 'test', 'ood'))
  by_family, by_cluster = {}, {}
  for name, key in place.items():
    by_family.setdefault(family_of[name], []).append(key)
    by_cluster.setdefault(name.split('P')[0], set()).add(key)
  assert all(len(keys) == 1 for keys in by_cluster.values())
  for keys in by_family.values():
    assert set(keys) == {'ood'} or 'ood' not in keys
    assert keys.count('test') + keys.count('valid') <= 0.3 * len(keys)
  assert any({'train', 'test'} <= set(keys) for keys in by_family.values())


def test_a_linked_family_is_not_held_out(script):
  family_of, hits = world(script)
  ood = {family_of[name] for name in script.split(family_of, hits)['ood']}
  linked = sorted(ood)[:5]
  # A short local hit between families: too little to join them.
  extra = [script.Hit(name, 'F0C0P0', 0.4, 0.1) for name in linked]
  splits = script.split(family_of, hits + extra)
  again = {family_of[name] for name in splits['ood']}
  assert not again & {*linked, family_of['F0C0P0']}


def test_small_families_are_left_out(script):
  family_of, hits = world(script)
  family_of['lonely'] = 'lonely'
  splits = script.split(family_of, hits)
  assert all('lonely' not in names for names in splits.values())


def test_refuses_another_source(script, tmp_path):
  path = tmp_path / 'DB.fasta'
  path.write_text('>a\nMK\n')
  with pytest.raises(ValueError, match='sha256 must be 92a65aa4'):
    script.read_source(str(path))
