"""FocalPO (arXiv 2501.06645) reproduced end to end: the library. Commands are in recipes/, settings in conf/."""
