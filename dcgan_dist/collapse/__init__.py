"""Does a generator's variety collapse? Measures on pixels alone, with no network, and one score of them.

``fit`` the data once, then ``measure`` any samples. docs/collapse.md says what each measure answers to, and to what
it does not. One file a measure: clusters and bins (NDB, JS divergence), colours, ssim, neighbours, flowers.
"""
