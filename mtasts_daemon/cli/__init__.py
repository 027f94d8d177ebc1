"""The commands mtasts-daemon and mtastsctl, one module per verb."""
