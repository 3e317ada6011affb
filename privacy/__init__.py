"""How much a result reveals about one person: differentially private training and its accounting. Knows no network and no parties.

Empty for now: the engine comes with a later release (see CHANGELOG.md).
"""
