"""The policies of the operator's own domains: text, id, DNS records, gate, rollout, removal, drift."""
