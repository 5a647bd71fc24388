"""Studies of recipes: a grid of recipes and seeds on one data set, trained, attacked, and set against each other."""
