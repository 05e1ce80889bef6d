"""Learning from few: a bundle goes on with some animals of a site."""
