"""The language: pure, incremental, bounded codecs for what Postfix and DNS servers speak."""
