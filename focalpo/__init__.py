"""FocalPO (arXiv 2501.06645) reproduced end to end: the nouns. The verbs are in recipes/, the knobs in conf/."""
