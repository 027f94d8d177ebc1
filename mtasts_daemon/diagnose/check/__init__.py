"""Check how a domain looks to a sender: evidence, findings, and the conclusion for three kinds of sender."""
