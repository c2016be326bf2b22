"""The built-in pieces of text of the metadata vocabulary.

They make the descriptions of generated studies short: the keys of both
dialects, numbers, the behaviour algorithms and frequent words of
hyperparameters. Any other text falls back to bytes.
"""

__all__ = ['PIECES']

_NEURIPS22 = (
  'N:""',
  'N:"',
  '",A:"',
  ',A:"',
  '",O:""',
  '",O:"',
  '",G:<1>&',
  ',G:<1>&',
  '&',
  '*',
  '",S:<0>,P:<2>,m:',
  *(f'",S:<{s}>,P:<{p}>,m:' for s in (1, 2, 3) for p in (1, 2)),
  *(f'",S:<{s}>,P:<4>,L:' for s in (1, 2, 3)),
  '",P:<3>,L:',
  ',S:<0>,P:<1>',
  ',S:<0>,P:<2>,L:',
  ',S:<0>,P:<4>,L:',
  ',P:<3>,L:',
  ',M:',
  ',C:[',
  ',F:[',
)
_PAPER = (
  '<name>:"',
  ',<metric>:"',
  ',<goal>:<MAXIMIZE>,<algorithm>:"',
  *(
    f',<type>:<{kind}>'
    for kind in ('DOUBLE', 'INTEGER', 'DISCRETE', 'CATEGORICAL')
  ),
  ',<min_value>:',
  ',<max_value>:',
  *(f',<scale_type>:<{scale}>' for scale in ('LINEAR', 'LOG', 'REVERSE_LOG')),
  ',<categories>:[',
)
_MARKS = (
  '"',
  '","',
  '["',
  '"]',
  ']',
  ',',
  '_',
  '-',
  '.',
  ' ',
  '0.',
  'e-0',
  '1e-',
)
_ALGORITHMS = (
  'designer_grid_search',
  'designer_grid_search_shuffled',
  'designer_random_search',
  'designer_reg_evo',
  'designer_hill_climb',
  'designer_eagle_strategy',
  'designer_recursive_gp',
)
_WORDS = (
  *('learning', 'rate', 'learning_rate', 'lr', 'batch', 'size', 'batch_size'),
  *('momentum', 'weight', 'decay', 'weight_decay', 'dropout', 'num', 'layers'),
  *('hidden', 'units', 'width', 'depth', 'epochs', 'steps', 'optimizer'),
  *('adam', 'sgd', 'rmsprop', 'activation', 'relu', 'tanh', 'kernel', 'gamma'),
  *('beta', 'alpha', 'lambda', 'eps', 'epsilon', 'seed', 'max', 'min', 'init'),
  *('features', 'filters', 'scale', 'clip', 'warmup', 'schedule', 'cosine'),
  *('loss', 'accuracy', 'error', 'score', 'return', 'reward', 'objective'),
  *('valid', 'validation', 'test', 'train', 'mean', 'auc', 'f1', 'mse', 'log'),
  *('model', 'net', 'tree', 'estimators', 'samples', 'leaf', 'split', 'eta'),
  *('subsample', 'colsample', 'bytree', 'bylevel', 'reg', 'bias', 'none'),
  *('true', 'false', 'True', 'False', 'None', 'x', 'param', 'penalty', 'cost'),
  *('entropy', 'discount', 'horizon', 'sigma', 'population', 'noise', 'norm'),
)
_NUMBERS = tuple(f'<{k}>' for k in range(33))

PIECES: tuple[str, ...] = tuple(
  dict.fromkeys(
    (*_NEURIPS22, *_PAPER, *_MARKS, *_ALGORITHMS, *_WORDS, *_NUMBERS)
  )
)
