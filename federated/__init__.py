"""Who trains with whom, and when: federated rounds over the actors of `actors`, with the aggregation of `protocols`.

Empty for now: the rounds come with the next release (see CHANGELOG.md).
"""
