# Nothing of it is needed until the packages are split.
