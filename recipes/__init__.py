"""The verbs: one file per kind of stage, and `reproduce`. Each opens its inputs, calls the package, tells its facts."""
