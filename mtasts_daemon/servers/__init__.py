"""Who asks: the listeners that Postfix and the operator connect to."""
