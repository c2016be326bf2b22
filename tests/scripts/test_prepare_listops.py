from performer.data import listops


def test_files_are_those_that_the_set_draws(load, tmp_path):
  grammar = listops.Grammar(
    max_depth=3, max_args=3, min_length=3, max_length=15
  )
  data = listops.ListOps(grammar=grammar, num_train=6, num_eval=3)
  counts = load('prepare_listops').prepare(tmp_path / 'lra', data)
  assert counts == {'basic_train': 6, 'basic_val': 3, 'basic_test': 3}
  rows = listops.read(str(tmp_path / 'lra' / 'basic_val.tsv'))
  for (ids, value), (drawn, label) in zip(
    rows, data.rows('valid'), strict=True
  ):
    assert (ids.tolist(), value) == (drawn.tolist(), label)
